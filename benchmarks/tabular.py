"""Compute exact moments of gradient estimates on problems whose episodes can be listed.

A policy has one softmax per state. `Problem.gradient` is the exact policy gradient,
`moments_of_groups` and `Batches.moments_by` are mean and variance of an estimate over all groups,
or all pairs of groups, there can be.

Axes beside the glossary of `turnrl.training.batch`: N episodes that a problem can produce, P
parameters (the logits of all states), C cases (groups or batches that can occur).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from turnrl.agents.models.forward import Scores
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import Advantages
from turnrl.training.losses.base import LOSSES, Aggregation
from turnrl.training.reward_table import RewardTable

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
Estimator = Callable[[RewardTable, TokenBatch], Advantages]
Critic = Literal["exact", "wrong"]


class Move(NamedTuple):
    """One turn: where, what, and what it paid, one number per named reward."""

    state: str
    action: int
    rewards: tuple[float, ...] = (0.0,)
    tag: int = -1
    tokens: int = 1
    """In how many it is written; the first one decides, the others follow from it."""


Play = tuple[Move, ...]


@dataclass(frozen=True)
class Problem:
    """Tasks, drawn with equal chance for each group, and every episode that each can become."""

    name: str
    about: str
    logits: Mapping[str, tuple[float, ...]]
    tasks: tuple[tuple[Play, ...], ...]
    rewards: tuple[str, ...] = ("outcome",)
    weights: tuple[float, ...] = (1.0,)

    @property
    def plays(self) -> tuple[Play, ...]:
        """List the episodes of all tasks, the axis N: task by task."""
        return sum(self.tasks, ())

    @cached_property
    def task_N(self) -> Tensor:
        """Return the index of every episode's task."""
        return torch.tensor([k for k, plays in enumerate(self.tasks) for _ in plays])

    @cached_property
    def turns_N(self) -> Tensor:
        """Count the turns of every episode."""
        return torch.tensor([len(play) for play in self.plays])

    @cached_property
    def tokens_NT(self) -> Tensor:
        """Count the tokens of each turn; 0 where there is no turn."""
        return self._per_turn(lambda move: move.tokens, 0)

    @cached_property
    def turn_NL(self) -> Tensor:
        """List the turn of each token of an episode, -1 after its end."""
        turn_NL = torch.full((len(self.plays), int(self.tokens_NT.sum(1).max())), -1)
        for n, tokens in enumerate(self.tokens_NT):
            turn_NL[n, : tokens.sum()] = torch.arange(len(tokens)).repeat_interleave(tokens)
        return turn_NL

    @cached_property
    def score_NTP(self) -> Tensor:
        """Compute the gradient of each turn's log-probability; 0 where there is no turn."""
        first, size = {}, 0
        for state, logits in self.logits.items():
            first[state], size = size, size + len(logits)
        score_NTP = torch.zeros(len(self.plays), int(self.turns_N.max()), size, dtype=torch.float64)
        for n, play in enumerate(self.plays):
            for t, move in enumerate(play):
                chances = torch.tensor(self.logits[move.state], dtype=torch.float64).softmax(0)
                score_NTP[n, t, first[move.state] : first[move.state] + len(chances)] = -chances
                score_NTP[n, t, first[move.state] + move.action] += 1
        return score_NTP

    @cached_property
    def chance_N(self) -> Tensor:
        """Compute the probability of every episode, given its task."""
        softmax = {
            s: torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
            for s, logits in self.logits.items()
        }
        chances = [
            math.prod(softmax[move.state][move.action] for move in play) for play in self.plays
        ]
        return torch.tensor(chances, dtype=torch.float64)

    @cached_property
    def rewards_KNT(self) -> Tensor:
        """Collect the named rewards, unweighted."""
        out_KNT = torch.zeros(len(self.rewards), *self.score_NTP.shape[:2], dtype=torch.float64)
        for n, play in enumerate(self.plays):
            out_KNT[:, n, : len(play)] = torch.tensor(
                [move.rewards for move in play], dtype=torch.float64
            ).T
        return out_KNT

    def future_NT(self, gamma: float = 1.0) -> Tensor:
        """Compute the discounted return-to-go."""
        future_NT = torch.einsum(
            "k,knt->nt", torch.tensor(self.weights, dtype=torch.float64), self.rewards_KNT
        )
        for t in reversed(range(future_NT.shape[1] - 1)):
            future_NT[:, t] += gamma * future_NT[:, t + 1]
        return future_NT

    def gradient(self, gamma: float = 1.0) -> Tensor:
        """Compute the exact policy gradient [P].

        It is the expectation of every turn's score times its discounted return-to-go.

        With gamma below 1 this is what discounting estimators aim at; it is the gradient of no
        fixed objective.
        """
        chance_N = self.chance_N / len(self.tasks)
        return torch.einsum("n,nt,ntp->p", chance_N, self.future_NT(gamma), self.score_NTP)

    def values_NL(self, critic: Critic, gamma: float = 1.0) -> Tensor:
        """Compute a value before each token: the expected return-to-go, or a wrong critic's.

        The former knows all that was written; the latter is a function of state and turn.
        """
        states, future_NT = list(self.logits), self.future_NT(gamma)
        values_NL = torch.zeros(self.turn_NL.shape, dtype=torch.float64)
        for n, play in enumerate(self.plays):
            places = [(t, move, k) for t, move in enumerate(play) for k in range(move.tokens)]
            for column, (t, move, k) in enumerate(places):
                same = [m for m in range(len(self.plays)) if self._alike(n, m, t + (k > 0))]
                exact = self.chance_N[same] @ future_NT[same, t] / self.chance_N[same].sum()
                wrong = 0.8 - 0.5 * t + 0.3 * states.index(move.state) + 0.1 * k * (move.action + 1)
                values_NL[n, column] = exact if critic == "exact" else wrong
        return values_NL

    def _alike(self, n: int, m: int, t: int) -> bool:
        """Tell whether the episodes n and m were the same until turn t began."""
        return bool(self.task_N[n] == self.task_N[m]) and self.plays[n][:t] == self.plays[m][:t]

    def range(self) -> tuple[float, float]:
        """Compute the smallest and largest sum of any named reward over an episode."""
        sums = self.rewards_KNT.sum(2)
        return float(sums.min()), float(sums.max())

    def batch(self, index_E: Tensor, group_E: Tensor, values_NL: Tensor | None = None) -> Case:
        """Pack the episodes `index_E` into a batch."""
        turns_E, lengths_E = self.turns_N[index_E], self.tokens_NT[index_E].sum(1)
        most, width = int(turns_E.max()), int(lengths_E.max())
        turn_BL = self.turn_NL[index_E, :width]
        batch = TokenBatch(
            tokens_BL=torch.zeros_like(turn_BL),
            lengths_B=lengths_E,
            turn_BL=turn_BL,
            scores={"engine": Scores({"logprobs": torch.zeros(turn_BL.shape).double()})},
            versions_BL=torch.where(turn_BL >= 0, 0, -1),
            episode_B=torch.arange(len(index_E)),
            group_E=group_E,
            turns_E=turns_E,
            terminated_E=torch.ones(len(index_E), dtype=torch.bool),
            success_E=torch.zeros(len(index_E), dtype=torch.bool),
            state_ET=self._state_NT[index_E, :most],
            tag_ET=self._tag_NT[index_E, :most],
            values_BL=None if values_NL is None else values_NL[index_E, :width],
        )
        tokens_ET = self.tokens_NT[index_E, :most]
        first_ET = (tokens_ET.cumsum(1) - tokens_ET).clamp(max=width - 1)
        return Case(
            batch,
            RewardTable(
                self.rewards,
                torch.tensor(self.weights, dtype=torch.float64),
                self.rewards_KNT[:, index_E, :most],
                turns_E,
            ),
            self.score_NTP[index_E, :most],
            index_E,
            first_ET,
        )

    @cached_property
    def _state_NT(self) -> Tensor:
        return self._per_turn(lambda move: list(self.logits).index(move.state))

    @cached_property
    def _tag_NT(self) -> Tensor:
        return self._per_turn(lambda move: move.tag)

    def _per_turn(self, number: Callable[[Move], int], fill: int = -1) -> Tensor:
        width = int(self.turns_N.max())
        return torch.tensor(
            [[*map(number, play), *[fill] * (width - len(play))] for play in self.plays]
        )


