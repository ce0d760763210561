"""Every credit estimator on problems with known gradients: unbiased, or biased as it says."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from turnrl.agents.episode import StopReason
from turnrl.agents.models.forward import Scores
from turnrl.training.batch import TokenBatch
from turnrl.training.boundaries import advantages_of
from turnrl.training.credit.base import CREDITS, Advantages, Credit
from turnrl.training.losses.base import LOSSES
from turnrl.training.reward_table import RewardTable
from turnrl.training.selection.base import SELECTIONS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tabular: Any = load("tabular")
problems: Any = load("problems")
biases: Any = load("biases")
load("estimators_page")
bench: Any = load("estimators")
BY_NAME = {problem.name: problem for problem in problems.PROBLEMS}
EVERY = pytest.mark.parametrize("problem", problems.PROBLEMS, ids=lambda problem: problem.name)
ONE_TOKEN = pytest.mark.parametrize(
    "problem", [p for p in problems.PROBLEMS if p.name != "words"], ids=lambda problem: problem.name
)
FIXED, DECIDED = ("sparse", "words", "dense", "rare"), ("length", "ties", "anchors", "two rewards")
"""The length of an episode is the same for all, or up to the policy."""


def build(name: str, **fields: Any) -> Credit:
    return CREDITS.build({"name": name, **fields})


def mean(credit: Any, problem: Any, size: int = 4, values_NL: Tensor | None = None) -> Tensor:
    """Exact mean of a group's estimate [P]."""
    case, chance_C = tabular.all_groups(problem, size)
    case = case if values_NL is None else case.with_values(values_NL)
    mean_P: Tensor = tabular.moments_of_groups(credit, case, chance_C).mean_P
    return mean_P


def mean_of_pairs(credit: Any, problem: Any, size: int = 2) -> Tensor:
    """Exact mean of the estimate of a batch of two groups [P]."""
    found = tabular.all_batches(problem, size).moments_by(credit, pooled=True)
    mean_P: Tensor = found["seq_mean_token_sum"].mean_P
    return mean_P


def bias(mean_P: Tensor, exact_P: Tensor) -> float:
    """Of the direction, as in the table."""
    return float(tabular.compare(tabular.Moments(mean_P, 0.0), exact_P).bias)


def same(one_P: Tensor, other_P: Tensor) -> bool:
    return float((one_P - other_P).abs().max()) <= 1e-9


@EVERY
def test_the_gradient_is_the_derivative_of_the_expected_return(problem: Any) -> None:
    """By automatic differentiation of the sum over episodes, without scores."""
    logits = {
        s: torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for s, v in problem.logits.items()
    }
    expected = torch.zeros((), dtype=torch.float64)
    for plays in problem.tasks:
        chances = [
            torch.stack([logits[m.state].softmax(0)[m.action] for m in play]).prod()
            for play in plays
        ]
        assert sum(float(chance.detach()) for chance in chances) == pytest.approx(1.0)
        for chance, play in zip(chances, plays, strict=True):
            paid = sum(
                w * r for move in play for w, r in zip(problem.weights, move.rewards, strict=True)
            )
            expected = expected + chance * paid / len(problem.tasks)
    found = torch.autograd.grad(expected, list(logits.values()))
    assert same(torch.cat(found), problem.gradient())


@pytest.mark.parametrize("name", ["ties", "rare"])
@pytest.mark.parametrize(
    "config", [{"name": "gigpo"}, {"name": "lite_ppo"}, {"name": "turn_return", "scale": "batch"}]
)
def test_listing_groups_without_order_is_listing_them_all(
    config: dict[str, Any], name: str
) -> None:
    problem, credit = BY_NAME[name], CREDITS.build(config)
    total_P = torch.zeros_like(problem.gradient())
    tasks = [(problem.task_N == k).nonzero().flatten().tolist() for k in range(len(problem.tasks))]
    groups = [group for members in tasks for group in itertools.product(members, repeat=2)]
    for one, two in itertools.product(groups, repeat=2):
        case = problem.batch(torch.tensor(one + two), torch.tensor([0, 0, 1, 1]))
        total_P += (
            problem.chance_N[list(one + two)].prod()
            / len(tasks) ** 2
            * case.gradient_EP(credit).mean(0)
        )
    assert same(total_P, mean_of_pairs(credit, problem))


