"""Rows: a multiple of sequences is kept, and credit does not depend on which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.episode import StopReason
from turnrl.foundation.errors import UserError
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import CREDITS
from turnrl.training.learner.rows import downsample

from .builders import batch_of, env_rewards, random_groups, table


@pytest.mark.parametrize(
    ("n", "multiple", "kept"), [(37, 8, 32), (1003, 8, 1000), (16, 8, 16), (8, 8, 8), (5, 1, 5)]
)
def test_the_largest_multiple_is_kept(n: int, multiple: int, kept: int) -> None:
    rows = downsample(batch_of([[0]] * n), multiple, 0)
    assert len(rows) == kept
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert set(rows.tolist()) <= set(range(n))


@pytest.mark.parametrize("n", [1, 7])
def test_too_few_rows_are_the_users_mistake(n: int) -> None:
    with pytest.raises(UserError, match=f"gave {n} sequences .* no multiple of 8"):
        downsample(batch_of([[0]] * n), 8, 0)


def test_the_seed_alone_chooses_and_every_row_has_the_same_chance() -> None:
    batch = batch_of([[0]] * 11)
    counts = torch.zeros(11)
    for seed in range(400):
        torch.manual_seed(seed % 3)
        rows = downsample(batch, 8, seed)
        assert rows.equal(downsample(batch, 8, seed))
        counts[rows] += 1
    # 400 * 8 / 11 = 291 on average, with a standard deviation of 9.
    assert counts.min() > 245
    assert counts.max() < 337


def test_rows_without_a_sampled_token_are_left_out_first() -> None:
    silent = [[-1], [-1, -1]]
    batch = batch_of(
        [[0], *silent, [0, -1], [-1, 1], [0]], episodes=[0, 0, 1, 1, 2, 3], turns=[1, 1, 2, 1]
    )
    assert downsample(batch, 4, 0).tolist() == [0, 3, 4, 5]
    assert downsample(batch, 1, 0).tolist() == [0, 3, 4, 5]
    with pytest.raises(UserError, match="gave 4 sequences"):
        downsample(batch, 5, 0)


@given(seed=st.integers(0, 10**6), multiple=st.integers(1, 6))
def test_kept_rows_keep_their_tokens_and_their_advantages(seed: int, multiple: int) -> None:
    groups = random_groups(seed)
    batch = TokenBatch.pack(groups, closing=set(StopReason))
    credit = CREDITS.build({"name": "turn_return"})
    advantages_ET = credit(table(env_rewards(groups)), batch).values
    advantages_BL = batch.spread(advantages_ET)
    rows = downsample(batch, multiple, seed)
    part = batch.select(rows)
    assert (
        len(part.lengths_B) == len(rows) == int(batch.mask_BL.any(1).sum()) // multiple * multiple
    )
    assert part.group_E.equal(batch.group_E)
    assert part.turns_E.equal(batch.turns_E)
    width = part.tokens_BL.shape[1]
    for b, row in enumerate(rows.tolist()):
        length = int(batch.lengths_B[row])
        assert part.tokens_BL[b, :length].equal(batch.tokens_BL[row, :length])
        part_L, whole_L = (
            x.logprobs_of("engine")[i, :length] for x, i in ((part, b), (batch, row))
        )
        assert part_L.equal(whole_L)
        assert part.episode_B[b] == batch.episode_B[row]
    assert part.spread(advantages_ET).equal(advantages_BL[rows, :width])
