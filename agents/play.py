"""play: an Agent plays a Task and returns the Episode. One coroutine per episode, no barrier per
turn.

`play_many` keeps a number of lanes busy: a finished episode frees its lane at once and never
generates again. Failures of the infrastructure are retried, then returned with their StopReason,
never scored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from ..envs import Task, TurnInfo
from ..envs.pool.pool import EnvFailure, EnvPool, EnvSession
from ..foundation.aio import await_all
from ..foundation.errors import kind_of, told
from ..foundation.printable import visible
from .agent import Agent, Player, Unplayable
from .engines.base import ContextOverflow, EngineError
from .episode import Episode, StopReason, Turn
from .symmetry import RenamedPlayer
from .teachers.meter import BudgetSpent

logger = logging.getLogger(__name__)

LONGEST_PLAN = 1000
"""Turns after which an expert that has not won is given up."""


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """An episode to be played."""

    task: Task
    id: str
    """Unique among the episodes played at once; with `seed` it fixes every random choice of the
    player.
    """
    seed: int
    renaming: Mapping[str, str] = field(default_factory=dict)
    """A symmetry of the world under which the player sees it."""
    hint: str = ""
    """What the player is told after the opening, in the world's own words."""


@dataclass(slots=True)
class PlayStats:
    """What playing cost."""

    episodes: int = 0
    retried: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    """Episodes given up after retries, by StopReason."""
    seconds: float = 0.0
    straggler_seconds: float = 0.0
    """Time during which fewer than a quarter of the lanes were busy."""


async def play(
    player: Player,
    task: Task,
    pool: EnvPool,
    *,
    max_turns: int,
    limit: StopReason = StopReason.TURN_LIMIT,
    ask_expert: bool = False,
    hint: str = "",
) -> Episode:
    """Play one episode to its end.

    Never raises for a failure of the world or the engine: see `Episode.stop`.

    A response that the context cuts is acted on like any other, and is the last
    (`StopReason.CONTEXT_LIMIT`). If not even the opening fits, the only turn says nothing, so that
    rewards see an episode that was lost.

    Args:
        max_turns: turns after which the episode is cut.
        limit: what that is called: CURRICULUM_LIMIT if it is shorter than the task's own limit.
        ask_expert: the world's expert plays it first, and the episode remembers how: see
            `Episode.expert`.
        hint: what the player is told after the opening, or nothing.
    """
    episode, started = Episode(task, hint=hint), time.perf_counter()
    try:
        async with pool.episode(task) as world:
            observation, info = await world.reset()
            if ask_expert:
                episode.expert = await plan(world)
                observation, info = await world.reset()
            episode.opening, episode.answer = observation, info["answer"]
            episode.start_progress, episode.artifacts = info["progress"], info["artifacts"]
            player.begin(world, f"{observation}\n{hint}" if hint else observation, info)
            await _turns(player, world, episode, max_turns, limit)
    except EnvFailure as failure:
        episode.stop = StopReason.ENV_TIMEOUT if failure.kind == "timeout" else StopReason.ENV_ERROR
        episode.error = str(failure)
    except EngineError as failure:
        episode.stop, episode.error = StopReason.ENGINE_ERROR, str(failure)
        cause = failure.__cause__
        kind, why = (str(failure), str(failure)) if cause is None else (kind_of(cause), told(cause))
        pool.faults.note(f"engine_error: {kind}", f"engine_error in {task.id}: {why}")
    except Unplayable as failure:
        episode.stop, episode.error = StopReason.UNPLAYABLE, str(failure)
    except BudgetSpent as end:
        episode.stop, episode.error = StopReason.BUDGET, str(end)
    except ContextOverflow:
        episode.stop = StopReason.CONTEXT_LIMIT
        if not episode.turns:
            # Rewards are paid on turns: without one, not fitting in would be worth more than
            # losing.
            episode.turns.append(_speechless(episode))
    if episode.stop.at_turn_limit and (closing := player.closing()):
        episode.closing_ids, episode.closing_extends = closing.new_ids, closing.extends
    episode.seconds = time.perf_counter() - started
    return episode


async def plan(world: EnvSession) -> list[str]:
    """Return the actions by which the world's expert wins from here.

    None if it does not within `LONGEST_PLAN`.
    """
    actions: list[str] = []
    while len(actions) < LONGEST_PLAN and (action := await world.expert_action()) is not None:
        actions.append(action)
        _, _, terminated, truncated, info = await world.step(action)
        if terminated or truncated:
            return actions if info["success"] else []
    return []


async def _turns(
    player: Player, world: EnvSession, episode: Episode, max_turns: int, limit: StopReason
) -> None:
    while len(episode.turns) < max_turns:
        turn = await player.move()
        info: TurnInfo | None = None
        terminated = truncated = False
        if turn.action is None:
            turn.valid_action, turn.invalid_reason = False, "unparsable"
            turn.observation = f"Invalid answer: {player.expects}"
            turn.progress = episode.turns[-1].progress if episode.turns else episode.start_progress
        else:
            turn.observation, turn.env_reward, terminated, truncated, info = await world.step(
                turn.action
            )
            turn.valid_action, turn.invalid_reason = info["valid_action"], info["invalid_reason"]
            turn.score, turn.progress = info["score"], info["progress"]
            turn.milestones, turn.artifacts = info["milestones"], info["artifacts"]
            episode.success = info["success"]
        episode.turns.append(turn)
        if terminated:
            episode.stop = StopReason.WON if episode.success else StopReason.LOST
            return
        player.observe(turn.observation, info)
        if truncated or player.full:
            episode.stop = StopReason.CONTEXT_LIMIT if player.full else StopReason.TURN_LIMIT
            return
    episode.stop = limit


