"""The policy's forward pass for learning: logits only where actions are.

Rows are right-padded and attention is causal, so padding can never be seen by a real token and no
mask is needed.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import narrow

logger = logging.getLogger(__name__)

LOGIT_CHUNK = 1 << 23
"""Most logits (tokens x vocabulary) held at once; beyond it they are recomputed in the backward
pass.
"""


@dataclass(slots=True)
class Scores:
    """The numbers that a forward pass gives for chosen tokens; zeros elsewhere."""

    logprobs_BL: Tensor
    entropy_BL: Tensor
    """Entropy (nats) of the distribution each token was drawn from."""
    hidden_ND: Tensor
    """Last hidden states before the chosen tokens, in row-major order."""
    where: tuple[Tensor, Tensor] = field(repr=False)
    """Rows and columns of the chosen tokens."""

    @property
    def hidden_BLD(self) -> Tensor:
        """Last hidden states where a chosen token follows, for a value head; zeros elsewhere."""
        rows_N, columns_N = self.where
        empty_BLD = self.hidden_ND.new_zeros(*self.logprobs_BL.shape, self.hidden_ND.shape[1])
        return empty_BLD.index_put((rows_N, columns_N - 1), self.hidden_ND)


def autocast(bf16: bool) -> AbstractContextManager[Any]:
    """Enter bfloat16 arithmetic over float32 weights, or nothing.

    Warns once on a processor that it makes slower.
    """
    if bf16:
        _warn_if_slow()
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()


@cache
def _warn_if_slow() -> None:
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if found.get("architecture") == "x86_64" and not found.get("avx512_bw"):
        logger.warning(
            "bf16: this processor has no AVX-512, so bfloat16 takes many times as long as float32;"
            " leave bf16 off"
        )


def decoder(model: nn.Module) -> nn.Module:
    """Return the model without its language head."""
    base: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model  # type: ignore[operator, assignment]
    return base


def hidden_states(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """Return the last hidden states [B, L, D] of right-padded rows."""
    return narrow.hidden_states(decoder(model), tokens_BL)


def score(
    model: nn.Module,
    tokens_BL: Tensor,
    mask_BL: Tensor,
    *,
    temperature: float = 1.0,
    entropy_grad: bool = False,
) -> Scores:
    """Compute log-probabilities of the tokens under `mask_BL`, given what precedes each.

    Args:
        tokens_BL: int64, right-padded.
        mask_BL: bool; position 0 must be False.
        temperature: logits are divided by it; 0 counts as 1.
        entropy_grad: keep the gradient of the entropy.
    """
    hidden_ND = narrow.hidden_before(decoder(model), tokens_BL, mask_BL)
    rows_N, columns_N = mask_BL.nonzero(as_tuple=True)
    target_N = tokens_BL[rows_N, columns_N]
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    scale = 1.0 / temperature if temperature > 0 else 1.0
    logprobs_N, entropy_N = _token_scores(head, hidden_ND, target_N, scale, entropy_grad)
    empty_BL = torch.zeros(mask_BL.shape, dtype=torch.float32)
    return Scores(
        logprobs_BL=empty_BL.index_put((rows_N, columns_N), logprobs_N),
        entropy_BL=empty_BL.index_put((rows_N, columns_N), entropy_N),
        hidden_ND=hidden_ND,
        where=(rows_N, columns_N),
    )


def _token_scores(
    head: nn.Module, hidden_ND: Tensor, target_N: Tensor, scale: float, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Compute (log-probability, entropy) of each target, in chunks of bounded memory."""

    def chunk(hidden_nD: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
        logits_nV = head(hidden_nD).float()
        logprobs_nV = torch.log_softmax(logits_nV if scale == 1.0 else logits_nV * scale, dim=-1)
        with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
            entropy_n = _entropy(logprobs_nV)
        return logprobs_nV.gather(1, target_n[:, None]).squeeze(1), entropy_n

    vocabulary = int(head.weight.shape[0])  # type: ignore[index]
    size = max(LOGIT_CHUNK // vocabulary, 1)
    if len(target_N) <= size:
        return chunk(hidden_ND, target_N)
    parts = [
        checkpoint(chunk, hidden_ND[i : i + size], target_N[i : i + size], use_reentrant=False)
        for i in range(0, len(target_N), size)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _entropy(logprobs_nV: Tensor) -> Tensor:
    """Compute the entropy [n] in nats; a token of probability 0 adds nothing."""
    if torch.is_grad_enabled():
        return -(logprobs_nV.exp() * logprobs_nV).nan_to_num(0.0).sum(-1)
    # In place, and over all tokens: these tensors are the largest of an update.
    terms_nV = logprobs_nV.exp().mul_(logprobs_nV)
    entropy_n = -terms_nV.sum(-1)
    return -terms_nV.nan_to_num_(0.0).sum(-1) if bool(entropy_n.isnan().any()) else entropy_n


@torch.no_grad()
def score_batch(
    model: nn.Module,
    tokens_BL: Tensor,
    mask_BL: Tensor,
    rows: list[Tensor],
    *,
    temperature: float,
    bf16: bool,
) -> Tensor:
    """Compute log-probabilities [B, L] of a whole batch without gradient.

    One micro-batch (row indices) is computed at a time.
    """
    out_BL = torch.zeros(mask_BL.shape, dtype=torch.float32)
    for index in rows:
        width = int(mask_BL[index].any(0).nonzero().max()) + 1 if bool(mask_BL[index].any()) else 1
        with autocast(bf16):
            scores = score(
                model, tokens_BL[index, :width], mask_BL[index, :width], temperature=temperature
            )
        out_BL[index, :width] = scores.logprobs_BL
    return out_BL