@dataclass(frozen=True)
class Case:
    """A batch with what an estimator and its gradient need."""

    batch: TokenBatch
    rewards: RewardTable
    score_ETP: Tensor
    index_E: Tensor
    first_ET: Tensor
    """The column of each turn's first token, which decides."""

    def gradient_EP(self, credit: Estimator) -> Tensor:
        """Compute each episode's part of the estimate, turns added up.

        The mean over episodes is left to the caller.
        """
        advantages = credit(self.rewards, self.batch)
        values_ET = advantages.values
        if advantages.level == "token":
            values_ET = values_ET.gather(1, self.first_ET)
        return (values_ET[:, :, None] * self.score_ETP).sum(1)

    def with_values(self, values_NL: Tensor) -> Case:
        """Return the same batch with a critic's values."""
        values_BL = values_NL[self.index_E, : self.batch.turn_BL.shape[1]]
        return replace(self, batch=replace(self.batch, values_BL=values_BL))

    def weights_E(self, aggregation: Aggregation) -> Tensor:
        """Compute what the loss's aggregation multiplies each episode's tokens with."""
        loss = LOSSES.build({"name": "reinforce", "aggregation": aggregation}).of_length(1)
        return loss.weights_BL(self.batch, torch.float64)[
            :, 0
        ]  # an episode is one row, sampled from its first token on


