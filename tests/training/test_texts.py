"""Texts as a batch: a preference over pairs is learnt exactly, however the batch is cut."""

from __future__ import annotations

import copy
import random
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid
from turnrl.agents.episode import StopReason
from turnrl.agents.models.forward import Scores
from turnrl.foundation.errors import UserError
from turnrl.foundation.plugins import Need
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import Advantages
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.gradients import Gradients
from turnrl.training.learner.local import Learner
from turnrl.training.losses.base import PolicyLoss

from .test_batch_losses import gradients_of, moved
from .test_update import model

BETA = 0.3
Texts = tuple[list[list[int]], list[list[int]], list[tuple[int, int]]]


class Preferred(PolicyLoss):
    """The mean over pairs of ``-log sigmoid(beta * (chosen - rejected))``, both log-ratios of a
    whole answer to the reference.
    """

    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    skips_zero: ClassVar[bool] = False
    requires: ClassVar[frozenset[Need]] = frozenset({Need.REF_LOGPROBS})
    name: Literal["preferred"] = "preferred"

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        gap_BL = torch.where(batch.mask_BL, scores.logprobs_BL - batch.logprobs_of("ref"), 0.0)
        gap_E = batch.per_episode(gap_BL.sum(1))
        margin_P = gap_E[batch.signals["chosen_P"]] - gap_E[batch.signals["rejected_P"]]
        return -logsigmoid(BETA * margin_P).mean(), {"margin": float(margin_P.detach().mean())}


def config_of(budget: int = 2048) -> LearnerConfig:
    loss = {"name": f"{__name__}:Preferred"}
    return LearnerConfig.model_validate({"token_budget": budget, "loss": loss})


def texts_of(seed: int) -> Texts:
    """Some prompts with two or three answers each, and pairs of which some share an answer."""
    rng = random.Random(seed)

    def ids(most: int) -> list[int]:
        return [rng.randrange(5, 200) for _ in range(rng.randint(1, most))]

    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    pairs: list[tuple[int, int]] = []
    for _ in range(rng.randint(1, 4)):
        prompt, first = ids(12), len(answers)
        for _ in range(rng.randint(2, 3)):
            prompts.append(prompt)
            answers.append(ids(9))
        best, *worse = rng.sample(range(first, len(answers)), len(answers) - first)
        pairs += [(best, other) for other in worse]
    return prompts, answers, pairs


def plain(policy: Any, reference: Any, texts: Texts) -> tuple[float, Tensor]:
    """Value and gradient without a batch: a forward pass of each text alone, in one graph."""

    def logprob(of: Any, prompt: list[int], answer: list[int]) -> Tensor:
        logits_LV = of(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        return torch.stack([logits_LV[i, token] for i, token in zip(at, answer, strict=True)]).sum()

    prompts, answers, pairs = texts
    gaps = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            before = logprob(reference, prompt, answer)
        gaps.append(logprob(policy, prompt, answer) - before)
    margins = torch.stack([gaps[chosen] - gaps[rejected] for chosen, rejected in pairs])
    value = -torch.log(torch.sigmoid(BETA * margins)).mean()
    value.backward()
    return float(value.detach()), gradients_of(policy)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), budget=st.sampled_from([1, 25, 60, 10_000]))
def test_a_loss_over_pairs_is_that_of_one_whole_graph(seed: int, budget: int) -> None:
    reference, texts = copy.deepcopy(model()).double(), texts_of(seed)
    value, expected = plain(moved(), reference, texts)
    config = config_of(budget)
    batch = Learner(config, reference).measured(TokenBatch.of_texts(*texts))
    policy = moved()
    work = Gradients(config, policy, [config.loss])
    assert work.accumulate(batch, torch.zeros(batch.tokens_BL.shape, dtype=torch.float64))
    assert work.means()["loss/policy"] == pytest.approx(value, rel=1e-9)
    found = gradients_of(policy)
    assert float(expected.norm()) > 1e-6
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_a_cut_parts_the_answers_of_a_pair() -> None:
    """Else the test above would prove nothing."""
    batch = TokenBatch.of_texts(*texts_of(0))
    chosen, rejected = batch.signals["chosen_P"], batch.signals["rejected_P"]
    parts = [set(batch.episode_B[rows].tolist()) for rows in batch.split(25)]
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert any(not any(set(pair) <= part for part in parts) for pair in pairs)


