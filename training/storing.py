"""The stored form of a batch: one flat dict of tensors by name, as safetensors takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..agents.models.forward import Scores
from ..foundation.errors import UserError

HIDDEN = "hidden_BLD"


def flattened(
    fields: Mapping[str, Any], scores: Mapping[str, Scores], signals: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return contiguous copies of all tensors, by ``FIELD``, ``scores/WHO/KIND``, ``signals/NAME``.

    Fields that are no tensors are left out.
    """
    flat = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    for who, one in scores.items():
        flat |= {f"scores/{who}/{kind}": value for kind, value in one.of.items()}
        if one.hidden_BLD is not None:
            flat[f"scores/{who}/{HIDDEN}"] = one.hidden_BLD
    flat |= {f"signals/{name}": value for name, value in signals.items()}
    # What is stored shares nothing: two names of one tensor are refused by safetensors.
    kept = torch.contiguous_format
    return {name: value.detach().clone(memory_format=kept) for name, value in flat.items()}


def unflattened(
    flat: Mapping[str, Tensor], known: Collection[str], needed: Collection[str]
) -> tuple[dict[str, Any], dict[str, Scores], dict[str, Tensor]]:
    """Return what `flattened` was given.

    Raises:
        UserError: a name in it is not `known`, or one that is `needed` is missing.
    """
    own: dict[str, Any] = {}
    of: dict[str, dict[str, Tensor]] = {}
    signals: dict[str, Tensor] = {}
    for name, value in flat.items():
        match name.split("/", 2):
            case ["scores", who, kind]:
                of.setdefault(who, {})[kind] = value
            case ["signals", *signal]:
                signals["/".join(signal)] = value
            case _:
                own[name] = value
    missing = [name for name in needed if name not in own]
    missing += [] if "logprobs" in of.get("engine", {}) else ["scores/engine/logprobs"]
    odd = [name for name in own if name not in known]
    if missing or odd:
        raise UserError(
            f"a stored batch has tensors that no batch has ({', '.join(odd) or 'none'}) and lacks"
            f" some that every batch has ({', '.join(missing) or 'none'})"
        )
    scores = {who: Scores(found, found.pop(HIDDEN, None)) for who, found in of.items()}
    return own, scores, signals