@dataclass(frozen=True)
class Moments:
    """The mean [P] of a gradient estimate, its variance, and the 95 % radius of the mean.

    The variance is the trace of the covariance.
    """

    mean_P: Tensor
    variance: float
    radius: float = 0.0


def moments(gradient_CP: Tensor, chance_C: Tensor) -> Moments:
    """Compute the moments of cases with these chances."""
    mean_P = (chance_C[:, None] * gradient_CP).sum(0)
    return Moments(mean_P, float((chance_C * ((gradient_CP - mean_P) ** 2).sum(1)).sum()))


def groups(problem: Problem, size: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """List every group that can occur, regardless of order, and its probability.

    No estimator looks at the order.
    """
    found, chances = [], []
    for task in range(len(problem.tasks)):
        members = (problem.task_N == task).nonzero().flatten().tolist()
        for group in itertools.combinations_with_replacement(members, size):
            orders = math.factorial(size) // math.prod(
                math.factorial(group.count(n)) for n in set(group)
            )
            found.append(group)
            chances.append(
                orders * math.prod(float(problem.chance_N[n]) for n in group) / len(problem.tasks)
            )
    return found, chances


def all_groups(problem: Problem, size: int) -> tuple[Case, Tensor]:
    """Pack every group that can occur into one batch; return their probabilities [C] too."""
    found, chances = groups(problem, size)
    index_E = torch.tensor(found).flatten()
    case = problem.batch(index_E, torch.arange(len(found)).repeat_interleave(size))
    return case, torch.tensor(chances, dtype=torch.float64)


@dataclass(frozen=True)
class Batches:
    """Every batch of two groups that can occur, regardless of order."""

    side: Case
    """All groups side by side, in one batch."""
    cases: Sequence[Case]
    chance_C: Tensor
    pair_C2: Tensor
    """Which groups of `side` a case is made of."""
    weights: dict[Aggregation, Tensor]
    """The weight of each episode [C, E], by aggregation of the loss."""

    def gradient_CEP(self, credit: Estimator, *, pooled: bool) -> Tensor:
        """Compute each episode's part of the estimate, case by case.

        `pooled`: the estimator compares groups.
        """
        if pooled:
            return torch.stack([case.gradient_EP(credit) for case in self.cases])
        groups = int(self.side.batch.group_E.max()) + 1
        gradient_GEP: Tensor = self.side.gradient_EP(credit).unflatten(0, (groups, -1))
        return gradient_GEP[self.pair_C2].flatten(1, 2)

    def moments_by(self, credit: Estimator, *, pooled: bool) -> dict[Aggregation, Moments]:
        """Compute the exact moments of the estimate, by aggregation."""
        gradient_CEP = self.gradient_CEP(credit, pooled=pooled)
        return {
            name: moments((weight_CE[:, :, None] * gradient_CEP).sum(1), self.chance_C)
            for name, weight_CE in self.weights.items()
        }


