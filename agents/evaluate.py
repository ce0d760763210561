"""evaluate: play many tasks, each exactly once, and count.

    from turnrl import evaluate
    print(evaluate("textworld/coin-v0", agent="random", tasks=60).success)

What it measures, and what counts, is in `evaluation.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
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
from .hosted.load import PREFIX, LoadedHosted, load_hosted
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
    concurrency: Annotated[int | None, Field(ge=1)] = None,
    max_turns: Annotated[int | None, Field(ge=1)] = None,
    changes: Mapping[str, Any] | None = None,
    pool: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    progress: bool = True,
    imports: Sequence[str] = (),
    trust: bool = False,
    episodes: list[Episode] | None = None,
    device: str = "auto",
) -> Evaluation:
    """Play each task of a split once and count the successes.

    Args:
        env: registered id.
        agent: 'random', 'expert', an Agent, the folder of a trained run or checkpoint, another
            model by its name, or 'openai:MODEL' for one behind a server.
        params: parameters of the environment.
        tasks: how many tasks of the split, each exactly once; None is all, at most 100.
        temperature: of a model's sampling; 0 is greedy, None that of its run's evaluations, else 1.
        concurrency: episodes at once, fewer for worlds that cannot run in threads; None is 64, and
            that of `server` if there is one.
        max_turns: turn limit; None is that of a checkpoint's run, and 50 for other agents.
        changes: replaces keys of a language model's ``agent`` block: see `checkpoint.load_agent`.
        pool: arguments of the `EnvPool`, e.g. ``{"step_timeout": 60}``; None are `pool_for`'s.
        server: fields of a `HostedConfig`, where 'openai:MODEL' is served and what it may cost.
        progress: show bars on the terminal, and say on stderr what goes wrong.
        imports: modules or ``.py`` files that register worlds.
        trust: whether a checkpoint may name classes whose code is then run.
        episodes: a list to append what was played to.
        device: where a language model plays: cpu, cuda, cuda:N, or auto for a GPU if there is one.

    Raises:
        UserError: unknown environment, agent, split, server or checkpoint, or too many tasks.
    """
    with shown_on_stderr(progress):
        import_worlds(*imports)
        prototype = make(env, **(params or {}))
        try:
            listed = prototype.tasks(split)
            chosen = choose_tasks(listed, tasks, f"the {split} split of {env}")
            how = _How(temperature, max_turns, changes or {}, trust, device)
            who = _resolve(agent, how, server, concurrency)
            prototype.prepare(chosen, progress=progress)
        finally:
            close_worlds([prototype])
        worlds = _pool(prototype, who.concurrency, who.agent.extras, imports, pool)
        played, stats = _played(who, chosen, worlds, split, seed, progress)
        (episodes if episodes is not None else []).extend(played)
        named: dict[str, Any] = {"env": env, "agent": who.name, "split": split, "seed": seed}
        return summarise(played, stats, **named, **who.conditions(params or {}, len(listed)))


def _played(
    who: _Contestant,
    tasks: Sequence[Task],
    worlds: EnvPool,
    split: str,
    seed: int,
    progress: bool,
) -> tuple[list[Episode], PlayStats]:
    """Play the tasks in a pool that is closed afterwards."""
    playing = play_tasks(
        who.agent,
        tasks,
        worlds,
        max_turns=who.max_turns,
        seed=seed,
        concurrency=who.concurrency,
        label=who.label(split),
        progress=progress,
    )
    try:
        return asyncio.run(playing)
    finally:
        worlds.close()


@dataclass(frozen=True, slots=True)
class _Contestant:
    """The player of an evaluation with its name and limits; `loaded` for a language model."""

    agent: Agent
    name: str
    max_turns: int
    concurrency: int
    loaded: LoadedAgent | LoadedHosted | None = None

    def label(self, split: str) -> str:
        """Name the player's random streams; a checkpoint has those of its run's evaluations."""
        return f"eval-{split}" if isinstance(self.loaded, LoadedAgent) else self.name

    def conditions(self, params: Mapping[str, Any], split_size: int) -> dict[str, Any]:
        """Return world, limits, and what a server was asked for, as fields of an Evaluation."""
        limits = {"params": params, "split_size": split_size, "max_turns": self.max_turns}
        if self.loaded is None:
            return limits | {"temperature": None}
        limits |= {
            "temperature": self.loaded.temperature,
            "max_context": self.loaded.max_context,
        }
        if isinstance(self.loaded, LoadedHosted):
            return limits | {"server": self.loaded.use()}
        folder = self.loaded.folder
        return limits | {"checkpoint": None if folder is None else fingerprint(folder)}


@dataclass(frozen=True, slots=True)
class _How:
    """What an evaluation asks of a language model, as `load_named` takes it."""

    temperature: float | None
    max_turns: int | None
    changes: Mapping[str, Any]
    trust: bool
    device: str


def _resolve(
    agent: str | Path | Agent,
    how: _How,
    server: Mapping[str, Any] | None,
    concurrency: int | None,
) -> _Contestant:
    name, limit = str(agent), 50 if how.max_turns is None else how.max_turns
    at_once, known = concurrency or 64, [*BASELINES, f"{PREFIX}MODEL"]
    if name.startswith(PREFIX):
        if how.device != "auto":
            raise UserError(f"{name} plays where its server does, so device={how.device} cannot be")
        hosted = load_hosted(
            name,
            server,
            temperature=how.temperature,
            max_turns=how.max_turns,
            changes=how.changes,
            concurrency=concurrency,
        )
        return _Contestant(hosted.agent, name, hosted.max_turns, hosted.config.concurrency, hosted)
    if server is not None:
        raise UserError(f"only an agent {PREFIX}MODEL has a server, '{name}' has none")
    if isinstance(agent, Agent) or name in BASELINES:
        if how.changes:
            raise UserError(f"only a language model has a {next(iter(how.changes))} to change")
        if how.device != "auto":
            raise UserError(f"only a language model has a device, so device={how.device} cannot be")
        if isinstance(agent, Agent):
            return _Contestant(agent, type(agent).__name__, limit, at_once)
        return _Contestant(BASELINES[name](), name, limit, at_once)
    asked = {field.name: getattr(how, field.name) for field in fields(how)}
    loaded = load_named(name, known, **asked)
    return _Contestant(loaded.agent, Path(agent).name, loaded.max_turns, at_once, loaded)


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
