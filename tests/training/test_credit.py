"""Credit: reference numbers, hand-computed cases, and the properties that every estimator has."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.episode import StopReason
from turnrl.foundation.errors import UserError
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import CREDITS, Credit
from turnrl.training.reward_table import RewardTable

from .builders import (
    NAN,
    batch_of,
    by_token,
    entry,
    env_rewards,
    episodic,
    golden,
    golden_batch,
    numbered,
    random_groups,
    returns_batch,
    table,
    table_of,
)

CONFIGS: list[dict[str, Any]] = [
    {"name": "reinforce"},
    {"name": "reinforce", "baseline": "batch_mean"},
    {"name": "rloo"},
    {"name": "grpo"},
    {"name": "dr_grpo"},
    {"name": "gdpo"},
    {"name": "lite_ppo"},
    {"name": "bnpo", "low": -50.0, "high": 60.0},
    {"name": "stepwise", "gamma": 0.9},
    {"name": "stepwise", "gamma": 0.9, "scale": False},
    {"name": "gigpo"},
    {"name": "gigpo", "norm": "mean_std"},
    {"name": "gigpo", "step_weighted": True},
    {"name": "reinforce_pp", "gamma": 0.9},
    {"name": "reinforce_pp", "whiten": False},
    {"name": "reinforce_pp", "baseline": "group"},
    *(
        {"name": "turn_return", "gamma": 0.9, "baseline": b, "scale": s}
        for b in ("turn", "episode", "none")
        for s in ("none", "group", "batch")
    ),
    *(
        {"name": "gae", "over": o, "gamma": 0.9, "whiten": w}
        for o in ("token", "turn")
        for w in (True, False)
    ),
    *({"name": "gae", "over": o, "gamma": 0.9, "limit": "bootstrap"} for o in ("token", "turn")),
]
GROUPED = [
    c
    for c in CONFIGS
    if c["name"] in ("rloo", "grpo", "dr_grpo", "gdpo", "lite_ppo", "bnpo", "stepwise")
    or c.get("baseline") in ("turn", "episode", "group")
]
ADDITIVE = [c for c in CONFIGS if c["name"] not in ("gdpo", "bnpo")]
LOCAL = [
    c
    for c in CONFIGS
    if c.get("scale") != "batch"
    and c["name"] not in ("lite_ppo", "bnpo")
    and c.get("baseline") != "batch_mean"
    and not (c["name"] in ("gae", "reinforce_pp") and c.get("whiten", True))
]


def ids(configs: list[dict[str, Any]]) -> list[str]:
    return ["-".join(str(v) for v in c.values()) for c in configs]


def build(config: dict[str, Any]) -> Credit:
    return CREDITS.build(config)


def apply(config: dict[str, Any], batch: TokenBatch, paid: RewardTable) -> Tensor:
    """Advantages per token [B, L]."""
    credit = build(config)
    if "values" in credit.needs() and batch.values_BL is None:
        noise = torch.randn(
            batch.turn_BL.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        batch = replace(
            batch,
            values_BL=torch.where(batch.mask_BL, noise, NAN),
            bootstrap_E=batch.turns_E.double() / 7,
        )
    if batch.state_ET is None:
        batch = replace(
            batch, state_ET=torch.where(batch.mask_ET, torch.arange(batch.max_turns) % 2, -1)
        )
    advantages = credit(paid, batch)
    out = advantages.values
    assert out.dtype == torch.float64
    assert not out.requires_grad
    if advantages.level == "turn":
        assert out.shape == (batch.episodes, batch.max_turns)
        assert not out[~batch.mask_ET].any()
        out = batch.spread(out)
    assert out.shape == batch.turn_BL.shape
    assert not out[~batch.mask_BL].any()
    return out


def targets_of(config: dict[str, Any], batch: TokenBatch, paid: RewardTable) -> Tensor:
    """What the critic is to learn [B, L]."""
    targets_BL = build(config)(paid, batch).critic_targets_BL
    assert targets_BL is not None
    return targets_BL


def close(actual: Tensor, expected: Any, atol: float = 1e-9) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=torch.float64), atol=atol, rtol=0, equal_nan=True
    )


# Reference numbers.


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("grpo", {"name": "grpo"}),
        ("grpo_eps_1e_4", {"name": "grpo", "eps": 1e-4}),
        ("dr_grpo", {"name": "dr_grpo"}),
        ("rloo", {"name": "rloo"}),
    ],
)
def test_reference_per_episode(name: str, config: dict[str, Any]) -> None:
    batch, paid = returns_batch()
    expected, atol = entry(name)
    close(apply(config, batch, paid), expected[:, None] * golden("mask"), atol)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gae_advantages", {"name": "gae", "whiten": False}),
        ("gae_advantages_whitened", {"name": "gae"}),
        ("reinforce_pp", {"name": "reinforce_pp"}),
        ("reinforce_pp_returns", {"name": "reinforce_pp", "whiten": False}),
    ],
)
@pytest.mark.parametrize("outside", [0.0, 1e6, NAN])
def test_reference_per_token(name: str, config: dict[str, Any], outside: float) -> None:
    batch, paid = golden_batch()
    batch = replace(batch, values_BL=torch.where(batch.mask_BL, golden("values"), outside))
    expected, atol = entry(name)
    close(apply(config | {"gamma": 0.99}, batch, paid), expected * golden("mask"), atol)
    if name.startswith("gae"):
        returns, atol = entry("gae_returns")
        targets_BL = targets_of(config | {"gamma": 0.99}, batch, paid)
        close(targets_BL, torch.where(batch.mask_BL, returns, NAN), atol)


def test_reference_dense_gae() -> None:
    reward_BL, (expected, atol) = golden("token_rewards"), entry("gae_advantages_dense")
    batch = replace(batch_of([list(range(12))] * 8), values_BL=golden("values"))
    close(
        apply(
            {"name": "gae", "gamma": 0.99, "whiten": False},
            batch,
            table_of(reward_BL[None], batch),
        ),
        expected,
        atol,
    )


def test_reference_group_baseline() -> None:
    batch, paid = returns_batch()
    expected, atol = entry("reinforce_pp_baseline")
    close(
        apply({"name": "reinforce_pp", "baseline": "group"}, batch, paid),
        expected * golden("mask"),
        atol,
    )


# Small cases by hand.


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "reinforce"}, [1, 0, 0, 0]),
        ({"name": "reinforce", "baseline": "batch_mean"}, [0.75, -0.25, -0.25, -0.25]),
        ({"name": "grpo", "eps": 0.0}, [1.5, -0.5, -0.5, -0.5]),
        ({"name": "dr_grpo"}, [0.75, -0.25, -0.25, -0.25]),
        ({"name": "rloo"}, [1, -1 / 3, -1 / 3, -1 / 3]),
        ({"name": "turn_return"}, [1, -1 / 3, -1 / 3, -1 / 3]),
        ({"name": "turn_return", "scale": "group", "eps": 0.0}, [2, -2 / 3, -2 / 3, -2 / 3]),
        ({"name": "turn_return", "scale": "batch", "eps": 0.0}, [2, -2 / 3, -2 / 3, -2 / 3]),
        ({"name": "turn_return", "baseline": "none"}, [1, 0, 0, 0]),
    ],
)
def test_one_win_in_four(config: dict[str, Any], expected: list[float]) -> None:
    batch, paid = episodic([[1.0], [0.0], [0.0], [0.0]])
    close(build(config)(paid, batch).values[:, 0], expected)


def test_grpo_constant_of_the_other_trainer() -> None:
    batch, paid = episodic([[1.0], [0.0], [0.0], [0.0]])
    out = build({"name": "grpo", "eps": 1e-4})(paid, batch).values[:, 0]
    close(out, [1.4997, -0.4999, -0.4999, -0.4999], 5e-5)


def test_long_failures_do_not_dominate_the_baseline() -> None:
    rewards = [[0.0] * 9 + [10.0]] * 4 + [[0.0] * 50] * 4
    batch, paid = episodic(rewards)
    out = build({"name": "dr_grpo"})(paid, batch).values
    assert out[:4, :10].eq(5).all()
    assert out[4:].eq(-5).all()


def test_carry_crosses_observations() -> None:
    batch = batch_of([[0, 0, -1, 1]])
    paid = table({"r": [[0.0, 1.0]]})
    close(apply({"name": "reinforce_pp", "whiten": False}, batch, paid), [[1, 1, 0, 1]])


def test_whitening_by_hand() -> None:
    batch, paid = episodic([[0.0, 1.0], [0.0, 0.0]])
    a = math.sqrt(3) / 2
    close(apply({"name": "reinforce_pp"}, batch, paid), [[a, a], [-a, -a]], 1e-7)


OVER = ([0.82816, 0.928, 0, 0.4], [1.02816, 1.328, NAN, 1])
CUT = ([1.06144, 1.252, 0, 0.85], [1.26144, 1.652, NAN, 1.45])
"""Advantages and returns of an episode that is over, and of one whose future is worth 0.5."""


@pytest.mark.parametrize(
    ("stop", "limit", "expected"),
    [
        (StopReason.LOST, "bootstrap", OVER),
        (StopReason.CONTEXT_LIMIT, "bootstrap", OVER),
        (StopReason.TURN_LIMIT, "end", OVER),
        (StopReason.TURN_LIMIT, "bootstrap", CUT),
        (StopReason.CURRICULUM_LIMIT, "end", CUT),
        (StopReason.CURRICULUM_LIMIT, "bootstrap", CUT),
    ],
)
@pytest.mark.parametrize("outside", [9.0, -7.0, NAN])
def test_token_gae_by_hand(stop: StopReason, limit: str, expected: Any, outside: float) -> None:
    (advantages, returns) = expected
    batch = replace(
        batch_of([[0, 0, -1, 1]], terminated=[not stop.truncated]),
        stops=(stop,),
        values_BL=torch.tensor([[0.2, 0.4, outside, 0.6]]).double(),
        bootstrap_E=torch.tensor([0.5]).double(),
    )
    paid = table_of(torch.tensor([[[0.5, 1.0]]]).double(), batch)
    config = {"name": "gae", "gamma": 0.9, "lam": 0.8, "whiten": False, "limit": limit}
    close(apply(config, batch, paid), [advantages], 1e-6)
    close(targets_of(config, batch, paid), [returns], 1e-6)


@pytest.mark.parametrize(
    ("rewards", "gamma", "lam", "terminated", "expected"),
    [
        ([0, 0.2, 1], 0.9, 0.95, True, [0.431567, 0.6685, 0.7]),
        ([0, 0.2, 1], 0.9, 0.95, False, [0.826321, 1.1302, 1.24]),
        ([0, 0, 1], 1.0, 1.0, True, [0.5, 0.6, 0.7]),
    ],
)
@pytest.mark.parametrize("rewritten", [False, True])
def test_turn_gae_by_hand(
    rewards: list[float],
    gamma: float,
    lam: float,
    terminated: bool,
    expected: list[float],
    rewritten: bool,
) -> None:
    """Three turns of several tokens, in one sequence or three; two of them may be worth nothing."""
    if rewritten:
        batch = batch_of(
            [[-1, 0, 0], [-1, -1, 1, 1], [2]], episodes=[0, 0, 0], terminated=[terminated]
        )
        values = [[NAN, 0.5, 9, NAN], [NAN, 1e6, 0.4, 9], [0.3, NAN, NAN, NAN]]
    else:
        batch = batch_of([[-1, 0, 0, -1, 1, 1, 2]], terminated=[terminated])
        values = [[NAN, 0.5, 9, 1e6, 0.4, 9, 0.3]]
    batch = replace(
        batch, values_BL=torch.tensor(values).double(), bootstrap_E=torch.tensor([0.6]).double()
    )
    config = {
        "name": "gae",
        "over": "turn",
        "gamma": gamma,
        "lam": lam,
        "whiten": False,
        "limit": "bootstrap",
    }
    paid = table_of(torch.tensor([[rewards]]).double(), batch)
    out = apply(config, batch, paid)
    close(out, batch.spread(torch.tensor([expected]).double()), 1e-6)
    targets_BL = targets_of(config, batch, paid)
    targets = targets_BL[~targets_BL.isnan()]
    close(targets, torch.tensor(expected).double() + torch.tensor([0.5, 0.4, 0.3]).double(), 1e-6)


def test_turn_gae_whitens_one_value_per_turn() -> None:
    batch = replace(batch_of([[0, 0, 0, 0, 1]]), values_BL=torch.zeros(1, 5).double())
    out = apply(
        {"name": "gae", "over": "turn", "lam": 0.0},
        batch,
        table_of(torch.tensor([[[0.0, 1.0]]]).double(), batch),
    )
    close(out, [[-math.sqrt(0.5)] * 4 + [math.sqrt(0.5)]], 1e-7)


def test_turns_without_reward_are_turns() -> None:
    """Turns come from their indices: a reward of 1e-9 in place of 0 changes nothing visible."""
    batch = replace(
        batch_of([[0, 0, 1, 1, 2, 3]]), values_BL=torch.linspace(0, 1, 6).double()[None]
    )
    for over in ("token", "turn"):
        config = {"name": "gae", "over": over, "whiten": False}
        zero = apply(config, batch, table({"r": [[0.0, 0.0, 0.0, 1.0]]}))
        close(apply(config, batch, table({"r": [[1e-9, 1e-9, 1e-9, 1.0]]})), zero, 1e-8)
        assert len(zero.unique()) == (6 if over == "token" else 4)


def test_reward_lands_in_its_own_turn() -> None:
    batch = batch_of([[-1, 0, 0, -1, 1, -1, 2, 2]])
    for turn, column in enumerate([2, 4, 7]):
        paid = table({"r": [[float(t == turn) for t in range(3)]]})
        out = apply({"name": "reinforce_pp", "gamma": 0.0, "whiten": False}, batch, paid)
        assert out[0].nonzero().flatten().tolist() == [column]


def test_reward_of_a_turn_without_tokens_goes_to_the_one_before() -> None:
    batch = batch_of([[1, 1, -1, 3]], turns=[5])
    paid = table({"r": [[64.0, 1.0, 2.0, 4.0, 8.0]]})
    close(
        apply({"name": "reinforce_pp", "gamma": 0.0, "whiten": False}, batch, paid),
        [[0, 3, 0, 12]],
    )
    batch = replace(batch, values_BL=torch.zeros(1, 4))
    close(
        apply({"name": "gae", "over": "turn", "gamma": 0.0, "whiten": False}, batch, paid),
        [[3, 3, 0, 12]],
    )


def test_turn_return_by_hand() -> None:
    """Others still playing at the turn; once none is, those that played longest, at their end."""
    batch, paid = episodic([[1.0, 2.0, 4.0], [0.0, 3.0], [5.0]])
    out = build({"name": "turn_return"})(paid, batch).values
    close(out, [[7 - 4, 6 - 3, 4 - 3], [3 - 6, 3 - 6, 0], [5 - 5, 0, 0]])
    out = build({"name": "turn_return", "gamma": 0.5, "baseline": "episode"})(paid, batch).values
    whole = [1 + 0.5 * 4, 1.5, 5.0]
    close(out, [[3 - 3.25, 4 - 3.25, 4 - 3.25], [1.5 - 4, 3 - 4, 0], [5 - 2.25, 0, 0]])
    out = build({"name": "turn_return", "gamma": 0.5, "scale": "group", "eps": 0.0})(
        paid, batch
    ).values
    close(out[2, 0], (5 - 2.25) / torch.tensor(whole).double().std())


def test_batch_scale_pools_within_groups() -> None:
    batch, paid = episodic([[0.0], [2.0], [100.0], [104.0]], [0, 0, 1, 1])
    out = build({"name": "turn_return", "scale": "batch", "eps": 0.0})(paid, batch).values
    close(out[:, 0], torch.tensor([-2, 2, -4, 4]).double() / math.sqrt((1 + 1 + 4 + 4) / 2))


# Properties.


def all_won() -> tuple[TokenBatch, RewardTable]:
    """Equal returns up to float dust, at different lengths."""
    return episodic([[0.1 + 0.2], [0.0, 0.3], [0.0, 0.0, 0.3], [0.0] * 6 + [0.3]])


@pytest.mark.parametrize(
    "config", GROUPED + [c for c in CONFIGS if c.get("scale", "none") != "none"], ids=str
)
def test_no_variance_is_exactly_zero(config: dict[str, Any]) -> None:
    out = build(config | ({"gamma": 1.0} if config["name"] in ("turn_return", "stepwise") else {}))(
        all_won()[1], all_won()[0]
    )
    assert out.values.eq(0).all()


def test_whitening_without_variance_is_exactly_zero() -> None:
    for config in ({"name": "reinforce_pp"}, {"name": "reinforce", "baseline": "batch_mean"}):
        assert apply(config, *all_won()).eq(0).all()
    batch, paid = all_won()
    batch = replace(batch, values_BL=torch.zeros(batch.turn_BL.shape))
    assert apply({"name": "gae", "lam": 1.0}, batch, paid).eq(0).all()


@pytest.mark.parametrize("config", GROUPED, ids=ids(GROUPED))
def test_group_of_one_is_zero_and_groups_may_differ_in_size(config: dict[str, Any]) -> None:
    batch, paid = episodic([[3.0, 1.0], [0.0], [1.0, 2.0], [7.0, 0.0, 1.0]], [0, 1, 1, 1])
    out = apply(config, batch, paid)
    assert out[0].eq(0).all()
    assert out[1:].ne(0).any()
    assert out.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS, ids=ids(CONFIGS))
def test_permuting_episodes_permutes_the_result(config: dict[str, Any]) -> None:
    rewards = [[3.0, 1.0], [0.0], [1.0, 2.0], [7.0, 0.0, 1.0], [1.0, 1.0], [0.5]]
    groups, order = [0, 0, 0, 1, 1, 0], [5, 2, 0, 4, 1, 3]
    batch, paid = episodic(rewards, groups)
    values_BL = torch.randn(
        batch.turn_BL.shape, generator=torch.Generator().manual_seed(0)
    ).double()
    out = apply(config, replace(batch, values_BL=values_BL), paid)
    batch, paid = episodic([rewards[i] for i in order], [groups[i] for i in order])
    close(apply(config, replace(batch, values_BL=values_BL[order]), paid), out[order], 1e-12)


@pytest.mark.parametrize("config", LOCAL, ids=ids(LOCAL))
def test_another_group_changes_nothing(config: dict[str, Any]) -> None:
    rewards = [[3.0, 1.0], [0.0], [1.0, 2.0]]
    batch, paid = episodic(rewards, [0, 0, 0])
    values_BL = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    alone = apply(config, replace(batch, values_BL=values_BL[:3]), paid)
    batch, paid = episodic([*rewards, [50.0, -9.0], [4.0]], [0, 0, 0, 1, 1])
    close(apply(config, replace(batch, values_BL=values_BL), paid)[:3], alone, 1e-12)


@pytest.mark.parametrize("config", CONFIGS, ids=ids(CONFIGS))
@pytest.mark.parametrize("seed", range(2))
def test_packing_does_not_change_credit(config: dict[str, Any], seed: int) -> None:
    groups = random_groups(seed, gaps=0.2)
    number_of = numbered(groups)
    values = torch.randn(len(number_of), generator=torch.Generator().manual_seed(seed)).double()
    results = []
    credit = build(config)
    for merge, closing in itertools.product(
        (True, False), (frozenset[StopReason](), credit.bootstraps())
    ):
        batch = TokenBatch.pack(groups, merge=merge, closing=closing)
        paid = table(env_rewards(groups), {"environment": 0.7})
        batch = replace(
            batch,
            values_BL=by_token(batch, number_of, values),
            bootstrap_E=batch.turns_E.double() / 7,
        )
        results.append(apply(config, batch, paid)[batch.mask_BL])
    for other in results[1:]:
        close(other, results[0], 1e-12)


def test_terminated_episodes_ignore_the_bootstrap() -> None:
    batch = replace(
        batch_of([[0, 1], [0, 1]], terminated=[True, False]), values_BL=torch.zeros(2, 2)
    )
    batch.bootstrap_E = torch.tensor([NAN, 2.0])
    config = {"name": "gae", "lam": 1.0, "whiten": False}
    paid = table_of(torch.zeros(1, 2, 2).double(), batch)
    close(apply(config | {"limit": "bootstrap"}, batch, paid), [[0, 0], [2, 2]])
    close(apply(config, batch, paid), [[0, 0], [0, 0]])


@pytest.mark.parametrize("config", CONFIGS, ids=ids(CONFIGS))
def test_episodes_without_turns_and_masked_rows(config: dict[str, Any]) -> None:
    batch, paid = episodic([[1.0, 0.0], [], [0.5]])
    assert apply(config, batch, paid).isfinite().all()
    batch, paid = episodic([[], []])
    assert apply(config, batch, paid).eq(0).all()


@pytest.mark.parametrize("config", ADDITIVE, ids=ids(ADDITIVE))
def test_named_rewards_add_up_by_weight(config: dict[str, Any]) -> None:
    first, second = [[3.0, 1.0], [0.0], [1.0, 2.0]], [[0.0, -1.0], [4.0], [2.0, 0.0]]
    mixed = [
        [0.5 * a - 2 * b for a, b in zip(x, y, strict=True)]
        for x, y in zip(first, second, strict=True)
    ]
    one = apply(config, *episodic(mixed))
    both = table({"a": first, "b": second}, {"a": 0.5, "b": -2.0})
    two = apply(config, episodic(first)[0], both)
    close(two, one, 1e-12)


def test_what_is_missing_is_said() -> None:
    batch, paid = episodic([[1.0]])
    with pytest.raises(ValueError, match="values_BL"):
        build({"name": "gae"})(paid, batch)
    batch = replace(batch, values_BL=torch.zeros(1, 1), terminated_E=torch.tensor([False]))
    build({"name": "gae"})(paid, batch)
    with pytest.raises(ValueError, match="bootstrap_E"):
        build({"name": "gae", "limit": "bootstrap"})(paid, batch)
    with pytest.raises(UserError, match="baseline"):
        build({"name": "turn_return", "baseline": "mean"})
