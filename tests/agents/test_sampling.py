"""Vectorised sampling: random streams, exact supports, frequencies, stop strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from turnrl.agents.engines.base import Sampling
from turnrl.agents.engines.torch.sampling import (
    SamplingBatch,
    StopText,
    filter_probs,
    hash_seeds,
    uniform,
)

CPU = torch.device("cpu")


def draw(logits_V: torch.Tensor, n: int, **fields: Any) -> list[int]:
    batch = SamplingBatch([Sampling(seed=seed, **fields) for seed in range(n)], CPU)
    ids, _ = batch.sample(logits_V.expand(n, -1).clone(), [0] * n)
    return ids


def test_uniform_depends_on_seed_and_index_only() -> None:
    together = uniform(hash_seeds([5, 6, 5]), [0, 0, 3])
    assert together[0] == uniform(hash_seeds([5]), [0])[0]
    assert together[2] == uniform(hash_seeds([5]), [3])[0]
    assert len(set(together.tolist())) == 3


def test_uniform_is_uniform() -> None:
    over_seeds = uniform(hash_seeds(range(20_000)), [0] * 20_000)
    over_index = uniform(hash_seeds([7] * 20_000), range(20_000))
    for u in (over_seeds, over_index):
        assert u.min() >= 0
        assert u.max() < 1
        counts, _ = np.histogram(u, 50, (0, 1))
        assert ((counts - 400) ** 2 / 400).sum() < 100  # 49 degrees of freedom
    assert abs(np.corrcoef(over_index[1:], over_index[:-1])[0, 1]) < 0.03
    assert (
        uniform(hash_seeds([2**80 + 1]), [0])[0] == uniform(hash_seeds([2**80 % 2**64 + 1]), [0])[0]
    )


def chi_square(ids: list[int], probs: torch.Tensor) -> float:
    counts = torch.bincount(torch.tensor(ids), minlength=len(probs)).double()
    expected = probs.double() * len(ids)
    assert counts[expected == 0].sum() == 0
    inside = expected > 0
    return float(((counts - expected)[inside] ** 2 / expected[inside]).sum())


def test_frequencies_match_softmax_at_temperature() -> None:
    logits = torch.linspace(-2, 2, 20)
    assert (
        chi_square(draw(logits, 20_000, temperature=0.7), (logits / 0.7).softmax(-1)) < 45
    )  # 19 dof, p < 0.001


def test_top_k_and_top_p_supports() -> None:
    logits = torch.tensor([0.5, 0.1, 0.3, 0.05, 0.05]).log()
    assert set(draw(logits, 2000, top_k=2)) == {0, 2}
    assert set(draw(logits, 2000, top_p=0.85)) == {0, 1, 2}
    assert set(draw(logits, 2000, top_p=0.4)) == {0}
    # 0.5 / 0.9 of what top-k leaves is less than 0.6, so the second token is needed and is enough.
    assert set(draw(logits, 2000, top_k=3, top_p=0.6)) == {0, 2}
    kept = torch.tensor([0.5, 0, 0.3, 0, 0])
    assert chi_square(draw(logits, 20_000, top_k=2), kept / kept.sum()) < 11


def test_filter_keeps_lowest_ids_of_ties() -> None:
    probs = torch.full((1, 4), 0.25)
    kept = filter_probs(probs, torch.tensor([2]), torch.tensor([1.0]))
    assert kept[0].tolist() == [0.25, 0.25, 0, 0]
    kept = filter_probs(probs, torch.tensor([4]), torch.tensor([0.7]))
    assert kept[0].tolist() == [0.25, 0.25, 0.25, 0]


def test_logprobs_are_before_filters_and_after_temperature() -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    samplings = [
        Sampling(temperature=0.5, top_k=1),
        Sampling(temperature=0),
        Sampling(temperature=2, seed=4),
    ]
    ids, logprobs = SamplingBatch(samplings, CPU).sample(logits.clone(), [0, 0, 0])
    assert ids[0] == int(logits[0].argmax())
    assert ids[1] == int(logits[1].argmax())
    for b, temperature in enumerate([0.5, 1.0, 2.0]):
        assert logprobs[b] == pytest.approx(
            float((logits[b] / temperature).log_softmax(-1)[ids[b]]), abs=1e-6
        )


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(2, 1000)
    logits[:, [17, 400, 999]] = 1.0
    assert SamplingBatch([Sampling(temperature=0), Sampling(temperature=0)], CPU).sample(
        logits, [0, 0]
    )[0] == [17, 17]


def test_minimum_forbids_stop_tokens_and_renormalises() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]])
    batch = SamplingBatch([Sampling(temperature=0, min_tokens=2, stop_token_ids=(0,))], CPU)
    ids, logprobs = batch.sample(logits.clone(), [1])
    assert ids == [1]
    assert logprobs[0] == pytest.approx(np.log(0.5), abs=1e-6)
    assert batch.sample(logits.clone(), [2])[0] == [0]


def test_rows_do_not_depend_on_the_batch() -> None:
    logits = torch.randn(32, 50, generator=torch.Generator().manual_seed(1))
    samplings = [
        Sampling(seed=i, temperature=0.5 + i % 3, top_k=i % 4 * 5, top_p=1 - i % 2 * 0.3)
        for i in range(32)
    ]
    ids, _ = SamplingBatch(samplings, CPU).sample(logits.clone(), list(range(32)))
    for i in range(32):
        assert SamplingBatch([samplings[i]], CPU).sample(logits[i : i + 1].clone(), [i])[0] == [
            ids[i]
        ]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("stop", ["\n", "</a>", "é"])
def test_stop_text(stop: str) -> None:
    ids = list(("x" * 200 + "<a" + stop).encode())
    finder = StopText(Bytes())
    found = [finder.found(ids[: i + 1], ("zz", stop)) for i in range(len(ids))]
    assert found == [False] * (len(ids) - 1) + [True]
    assert not finder.found([*ids, 120], (stop,))
    assert finder.found([*ids, 120], (stop,), every=True)
