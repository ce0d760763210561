"""TextEnv: a Gymnasium environment that speaks text. Implement three methods and register it::

    class GuessEnv(TextEnv):
        instructions = "Guess the number between 0 and 9. Answer with the number."

        def _tasks(self, split):                          # a Sequence of Task, disjoint between splits
            return [self.task(seed, split) for seed in {"train": range(6), "valid": (6, 7), "test": (8, 9)}[split]]

        def _begin(self, task):                           # -> Outcome
            return Outcome("Guess!")

        def _act(self, action):                           # -> Outcome
            won = action == str(self.current.seed)
            return Outcome("Right!" if won else "No.", reward=float(won), ended=won, success=won)

    turnrl.register("guess/number-v0", GuessEnv)

The base class does what every world needs: it picks the Task, sanitises actions, latches the end,
sets ``truncated`` at the turn limit, and fills the info with fixed keys. It never truncates on the
world's behalf and never takes success from anything but the world's own verdict.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypedDict

import gymnasium
from pydantic import ValidationError

from ..foundation.config import explain, keys_of
from ..foundation.errors import UserError
from . import answers
from .sanitise import REASONS, Grammar, clean
from .spaces import UnicodeText
from .task import SPLITS, SeededTasks, Split, Task


class TurnInfo(TypedDict):
    """The info of every reset and step: these keys, always."""

    success: bool
    """The world's own verdict; never inferred from the end of the episode or a score."""
    valid_action: bool
    """False if the last action was refused or understood by nobody. True at reset."""
    invalid_reason: str | None
    """Why it was refused: a key of `turnrl.envs.sanitise.REASONS`, 'rejected' by the world itself,
    or None.
    """
    admissible_actions: list[str] | None
    """What would be accepted now, if the world can list it and the instance was made with that
    extra.
    """
    score: float | None
    """The world's own cumulative score."""
    progress: float | None
    """A potential in [0, 1], 1 at success; None unless the instance was made with the extra
    'progress'.
    """
    milestones: list[str]
    """Names of the sub-goals reached so far, in the order they were reached."""
    answer: list[str] | None
    """Gold answers, where a family has them. Never rendered to the agent."""


@dataclass(frozen=True)
class Outcome:
    """What a world reports after a reset or an action."""

    observation: str
    reward: float = 0.0
    ended: bool = False
    """The task is over, won or lost."""
    success: bool = False
    valid: bool = True
    """False if the world did not understand or refused the action."""
    admissible: list[str] | None = None
    score: float | None = None
    progress: float | None = None
    milestones: list[str] = field(default_factory=list)
    answer: list[str] | None = None


