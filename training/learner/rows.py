"""Rows of an update: a number of sequences that divides evenly among workers."""

from __future__ import annotations

import torch
from torch import Tensor

from ...foundation.errors import UserError
from ..batch import TokenBatch


def downsample(batch: TokenBatch, multiple: int, seed: int) -> Tensor:
    """Indices of ``floor(n / multiple) * multiple`` sequences, chosen at random, in their order.

    n counts the sequences with a sampled token; others (the state after a cut episode, for a
    critic) teach the policy nothing and are left out first. Sequences are dropped, not episodes:
    call it after credit was computed on the whole batch, so that no return, group statistic or
    advantage depends on the choice. Equal seeds choose equally, whatever else is random in the
    process.

    Paper: IterResearch (arXiv 2511.07327), which keeps more than 99% of its rows. Source: a
    description of the paper; leaving out sequences without a sampled token is ours.

    Raises:
        UserError: there are fewer sequences than `multiple`.
    """
    rows = batch.mask_BL.any(1).nonzero().flatten()
    kept = len(rows) // multiple * multiple
    if not kept:
        raise UserError(
            f"a step gave {len(rows)} sequences with sampled tokens, which is no multiple of"
            f" {multiple} above 0; play more episodes per step or ask for a smaller multiple"
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator, device="cpu")
    return rows[order[:kept].sort().values.to(rows.device)]
