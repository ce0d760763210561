"""Measure the gradient of every credit estimator, and of every selection in front of one.

Two groups are enumerated exactly, by aggregation of the loss; large batches are sampled.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import tabular
import torch
from tabular import Case, Comparison, Problem, compare, estimates
from turnrl.agents.episode import Episode, Group, Turn
from turnrl.envs.task import Task
from turnrl.training.credit.base import CREDITS, Credit
from turnrl.training.losses.base import Aggregation
from turnrl.training.selection.base import SELECTIONS

SIZE, MANY, BATCHES = 4, 64, 100
"""Episodes per group; groups of a large batch; how many of these are sampled."""
CONTROLS = [CREDITS.build({"name": name}) for name in ("rloo", "turn_return", "reinforce")]
"""Unbiased estimators, whose errors on the sampled batches are known."""
SELECTED, COMPARED = (4, 8), ("rloo", "turn_return", "grpo")
"""Episodes per group, and estimators, with which selections are measured."""
EXACT = 1e-9
"""Directions that differ by less are the same."""
HIDDEN = ("name", "process", "reward")
"""Not worth a word: every problem calls its rewards the same."""


@dataclass(frozen=True)
class Setting:
    """One configuration of an estimator; `pooled` if it compares groups and needs several."""

    config: dict[str, Any]
    pooled: bool = False
    critic: tabular.Critic | None = None

    @property
    def label(self) -> str:
        """Write the configuration in short."""
        fields = [
            f"{key} {str(value).lower()}" for key, value in self.config.items() if key not in HIDDEN
        ]
        return (
            ", ".join([*fields, *([f"{self.critic} critic"] if self.critic else [])]) or "defaults"
        )

    @property
    def name(self) -> str:
        """Return the key of the estimator."""
        return str(self.config["name"])

    @cached_property
    def credit(self) -> Credit:
        """Build the estimator."""
        return CREDITS.build(self.config)

    @property
    def gamma(self) -> float:
        """Return the discount of the configuration, 1 where there is none."""
        return float(getattr(self.credit, "gamma", 1.0))

    def fits(self, problem: Problem) -> bool:
        """Tell whether a problem has the rewards that the estimator asks for."""
        if (
            self.name in ("gae", "reinforce_pp")
            and self.gamma < 1
            and int(problem.tokens_NT.max()) > 1
        ):
            return False  # they discount by the token
        return self.name not in ("gdpo", "igpo", "tag_group") or "process" in problem.rewards

    def build(self, problem: Problem) -> Credit:
        """Build the estimator for a problem, told the range of its rewards where it asks."""
        low, high = problem.range()
        return (
            self.credit.model_copy(update={"low": low, "high": high})
            if self.name == "bnpo"
            else self.credit
        )


def _settings() -> tuple[Setting, ...]:
    turn_return = [
        Setting({"name": "turn_return", "baseline": baseline, "scale": scale}, scale == "batch")
        for scale in ("none", "group", "batch")
        for baseline in ("turn", "episode", "none")
    ]
    gae = [
        Setting({"name": "gae", "lam": lam, "whiten": False}, critic=critic)
        for lam in (1.0, 0.95, 0.0)
        for critic in ("exact", "wrong")
    ]
    return (
        Setting({"name": "reinforce"}),
        Setting({"name": "reinforce", "baseline": "batch_mean"}, pooled=True),
        Setting({"name": "rloo"}),
        Setting({"name": "dr_grpo"}),
        Setting({"name": "grpo"}),
        Setting({"name": "lite_ppo"}, pooled=True),
        Setting({"name": "bnpo"}, pooled=True),
        *turn_return,
        Setting({"name": "turn_return", "gamma": 0.8}),
        *gae,
        Setting({"name": "gae", "lam": 1.0, "gamma": 0.8, "whiten": False}, critic="exact"),
        Setting({"name": "gae", "over": "turn"}, pooled=True, critic="exact"),
        Setting({"name": "reinforce_pp", "whiten": False}),
        Setting({"name": "reinforce_pp", "gamma": 0.8, "whiten": False}),
        Setting({"name": "reinforce_pp"}, pooled=True),
        Setting({"name": "reinforce_pp", "baseline": "group", "whiten": False}),
        Setting({"name": "reinforce_pp", "baseline": "group"}, pooled=True),
        Setting({"name": "stepwise"}),
        Setting({"name": "stepwise", "scale": False}),
        Setting({"name": "gigpo"}),
        Setting({"name": "gigpo", "gamma": 1.0}),
        Setting({"name": "gigpo", "norm": "mean_std"}),
        Setting({"name": "gigpo", "gamma": 1.0, "omega": 0.0, "step_weighted": True}),
        Setting({"name": "gdpo"}, pooled=True),
        Setting({"name": "igpo", "process": "process"}),
        Setting({"name": "igpo", "process": "process", "norm": "joint"}),
        Setting({"name": "tag_group", "reward": "process"}, pooled=True),
        Setting({"name": "tag_group", "reward": "process", "alpha": 1.0}, pooled=True),
    )


SETTINGS = _settings()


@dataclass(frozen=True)
class Row:
    """One setting on one problem: a batch of two groups, and of `MANY` groups, sampled."""

    setting: Setting
    problem: str
    by: dict[Aggregation, Comparison]
    """Exact, by aggregation of the loss."""
    discounted: Comparison | None = None
    """Against the discounted gradient, where the setting discounts."""
    large: Comparison | None = None

    @property
    def small(self) -> Comparison:
        """Return the comparison without a normalisation that depends on the batch."""
        return self.by["seq_mean_token_sum"]


def measure(problem: Problem, settings: Iterable[Setting]) -> list[Row]:
    """Measure every setting that fits the problem."""
    wanted = [setting for setting in settings if setting.fits(problem)]
    exact_P, batches = problem.gradient(), tabular.all_batches(problem, SIZE)
    pooled = any(setting.pooled for setting in wanted)
    drawn = list(tabular.sample_batches(problem, SIZE, MANY, BATCHES)) if pooled else []
    controls_CPX = (
        torch.stack([estimates(c, drawn) - exact_P for c in CONTROLS], -1) if pooled else None
    )
    rows = []
    for setting in wanted:
        credit, ready = setting.build(problem), _critic(problem, setting)
        known = replace(batches, side=ready([batches.side])[0], cases=ready(batches.cases))
        found = known.moments_by(credit, pooled=setting.pooled)
        by = {name: compare(each, exact_P) for name, each in found.items()}
        plain = found["seq_mean_token_sum"]
        other = compare(plain, problem.gradient(setting.gamma)) if setting.gamma < 1 else None
        large = None
        if controls_CPX is not None and setting.pooled:
            large = compare(
                tabular.sampled_moments(estimates(credit, ready(drawn)), controls_CPX), exact_P
            )
        rows.append(Row(setting, problem.name, by, other, large))
    return rows


def aggregated(problem: Problem, aggregation: Aggregation) -> Comparison:
    """Measure `rloo` with `MANY` groups, sampled."""
    exact_P, drawn = problem.gradient(), list(tabular.sample_batches(problem, SIZE, MANY, BATCHES))
    controls_CPX = torch.stack([estimates(c, drawn) - exact_P for c in CONTROLS], -1)
    # The controls are of one episode's length: so are the estimates, up to a factor that no
    # comparison sees.
    found_CP = estimates(CONTROLS[0], drawn, aggregation)
    found_CP = found_CP * (float(exact_P.norm()) ** 2 / float(found_CP.mean(0) @ exact_P))
    return compare(tabular.sampled_moments(found_CP, controls_CPX), exact_P)


def _critic(problem: Problem, setting: Setting) -> Callable[[Sequence[Case]], Sequence[Case]]:
    if setting.critic is None:
        return lambda cases: cases
    values_NL = problem.values_NL(setting.critic, setting.gamma)
    return lambda cases: [case.with_values(values_NL) for case in cases]


def difficulty(chance: float, size: int) -> float:
    """Compute what `grpo` multiplies the gradient of a one-turn task with, won with this chance."""
    logits = {"once": (0.0, math.log(chance / (1 - chance)))}
    task = Problem(
        "one turn", "", logits, (((tabular.Move("once", 0),), (tabular.Move("once", 1, (1.0,)),)),)
    )
    found = tabular.moments_of_groups(
        CREDITS.build({"name": "grpo"}), *tabular.all_groups(task, size)
    )
    return compare(found, task.gradient()).scale


@dataclass(frozen=True)
class Chosen:
    """One selection before one estimator on one problem, exact, with as many rounds as it needs."""

    selection: str
    credit: str
    size: int
    problem: str
    kept: float
    """Share of groups of which something is kept."""
    comparison: Comparison


def select(selection: str, problem: Problem, size: int) -> dict[tuple[int, ...], float]:
    """List what a selection leaves of each group that can occur, with the group's chance.

    Nothing is left of a group that is dropped.

    Groups are listed in order, because ties may go to the earlier episode.
    """
    task, rule = Task(env="toy/made-v0", seed=0), SELECTIONS.build({"name": selection})
    paid_N, won_N = (
        problem.future_NT()[:, 0].tolist(),
        (problem.rewards_KNT[0].sum(1) >= 1 - EXACT).tolist(),
    )
    turns = [
        [Turn([], True, [0] * move.tokens, [0.0] * move.tokens) for move in play]
        for play in problem.plays
    ]
    seats = [
        [Episode(task, turns=turns[n], success=won) for n, won in enumerate(won_N)]
        for _ in range(size)
    ]
    chance_N, left = problem.chance_N.tolist(), defaultdict[tuple[int, ...], float](float)
    for k in range(len(problem.tasks)):
        members = (problem.task_N == k).nonzero().flatten().tolist()
        for group in itertools.product(members, repeat=size):
            episodes = [seat[n] for seat, n in zip(seats, group, strict=True)]
            chosen = rule(Group(task, episodes), [paid_N[n] for n in group])
            kept = {id(episode) for episode in chosen or ()}
            found = sorted(
                n for n, episode in zip(group, episodes, strict=True) if id(episode) in kept
            )
            left[tuple(found)] += math.prod(chance_N[n] for n in group) / len(problem.tasks)
    return left


def selected(
    selection: str, credit: str, problem: Problem, left: dict[tuple[int, ...], float], size: int
) -> Chosen:
    """Measure the estimate of a full batch: the mean over groups, and over what is left of each.

    Groups of which nothing is left are in no mean.
    """
    groups = [group for group in left if group]
    chance_C = torch.tensor([left[group] for group in groups], dtype=torch.float64)
    count_C = torch.tensor([len(group) for group in groups])
    group_E = torch.arange(len(groups)).repeat_interleave(count_C)
    gradient_EP = problem.batch(torch.tensor(sum(groups, ())), group_E).gradient_EP(
        CREDITS.build({"name": credit})
    )
    gradient_CP = (
        torch.zeros(len(groups), gradient_EP.shape[1]).double().index_add_(0, group_E, gradient_EP)
    )
    found = tabular.moments(gradient_CP / count_C[:, None], chance_C / chance_C.sum())
    return Chosen(
        selection,
        credit,
        size,
        problem.name,
        float(chance_C.sum()),
        compare(found, problem.gradient()),
    )


def selections(problem: Problem, sizes: Iterable[int] = SELECTED) -> list[Chosen]:
    """Measure every selection in front of every estimator of `COMPARED`."""
    rows = []
    for size in sizes:
        for selection in SELECTIONS.names():
            left = select(selection, problem, size)
            rows += [selected(selection, credit, problem, left, size) for credit in COMPARED]
    return rows
