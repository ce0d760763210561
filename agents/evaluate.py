"""evaluate: play many tasks, each exactly once, and count.

    from turnrl import evaluate
    print(evaluate("textworld/coin-v0", agent="random", tasks=60).success)

Success is the world's own verdict. Episodes lost to failures of the infrastructure are in no denominator and are
counted by name. Rates come with n and a 95 % Wilson interval (Wilson, 1927).
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, computed_field

from ..envs import Task, TextEnv, make
from ..envs.bar import bar
from ..envs.closing import close_worlds
from ..envs.pool import EnvPool, pool_for
from ..envs.registry import import_worlds
from ..plugins import UserError
from .agent import Agent
from .baselines import BASELINES
from .checkpoint import LoadedAgent, digest, load_named
from .episode import Episode, StopReason
from .play import Job, PlayStats, play_many

if TYPE_CHECKING:
    from rich.table import Table


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion, inside [0, 1]; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


MOST_LOST = 0.1
"""Share of an evaluation's episodes that may be lost. Of what fails at random, long episodes are lost more often than
short ones, so the survivors of more than this say little about the player."""


class Rate(BaseModel):
    """A success rate with its 95 % Wilson interval; None where nothing was measured."""

    success: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        """The rate of True in `outcomes`; success None for none."""
        low, high = wilson(sum(outcomes), len(outcomes))
        return cls(success=_mean(sum(outcomes), len(outcomes)), low=low, high=high, n=len(outcomes))

    @property
    def text(self) -> str:
        """The rate in percent, or '-' where nothing was measured."""
        return "-" if self.success is None else f"{self.success:.1%}"


def _mean(total: float, count: int) -> float | None:
    """The mean of `count` things, None of none: what was not measured is not zero."""
    return total / count if count else None


class Evaluation(Rate):
    """What `evaluate` measured. `n` counts finished episodes; `lost` those that failed and count nowhere."""

    env: str
    agent: str
    split: str
    families: dict[str, Rate] = Field(description="by task family (environment and parameters)")
    turns: float | None = Field(description="mean turns per episode")
    turns_when_won: float | None = Field(description="mean turns of the successful episodes")
    invalid_rate: float | None = Field(description="share of actions refused or not understood")
    repeated_rate: float | None = Field(
        description="share of actions given before in the same episode after the same observation"
    )
    tokens: float | None = Field(description="mean tokens the player wrote per episode")
    stops: dict[str, int] = Field(description="finished episodes by StopReason")
    lost: dict[str, int] = Field(description="lost episodes by StopReason")
    seed: int
    temperature: float | None = Field(None, description="of a language model's sampling; 0 is greedy")
    max_turns: int | None = Field(None, description="turns after which an episode was cut")
    max_context: int | None = Field(None, description="longest prompt plus response of a language model, in tokens")
    params: dict[str, Any] = Field({}, description="parameters of the environment")
    split_size: int | None = Field(None, description="tasks that the split has")
    checkpoint: str | None = Field(
        None, description="SHA-256 over the weights, tokenizer and configuration that played"
    )
    seconds: float
    tokens_per_second: float

    @computed_field(description=f"at most {MOST_LOST:.0%} of the episodes were lost: the rate is that of the tasks")  # type: ignore[prop-decorator]
    @property
    def whole(self) -> bool:
        """At least one episode was finished, and at most `MOST_LOST` of all were lost."""
        return self.n > 0 and self.lost_share <= MOST_LOST

    @property
    def lost_share(self) -> float:
        """Lost episodes among all that could be played by this agent."""
        lost = sum(count for name, count in self.lost.items() if name != StopReason.UNPLAYABLE)
        return lost / max(self.n + lost, 1)

    @property
    def trouble(self) -> str | None:
        """What the lost episodes do to the rate, as a sentence; None if none were lost."""
        lost, all_ = sum(self.lost.values()), self.n + sum(self.lost.values())
        if not lost:
            return None
        reasons = ", ".join(f"{count} {name}" for name, count in self.lost.items())
        if self.success is None:
            return f"nothing was measured: {lost} of {all_} episodes were lost ({reasons})"
        won = round(self.success * self.n)
        return (
            f"{lost} of {all_} episodes were lost ({reasons}): had they all been played, the success rate would be "
            f"between {won / all_:.1%} and {(won + lost) / all_:.1%}"
        )

    def table(self) -> Table:
        """The same as a rich table."""
        from rich.table import Table

        table = Table("", "success", "95 % interval", "n", title=f"{self.agent} on {self.env} ({self.split})")
        rows: dict[str, Rate] = {"all": self} | (self.families if len(self.families) > 1 else {})
        for name, rate in rows.items():
            table.add_row(name, rate.text, f"{rate.low:.1%} to {rate.high:.1%}", str(rate.n))
        said = {
            "{:.1f} turns": self.turns, "{:.1%} invalid": self.invalid_rate, "{:.1%} repeated actions":
            self.repeated_rate, "{:.0f} tokens per episode": self.tokens,
        }  # fmt: skip
        means = [form.format(value) for form, value in said.items() if value is not None]
        parts = [", ".join(means), self.trouble or "no episode was lost", f"{self.seconds:.1f} s"]
        table.caption = "; ".join(part for part in parts if part)
        return table


def summarise(
    episodes: Sequence[Episode],
    stats: PlayStats,
    *,
    env: str,
    agent: str,
    split: str,
    seed: int,
    temperature: float | None,
    **conditions: Any,
) -> Evaluation:
    """Count finished episodes; failed ones are in `lost` only, and warned about where they are too many.

    `conditions` are further fields of the Evaluation.
    """
    finished = [e for e in episodes if not e.stop.failed]
    families: dict[str, list[bool]] = {episode.task.family: [] for episode in episodes}
    for episode in finished:
        families[episode.task.family].append(episode.success)
    turns = [turn for episode in finished for turn in episode.turns]
    won = [len(e.turns) for e in finished if e.success]
    tokens = sum(e.response_tokens for e in finished)
    result = Evaluation(
        **Rate.of([e.success for e in finished]).model_dump(),
        env=env,
        agent=agent,
        split=split,
        families={name: Rate.of(outcomes) for name, outcomes in sorted(families.items())},
        turns=_mean(len(turns), len(finished)),
        turns_when_won=_mean(sum(won), len(won)),
        invalid_rate=_mean(sum(not t.valid_action for t in turns), len(turns)),
        repeated_rate=_mean(sum(map(_repeated, finished)), len(turns)),
        tokens=_mean(tokens, len(finished)),
        stops=dict(Counter(e.stop.value for e in finished)),
        lost=dict(Counter(e.stop.value for e in episodes if e.stop.failed)),
        seed=seed,
        temperature=temperature,
        seconds=stats.seconds,
        tokens_per_second=tokens / stats.seconds if stats.seconds else 0.0,
        **conditions,
    )
    if not result.whole and result.trouble:
        warnings.warn(result.trouble, stacklevel=2)
    return result


def _repeated(episode: Episode) -> int:
    """Actions that were already given in this episode after the world had said the same."""
    given = zip(episode.states(), (turn.action for turn in episode.turns), strict=True)
    return len(episode.turns) - len(set(given))


def choose_tasks(tasks: Sequence[Task], n: int | None, what: str) -> list[Task]:
    """The first `n` tasks, each once. Raises UserError if there are fewer; None takes at most 100."""
    if n is None:
        return list(tasks[: min(100, len(tasks))])
    if n < 1 or n > len(tasks):
        raise UserError(f"{what} has {len(tasks)} tasks, so tasks={n} cannot be: ask for 1 to {len(tasks)}")
    return list(tasks[:n])


async def play_tasks(
    agent: Agent,
    tasks: Sequence[Task],
    pool: EnvPool,
    *,
    max_turns: int,
    seed: int,
    concurrency: int,
    label: str,
    progress: bool,
) -> tuple[list[Episode], PlayStats]:
    """Every task once, with a progress bar."""
    jobs = [Job(task, f"{label}:{i:05d}:{task.id}", seed) for i, task in enumerate(tasks)]
    with bar(label, len(jobs), progress) as advance:
        return await play_many(
            agent, jobs, pool, max_turns=max_turns, concurrency=concurrency, done=lambda _: advance(1)
        )


def evaluate(
    env: str,
    agent: str | Agent = "random",
    *,
    params: Mapping[str, Any] | None = None,
    split: str = "test",
    tasks: int | None = None,
    seed: int = 0,
    temperature: float | None = None,
    concurrency: int = 64,
    max_turns: int | None = None,
    changes: Mapping[str, Any] | None = None,
    pool: Mapping[str, Any] | None = None,
    progress: bool = True,
    imports: Sequence[str] = (),
    trust: bool = False,
    episodes: list[Episode] | None = None,
) -> Evaluation:
    """Play each task of a split once and count the successes.

    Args:
        env: registered id.
        agent: 'random', 'expert', an Agent, the folder of a trained run or checkpoint, or another model by its name.
        params: parameters of the environment.
        tasks: how many tasks of the split, each exactly once; None is all, at most 100.
        temperature: of a language model's sampling; 0 is greedy, None what its run was evaluated with, else 1.
        concurrency: episodes at once; fewer for worlds that cannot run in threads.
        max_turns: turn limit; None is the one that a checkpoint was trained under, 50 for other agents.
        changes: replaces keys of a language model's ``agent`` block: see `checkpoint.load_agent`.
        pool: arguments of the `EnvPool`, e.g. ``{"step_timeout": 60}``; None is what `pool_for` chooses.
        imports: modules or ``.py`` files that register worlds.
        trust: whether a checkpoint may name classes whose code is then run.
        episodes: a list to append what was played to.

    Raises:
        UserError: unknown environment, agent, split or checkpoint, or more tasks than the split has.
    """
    import_worlds(*imports)
    prototype = make(env, **(params or {}))
    try:
        listed = prototype.tasks(split)
        chosen = choose_tasks(listed, tasks, f"the {split} split of {env}")
        who = _resolve(agent, temperature, max_turns, changes or {}, trust)
        prototype.prepare(chosen, progress=progress)
    finally:
        close_worlds([prototype])
    worlds = _pool(prototype, concurrency, who.agent.extras, imports, pool)
    try:
        played, stats = asyncio.run(
            play_tasks(
                who.agent, chosen, worlds, max_turns=who.max_turns, seed=seed, concurrency=concurrency,
                label=who.label(split), progress=progress,
            )
        )  # fmt: skip
    finally:
        worlds.close()
    if episodes is not None:
        episodes += played
    conditions = {"params": params or {}, "split_size": len(listed), **who.conditions()}
    return summarise(played, stats, env=env, agent=who.name, split=split, seed=seed, **conditions)


@dataclass(frozen=True, slots=True)
class _Contestant:
    """Who plays, under what name and turn limit; `loaded` for a language model."""

    agent: Agent
    name: str
    max_turns: int
    loaded: LoadedAgent | None = None

    def label(self, split: str) -> str:
        """What the random streams of its episodes hang on: for a checkpoint, that of the run's own evaluations."""
        return self.name if self.loaded is None else f"eval-{split}"

    def conditions(self) -> dict[str, Any]:
        """Its limits, as fields of an Evaluation."""
        if self.loaded is None:
            return {"temperature": None, "max_turns": self.max_turns}
        return {
            "temperature": self.loaded.temperature,
            "max_turns": self.max_turns,
            "max_context": self.loaded.max_context,
            "checkpoint": None if self.loaded.folder is None else digest(self.loaded.folder),
        }


def _resolve(
    agent: str | Agent, temperature: float | None, max_turns: int | None, changes: Mapping[str, Any], trust: bool
) -> _Contestant:
    if isinstance(agent, Agent) or agent in BASELINES:
        if changes:
            raise UserError(f"only a language model has a {next(iter(changes))} to change")
        limit = 50 if max_turns is None else max_turns
        if isinstance(agent, Agent):
            return _Contestant(agent, type(agent).__name__, limit)
        return _Contestant(BASELINES[agent](), agent, limit)
    loaded = load_named(
        agent, list(BASELINES), temperature=temperature, max_turns=max_turns, changes=changes, trust=trust
    )
    return _Contestant(loaded.agent, Path(agent).name, loaded.max_turns, loaded)


def _pool(
    prototype: TextEnv,
    concurrency: int,
    extras: Collection[str],
    imports: Sequence[str],
    arguments: Mapping[str, Any] | None,
) -> EnvPool:
    if arguments is None:
        return pool_for(prototype, concurrency, extras=extras, imports=imports)
    slots = min(concurrency, arguments.get("slots") or concurrency)
    return EnvPool(**{**arguments, "slots": slots, "imports": imports, "options": {"extras": tuple(extras)}})
