"""Diagnostic ``update_sparsity``: how much of the weights a stage has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from ...foundation.plugins import Need
from ..view import StepView
from .base import Diagnostic


class UpdateSparsity(Diagnostic):
    """Share of the trained numbers that are where they were when the stage began.

    ``share = mean 1[|w - w_0| <= tolerance]`` over all of them; ``share/least`` and ``share/most``
    are those of single matrices, and with ``each`` the metrics have every matrix by its name. With
    ``ranks``, ``rank`` is the numerical rank of the change of a matrix over the largest that it can
    have, averaged over the matrices that changed. The paper finds that reinforcement learning
    changes 5 to 30 % of the weights, by updates of nearly full rank.

    A change in one of four numbers has a share of 0.75, and a rank of 1/2 if they are a 2 x 2
    matrix.

    Edge cases: weights are compared in the type that they are trained in; in bfloat16 rounding
    leaves many of them where they were, whatever was learnt. Weights that are tied count once. Of a
    model with adapters only the adapters are looked at. Where nothing has changed there is no rank.

    Paper: "Reinforcement Learning Finetunes Small Subnetworks in Large Language Models" (arXiv
    2505.11711). Source: general knowledge of the paper; the ranks as a share are ours.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.INITIAL_WEIGHTS})
    name: Literal["update_sparsity"] = "update_sparsity"
    tolerance: float = Field(1e-5, ge=0, description="largest difference that counts as unchanged")
    ranks: bool = Field(
        False, description="measure ranks too: a singular value decomposition of each matrix"
    )
    each: bool = Field(False, description="report the share of every matrix by its name")

    def __call__(self, view: StepView) -> Mapping[str, float]:
        """Measure shares of weights that have not changed, and ranks if they are asked for."""
        unchanged = total = 0
        shares: dict[str, float] = {}
        ranks: list[float] = []
        for name, weight in view.model.named_parameters():
            if name not in view.initial:
                continue
            change = weight.detach() - view.initial[name]
            same = int((change.abs() <= self.tolerance).sum())
            unchanged, total = unchanged + same, total + change.numel()
            if change.ndim == 2:
                shares[name] = same / change.numel()
                if self.ranks and same < change.numel():
                    rank = float(torch.linalg.matrix_rank(change.float()))
                    ranks.append(rank / min(change.shape))
        found = {"share": unchanged / total} if total else {}
        if shares:
            found |= {"share/least": min(shares.values()), "share/most": max(shares.values())}
        if ranks:
            found["rank"] = sum(ranks) / len(ranks)
        if self.each:
            found |= {f"share/{name}": share for name, share in shares.items()}
        return found
