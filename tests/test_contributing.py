"""The examples of CONTRIBUTING.md run as they stand there, and keep the contracts they explain."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import turnrl
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.models.forward import Scores
from turnrl.rewards.base import REWARDS
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import CREDITS
from turnrl.training.losses.base import LOSSES
from turnrl.training.reward_table import RewardTable

from .published import PAGES, ROOT, blocks, run

GUIDE = ROOT / "CONTRIBUTING.md"
BLOCKS = blocks(GUIDE, "python")
SCREEN = 45
"""Lines that fit on one screen."""


@pytest.fixture(scope="module")
def modules() -> Iterator[list[types.ModuleType]]:
    """The examples as modules, importable by name."""
    made = []
    for number, block in enumerate(BLOCKS):
        module = types.ModuleType(f"contributing_{number}")
        sys.modules[module.__name__] = module
        run(block, f"{GUIDE.name} block {number}", vars(module))
        made.append(module)
    yield made
    for module in made:
        del sys.modules[module.__name__]


def group(returns: list[float]) -> Group:
    task = turnrl.Task(env="demo/guess-v0", seed=1)
    episodes = [
        Episode(
            task,
            opening="Guess!",
            turns=[
                Turn([1, 2], t == 1, [3], [-0.5], observation=text)
                for t, text in enumerate(("Lower.", "Lower."))
            ],
            stop=StopReason.WON if value else StopReason.TURN_LIMIT,
            success=bool(value),
        )
        for value in returns
    ]
    return Group(task, episodes)


def test_there_are_four_of_one_screen_each() -> None:
    assert len(BLOCKS) == 4
    assert all(len(block.splitlines()) <= SCREEN for block in BLOCKS)


def test_the_environment_keeps_the_contract(
    modules: list[types.ModuleType], tmp_path: Path
) -> None:
    world = tmp_path / "guess.py"
    world.write_text(BLOCKS[0], "utf-8")
    report = turnrl.check_env("demo/guess-v0", tasks=2, imports=[str(world)], report=True)
    assert report.ok, str(report)
    assert turnrl.evaluate("demo/guess-v0", agent="expert", progress=False).success == 1.0
    assert isinstance(turnrl.make("demo/guess-v0"), modules[0].GuessEnv)


def test_a_world_with_parameters_keeps_the_contract_and_declares_them_once(
    modules: list[types.ModuleType], tmp_path: Path
) -> None:
    world = tmp_path / "number.py"
    world.write_text(BLOCKS[1], "utf-8")
    id, params = "demo/number-v0", {"highest": 30_000}
    report = turnrl.check_env(id, params=params, tasks=2, imports=[str(world)], report=True)
    assert report.ok, str(report)
    assert isinstance(turnrl.make(id), modules[1].NumberEnv)
    assert turnrl.make(id, **params).tasks("valid")[0].id == f"{id}?highest=30000#1000000"
    assert turnrl.make(id).tasks("test")[7].id == f"{id}#2000007"
    with pytest.raises(turnrl.UserError, match="unknown key 'higest'; did you mean 'highest'"):
        turnrl.make(id, higest=3)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).exists(), (
                f"{page.relative_to(ROOT)}: {target}"
            )


def test_the_reward_is_built_from_a_recipe_line(modules: list[types.ModuleType]) -> None:
    reward = REWARDS.build({"name": f"{modules[2].__name__}:Novelty", "weight": 0.1})
    assert asyncio.run(reward(group([1.0]))) == [[1.0, 0.0]]


def test_the_methods_are_built_from_a_recipe_line(modules: list[types.ModuleType]) -> None:
    credit = CREDITS.build({"name": f"{modules[3].__name__}:BestOfGroup", "scale": 2.0})
    loss = LOSSES.build({"name": f"{modules[3].__name__}:Plain"})
    played = group([1.0, 0.0])
    for episode in played:
        for turn, value in zip(episode.turns, (0.0, float(episode.success)), strict=True):
            turn.rewards["outcome"] = value
    batch, rewards = TokenBatch.pack([played]), RewardTable.of([played], {"outcome": 1.0})
    advantages_ET = credit(rewards, batch).values
    assert advantages_ET.tolist() == [[0.0, 0.0], [-2.0, -2.0]]
    output = loss(
        Scores({"logprobs": batch.logprobs_of("engine")}), batch, batch.spread(advantages_ET)
    )
    assert torch.isfinite(output.loss_BL).all()
    assert output.loss_BL[1].sum() == -2.0
