"""The policy's forward pass for learning: logits only where actions are.

Rows are right-padded and attention is causal, so padding can never be seen by a real token and no
mask is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import narrow
from .config import Bf16
from .devices import computes_bf16
from .head import Head
from .tricks import pays

logger = logging.getLogger(__name__)

Probe = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities of the whole vocabulary [n, V], the tokens that came [n]) -> a number for each
token [n].
"""


@dataclass(slots=True)
class Scores:
    """The numbers that a forward pass gives for chosen tokens."""

    of: dict[str, Tensor]
    """[B, L] by name, 0 elsewhere: 'logprobs', 'entropy' and those of probes."""
    hidden_BLD: Tensor | None = None
    """Last hidden states where a chosen token follows, for a value head; zeros elsewhere."""

    @property
    def logprobs_BL(self) -> Tensor:
        """Return the log-probability of each token."""
        return self.of["logprobs"]

    def map(self, change: Callable[[Tensor], Tensor]) -> Scores:
        """Put what `change` makes of it in the place of every tensor.

        B and L are the first two axes of each.
        """
        of = {name: change(values) for name, values in self.of.items()}
        return Scores(of, None if self.hidden_BLD is None else change(self.hidden_BLD))


def autocast(bf16: Bf16, device: torch.device) -> AbstractContextManager[Any]:
    """Make a block of bfloat16 arithmetic over float32 weights, or of the usual one.

    Warns once on a processor that it makes slower.
    """
    if not computes_bf16(bf16, device):
        return nullcontext()
    if device.type == "cpu":
        _warn_if_slow()
    return torch.autocast(device.type, dtype=torch.bfloat16)


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
    probes: Mapping[str, Probe] = MappingProxyType({}),
    hidden: bool = False,
) -> Scores:
    """Compute log-probabilities of the tokens under `mask_BL`, given what precedes each.

    Args:
        tokens_BL: int64, right-padded.
        mask_BL: bool; position 0 must be False.
        temperature: logits are divided by it; 0 counts as 1.
        probes: what else to compute where the logits are, with its gradient. The entropy is
            computed in any case, but without gradient unless it is among them.
        hidden: keep the last hidden states.
    """
    hidden_ND = narrow.hidden_before(decoder(model), tokens_BL, mask_BL)
    rows_N, columns_N = mask_BL.nonzero(as_tuple=True)
    target_N = tokens_BL[rows_N, columns_N]
    scale = 1.0 / temperature if temperature > 0 else 1.0
    scores_N = _token_scores(Head(model), hidden_ND, target_N, scale, probes)
    empty_BL = scores_N["logprobs"].new_zeros(mask_BL.shape)
    of = {name: empty_BL.index_put((rows_N, columns_N), score) for name, score in scores_N.items()}
    if not hidden:
        return Scores(of)
    empty_BLD = hidden_ND.new_zeros(*mask_BL.shape, hidden_ND.shape[1])
    return Scores(of, empty_BLD.index_put((rows_N, columns_N - 1), hidden_ND))


def _token_scores(
    head: Head,
    hidden_ND: Tensor,
    target_N: Tensor,
    scale: float,
    probes: Mapping[str, Probe],
) -> dict[str, Tensor]:
    """Compute log-probability, entropy and probes of each target, in chunks of bounded memory."""
    asked = {"entropy": entropy, **probes}
    names = ("logprobs", *asked)

    def chunk(hidden_nD: Tensor, target_n: Tensor) -> tuple[Tensor, ...]:
        logits_nV = head(hidden_nD)
        logprobs_nV = torch.log_softmax(logits_nV if scale == 1.0 else logits_nV * scale, dim=-1)
        found = []
        for name, probe in asked.items():
            with torch.set_grad_enabled(name in probes and torch.is_grad_enabled()):
                found.append(probe(logprobs_nV, target_n))
        return logprobs_nV.gather(1, target_n[:, None]).squeeze(1), *found

    size = max(pays(hidden_ND.device).logits // head.rows, 1)
    if len(target_N) <= size:
        return dict(zip(names, chunk(hidden_ND, target_N), strict=True))
    parts = [
        checkpoint(chunk, hidden_ND[i : i + size], target_N[i : i + size], use_reentrant=False)
        for i in range(0, len(target_N), size)
    ]
    joined = [torch.cat(of_name) for of_name in zip(*parts, strict=True)]
    return dict(zip(names, joined, strict=True))


def entropy(logprobs_nV: Tensor, target_n: Tensor) -> Tensor:
    """Compute the entropy [n] in nats; a token of probability 0 adds nothing. A `Probe`."""
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
    bf16: Bf16,
    probes: Mapping[str, Probe] = MappingProxyType({}),
) -> Scores:
    """Compute the scores of a whole batch without gradient.

    One micro-batch (row indices) is computed at a time.
    """
    out: dict[str, Tensor] = {}
    for index in rows:
        width = int(mask_BL[index].any(0).nonzero().max()) + 1 if bool(mask_BL[index].any()) else 1
        with autocast(bf16, tokens_BL.device):
            scores = score(
                model,
                tokens_BL[index, :width],
                mask_BL[index, :width],
                temperature=temperature,
                probes=probes,
            )
        for name, part_BL in scores.of.items():
            out.setdefault(name, part_BL.new_zeros(mask_BL.shape))[index, :width] = part_BL
    return Scores(out)
