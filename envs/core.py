"""TextEnv: a Gymnasium environment that speaks text. Implement three methods and register it::

    class GuessEnv(TextEnv):
        instructions = "Guess the number between 0 and 9. Answer with the number."

        def _tasks(self, split):  # a Sequence of Task, disjoint between splits
            seeds = {"train": range(6), "valid": (6, 7), "test": (8, 9)}[split]
            return [self.task(seed, split) for seed in seeds]

        def _begin(self, task):                           # -> Outcome
            return Outcome("Guess!")

        def _act(self, action):                           # -> Outcome
            won = action == str(self.current.seed)
            return Outcome("Right!" if won else "No.", reward=float(won), ended=won, success=won)

    turnrl.register("guess/number-v0", GuessEnv)

Parameters, if it has any, are the fields of a class `Settings` inside (see `turnrl.envs.settings`).

The base class does what every world needs: it checks parameters, picks the Task, refuses Tasks of
other worlds, cuts seeds into splits, sanitises actions, latches the end, sets ``truncated`` at the
turn limit, and fills the info with fixed keys. It never truncates on the world's behalf and never
takes success from anything but the world's own verdict.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, TypedDict, TypeVar

import gymnasium
from pydantic import ValidationError

from ..foundation.config import explain, keys_of
from ..foundation.errors import UserError
from ..foundation.plugins import TOLD_BY_WORLDS, Need
from . import answers
from .artifacts import Artifact
from .sanitise import REASONS, Grammar, clean
from .settings import EnvSettings
from .spaces import UnicodeText
from .task import SPLITS, SeededTasks, Split, Task, seeds_of

T = TypeVar("T")
EXTRAS: tuple[str, ...] = tuple(sorted(TOLD_BY_WORLDS))
"""What a world tells only where it is asked, because it can cost more than the step itself."""


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
    artifacts: dict[str, Artifact]
    """What is attached to the observation, by name. Never rendered to the agent as text."""


@dataclass(frozen=True)
class Outcome:
    """The report of a world after a reset or an action.

    What is an extra may be a function, which is called only if this instance was made with that
    extra; `EXTRAS` names them.
    """

    observation: str
    reward: float = 0.0
    ended: bool = False
    """The task is over, won or lost."""
    success: bool = False
    valid: bool = True
    """False if the world did not understand or refused the action."""
    admissible: list[str] | Callable[[], list[str] | None] | None = None
    score: float | None = None
    progress: float | Callable[[], float | None] | None = None
    milestones: list[str] = field(default_factory=list)
    answer: list[str] | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)


class TextEnv(gymnasium.Env[str, str]):
    """A text environment. Subclasses implement `_tasks`, `_begin` and `_act`; see the module's
    example.

    Args:
        max_turns: steps after which ``truncated`` is True (None: never; the player may have its own
            limit).
        extras: what to put into the info beyond the free facts: 'admissible_actions', 'progress',
            or both.
        params: the fields of `Settings` (``rooms=2``).

    Raises UserError for an unknown extra, and for a parameter that is unknown or out of range.
    """

    Settings: ClassVar[type[EnvSettings]] = EnvSettings
    """The parameters that an instance takes."""
    settings: EnvSettings
    """Those of this instance, complete; subclasses say `settings: Settings` for a type checker."""
    sizes: ClassVar[Mapping[Split, int]] = {}
    """Tasks per split, where each seed of the split's range is a task; others write `_tasks`."""

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
        unknown = set(extras) - set(EXTRAS)
        if unknown:
            raise UserError(f"unknown extra '{min(unknown)}': known are {' and '.join(EXTRAS)}")
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.max_turns, self.extras = max_turns, frozenset(extras)
        self.settings = self.Settings.of(params, self._name())
        self.current: Task | None = None
        self.last_outcome = Outcome("")
        """What the world reported last, in plain types, without extras nobody asked for."""
        self._turns, self._over = 0, True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not (isinstance(cls.Settings, type) and issubclass(cls.Settings, EnvSettings)):
            raise UserError(f"{cls.__name__}.Settings must derive from turnrl.EnvSettings")

    # -- for subclasses ----------------------------------------------------------------------------

    def _tasks(self, split: Split) -> Sequence[Task]:
        """List the fixed tasks of a split, as many as `sizes` says; splits share no problem."""
        if split not in self.sizes:
            raise UserError(f"{self._name()}: there are no {split} tasks: write _tasks, or sizes")
        return self.seeded(seeds_of(split, self.sizes[split]), split)

    @abstractmethod
    def _begin(self, task: Task) -> Outcome:
        """Start a task, forgetting all that was before."""

    @abstractmethod
    def _act(self, action: str) -> Outcome:
        """Run one sanitised action.

        Must answer any string; raise only if the world itself is broken.
        """

    def expert_action(self) -> str | None:
        """Return the next action of a known good plan from the current state.

        None where there is no expert.
        """
        return None

    @property
    def codes(self) -> Sequence[str]:
        """List names that are copied whole and whose spelling says nothing, such as product ids."""
        return ()

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make ahead of time what these tasks need (game files, indexes).

        That happens in parallel, with a progress bar.
        """

    @classmethod
    def _name(cls) -> str:
        """Return the id that this class is registered under first; else its own name."""
        path = f"{cls.__module__}:{cls.__qualname__}"
        specs = gymnasium.registry.values()
        ids = (spec.id for spec in specs if spec.entry_point in (cls, path))
        return next(ids, cls.__name__)

    # -- the public face ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Return the registered id of this instance."""
        if self.spec is None:
            raise UserError(
                f"{type(self).__name__} has no id: register it and make it with turnrl.make(id)"
            )
        return self.spec.id

    @cached_property
    def params(self) -> dict[str, Any]:
        """Return the parameters that stand in this instance's Tasks.

        These are what is not at its default, and what the id was registered with.
        """
        whole = self.settings.model_dump(mode="json")
        registered = gymnasium.registry[self.spec.id].kwargs if self.spec is not None else {}
        return {key: whole[key] for key in registered if key in whole} | self.settings.params()

    def whole_params(self) -> dict[str, Any]:
        """Return every parameter, defaults included: what makes this world even if they change."""
        return self.settings.model_dump(mode="json")

    def own(self, task: Task) -> Task:
        """Return the task if this instance plays it.

        Raises UserError for one of another world, or with parameters that this world does not take.
        """
        if self.spec is not None and task.env != self.spec.id:
            raise UserError(
                f"task '{task.id}' is not a {self.id} task: play it with turnrl.make_for(task)"
            )
        self.Settings.of_task(task)
        return task

    def task(self, seed: int, split: Split = "train") -> Task:
        """Make the Task of this instance's parameters with the given seed."""
        return Task(env=self.id, params=self.params, seed=seed, split=split)

    def seeded(self, seeds: Sequence[int], split: Split) -> Sequence[Task]:
        """List the tasks of this instance's parameters with these seeds, each made when needed."""
        return SeededTasks(self.id, self.params, split, seeds)

    def tasks(self, split: str) -> Sequence[Task]:
        """List the fixed tasks of 'train', 'valid' or 'test'. Raises UserError for another name."""
        for known in SPLITS:
            if split == known:
                return self._tasks(known)
        raise UserError(f"no split '{split}': use train, valid or test")

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, TurnInfo]:
        """Start ``options['task']`` (a Task or its dict), else a training task.

        `seed` picks the training task; without one it is random.
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        if chosen is None:
            pool = self.tasks("train")
            chosen = pool[
                seed % len(pool) if seed is not None else int(self.np_random.integers(len(pool)))
            ]
        task = self.own(chosen if isinstance(chosen, Task) else self._task_of(chosen))
        # Over until the world has begun: a world that raises is not playable.
        self.current, self._turns, self._over = task, 0, True
        outcome = self.last_outcome = self._settled(self._begin(task), "_begin")
        self._over = False
        return outcome.observation, self._info(outcome, None)

    def step(self, action: str) -> tuple[str, float, bool, bool, TurnInfo]:  # type: ignore[override]
        """Run one action, any string. Refused actions cost a turn and answer why.

        Raises RuntimeError after the end.
        """
        if self._over:
            raise RuntimeError("the episode is over: call reset() before step()")
        # Over until the world has answered: one that raises is not played on.
        self._turns, self._over = self._turns + 1, True
        allowed, reason = clean(action, self.grammar)
        if allowed is None:
            assert reason is not None
            outcome = self._refused(reason)
        else:
            outcome = self._settled(self._act(allowed), "_act")
            reason = None if outcome.valid else "rejected"
        self.last_outcome = outcome
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
        """Answer an action that is kept from the world: it stands still, the player is told why."""
        return replace(
            self.last_outcome,
            observation=f"Invalid action: {REASONS[reason]}.",
            reward=0.0,
            ended=False,
            success=False,
            valid=False,
            artifacts={},
        )

    @staticmethod
    def _task_of(data: Any) -> Task:
        try:
            return Task.model_validate(data)
        except ValidationError as error:
            raise UserError(explain(error, "options['task'] is no Task", keys_of(Task))) from None

    def _settled(self, outcome: Any, method: str) -> Outcome:
        """Bring what a world answered to plain Python's types.

        Raises TypeError or ValueError for what cannot be brought to them.
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
            admissible=self._extra(Need.ADMISSIBLE_ACTIONS, answers.names, outcome.admissible),
            score=answers.maybe(answers.number, outcome.score, "the score"),
            progress=self._extra(Need.PROGRESS, answers.number, outcome.progress),
            milestones=answers.names(outcome.milestones, "milestones"),
            answer=answers.maybe(answers.names, outcome.answer, "answer"),
            artifacts=answers.artifacts(outcome.artifacts, "artifacts"),
        )

    def _extra(self, extra: Need, check: Callable[[Any, str], T], told: Any) -> T | None:
        """Return what a world tells of an extra, itself or through a function; None if unasked."""
        asked = extra in self.extras
        if callable(told):
            told = told() if asked else None
        checked = answers.maybe(check, told, extra.removesuffix("_actions"))
        return checked if asked else None

    def _info(self, outcome: Outcome, reason: str | None) -> TurnInfo:
        told: Any = outcome
        return TurnInfo(
            success=outcome.success,
            valid_action=reason is None,
            invalid_reason=reason,
            admissible_actions=_copy(told.admissible),
            score=outcome.score,
            progress=told.progress,
            milestones=list(outcome.milestones),
            answer=_copy(outcome.answer),
            artifacts=dict(outcome.artifacts),
        )


def _copy(items: list[str] | None) -> list[str] | None:
    # The caller may shuffle what it gets; the next refused action reports the same list again.
    return None if items is None else list(items)
