"""Rows of an update: cuts into minibatches, and counts that divide evenly among workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...foundation.errors import UserError
from ..batch import TokenBatch
from ..work import Work

Part = tuple[TokenBatch, Tensor]
"""Some sequences of a work, and their advantages."""


def downsample(batch: TokenBatch, multiple: int, seed: int) -> Tensor:
    """Choose ``floor(n / multiple) * multiple`` sequences at random; indices in their order.

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


def minibatches(
    works: Sequence[Work], passes: int, count: int, seed: int
) -> Iterator[list[Part | None]]:
    """Cut works into minibatches of whole episodes, or of whole groups if an objective is of those.

    They are shuffled anew for each pass. Yields, for each optimiser step, a part of each work, or
    None where too few episodes of it are left; steps to which no work has anything are left out.
    """
    for epoch in range(passes):
        for parts in zip(*(_cut(work, count, seed * 101 + epoch) for work in works), strict=True):
            if any(part is not None for part in parts):
                yield list(parts)


def _cut(work: Work, count: int, seed: int) -> Iterator[Part | None]:
    """Cut a work into `count` parts."""
    batch, advantages_BL = work.batch, work.advantages_BL
    if count == 1:
        yield batch, advantages_BL
        return
    generator = torch.Generator("cpu").manual_seed(seed)
    grouped = any(term.whole == "group" for term in work.objectives)
    unit_B = batch.group_E[batch.episode_B] if grouped else batch.episode_B
    units = int(batch.group_E.max()) + 1 if grouped and batch.episodes else batch.episodes
    order = torch.randperm(units, generator=generator, device="cpu")
    chunks = order.to(batch.device).chunk(count)
    for index in range(count):
        chosen = chunks[index] if index < len(chunks) else order[:0].to(batch.device)
        rows = torch.isin(unit_B, chosen).nonzero().flatten()
        if not len(rows):
            yield None
            continue
        part = batch.select(rows)
        yield part, advantages_BL[rows, : part.tokens_BL.shape[1]]