def _speechless(episode: Episode) -> Turn:
    """Make the turn of a player who could not even read the opening."""
    return Turn(
        [],
        False,
        [],
        [],
        valid_action=False,
        invalid_reason="unparsable",
        finish_reason="length",
        progress=episode.start_progress,
    )


async def play_many(
    agent: Agent,
    jobs: Iterable[EpisodeJob],
    pool: EnvPool,
    *,
    max_turns: int,
    limit: StopReason = StopReason.TURN_LIMIT,
    concurrency: int = 64,
    retries: int = 2,
    ask_expert: bool = False,
    keep: ExitStack | None = None,
    done: Callable[[Episode], None] | None = None,
) -> tuple[list[Episode], PlayStats]:
    """Play all jobs; episodes come back in the order of the jobs.

    Failed ones are among them (`Episode.stop.failed`).

    Args:
        max_turns, limit, ask_expert: see `play`.
        concurrency: lanes, at most the pool's slots.
        retries: how often a failed episode is played again before it is lost.
        keep: closes the conversations of finished episodes. Until then they are among those of the
            engine (`Engine.conversations`, by `Episode.id`), and tokens can be scored with what it
            kept of them.
        done: called after each finished episode (progress bars).
    """
    one = partial(play, pool=pool, max_turns=max_turns, limit=limit, ask_expert=ask_expert)
    queue = list(jobs)
    results: list[Episode | None] = [None] * len(queue)
    stats, started = PlayStats(), time.perf_counter()
    # A lane without a slot would hold a live conversation that waits for the world while the engine
    # waits for it.
    lanes = min(concurrency, len(queue), pool.slots)
    busy_since: list[float] = []
    cursor = iter(range(len(queue)))

    async def lane() -> None:
        with ExitStack() as last:
            for index, attempt in _attempts(queue, cursor, retries, results, stats):
                job = queue[index]
                player = _player(agent, job, attempt)
                last.close()  # after the next player was made: the engine is to see no gap
                last.callback(player.close)
                episode = await one(player, job.task, hint=job.hint)
                episode.id, episode.renaming = _name(job, attempt), dict(job.renaming)
                if keep is not None and not episode.stop.failed:
                    keep.push(last.pop_all())
                    if player.conversation is not None:
                        last.callback(player.conversation.finish)
                results[index] = episode
                stats.retried += attempt > 0
                if _is_final(episode) or attempt == retries:
                    _count(stats, episode)
                    if done:
                        done(episode)
        busy_since.append(time.perf_counter())

    await await_all(lane() for _ in range(lanes))
    _clock(stats, started, busy_since)
    return _checked([episode for episode in results if episode is not None]), stats


def _clock(stats: PlayStats, started: float, busy_since: list[float]) -> None:
    ended = time.perf_counter()
    stats.seconds = ended - started
    stats.straggler_seconds = (
        ended - sorted(busy_since)[len(busy_since) * 3 // 4 - 1] if len(busy_since) >= 4 else 0.0
    )


def _checked(episodes: list[Episode]) -> list[Episode]:
    """Return the episodes, with a warning about tasks that the agent cannot play.

    Raises Unplayable if nothing else was played.
    """
    which = [episode for episode in episodes if episode.stop is StopReason.UNPLAYABLE]
    if not which:
        return episodes
    if all(episode.stop.failed for episode in episodes):
        raise Unplayable(which[0].error)
    logger.warning(
        "%d of %d episodes, such as %s, cannot be played and count nowhere: %s",
        *(len(which), len(episodes), which[0].task.id, visible(which[0].error or "")),
    )
    return episodes


def _name(job: EpisodeJob, attempt: int) -> str:
    """Give each attempt its own random stream."""
    return job.id if attempt == 0 else f"{job.id}~{attempt}"


def _player(agent: Agent, job: EpisodeJob, attempt: int) -> Player:
    player = agent.player(_name(job, attempt), job.seed)
    return RenamedPlayer(player, job.renaming) if job.renaming else player


def _attempts(
    jobs: list[EpisodeJob],
    cursor: Iterator[int],
    retries: int,
    results: list[Episode | None],
    stats: PlayStats,
) -> Iterator[tuple[int, int]]:
    """Yield (job index, attempt) pairs of one lane.

    Each job until it did not fail, or `retries` times more; none once a budget is spent.
    """
    for index in cursor:
        if StopReason.BUDGET in stats.lost:  # no world is begun that nobody plays in
            job = jobs[index]
            results[index] = unplayed = Episode(job.task, id=job.id, stop=StopReason.BUDGET)
            _count(stats, unplayed)
            continue
        for attempt in range(retries + 1):
            yield index, attempt
            episode = results[index]
            if episode is not None and _is_final(episode):
                break


def _is_final(episode: Episode) -> bool:
    """Tell whether playing an episode again would tell nothing new."""
    return not episode.stop.failed or episode.stop in (StopReason.UNPLAYABLE, StopReason.BUDGET)


def _count(stats: PlayStats, episode: Episode) -> None:
    stats.episodes += 1
    if episode.stop.failed:
        stats.lost[episode.stop.value] = stats.lost.get(episode.stop.value, 0) + 1
