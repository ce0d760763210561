"""rollout: tasks in, groups of episodes and what playing them cost out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from ...agents.agent import LanguageAgent
from ...agents.episode import Episode, Group, StopReason
from ...agents.play import EpisodeJob, PlayStats, play_many
from ...envs import Task
from ...envs.pool.pool import EnvPool


async def rollout(
    tasks: Sequence[Task],
    agent: LanguageAgent,
    pool: EnvPool,
    *,
    group_size: int,
    step: int,
    seed: int,
    max_turns: int,
    concurrency: int,
    task_turns: int | None = None,
    renamings: Sequence[Mapping[str, str]] = ({},),
    first: int = 0,
    hints: Sequence[str] = (),
    ask_expert: bool = False,
    keep: ExitStack | None = None,
) -> tuple[list[Group], dict[str, float]]:
    """Play every task `group_size` times.

    Args:
        max_turns: turns after which an episode is cut.
        task_turns: the limit that belongs to the task (default: `max_turns`); a shorter one is a
            curriculum's.
        renamings: symmetries of the world; the episodes of a group take turns with them, so that no
            batch favours a direction that is common in its tasks.
        first: groups of this step that were played before these.
        hints: what the player is told after the opening of each task, or nothing.
        ask_expert: episodes remember the plan of the world's expert.
        keep: see `play_many`.

    Returns:
        Groups in the order of the tasks, without failed episodes, and metrics: success, turns,
        tokens, shares; without those of which nothing was measured.
    """
    shorter = task_turns is not None and max_turns < task_turns
    before = asdict(agent.engine.stats)
    jobs = [
        EpisodeJob(task, f"{step:06d}:{i:04d}:{member:03d}", seed, renaming, hint)
        for i, (task, hint) in enumerate(zip(tasks, hints or [""] * len(tasks), strict=True), first)
        for member in range(group_size)
        for renaming in [renamings[(i + member) % len(renamings)]]
    ]
    episodes, stats = await play_many(
        agent,
        jobs,
        pool,
        max_turns=max_turns,
        limit=StopReason.CURRICULUM_LIMIT if shorter else StopReason.TURN_LIMIT,
        concurrency=concurrency,
        ask_expert=ask_expert,
        keep=keep,
    )
    groups = [
        _group(task, episodes[i * group_size : (i + 1) * group_size])
        for i, task in enumerate(tasks)
    ]
    spent = {key: value - before[key] for key, value in asdict(agent.engine.stats).items()}
    finished = [episode for episode in episodes if not episode.stop.failed]
    return groups, _about(finished) | _costs(episodes, stats, spent)


def _group(task: Task, played: Sequence[Episode]) -> Group:
    failed = [episode.stop for episode in played if episode.stop.failed]
    return Group(task, [episode for episode in played if not episode.stop.failed], failed)


def _costs(
    episodes: Sequence[Episode], stats: PlayStats, spent: Mapping[str, float]
) -> dict[str, float]:
    return {
        **{f"lost/{name}": float(count) for name, count in stats.lost.items()},
        "retried": float(stats.retried),
        "tokens/prompt": spent["prompt_tokens"],
        "tokens/cached": spent["cached_tokens"],
        "tokens/generated": spent["generated_tokens"],
        **(
            {"useful_share": _useful(episodes) / spent["generated_tokens"]}
            if spent["generated_tokens"]
            else {}
        ),
        "seconds/engine": spent["busy_seconds"],
        "seconds/straggling": stats.straggler_seconds,
        "tokens_per_second": spent["generated_tokens"] / max(stats.seconds, 1e-9),
    }


def _useful(episodes: Sequence[Episode]) -> int:
    """Count the tokens to learn from.

    The engine also sampled for lost episodes and for responses that overflowed the context.
    """
    return sum(episode.response_tokens for episode in episodes if not episode.stop.failed)


def _about(episodes: Sequence[Episode]) -> dict[str, float]:
    """Describe finished episodes; of none only their number can be told."""
    found = {"episodes": float(len(episodes))}
    if episodes:
        found |= {
            "success": sum(e.success for e in episodes) / len(episodes),
            "turns": sum(len(e.turns) for e in episodes) / len(episodes),
            "tokens": sum(e.response_tokens for e in episodes) / len(episodes),
        }
    turns = [turn for episode in episodes for turn in episode.turns]
    if turns:
        found["invalid_rate"] = sum(not turn.valid_action for turn in turns) / len(turns)
    stops = Counter(episode.stop.value for episode in episodes)
    return found | {f"stop/{name}": float(n) for name, n in sorted(stops.items())}