def all_batches(problem: Problem, size: int) -> Batches:
    """Pack every batch of two groups that can occur."""
    found, chances = groups(problem, size)
    group_E = torch.arange(2).repeat_interleave(size)
    pairs = list(itertools.combinations_with_replacement(range(len(found)), 2))
    cases = [problem.batch(torch.tensor(found[a] + found[b]), group_E) for a, b in pairs]
    # Two different groups come in two orders.
    chance = [(1 + (a != b)) * chances[a] * chances[b] for a, b in pairs]
    side, _ = all_groups(problem, size)
    weights = {name: torch.stack([case.weights_E(name) for case in cases]) for name in AGGREGATIONS}
    return Batches(
        side, cases, torch.tensor(chance, dtype=torch.float64), torch.tensor(pairs), weights
    )


def estimates(
    credit: Estimator, cases: Sequence[Case], aggregation: Aggregation = "seq_mean_token_sum"
) -> Tensor:
    """Compute the estimate of each batch [C, P]."""
    return torch.stack([case.weights_E(aggregation) @ case.gradient_EP(credit) for case in cases])


def moments_of_groups(credit: Estimator, case: Case, chance_C: Tensor) -> Moments:
    """Compute exact moments of one group's estimate, for estimators that look at the group only."""
    gradient_CP = case.gradient_EP(credit).unflatten(0, (len(chance_C), -1)).mean(1)
    return moments(gradient_CP, chance_C)


def sample_batches(
    problem: Problem, size: int, count: int, batches: int, seed: int = 0
) -> Iterator[Case]:
    """Draw random batches of `count` groups."""
    generator = torch.Generator().manual_seed(seed)
    first = [int((problem.task_N < task).sum()) for task in range(len(problem.tasks))]
    group_E = torch.arange(count).repeat_interleave(size)
    for _ in range(batches):
        task_G = torch.randint(len(problem.tasks), (count,), generator=generator).tolist()
        index = [
            first[k]
            + torch.multinomial(
                problem.chance_N[problem.task_N == k], size, True, generator=generator
            )
            for k in task_G
        ]
        yield problem.batch(torch.cat(index), group_E)


def sampled_moments(gradient_CP: Tensor, controls_CPX: Tensor) -> Moments:
    """Compute moments of samples; controls X of known mean 0 take most noise out of the mean.

    The radius holds for the distance between the mean found and the true one, whatever the shape of
    the covariance.
    """
    centred_CPX, centred_CP = controls_CPX - controls_CPX.mean(0), gradient_CP - gradient_CP.mean(0)
    # By singular values: on some problems two controls are the same.
    slope_X = torch.linalg.lstsq(
        centred_CPX.flatten(0, 1), centred_CP.reshape(-1), driver="gelsd"
    ).solution
    rest_CP = gradient_CP - controls_CPX @ slope_X
    radius = 1.96 * math.sqrt(float(rest_CP.var(0).sum()) / len(rest_CP))
    return Moments(rest_CP.mean(0), float(gradient_CP.var(0).sum()), radius)


@dataclass(frozen=True)
class Comparison:
    """A mean estimate against the exact gradient."""

    cosine: float
    scale: float
    """Length of the mean along the exact gradient, in lengths of the exact gradient."""
    bias: float
    """Norm of what is left of the mean, divided by `scale`, minus the exact gradient; relative to
    that gradient.
    """
    noise: float
    """Trace of the covariance, divided by `scale` squared, relative to the squared norm of the
    exact gradient.
    """
    variance: float
    """The same, not divided by `scale` squared."""
    margin: float
    """95 % margin of `bias`; 0 if exact."""


def compare(found: Moments, exact_P: Tensor) -> Comparison:
    """Measure how far the mean points from the exact gradient."""
    norm = float(exact_P.norm())
    scale = float(found.mean_P @ exact_P) / norm**2
    variance = found.variance / norm**2
    return Comparison(
        cosine=float(found.mean_P @ exact_P) / (norm * float(found.mean_P.norm())),
        scale=scale,
        bias=float((found.mean_P - scale * exact_P).norm()) / (abs(scale) * norm),
        noise=variance / scale**2,
        variance=variance,
        margin=found.radius / (abs(scale) * norm),
    )