class TextEnv(gymnasium.Env[str, str]):
    """A text environment. Subclasses implement `_tasks`, `_begin` and `_act`; see the module's
    example.

    Args:
        max_turns: steps after which ``truncated`` is True (None: never; the player may have its own
            limit).
        extras: what to put into the info beyond the free facts: 'admissible_actions', 'progress',
            or both. Worlds compute these only when asked, because they can cost more than the step
            itself.
        params: parameters of the family (``rooms=2``), stored in its Tasks.
    """

    instructions: str = ""
    """What a player must know: the rules and the grammar of actions."""
    grammar: Grammar = Grammar()
    """Which strings reach the world at all."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the same actions, for models that call tools."""
    symmetries: tuple[Mapping[str, str], ...] = ()
    """Renamings of words (lower case) under which the world is still itself, such as turning a map
    by 90 degrees.
    """
    in_process: bool = True
    """True if many instances may run in threads of one process."""
    any_params: ClassVar[bool] = False
    """True if one instance plays every Task of its id, whatever the params: a pool need not keep
    one for each.
    """
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Bounds of the reward of one step."""
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(
        self,
        *,
        max_turns: int | None = None,
        extras: Collection[str] = ("admissible_actions",),
        **params: Any,
    ) -> None:
        unknown = set(extras) - {"admissible_actions", "progress"}
        if unknown:
            raise UserError(
                f"unknown extra '{sorted(unknown)[0]}': known are admissible_actions and progress"
            )
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.max_turns, self.extras, self.params = max_turns, frozenset(extras), params
        self.current: Task | None = None
        self._turns, self._over = 0, True
        self._last = Outcome("")

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def _tasks(self, split: Split) -> Sequence[Task]:
        """The fixed tasks of a split; splits share no problem."""

    @abstractmethod
    def _begin(self, task: Task) -> Outcome:
        """Start this task, forgetting all that was before."""

    @abstractmethod
    def _act(self, action: str) -> Outcome:
        """Run one sanitised action. Must answer any string; raise only if the world itself is
        broken.
        """

    def expert_action(self) -> str | None:
        """The next action of a known good plan from the current state, or None where there is no
        expert.
        """
        return None

    @property
    def codes(self) -> Sequence[str]:
        """Names that are copied whole and whose spelling says nothing, such as product ids."""
        return ()

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make whatever these tasks need ahead of time (game files, indexes), in parallel, with a
        progress bar.
        """

    # -- the public face ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The registered id of this instance."""
        if self.spec is None:
            raise UserError(
                f"{type(self).__name__} has no id: register it and make it with turnrl.make(id)"
            )
        return self.spec.id

    def task(self, seed: int, split: Split = "train") -> Task:
        """The Task of this instance's parameters with the given seed."""
        return Task(env=self.id, params=self.params, seed=seed, split=split)

    def seeded(self, seeds: Sequence[int], split: Split) -> Sequence[Task]:
        """The tasks of this instance's parameters with these seeds, made when they are asked for."""
        return SeededTasks(self.id, self.params, split, seeds)

    def tasks(self, split: str) -> Sequence[Task]:
        """The fixed tasks of 'train', 'valid' or 'test'. Raises UserError for another name."""
        for known in SPLITS:
            if split == known:
                return self._tasks(known)
        raise UserError(f"no split '{split}': use train, valid or test")

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, TurnInfo]:
        """Start ``options['task']`` (a Task or its dict), else the training task picked by `seed`
        (random without).
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        if chosen is None:
            pool = self.tasks("train")
            chosen = pool[
                seed % len(pool) if seed is not None else int(self.np_random.integers(len(pool)))
            ]
        task = chosen if isinstance(chosen, Task) else self._task_of(chosen)
        # Over until the world has begun: a world that raises is not playable.
        self.current, self._turns, self._over = task, 0, True
        self._last = self._settled(self._begin(task), "_begin")
        self._over = False
        return self._last.observation, self._info(self._last, None)

    def step(self, action: str) -> tuple[str, float, bool, bool, TurnInfo]:  # type: ignore[override]
        """Run one action, any string. Refused actions cost a turn and answer why. Raises
        RuntimeError after the end.
        """
        if self._over:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._turns, self._over = self._turns + 1, True
        allowed, reason = clean(action, self.grammar)
        if allowed is None:
            assert reason is not None
            outcome = self._refused(reason)
        else:
            outcome = self._settled(self._act(allowed), "_act")
            reason = None if outcome.valid else "rejected"
        self._last = outcome
        truncated = (
            not outcome.ended and self.max_turns is not None and self._turns >= self.max_turns
        )
        self._over = outcome.ended or truncated
        return (
            outcome.observation,
            outcome.reward,
            outcome.ended,
            truncated,
            self._info(outcome, reason),
        )

    def _refused(self, reason: str) -> Outcome:
        """The world stands still; the player is told why."""
        last = self._last
        return Outcome(
            f"Invalid action: {REASONS[reason]}.",
            valid=False,
            admissible=last.admissible,
            score=last.score,
            progress=last.progress,
            milestones=last.milestones,
            answer=last.answer,
        )

    @staticmethod
    def _task_of(data: Any) -> Task:
        try:
            return Task.model_validate(data)
        except ValidationError as error:
            raise UserError(explain(error, "options['task'] is no Task", keys_of(Task))) from None

    def _settled(self, outcome: Any, method: str) -> Outcome:
        """The Outcome with plain Python's types. Raises TypeError or ValueError for what cannot be
        brought to them.
        """
        if not isinstance(outcome, Outcome):
            raise TypeError(
                f"{type(self).__name__}.{method} must return an Outcome, not"
                f" {type(outcome).__name__}"
            )
        return Outcome(
            observation=answers.text(outcome.observation, "the observation"),
            reward=answers.number(outcome.reward, "the reward"),
            ended=answers.flag(outcome.ended, "ended"),
            success=answers.flag(outcome.success, "success"),
            valid=answers.flag(outcome.valid, "valid"),
            admissible=answers.maybe(answers.names, outcome.admissible, "admissible"),
            score=answers.maybe(answers.number, outcome.score, "the score"),
            progress=answers.maybe(answers.number, outcome.progress, "progress"),
            milestones=answers.names(outcome.milestones, "milestones"),
            answer=answers.maybe(answers.names, outcome.answer, "answer"),
        )

    def _info(self, outcome: Outcome, reason: str | None) -> TurnInfo:
        return TurnInfo(
            success=outcome.success,
            valid_action=reason is None,
            invalid_reason=reason,
            admissible_actions=(
                _copy(outcome.admissible) if "admissible_actions" in self.extras else None
            ),
            score=outcome.score,
            progress=outcome.progress if "progress" in self.extras else None,
            milestones=list(outcome.milestones),
            answer=_copy(outcome.answer),
        )


def _copy(items: list[str] | None) -> list[str] | None:
    # The caller may shuffle what it gets; the next refused action reports the same list again.
    return None if items is None else list(items)
