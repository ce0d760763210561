"""The head: from last hidden states to the logits that are sampled from and learnt from.

A model is more than its decoder and a matrix: some families cap or scale the logits after it
(Gemma 2, Granite, Cohere, Falcon-H1). Engine and trainer compute them here, so that they have one
policy between them::

    head = Head(model)
    logits_NV = head(hidden_ND)

Rows of the matrix that stand for no token of the tokenizer are left out: `say_only`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .positions import text_config

_UNSAID = "turnrl_unsaid"
"""Attribute of a head's module: ids that are never said. It goes along where a model is copied."""
_NEVER = -1e9
"""Logit of an id that is never said: finite, so that products with its probability are 0."""


class Head:
    """The logits of a causal language model, at least float32.

    Args:
        model: with `get_output_embeddings`.

    Attributes: rows: entries of the vocabulary, said or not. known: those before the unsaid end.
    """

    def __init__(self, model: Any) -> None:
        self.module: nn.Module = model.get_output_embeddings()
        weight: Tensor = self.module.weight
        self.rows, self.dtype = int(weight.shape[0]), weight.dtype
        config = text_config(model.config)
        self._cap: float | None = getattr(
            config, "final_logit_softcapping", getattr(config, "logits_soft_cap", None)
        )
        self._scale = float(
            (getattr(config, "logit_scale", None) or 1.0)
            * (getattr(config, "lm_head_multiplier", None) or 1.0)
        )
        self._divisor = float(getattr(config, "logits_scaling", None) or 1.0)
        unsaid: frozenset[int] = getattr(self.module, _UNSAID, frozenset())
        self.known = self.rows
        while self.known - 1 in unsaid:
            self.known -= 1
        holes = sorted(i for i in unsaid if i < self.known)
        # Made once: a step that is recorded on a GPU copies nothing from the host.
        self._holes_N = torch.tensor(holes, dtype=torch.int64, device=weight.device)

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Compute the logits [N, known] of hidden states [N, D]."""
        logits_NV: Tensor = self.module(hidden_ND)
        if self._divisor != 1.0:
            logits_NV = logits_NV / self._divisor
        if self._scale != 1.0:
            logits_NV = logits_NV * self._scale
        if self._cap is not None:
            logits_NV = torch.tanh(logits_NV / self._cap) * self._cap
        return self.said(logits_NV)

    def said(self, logits_NV: Tensor) -> Tensor:
        """Leave what is never said out of logits [N, rows] that the model itself computed."""
        if self.known < self.rows:  # a slice costs a copy in the backward pass
            logits_NV = logits_NV[:, : self.known]
        logits_NV = at_least_float32(logits_NV)
        if len(self._holes_N):
            logits_NV = logits_NV.index_fill(1, self._holes_N, _NEVER)
        return logits_NV


def say_only(model: Any, ids: Iterable[int]) -> int:
    """Let a model say no other ids than these; return how many rows of its head that leaves out.

    Checkpoints often have more rows than their tokenizer has tokens, so that a matrix has a round
    size. Such an id is no text: a response that held one could not be read, nor fed again.
    """
    module = model.get_output_embeddings()
    unsaid = frozenset(range(module.weight.shape[0])) - frozenset(ids)
    setattr(module, _UNSAID, unsaid)
    return len(unsaid)


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32, or in float64 if that is what they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
