"""evaluate: play many tasks, each exactly once, and count.

    from turnrl import evaluate
    print(evaluate("textworld/coin-v0", agent="random", tasks=60).success)

What it measures, and what counts, is in `evaluation.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..envs import Task, TextEnv, make
from ..envs.closing import close_worlds
from ..envs.pool.pool import EnvPool, pool_for
from ..envs.registry import import_worlds
from ..foundation.config import checked
from ..foundation.errors import UserError, nearest
from ..foundation.logs import shown_on_stderr
from ..foundation.progress import bar
from .agent import Agent
from .baselines import BASELINES
from .episode import Episode
from .evaluation import Evaluation, summarise
from .play import EpisodeJob, PlayStats, play_many
from .saved_agent import LoadedAgent, fingerprint, load_named


def choose_tasks(tasks: Sequence[Task], n: int | None, what: str) -> list[Task]:
    """Choose the first `n` tasks, each once; None takes at most 100.

    Raises UserError if there are fewer, or if one of them is listed twice: it would count as two.
    """
    if n is None:
        n = min(100, len(tasks))
    elif n < 1 or n > len(tasks):
        raise UserError(
            f"{what} has {len(tasks)} tasks, so tasks={n} cannot be: ask for 1 to {len(tasks)}"
        )
    chosen = list(tasks[:n])
    [(most, count)] = Counter(task.id for task in chosen).most_common(1) or [("", 0)]
    if count > 1:
        raise UserError(
            f"{what} lists {most} {count} times among its first {n} tasks, which would count it as"
            f" {count}"
        )
    return chosen


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
    """Play every task once, with a progress bar."""
    jobs = [EpisodeJob(task, f"{label}:{i:05d}:{task.id}", seed) for i, task in enumerate(tasks)]
    with bar(label, len(jobs), progress) as advance:
        return await play_many(
            agent,
            jobs,
            pool,
            max_turns=max_turns,
            concurrency=concurrency,
            done=lambda _: advance(1),
        )


@checked
def evaluate(
    env: str,
    agent: str | Path | Agent = "random",
    *,
    params: Mapping[str, Any] | None = None,
    split: str = "test",
    tasks: int | None = None,
    seed: int = 0,
    temperature: Annotated[float | None, Field(ge=0)] = None,
    concurrency: Annotated[int, Field(ge=1)] = 64,
    max_turns: Annotated[int | None, Field(ge=1)] = None,
    changes: Mapping[str, Any] | None = None,
    pool: Mapping[str, Any] | None = None,
    progress: bool = True,
    imports: Sequence[str] = (),
    trust: bool = False,
    episodes: list[Episode] | None = None,
    device: str = "auto",
) -> Evaluation:
    """Play each task of a split once and count the successes.

    Args:
        env: registered id.
        agent: 'random', 'expert', an Agent, the folder of a trained run or checkpoint, or another
            model by its name.
        params: parameters of the environment.
        tasks: how many tasks of the split, each exactly once; None is all, at most 100.
        temperature: of a language model's sampling; 0 is greedy, None what its run was evaluated
            with, else 1.
        concurrency: episodes at once; fewer for worlds that cannot run in threads.
        max_turns: turn limit; None is that of a checkpoint's run, and 50 for other agents.
        changes: replaces keys of a language model's ``agent`` block: see `checkpoint.load_agent`.
        pool: arguments of the `EnvPool`, e.g. ``{"step_timeout": 60}``; None are `pool_for`'s.
        progress: show bars on the terminal, and say on stderr what goes wrong.
        imports: modules or ``.py`` files that register worlds.
        trust: whether a checkpoint may name classes whose code is then run.
        episodes: a list to append what was played to.
        device: where a language model plays: cpu, cuda, cuda:N, or auto for a GPU if there is one.

    Raises:
        UserError: unknown environment, agent, split or checkpoint, or more tasks than the split
            has.
    """
    with shown_on_stderr(progress):
        import_worlds(*imports)
        prototype = make(env, **(params or {}))
        try:
            listed = prototype.tasks(split)
            chosen = choose_tasks(listed, tasks, f"the {split} split of {env}")
            who = _resolve(agent, temperature, max_turns, changes or {}, trust, device)
            prototype.prepare(chosen, progress=progress)
        finally:
            close_worlds([prototype])
        worlds = _pool(prototype, concurrency, who.agent.extras, imports, pool)
        played, stats = _played(who, chosen, worlds, split, seed, concurrency, progress)
        (episodes if episodes is not None else []).extend(played)
        conditions = {"params": params or {}, "split_size": len(listed), **who.conditions()}
        return summarise(
            played, stats, env=env, agent=who.name, split=split, seed=seed, **conditions
        )


def _played(
    who: _Contestant,
    tasks: Sequence[Task],
    worlds: EnvPool,
    split: str,
    seed: int,
    concurrency: int,
    progress: bool,
) -> tuple[list[Episode], PlayStats]:
    """Play the tasks in a pool that is closed afterwards."""
    playing = play_tasks(
        who.agent,
        tasks,
        worlds,
        max_turns=who.max_turns,
        seed=seed,
        concurrency=concurrency,
        label=who.label(split),
        progress=progress,
    )
    try:
        return asyncio.run(playing)
    finally:
        worlds.close()


@dataclass(frozen=True, slots=True)
class _Contestant:
    """The player of an evaluation with its name and turn limit; `loaded` for a language model."""

    agent: Agent
    name: str
    max_turns: int
    loaded: LoadedAgent | None = None

    def label(self, split: str) -> str:
        """Name the player's random streams; a checkpoint has those of its run's evaluations."""
        return self.name if self.loaded is None else f"eval-{split}"

    def conditions(self) -> dict[str, Any]:
        """Return the player's limits as fields of an Evaluation."""
        if self.loaded is None:
            return {"temperature": None, "max_turns": self.max_turns}
        return {
            "temperature": self.loaded.temperature,
            "max_turns": self.max_turns,
            "max_context": self.loaded.max_context,
            "checkpoint": None if self.loaded.folder is None else fingerprint(self.loaded.folder),
        }


def _resolve(
    agent: str | Path | Agent,
    temperature: float | None,
    max_turns: int | None,
    changes: Mapping[str, Any],
    trust: bool,
    device: str,
) -> _Contestant:
    if isinstance(agent, Agent) or str(agent) in BASELINES:
        if changes:
            raise UserError(f"only a language model has a {next(iter(changes))} to change")
        if device != "auto":
            raise UserError(f"only a language model has a device, so device={device} cannot be")
        limit = 50 if max_turns is None else max_turns
        if isinstance(agent, Agent):
            return _Contestant(agent, type(agent).__name__, limit)
        return _Contestant(BASELINES[str(agent)](), str(agent), limit)
    loaded = load_named(
        str(agent),
        list(BASELINES),
        temperature=temperature,
        max_turns=max_turns,
        changes=changes,
        trust=trust,
        device=device,
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
    known = (
        "backend",
        "workers",
        "slots",
        "step_timeout",
        "reset_timeout",
        "recycle_episodes",
        "max_memory_mb",
    )
    for key in arguments.keys() - set(known):
        raise UserError(f"evaluate: pool: unknown key '{key}'; {nearest(str(key), list(known))}")
    slots = min(concurrency, arguments.get("slots") or concurrency)
    return EnvPool(
        **{**arguments, "slots": slots, "imports": imports, "options": {"extras": tuple(extras)}}
    )
