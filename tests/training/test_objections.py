"""What cannot learn is refused in one sentence before anything is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from turnrl import Recipe, UserError
from turnrl.agents.engines.base import Capabilities
from turnrl.agents.engines.torch import TorchEngineConfig
from turnrl.training.credit.base import CREDITS, Credit
from turnrl.training.run import train
from turnrl.training.selection.base import SELECTIONS

from ..outsider.engine import Echo
from ..toy_world import recipe
from .builders import batch_of, table


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        Recipe.parse(data)
    assert "\n" not in str(error.value)
    return str(error.value)


FIELDS: dict[str, dict[str, Any]] = {"bnpo": {"low": -9, "high": 9}, "tag_group": {"reward": "r"}}
VARIANTS: list[dict[str, Any]] = [
    {"name": "reinforce", "baseline": "batch_mean"},
    {"name": "reinforce_pp", "baseline": "group"},
    {"name": "reinforce_pp", "whiten": False},
    {"name": "turn_return", "baseline": "none"},
    {"name": "turn_return", "baseline": "none", "scale": "batch"},
    {"name": "turn_return", "baseline": "episode"},
]
ESTIMATORS = [*({"name": name} | FIELDS.get(name, {}) for name in CREDITS.names()), *VARIANTS]


def lone(credit: Credit, episodes: int) -> bool:
    """Whether episodes that are groups of one each have an advantage somewhere."""
    batch = batch_of([[0, 1], [0, 1]][:episodes], groups=[0, 1][:episodes])
    rewards = {"r": [[0.0, 1.0], [0.5, -2.0]][:episodes]}
    if credit.name == "igpo":
        rewards |= {"information_gain": [[0.3, 0.0], [0.1, 0.0]][:episodes]}
    values_BL = torch.zeros(batch.turn_BL.shape)
    batch.values_BL, batch.bootstrap_E = values_BL, torch.zeros(episodes)
    batch.state_ET = torch.arange(2 * episodes).view(episodes, 2)
    batch.tag_ET = torch.zeros(episodes, 2, dtype=torch.long)
    return bool(credit(table(rewards), batch).values.abs().sum() > 0)


@pytest.mark.parametrize("config", ESTIMATORS, ids=str)
def test_an_estimator_that_compares_needs_others_to_compare_with(config: dict[str, Any]) -> None:
    """What each says of itself is true: alone it gives zeros if it needs others, else not."""
    credit = CREDITS.build(config)
    alone = recipe(rl={"credit": config, "group_size": 1, "tasks_per_step": 2})
    if credit.peers() == "group":
        assert f"rl.group_size=1: credit '{credit.name}'" in refused(alone)
        assert credit.name == "tag_group" or not lone(credit, 2), (
            "tag_group compares tags over the batch too"
        )
    else:
        Recipe.parse(alone)
        assert lone(credit, 2)
    single = recipe(rl={"credit": config, "group_size": 1, "tasks_per_step": 1})
    if credit.peers() == "nothing":
        Recipe.parse(single)
        assert lone(credit, 1)
    else:
        refused(single)
    Recipe.parse(recipe(rl={"credit": config, "group_size": 2, "tasks_per_step": 1}))


@pytest.mark.parametrize("name", SELECTIONS.names())
def test_a_selection_that_would_drop_every_group_is_refused(name: str) -> None:
    rl = {"selection": [{"name": name}], "group_size": 1, "credit": {"name": "reinforce"}}
    assert f"selection '{name}' would drop every group" in refused(recipe(rl=rl))
    Recipe.parse(recipe(rl=rl | {"group_size": 2}))
    tight = {
        "selection": [{"name": "balanced_difficulty", "low": 0.4, "high": 0.45}],
        "group_size": 6,
    }
    assert "would drop every group" in refused(recipe(rl=tight)), (
        "2 of 6 are too few, 3 of 6 too many"
    )


ALONE = {"group_size": 1, "credit": {"name": "reinforce"}}
LENGTHS = {"name": "length_penalty"}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rl": {"minibatches": 17}}, "rl.minibatches=17: a step has 16 episodes"),
        (
            {"rl": {"minibatches": 16, "loss": {"name": "real"}}},
            "rl.minibatches=16: 'real' is a loss of whole groups, and a step has",
        ),
        (
            {"rl": {"credit": {"name": "gae"}, "critic": {"warmup_steps": 4}}},
            "rl.critic.warmup_steps=4",
        ),
        ({"rewards": [{"name": "outcome", "weight": 0}]}, "rewards: every weight is 0"),
        ({"rewards": []}, "rewards: every weight is 0"),
        (
            {"rewards": [], "rl": {"regularizers": [{"name": "kl", "coefficient": 0}]}},
            "rewards: every weight is 0",
        ),
        (
            {"rl": {"rows_multiple_of": 65}},
            "rl.rows_multiple_of=65: a step has 64 sequences at most",
        ),
        ({"rewards": [LENGTHS], "rl": ALONE}, "rl.group_size=1: 'length_penalty' compares"),
        ({"agent": {"sampling": {"stop": [""]}}}, "at least 1 character"),
        ({"agent": {"sampling": {"stop_token_ids": [-1]}}}, "greater than or equal to 0"),
        ({"rl": {"optim": {"lr": 0}}}, "greater than 0"),
        ({"rl": {"optim": {"lr": float("inf")}}}, "finite"),
        ({"rl": {"optim": {"betas": [0.9, 1.0]}}}, "less than 1"),
        ({"rl": {"optim": {"betas": [-0.1, 0.9]}}}, "greater than or equal to 0"),
        ({"rewards": [{"name": "outcome", "weight": float("nan")}]}, "finite"),
        ({"rl": {"credit": {"name": "grpo", "eps": float("inf")}}}, "finite"),
        ({"agent": {"sampling": {"temperature": float("inf")}}}, "finite"),
        ({"rl": {"critic": {"lr": float("inf")}}}, "finite"),
        ({"pool": {"step_timeout": float("nan")}}, ""),
    ],
    ids=str,
)
def test_settings_that_cannot_learn(changes: dict[str, Any], part: str) -> None:
    assert part in refused(recipe(**changes))


def test_a_regularizer_is_something_to_learn_from() -> None:
    Recipe.parse(recipe(rewards=[], rl={"regularizers": [{"name": "entropy"}]}))
    Recipe.parse(recipe(rewards=[LENGTHS, {"name": "outcome"}], rl=ALONE))


@pytest.mark.parametrize(
    "stages", [slice(None), slice(0, 1), slice(1, 2)], ids=["both", "sft", "rl"]
)
def test_a_context_that_the_instructions_fill_is_refused_before_play(
    tmp_path: Path, stages: slice
) -> None:
    data = recipe(agent={"system": True, "sampling": {"max_tokens": 3}})
    data |= {"model": data["model"] | {"max_context": 16}, "stages": data["stages"][stages]}
    with pytest.raises(
        UserError, match=r"model\.max_context: the prompt takes \d+ tokens .* reads 16"
    ):
        train(Recipe.parse(data), run_dir=tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("parser", "most"),
    [
        ({"name": "tags"}, 2),
        ({"name": "tool_call"}, 5),
        ({"name": "tags", "require_think": True}, 5),
    ],
)
def test_responses_too_short_for_an_action_are_refused_before_play(
    tmp_path: Path, parser: dict[str, Any], most: int
) -> None:
    def train_with(tokens: int) -> None:
        agent = {
            "parser": parser,
            "system": False,
            "max_turns": 2,
            "sampling": {"max_tokens": tokens},
        }
        data = recipe(agent=agent, rl={"steps": 1, "tasks_per_step": 1, "group_size": 2})
        train(
            Recipe.parse(data | {"stages": data["stages"][1:]}),
            run_dir=tmp_path / str(tokens),
            progress=False,
        )

    with pytest.raises(
        UserError, match=rf"agent\.sampling\.max_tokens={most}: with parser '{parser['name']}'"
    ):
        train_with(most)
    train_with(60)


class Deaf(Echo):
    """An engine that only samples."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()


def test_a_run_is_refused_what_its_engine_cannot_do() -> None:
    why = refused(recipe(engine=Deaf()))
    assert "test_objections:Deaf' takes no weights" in why
    assert "such as torch" in why


class Mute(Echo):
    """An engine that follows a training and scores nothing."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(takes_weights=True)


def test_a_reward_is_refused_an_engine_that_does_not_score() -> None:
    gain = {"name": "information_gain", "target": "expert"}
    why = refused(recipe(engine=Mute(), rewards=[gain]))
    assert "reward 'information_gain' needs log-probabilities" in why
    assert "test_objections:Mute' cannot tell" in why
    Recipe.parse(recipe(engine=Echo(), rewards=[gain]))


def test_patience_of_the_engine_is_a_setting(tmp_path: Path) -> None:
    data = recipe(engine={"patience_ms": 0.5}, rl={"steps": 1})
    train(
        Recipe.parse(data | {"stages": data["stages"][1:]}),
        run_dir=tmp_path / "run",
        progress=False,
    )
    assert Recipe.parse(data).engine == TorchEngineConfig(patience_ms=0.5)
    assert Recipe.parse(recipe()).engine == TorchEngineConfig()