def test_a_learner_comes_to_prefer_what_was_chosen() -> None:
    texts = texts_of(1)
    learner = Learner(config_of(), copy.deepcopy(model()))
    batch = learner.measured(TokenBatch.of_texts(*texts))
    work = learner.work(batch, Advantages(torch.zeros(batch.tokens_BL.shape), "token", None))
    margins = [learner.update([work], step)["margin"] for step in range(4)]
    assert margins[0] == pytest.approx(0, abs=1e-4), "the policy is the reference"
    assert margins[-1] > 1e-3
    assert all(bool(weight.isfinite().all()) for weight in learner.model.parameters())


def test_texts_are_episodes_of_one_turn() -> None:
    prompts, answers = [[1, 2], [7], [1, 2]], [[3], [4, 5], [6, 8, 9]]
    batch = TokenBatch.of_texts(prompts, answers, [(2, 0)], temperature=0.5)
    assert batch.tokens_BL.tolist() == [[1, 2, 3, 0, 0], [7, 4, 5, 0, 0], [1, 2, 6, 8, 9]]
    assert batch.turn_BL.tolist() == [
        [-1, -1, 0, -1, -1],
        [-1, 0, 0, -1, -1],
        [-1, -1, 0, 0, 0],
    ]
    assert batch.lengths_B.tolist() == [3, 3, 5]
    assert batch.episode_B.tolist() == [0, 1, 2]
    assert batch.group_E.tolist() == [0, 1, 0], "a group is what was said to one prompt"
    assert batch.turns_E.tolist() == [1, 1, 1]
    assert batch.tokens_E.tolist() == [1, 2, 3]
    assert batch.signals["chosen_P"].tolist() == [2]
    assert batch.signals["rejected_P"].tolist() == [0]
    assert batch.temperature == 0.5
    sampled_BL = batch.logprobs_of("engine")
    assert sampled_BL.isnan().equal(batch.mask_BL), "no engine sampled them"
    assert batch.off_policy_BL.equal(batch.mask_BL)
    assert batch.versions_BL.eq(-1).all()
    assert not batch.stopped_E(list(StopReason)).any()
    assert batch.select([1]).tokens_E.tolist() == [0, 2, 0]


def test_without_a_text_there_is_nothing() -> None:
    batch = TokenBatch.of_texts([], [])
    assert batch.episodes == len(batch.lengths_B) == len(batch.signals["chosen_P"]) == 0
    assert list(batch.split(10)) == []


@pytest.mark.parametrize(
    ("prompts", "answers", "pairs", "said"),
    [
        ([[1]], [[2], [3]], [], "1 prompts and 2 answers; each answer has a prompt of its own"),
        ([[1], []], [[2], [3]], [], "prompt of answer 1 is empty; it needs a token"),
        ([[1], [1]], [[], [3]], [], "answer 0 is empty; it needs a token"),
        ([[1], [1]], [[2], [3]], [(0, 1), (0, 2)], r"pair 1 is \(0, 2\); .* from 0 to 1"),
        ([[1], [1]], [[2], [3]], [(-1, 0)], r"pair 0 is \(-1, 0\)"),
        ([[1], [1]], [[2], [3]], [(1, 1)], r"pair 0 is \(1, 1\)"),
        ([[1], [1]], [[2], [3]], [(0, 1, 1)], r"pair 0 is \(0, 1, 1\)"),
    ],
)
def test_what_is_no_text_or_no_pair_is_said(
    prompts: Any, answers: Any, pairs: Any, said: str
) -> None:
    with pytest.raises(UserError, match=f"texts: .*{said}"):
        TokenBatch.of_texts(prompts, answers, pairs)