UNBIASED: dict[str, tuple[dict[str, Any], float]] = {
    "reinforce": ({"name": "reinforce"}, 1.0),
    "rloo": ({"name": "rloo"}, 1.0),
    "dr_grpo": ({"name": "dr_grpo"}, 0.75),
    "reinforce_pp": ({"name": "reinforce_pp", "whiten": False}, 1.0),
    "reinforce_pp-group": ({"name": "reinforce_pp", "baseline": "group", "whiten": False}, 0.75),
    "gigpo-episodes": ({"name": "gigpo", "omega": 0.0}, 0.75),
    **{
        f"turn_return-{b}": ({"name": "turn_return", "baseline": b}, 1.0)
        for b in ("turn", "episode", "none")
    },
}


@EVERY
@pytest.mark.parametrize(("config", "factor"), UNBIASED.values(), ids=UNBIASED)
def test_unbiased_up_to_a_known_factor(config: dict[str, Any], factor: float, problem: Any) -> None:
    assert same(mean(CREDITS.build(config), problem), factor * problem.gradient())


@pytest.mark.parametrize("name", ["dense", "length"])
def test_the_baseline_of_the_turn_takes_noise_out_of_dense_rewards(name: str) -> None:
    case, chance_C = tabular.all_groups(BY_NAME[name], 4)
    turn, episode, none = (
        tabular.moments_of_groups(build("turn_return", baseline=b), case, chance_C).variance
        for b in ("turn", "episode", "none")
    )
    assert turn < episode < none


@EVERY
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_size_of_the_group_is_a_factor_or_nothing(size: int, problem: Any) -> None:
    for config in ({"name": "rloo"}, {"name": "turn_return"}):
        assert same(mean(CREDITS.build(config), problem, size), problem.gradient())
    assert same(mean(build("dr_grpo"), problem, size), (size - 1) / size * problem.gradient())


@EVERY
def test_the_mean_of_the_batch_contains_every_episode_once(problem: Any) -> None:
    assert same(
        mean_of_pairs(build("reinforce", baseline="batch_mean"), problem), 0.75 * problem.gradient()
    )


@EVERY
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gae_is_unbiased_with_the_exact_critic(lam: float, problem: Any) -> None:
    found = mean(build("gae", lam=lam, whiten=False), problem, values_NL=problem.values_NL("exact"))
    assert same(found, problem.gradient())


