"""probe: would a recipe's rewards pay a cheat as much as an honest winner?

    report = probe(Recipe.load("recipes/quickstart.yaml"))
    report.exploits      # names of the probes that are

The world's expert is the honest winner; the scripts of `agents/cheats.py` play the same training
tasks through the same pool, turn limit and format. No model is needed, so rewards that need one are
left out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from ..agents.agent import Agent, Unplayable
from ..agents.baselines import ExpertAgent
from ..agents.cheats import PROBES, ProbeAgent, reword
from ..agents.episode import Episode, Group
from ..agents.play import EpisodeJob, play_many
from ..envs import Task, make
from ..envs.closing import close_worlds
from ..envs.pool.pool import EnvPool
from ..envs.registry import import_worlds
from ..foundation.errors import UserError
from ..foundation.logs import shown_on_stderr
from ..foundation.plugins import TOLD_BY_WORLDS, Need
from ..foundation.progress import bars
from ..rewards.base import TurnReward
from .recipe import Recipe
from .reward_table import RewardTable, reward_all

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

WINNER = "expert"
SLOTS = 16
TIE = 1e-9
"""Mean returns that should be equal differ by less."""
Exploit = Literal["unearned", "stretched"]
VERDICTS: dict[Exploit | None, str] = {
    None: "",
    "unearned": "EXPLOIT: paid like a winner without winning",
    "stretched": "EXPLOIT: paid more than the winner for the same success",
}


class Paid(BaseModel):
    """The pay of one player, over the episodes that were finished and measured."""

    player: str
    n: int = Field(description="episodes")
    success: float = Field(description="share of them that succeeded")
    turns: float = Field(description="mean turns")
    shaped_return: float = Field(description="mean weighted sum of all rewards that were judged")
    rewards: dict[str, float] = Field(
        description="the part of each reward in it, its weight included"
    )
    exploit: Exploit | None = Field(
        None,
        description=(
            "'unearned': where it did not succeed it is paid as much as the winner or more;"
            " 'stretched': where it succeeded it is paid more; both compare means over the same"
            " tasks"
        ),
    )


class ProbeReport(BaseModel):
    """The findings of `probe`.

    Failed episodes, and those with a reward that could not be measured, count nowhere.
    """

    recipe: str
    env: str
    tasks: int = Field(description="training tasks that were compared")
    not_won: int = Field(
        description="tasks that were left out, because the expert did not win them"
    )
    exploits: list[str] = Field(
        description="probes that the rewards do not tell from an honest winner"
    )
    winner: Paid
    probes: list[Paid]
    not_played: dict[str, str] = Field(description="probes that could not play, and why")
    not_judged: list[str] = Field(
        description="rewards that were left out, because they need the policy"
    )
    lost: dict[str, int] = Field(description="episodes that count nowhere, by player")

    def table(self) -> Table:
        """Show the findings as a rich table."""
        from rich.table import Table

        names = list(self.winner.rewards)
        table = Table(
            "", "success", "turns", "return", *names, "", title=f"{self.recipe}: {self.tasks} tasks"
        )
        for row in (self.winner, *self.probes):
            parts = [f"{row.rewards[name]:.3f}" for name in names]
            verdict = VERDICTS[row.exploit]
            table.add_row(
                row.player,
                f"{row.success:.0%}",
                f"{row.turns:.1f}",
                f"{row.shaped_return:.3f}",
                *parts,
                verdict,
                style="bold red" if verdict else "",
            )
        notes = [f"{name} was not played: {reason}" for name, reason in self.not_played.items()]
        notes += [
            f"the reward {name} was left out: it needs the policy" for name in self.not_judged
        ]
        notes += [f"{count} episodes of {name} were lost" for name, count in self.lost.items()]
        notes += [f"{self.not_won} tasks were left out: the expert did not win them"] * bool(
            self.not_won
        )
        table.caption = "\n".join(notes) or None
        return table


def probe(
    recipe: Recipe | str | Path | dict[str, Any], *, tasks: int = 8, progress: bool = True
) -> ProbeReport:
    """Let every probe and the world's expert play training tasks of a recipe.

    What its rewards pay is compared.

    Args:
        recipe: a Recipe, the path of one, or its data.
        tasks: training tasks at most.
        progress: show a bar on the terminal, and say on stderr what goes wrong.

    Raises:
        UserError: no honest winner to compare with, no reward that can be judged without a model,
            or a world or reward that cannot be used.
    """
    recipe = Recipe.of(recipe)
    if tasks < 1:
        raise UserError(f"tasks={tasks} cannot be: ask for 1 or more")
    rewards = [reward.begin() for reward in recipe.rewards if Need.SCORER not in reward.needs()]
    if not rewards:
        raise UserError(
            "every reward of the recipe needs the policy, so nothing can be judged without a model"
        )
    with shown_on_stderr(progress):
        return asyncio.run(_probe(recipe, rewards, tasks, progress))


async def _probe(
    recipe: Recipe, rewards: Sequence[TurnReward], count: int, progress: bool
) -> ProbeReport:
    import_worlds(*recipe.pool.imports)
    prototype = make(recipe.env_id, **recipe.env_params)
    tasks = list(prototype.tasks("train")[:count])
    prototype.prepare(tasks, progress=progress)
    close_worlds([prototype])
    needs = frozenset().union(*(reward.needs() for reward in rewards))
    pool = recipe.pool.build(SLOTS, needs & TOLD_BY_WORLDS | ProbeAgent.extras)
    try:
        with bars(progress) as bar:
            match = _Match(recipe, tasks, pool, bar, ask_expert=Need.EXPERT in needs)
            await match.play_all()
    finally:
        await pool.aclose()
    return await _judge(recipe, rewards, tasks, match)


@dataclass(slots=True)
class _Match:
    """Everyone plays every task once."""

    recipe: Recipe
    tasks: Sequence[Task]
    pool: EnvPool
    bar: Progress
    ask_expert: bool
    played: dict[str, dict[int, Episode]] = field(default_factory=dict)
    """Finished episodes by player and task."""
    not_played: dict[str, str] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    async def play_all(self) -> None:
        """Let everyone play, the expert first: nobody else plays what it does not win.

        Raises UserError if it wins nothing.
        """
        everything, limit = range(len(self.tasks)), self.recipe.agent.max_turns
        line = self.bar.add_task("probing", total=len(self.tasks) * (1 + len(PROBES)))
        env = self.recipe.env_id
        try:
            episodes = await self.play(ExpertAgent(), WINNER, everything, line)
        except Unplayable:
            raise UserError(
                f"{env} has no expert, so there is no honest winner to compare with"
            ) from None
        self.played[WINNER] = {i: episode for i, episode in episodes.items() if episode.success}
        if not self.played[WINNER]:
            lost = f" ({self.lost[WINNER]} episodes failed)" if WINNER in self.lost else ""
            raise UserError(
                f"the expert of {env} wins none of {len(self.tasks)} tasks within {limit}"
                f" turns{lost}, so there is no honest winner to compare with"
            )
        parser, words = self.recipe.agent.parser, self.recipe.agent.sampling.max_tokens
        for name in PROBES:
            agent = ProbeAgent(name, parser, max_turns=limit, max_words=words)
            try:
                self.played[name] = await self.play(agent, name, list(self.played[WINNER]), line)
            except Unplayable as reason:
                self.not_played[name] = str(reason)

    async def play(
        self, agent: Agent, name: str, chosen: Sequence[int], line: TaskID
    ) -> dict[int, Episode]:
        """Play tasks with one player; return its finished episodes by task, in the recipe's format.

        Raises Unplayable.
        """
        jobs = [
            EpisodeJob(self.tasks[i], f"probe:{name}:{i:05d}", self.recipe.seed) for i in chosen
        ]
        episodes, _ = await play_many(
            agent,
            jobs,
            self.pool,
            max_turns=self.recipe.agent.max_turns,
            concurrency=SLOTS,
            ask_expert=self.ask_expert,
            done=lambda _: self.bar.advance(line),
        )
        finished = {
            i: episode
            for i, episode in zip(chosen, episodes, strict=True)
            if not episode.stop.failed
        }
        if len(finished) < len(jobs):
            self.lost[name] = len(jobs) - len(finished)
        if name not in PROBES or not PROBES[name].own_words:
            for episode in finished.values():
                reword(episode, self.recipe.agent.parser)
        return finished


async def _judge(
    recipe: Recipe, rewards: Sequence[TurnReward], tasks: Sequence[Task], match: _Match
) -> ProbeReport:
    """Ask the rewards about what was played: the players of a task are one group to them.

    As if one policy had played them all.
    """
    won = match.played[WINNER]
    groups = [Group(tasks[i], [of[i] for of in match.played.values() if i in of]) for i in won]
    await reward_all(rewards, groups, None, match.pool.faults)
    weights = {reward.name: reward.weight for reward in rewards}
    lost, paid = dict(match.lost), dict[str, dict[int, dict[str, float]]]()
    for name, episodes in match.played.items():
        groups = [Group(tasks[i], [episode]) for i, episode in episodes.items()]
        table = RewardTable.of(groups, weights)
        parts_EK = (table.weights_K[:, None] * table.sums_KE).T.tolist()
        parts = {
            i: dict(zip(weights, part_K, strict=True))
            for i, part_K in zip(episodes, parts_EK, strict=True)
        }
        paid[name] = {
            i: part for i, part in parts.items() if not any(map(math.isnan, part.values()))
        }
        if unmeasured := len(parts) - len(paid[name]):
            lost[name] = lost.get(name, 0) + unmeasured
    if not paid[WINNER]:
        raise UserError(
            "no episode of the honest winner could be measured, so there is nothing to compare with"
        )
    not_played = dict(match.not_played)
    not_played |= {name: "all its episodes were lost" for name, parts in paid.items() if not parts}
    rows = [_row(name, match.played[name], paid[name], paid[WINNER]) for name in paid if paid[name]]
    return ProbeReport(
        recipe=recipe.name,
        env=recipe.env_id,
        tasks=len(won),
        not_won=len(tasks) - len(won) - match.lost.get(WINNER, 0),
        exploits=[row.player for row in rows if row.exploit],
        winner=rows[0],
        probes=rows[1:],
        not_played=not_played,
        not_judged=[reward.name for reward in recipe.rewards if reward.name not in weights],
        lost=lost,
    )


def _row(
    name: str,
    episodes: Mapping[int, Episode],
    paid: Mapping[int, Mapping[str, float]],
    winner: Mapping[int, Mapping[str, float]],
) -> Paid:
    returns = {i: sum(parts.values()) for i, parts in paid.items()}
    return Paid(
        player=name,
        n=len(paid),
        success=sum(episodes[i].success for i in paid) / len(paid),
        turns=sum(len(episodes[i].turns) for i in paid) / len(paid),
        shaped_return=sum(returns.values()) / len(paid),
        rewards={
            key: sum(parts[key] for parts in paid.values()) / len(paid)
            for key in next(iter(paid.values()))
        },
        exploit=(
            None
            if name == WINNER
            else _exploit(returns, winner, {i: episodes[i].success for i in paid})
        ),
    )


def _exploit(
    returns: Mapping[int, float],
    winner: Mapping[int, Mapping[str, float]],
    success: Mapping[int, bool],
) -> Exploit | None:
    """Compare lost and won episodes with the winner's of the same tasks, each kind by itself."""
    ahead: dict[bool, list[float]] = {False: [], True: []}
    for i, value in returns.items():
        if i in winner:
            ahead[success[i]].append(value - sum(winner[i].values()))
    lost, won = ahead[False], ahead[True]
    if lost and sum(lost) / len(lost) >= -TIE:
        return "unearned"
    return "stretched" if won and sum(won) / len(won) > TIE else None
