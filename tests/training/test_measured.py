"""An episode whose reward could not be measured is left out and counted, never scored 0."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar, Literal

from turnrl.agents.agent import LanguageAgent
from turnrl.agents.episode import Group
from turnrl.rewards.base import TurnReward
from turnrl.training.walk import Trainer

from ..toy_world import recipe
from .test_trainer import session_of


class Moody(TurnReward):
    """Answers every second episode."""

    name: Literal["moody"] = "moody"
    asked: ClassVar[list[int]] = []

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        self.asked.append(len(group))
        return [
            [float("nan") if e % 2 else 1.0 for _ in episode.turns]
            for e, episode in enumerate(group)
        ]


def test_what_could_not_be_measured_is_left_out_and_counted(tmp_path: Path) -> None:
    rewards = [{"name": "outcome"}, {"name": f"{__name__}:Moody"}]
    with session_of(
        tmp_path, recipe(rewards=rewards, rl={"credit": {"name": "reinforce"}})
    ) as session:
        stage: Any = session.recipe.stages[1]
        metrics = asyncio.run(Trainer(session, stage, 1).step(0))
    assert Moody.asked == [4] * 4
    assert metrics["episodes"] == 16
    assert metrics["lost/reward_moody"] == 8
    assert metrics["sequences"] == 8
    assert metrics["reward/moody"] > 0