def written(problem: Any, tokens: int) -> Any:
    """The problem with so many tokens to every action."""
    play = lambda moves: tuple(move._replace(tokens=tokens) for move in moves)
    return replace(problem, tasks=tuple(tuple(map(play, plays)) for plays in problem.tasks))


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6), over=st.sampled_from(["token", "turn"]), tokens=st.integers(1, 3)
)
@pytest.mark.parametrize("name", ["length", "anchors"])
def test_gae_with_lam_1_is_unbiased_with_any_critic(
    name: str, seed: int, over: str, tokens: int
) -> None:
    """Values of every token: any function of what came before the turn, anything inside a turn."""
    problem, random = written(BY_NAME[name], tokens), torch.Generator().manual_seed(seed)
    values: dict[Any, float] = {}

    def draw() -> float:
        return float(torch.randn(1, generator=random))

    case, chance_C = tabular.all_groups(problem, 2)
    values_BL = torch.zeros(case.batch.turn_BL.shape, dtype=torch.float64)
    for e, n in enumerate(case.index_E.tolist()):
        play = problem.plays[n]
        for column in range(len(play) * tokens):
            inside = column % tokens
            known = (play[: column // tokens + (inside > 0)], inside)
            values_BL[e, column] = values.setdefault(known, draw())
    case = replace(case, batch=replace(case.batch, values_BL=values_BL))
    found = tabular.moments_of_groups(
        build("gae", lam=1.0, over=over, whiten=False), case, chance_C
    )
    assert same(found.mean_P, problem.gradient())


@EVERY
def test_gae_with_lam_0_is_as_wrong_as_its_critic(problem: Any) -> None:
    found = {
        lam: mean(
            build("gae", lam=lam, whiten=False), problem, values_NL=problem.values_NL("wrong")
        )
        for lam in (0.0, 0.95)
    }
    exact_P = problem.gradient()
    assert bias(found[0.0], exact_P) > 0.1 > bias(found[0.95], exact_P) > 1e-4


def test_gae_bootstraps_where_a_curriculum_cut() -> None:
    """Cut before the third turn, the first two turns have the gradient of the whole problem."""
    problem = BY_NAME["length"]
    value_NL = problem.values_NL("exact")
    # A prefix stands for the two episodes that it can become.
    cut = replace(problem, tasks=((*problem.plays[:2], problem.plays[2][:2]),))
    case, chance_C = tabular.all_groups(cut, 3)
    cut_E = case.index_E == 2
    bootstrap_E = torch.where(cut_E, value_NL[2, 2], 0.0)
    inside = torch.tensor(
        [i for i, s in enumerate(s for s, v in problem.logits.items() for _ in v) if s != "turn 3"]
    )

    def found(bootstrap_E: Tensor) -> Tensor:
        reasons = {True: StopReason.CURRICULUM_LIMIT, False: StopReason.LOST}
        stops = tuple(reasons[cut] for cut in cut_E.tolist())
        batch = replace(case.batch, terminated_E=~cut_E, stops=stops, bootstrap_E=bootstrap_E)
        whole = replace(case, batch=batch).with_values(value_NL)
        gae = build("gae", lam=1.0, whiten=False)
        mean_P: Tensor = tabular.moments_of_groups(gae, whole, chance_C).mean_P
        return mean_P[inside]

    assert same(found(bootstrap_E), problem.gradient()[inside])
    assert not same(found(torch.zeros_like(bootstrap_E)), problem.gradient()[inside])


@ONE_TOKEN
def test_discounting_estimators_aim_at_the_discounted_return_to_go(problem: Any) -> None:
    found = [
        mean(build("turn_return", gamma=0.8), problem),
        mean(build("reinforce_pp", gamma=0.8, whiten=False), problem),
        mean(
            build("gae", gamma=0.8, lam=1.0, whiten=False),
            problem,
            values_NL=problem.values_NL("wrong"),
        ),
    ]
    assert all(same(mean_P, problem.gradient(0.8)) for mean_P in found)
    assert bias(problem.gradient(0.8), problem.gradient()) > 0.05


def once(chance: float) -> Any:
    """One turn, won with this chance."""
    logits = {"once": (0.0, math.log(chance / (1 - chance)))}
    return tabular.Problem(
        "", "", logits, (((tabular.Move("once", 0),), (tabular.Move("once", 1, (1.0,)),)),)
    )


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("chance", [0.5, 0.2, 0.05])
def test_grpo_weighs_a_task_by_its_difficulty(chance: float, size: int) -> None:
    """``sum_k Binom(k) sqrt(k (G - k) G (G - 1)) / G^2 / (p (1 - p))``."""
    factor = sum(
        math.comb(size, k)
        * chance**k
        * (1 - chance) ** (size - k)
        * math.sqrt(k * (size - k) * size * (size - 1))
        for k in range(size + 1)
    ) / (size**2 * chance * (1 - chance))
    assert biases.difficulty(chance, size) == pytest.approx(factor, rel=1e-5)
    assert bias(mean(build("grpo"), once(chance), size), once(chance).gradient()) < 1e-9


def test_grpo_turns_the_gradient_where_tasks_differ_in_difficulty() -> None:
    """Rare wins count more, and the more the larger the group; `rloo` leaves them as they are."""
    problem = BY_NAME["rare"]
    hard = torch.tensor(
        [s.startswith("hard") for s, logits in problem.logits.items() for _ in logits]
    )

    def share(mean_P: Tensor) -> float:
        return float(mean_P[hard].norm() / mean_P[~hard].norm())

    small, large = (share(mean(build("grpo", eps=0.0), problem, size)) for size in (4, 8))
    assert share(problem.gradient()) == pytest.approx(share(mean(build("rloo"), problem)))
    assert share(problem.gradient()) * 1.02 < small < large
    assert bias(mean(build("grpo"), problem), problem.gradient()) > 0.01


def test_grpo_keeps_the_direction_of_one_task_with_two_returns() -> None:
    for name, low, high in (
        ("sparse", 0, 1e-9),
        ("ties", 0, 1e-9),
        ("dense", 0.05, 0.1),
        ("two rewards", 0.3, 0.4),
    ):
        assert low <= bias(mean(build("grpo"), BY_NAME[name]), BY_NAME[name].gradient()) <= high


def test_groups_without_variance_say_nothing_and_cost_no_bias() -> None:
    """Most groups of the hard task hold no win."""
    problem = BY_NAME["rare"]
    case, chance_C = tabular.all_groups(problem, 4)
    return_CE = problem.future_NT()[case.index_E, 0].view(-1, 4)
    flat_C = return_CE.amax(1) == return_CE.amin(1)
    assert float(chance_C[flat_C].sum()) > 0.5
    for name in ("grpo", "rloo", "dr_grpo", "turn_return", "stepwise"):
        gradient_CEP = case.gradient_EP(build(name)).unflatten(0, (-1, 4))
        assert not gradient_CEP[flat_C].any(), name
        assert gradient_CEP[~flat_C].any(), name


@pytest.mark.parametrize("name", ["grpo", "rloo", "dr_grpo", "turn_return", "stepwise"])
def test_wins_of_different_lengths_are_ties(name: str) -> None:
    case = BY_NAME["ties"].batch(torch.tensor([0, 1, 2, 1]), torch.zeros(4, dtype=torch.long))
    assert not case.gradient_EP(build(name)).any()


def centred_per_turn(rewards: RewardTable, batch: TokenBatch) -> Advantages:
    """What no estimator must do: subtract the mean reward of each turn index first, then add up."""
    reward_ET, alive_ET = rewards.total_ET, batch.mask_ET.double()
    sum_GT = torch.zeros(int(batch.group_E.max()) + 1, batch.max_turns).double()
    alive_GT = torch.zeros_like(sum_GT).index_add_(0, batch.group_E, alive_ET)
    mean_GT = sum_GT.index_add_(0, batch.group_E, reward_ET) / alive_GT.clamp(min=1)
    centred_ET = (reward_ET - mean_GT[batch.group_E]) * alive_ET
    return Advantages(centred_ET.flip(1).cumsum(1).flip(1))


@EVERY
def test_centring_the_rewards_of_a_turn_is_biased_where_the_policy_decides_the_length(
    problem: Any,
) -> None:
    found = mean(centred_per_turn, problem)
    if problem.name in FIXED:
        assert same(found, 0.75 * problem.gradient())
    else:
        assert bias(found, problem.gradient()) > 0.02


@EVERY
def test_step_weighted_gigpo_is_biased_where_length_goes_with_the_return(problem: Any) -> None:
    found = mean(build("gigpo", omega=0.0, step_weighted=True), problem)
    if problem.name in FIXED:
        assert same(found, 0.75 * problem.gradient())
    else:
        assert bias(found, problem.gradient()) > 1e-3


def test_gigpo_shortens_the_gradient_of_states_that_are_seldom_met() -> None:
    """Of a state met with chance q, n ~ Binom(G, q) turns share a mean: ``E[(n - 1)+] / (G q)``."""
    problem = BY_NAME["sparse"]
    found = mean(build("gigpo", gamma=1.0), problem) - mean(
        build("gigpo", gamma=1.0, omega=0.0), problem
    )
    left = float(problem.chance_N[:2].sum())
    factors = [
        (4 * q - 1 + (1 - q) ** 4) / (4 * q) for q in (1.0, left, 1 - left) for _ in range(2)
    ]
    assert (found / problem.gradient()).tolist() == pytest.approx(factors)


def test_stepwise_is_biased_where_the_return_to_go_changes() -> None:
    for name in ("dense", "length"):
        assert (
            bias(mean(build("stepwise", scale=False), BY_NAME[name]), BY_NAME[name].gradient())
            > 0.05
        )
    for name in ("sparse", "rare", "ties", "anchors"):
        assert same(
            mean(build("stepwise", scale=False), BY_NAME[name]), 0.75 * BY_NAME[name].gradient()
        )


def reweighted(process: float) -> Any:
    """The problem of two rewards with its process rewards multiplied."""
    problem = BY_NAME["two rewards"]
    play = lambda moves: tuple(
        m._replace(rewards=(m.rewards[0], process * m.rewards[1])) for m in moves
    )
    return replace(problem, tasks=tuple(tuple(map(play, plays)) for plays in problem.tasks))


def test_estimators_of_named_rewards_do_not_see_how_large_they_are() -> None:
    small, large = reweighted(1.0), reweighted(3.0)
    assert bias(small.gradient(), large.gradient()) > 0.1
    igpo = build("igpo", process="process", eps=0.0)
    assert same(mean(igpo, small), mean(igpo, large))
    assert bias(mean(igpo, small), small.gradient()) > 0.2
    gdpo = build("gdpo", eps=0.0)
    assert same(mean_of_pairs(gdpo, small), mean_of_pairs(gdpo, large))
    joint = build("igpo", process="process", norm="joint", eps=0.0)
    assert not same(mean(joint, small), mean(joint, large))


def test_igpo_does_not_see_a_price_per_turn() -> None:
    """The same process reward on every turn but the last is its own mean."""
    problem = BY_NAME["two rewards"]

    def priced(play: Any, price: float) -> Any:
        return tuple(
            m._replace(rewards=(m.rewards[0], price * (t < len(play) - 1)))
            for t, m in enumerate(play)
        )

    def cost(price: float) -> Any:
        tasks = tuple(tuple(priced(play, price) for play in plays) for plays in problem.tasks)
        return replace(problem, tasks=tasks)

    igpo = build("igpo", process="process")
    assert same(mean(igpo, cost(-1.0)), mean(igpo, cost(0.0)))
    assert not same(cost(-1.0).gradient(), cost(0.0).gradient())


def test_tag_group_leaves_the_outcome_alone() -> None:
    """With alpha 1 it is the direction of the outcome, and the process reward is lost."""
    problem = BY_NAME["two rewards"]
    found = mean_of_pairs(build("tag_group", reward="process", alpha=1.0), problem, 3)
    assert bias(found, reweighted(0.0).gradient()) < 1e-6
    assert bias(found, problem.gradient()) > 0.1


def test_the_bias_of_a_deviation_of_the_batch_goes_away() -> None:
    """Exact for two groups, sampled for 64; not so for the deviation of the group."""
    problem, exact_P = BY_NAME["two rewards"], BY_NAME["two rewards"].gradient()
    cases = list(tabular.sample_batches(problem, 4, 64, 60, seed=1))
    controls_CPX = (tabular.estimates(build("rloo"), cases) - exact_P)[..., None]
    many = {
        name: tabular.sampled_moments(tabular.estimates(build(name), cases), controls_CPX)
        for name in ("lite_ppo", "grpo")
    }
    pooled, alone = (tabular.compare(many[name], exact_P) for name in ("lite_ppo", "grpo"))
    few = bias(mean_of_pairs(build("lite_ppo"), problem, 3), exact_P)
    assert pooled.bias + pooled.margin < few / 3
    assert alone.bias - alone.margin > 0.2
    assert (
        float((many["grpo"].mean_P - mean(build("grpo"), problem)).norm())
        < 1.5 * many["grpo"].radius
    )


def test_controls_take_the_noise_out_even_if_two_are_the_same() -> None:
    problem, exact_P = BY_NAME["sparse"], BY_NAME["sparse"].gradient()
    cases = list(tabular.sample_batches(problem, 4, 16, 40))
    found_CP, rloo_CP = (
        tabular.estimates(build("dr_grpo"), cases),
        tabular.estimates(build("rloo"), cases) - exact_P,
    )
    same_CP, other_CP = (
        tabular.estimates(build(name), cases) - exact_P for name in ("turn_return", "reinforce")
    )
    found = tabular.sampled_moments(found_CP, torch.stack([rloo_CP, same_CP, other_CP], -1))
    assert same(found.mean_P, 0.75 * exact_P)
    assert found.radius < 1e-9
    assert found.variance == pytest.approx(float(found_CP.var(0).sum()))


def test_the_comparison() -> None:
    found = tabular.compare(
        tabular.Moments(torch.tensor([2.0, 2.0]), 8.0, 0.4), torch.tensor([4.0, 0.0])
    )
    assert (found.scale, found.bias, found.noise, found.variance) == (0.5, 1.0, 2.0, 0.5)
    assert found.cosine == pytest.approx(math.sqrt(0.5))
    assert found.margin == pytest.approx(0.2)


# Aggregations of the loss.

LENGTHS_DIFFER = ("words", "length", "ties", "anchors", "two rewards")
"""Episodes of different numbers of tokens."""


def by_aggregation(credit: Any, problem: Any, *, pooled: bool = False) -> dict[str, float]:
    """Exact bias of a batch of two groups."""
    found = tabular.all_batches(problem, 3).moments_by(credit, pooled=pooled)
    return {
        name: tabular.compare(moments, problem.gradient()).bias for name, moments in found.items()
    }


@EVERY
def test_an_aggregation_that_divides_by_lengths_is_biased_where_they_differ(problem: Any) -> None:
    found = by_aggregation(build("rloo"), problem)
    assert set(found) == set(tabular.AGGREGATIONS)
    assert found["seq_mean_token_sum"] < 1e-9
    assert found["seq_mean_token_sum_norm"] < 1e-9
    for name in ("token_mean", "seq_mean_token_mean"):
        assert (found[name] > 1e-4) == (problem.name in LENGTHS_DIFFER)
        assert (found[name] < 1e-9) == (problem.name not in LENGTHS_DIFFER)


def test_the_default_aggregation_has_two_percent_on_ties() -> None:
    """Two groups of four, `rloo`; the episode's own mean has 31 %."""
    assert LOSSES.build({"name": "ppo_clip"}).aggregation == "token_mean"
    found = tabular.all_batches(BY_NAME["ties"], 4).moments_by(build("rloo"), pooled=False)
    exact_P = BY_NAME["ties"].gradient()
    assert tabular.compare(found["token_mean"], exact_P).bias == pytest.approx(0.0202, abs=5e-5)
    assert tabular.compare(found["seq_mean_token_mean"], exact_P).bias == pytest.approx(
        0.3106, abs=5e-5
    )


def test_token_mean_by_hand() -> None:
    """One turn, won with chance p in three tokens: the mean over ordered pairs of groups of two."""
    problem = BY_NAME["words"]
    one = replace(
        once(0.3),
        tasks=(tuple((move._replace(tokens=1 + 2 * move.action),) for (move,) in once(0.3).plays),),
    )
    expected = 0.0
    for wins in itertools.product((0, 1), repeat=4):
        chance = math.prod(0.3 if win else 0.7 for win in wins)
        tokens = sum(1 + 2 * win for win in wins)
        for a, b in ((0, 1), (2, 3)):
            for i, j in (
                (a, b),
                (b, a),
            ):  # rloo: minus the other; the score of the win's logit is win - p
                expected += chance * (wins[i] - wins[j]) * (wins[i] - 0.3) / tokens
    found = tabular.all_batches(one, 2).moments_by(build("rloo"), pooled=False)["token_mean"]
    assert float(found.mean_P[1]) == pytest.approx(expected)
    assert int(problem.tokens_NT.max()) == 4


@pytest.mark.parametrize("name", ["words", "two rewards"])
@pytest.mark.parametrize("aggregation", tabular.AGGREGATIONS)
def test_the_estimate_is_the_gradient_of_the_loss(aggregation: str, name: str) -> None:
    """By automatic differentiation of the real loss over real log-probabilities of every token."""
    problem, groups = BY_NAME[name], torch.arange(2).repeat_interleave(3)
    loss = LOSSES.build({"name": "ppo_clip", "aggregation": aggregation}).of_length(1)
    for index in ([0, 1, 2, 3, 3, 0], [1, 1, 2, 0, 0, 0], [2, 3, 1, 2, 0, 2]):
        case = problem.batch(torch.tensor(index), groups)
        logits = {
            s: torch.tensor(v, dtype=torch.float64, requires_grad=True)
            for s, v in problem.logits.items()
        }
        # A token that follows from the first one has probability 1.
        rows = [
            [
                logits[m.state].log_softmax(0)[m.action] * (k == 0)
                for m in problem.plays[n]
                for k in range(m.tokens)
            ]
            for n in index
        ]
        zero, width = torch.zeros((), dtype=torch.float64), case.batch.turn_BL.shape[1]
        new_BL = torch.stack([torch.stack([*row, *[zero] * (width - len(row))]) for row in rows])
        batch = case.batch.with_scores(engine=Scores({"logprobs": new_BL.detach()}))
        for credit in (build("rloo"), build("reinforce_pp")):
            advantages_BL = advantages_of(credit, case.rewards, batch).values
            out = loss(Scores({"logprobs": new_BL}), batch, advantages_BL)
            total = (out.loss_BL * loss.weights_BL(batch, torch.float64)).sum()
            found = torch.autograd.grad(total, list(logits.values()), retain_graph=True)
            assert same(-torch.cat(found), tabular.estimates(credit, [case], aggregation)[0])


@EVERY
def test_cutting_out_groups_is_looking_at_pairs(problem: Any) -> None:
    """The estimate of a pair put together from two groups is that of the pair."""
    batches = tabular.all_batches(problem, 2)
    for credit in (build("grpo"), build("turn_return")):
        whole, parts = (batches.gradient_CEP(credit, pooled=pooled) for pooled in (True, False))
        torch.testing.assert_close(parts, whole)


# Selections.


def of_rloo(selection: str, problem: Any, size: int = 4) -> Any:
    return biases.selected(
        selection, "rloo", problem, biases.select(selection, problem, size), size
    ).comparison


@EVERY
def test_zero_variance_changes_the_length_of_the_gradient_and_not_its_direction(
    problem: Any,
) -> None:
    left = biases.select("zero_variance", problem, 4)
    assert sum(left.values()) == pytest.approx(1.0)
    found = biases.selected("zero_variance", "rloo", problem, left, 4)
    assert found.comparison.bias < 1e-9
    assert found.comparison.scale == pytest.approx(1 / found.kept)
    assert found.kept == pytest.approx(1 - left[()])


@EVERY
def test_dynamic_contrastive_has_another_objective(problem: Any) -> None:
    """Only where equal returns go with equal lengths does the direction stay."""
    found = of_rloo("dynamic_contrastive", problem)
    assert (found.bias < 1e-9) == (problem.name == "sparse")
    assert found.bias < 0.31


def test_balanced_difficulty_weighs_tasks_by_their_difficulty() -> None:
    """Of groups of four it drops what has no variance; of eight also one win, and seven."""
    assert all(
        of_rloo("balanced_difficulty", BY_NAME[name]).bias < 1e-9
        for name in ("sparse", "words", "rare", "ties")
    )
    assert of_rloo("balanced_difficulty", BY_NAME["two rewards"]).bias > 0.01
    hard = torch.tensor(
        [s.startswith("hard") for s, logits in BY_NAME["rare"].logits.items() for _ in logits]
    )
    assert bool(hard.any())
    assert of_rloo("balanced_difficulty", BY_NAME["rare"], 6).bias > 0.05


def test_ties_are_broken_in_the_order_of_play() -> None:
    """Over all orders, episodes that a selection cannot tell apart are kept equally often."""
    left = biases.select("dynamic_contrastive", BY_NAME["sparse"], 4)
    often = {n: sum(chance * group.count(n) for group, chance in left.items()) for n in range(4)}
    chance_N = BY_NAME["sparse"].chance_N
    for lost, won in ((0, 2), (1, 3)):
        assert often[lost] / often[won] == pytest.approx(float(chance_N[lost] / chance_N[won]))


# The page.


def test_every_estimator_and_selection_is_measured() -> None:
    assert {setting.name for setting in biases.SETTINGS} == set(CREDITS.names())
    assert {row.selection for row in biases.selections(BY_NAME["sparse"], [4])} == set(
        SELECTIONS.names()
    )


def test_the_page_is_what_the_script_finds() -> None:
    """All that looks at one group only, and groups of four; the rest takes minutes."""
    lines = bench.PAGE.read_text("utf-8").splitlines()
    alone = [setting for setting in biases.SETTINGS if not setting.pooled]
    rows = [row for problem in problems.PROBLEMS for row in biases.measure(problem, alone)]
    chosen = [row for problem in problems.PROBLEMS for row in biases.selections(problem, [4])]
    wanted = [
        *bench.matrix(rows, bench.small_bias).splitlines(),
        *bench.difficulties().splitlines(),
    ]
    for aggregation in bench.NORMALISED:
        wanted += bench.matrix(rows, bench.bias_by(aggregation)).splitlines()
        assert bench.plainly(rows, aggregation) in lines
    wanted += [*bench.unbiased(rows).splitlines(), *bench.aggregations(rows).splitlines()]
    wanted += bench.selections(chosen, [4]).splitlines()
    assert bench.contrastive(chosen) in " ".join(lines)
    assert not set(wanted) - set(lines), "run python benchmarks/estimators.py --write-docs"


def test_selections_say_what_they_do_to_the_gradient() -> None:
    """Each one's page holds the exact figures that the script finds with `rloo`, groups of four."""
    chosen = [row for problem in problems.PROBLEMS for row in biases.selections(problem, [4])]
    for name in SELECTIONS.names():
        found = [
            row.comparison.bias for row in chosen if (row.selection, row.credit) == (name, "rloo")
        ]
        low, high = min(found), max(found)
        said = "no bias" if high < 1e-9 else f"a bias of up to {high:.1%}".replace("%", " %")
        text = " ".join((SELECTIONS.get(name).__doc__ or "").split())
        assert f"In front of ``rloo`` it has {said}" in text, (name, low, high)
