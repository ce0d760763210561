"""Weights that copy: a tiny model repeats what it has read, before it has learnt anything.

Names, ids and numbers of a world can only be copied from what was read, and a small model takes
hundreds of updates to find that out, if it does at all. The circuit is known (an attention head
that looks at the previous token, and one in the next layer that looks for tokens that came after
the current one: https://arxiv.org/abs/2209.11895), and here it is written into the first two
layers. Training goes on from there as from any other weights.

Half of the residual stream holds the token itself, the other half the token before it::

    layer 0   position t looks at t - 1 and writes its token into the second half
    layer 1   position t looks for positions whose second half is its own token, and adds their
              token to the first; half of the heads prefer the latest of them, the others take them
              alike

Previous tokens are found by all rotary frequencies and no content, equal tokens by content in
frequencies so low that distance does not matter, the latest by those between. Each needs its share
of a head, so the base is `ROPE_BASE`.
"""

from __future__ import annotations

import math
from typing import Any

ROPE_BASE = 1e8
"""With heads of 24 dimensions, 2 of 12 frequencies tell near from far and 7 hardly turn over a
thousand tokens.
"""
_SLOW, _NEAR = 0.002, 0.02
"""Radians per position: up to which distance does not matter, and up to which it tells near from
far.
"""
_RECENCY = 0.06
"""Nats per position by which the latest of equals is preferred, as long as they are near."""
_TOKEN = 0.15
"""Standard deviation of embeddings: a copied token gets a logit of about ten."""
_NEIGHBOUR, _MATCH, _COPY = 12.0, 4.0, 4.0
"""Sharpness of both attentions, and the weight of what is copied beside the token that stands
there.
"""


def write_copying(model: Any, seed: int = 0) -> None:
    """Write embeddings and the attention of a `Qwen2ForCausalLM`'s first two layers.

    Everything else stays as it is.

    Args:
        model: with tied embeddings and as many key heads as heads.
        seed: of the embeddings and of what each head compares.

    Raises ValueError if there are fewer than two layers, heads do not fill half of the width
    evenly, or are too narrow.
    """
    import torch

    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    if config.num_hidden_layers < 2:
        raise ValueError(f"copying takes two layers, not {config.num_hidden_layers}")
    if heads % 2 or config.num_key_value_heads != heads:
        raise ValueError(
            f"copying takes an even number of heads, and kv_heads the same, not {heads}"
        )
    head, half = width // heads, width // 2
    if head < 4:
        raise ValueError(f"copying takes heads of at least 4 dimensions, not {head}")
    frequencies_F = ROPE_BASE ** (-torch.arange(head // 2) / (head // 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        embedding_VW = model.model.embed_tokens.weight
        embedding_VW.zero_()
        embedding_VW[:, :half] = (
            torch.randn(embedding_VW.shape[0], half, generator=generator) * _TOKEN
        )
        first, second = (layer.self_attn for layer in model.model.layers[:2])
        _look_back(first, frequencies_F, head, half)
        _look_for_equals(second, frequencies_F, head, half, generator)


def _look_back(attention: Any, frequencies_F: Any, head: int, half: int) -> None:
    """Let half of the heads attend to the previous position, and move its whole token.

    Their biases alone do that.
    """
    import torch

    # All frequencies: the fast ones tell neighbours apart, and where they come around again the
    # slow ones do not.
    strength_F = torch.full_like(frequencies_F, math.sqrt(_NEIGHBOUR * math.sqrt(head)))
    key = torch.cat([strength_F, torch.zeros_like(strength_F)])
    query = strength_F.repeat(2) * torch.cat(
        [torch.cos(frequencies_F), -torch.sin(frequencies_F)]
    )  # one behind
    for start in range(0, half, head):
        rows = slice(start, start + head)
        for projection, bias in ((attention.q_proj, query), (attention.k_proj, key)):
            projection.weight[rows] = 0.0
            projection.bias[rows] = bias
        _move(
            attention, rows, rows, slice(half + start, half + start + head), _TOKEN / math.sqrt(2)
        )


def _look_for_equals(
    attention: Any, frequencies_F: Any, head: int, half: int, generator: Any
) -> None:
    """Let each head attend to positions after the current token, and copy its part.

    The token is told by a few random directions.
    """
    import torch

    slow = torch.nonzero(frequencies_F < _SLOW).flatten()
    dims = torch.cat([slow, slow + head // 2])[:half]
    query, key = _recent(frequencies_F, head)
    for start in range(0, 2 * half, head):
        rows = slice(start, start + head)
        directions = torch.linalg.qr(torch.randn(half, len(dims), generator=generator))[
            0
        ].T * math.sqrt(_MATCH)
        latest = float(start >= half)
        for projection, part, bias in (
            (attention.q_proj, slice(0, half), query),
            (attention.k_proj, slice(half, 2 * half), key),
        ):
            weight = torch.zeros(head, 2 * half)
            weight[dims, part] = directions
            projection.weight[rows] = weight
            projection.bias[rows] = bias * latest
        part = slice(start % half, start % half + head)
        _move(attention, rows, part, part, _TOKEN * _COPY)


def _recent(frequencies_F: Any, head: int) -> tuple[Any, Any]:
    """Return biases of query and key whose product falls with the distance, as far as they turn.

    The product is minus a sum of sines of the distance.
    """
    import torch

    turning_F = (frequencies_F > _SLOW) & (frequencies_F <= _NEAR)
    strength_F = (
        turning_F
        * (_RECENCY / turning_F.sum().clamp(min=1) / frequencies_F * math.sqrt(head)).sqrt()
    )
    nothing_F = torch.zeros_like(strength_F)
    return torch.cat([nothing_F, strength_F]), torch.cat([strength_F, nothing_F])


def _move(attention: Any, rows: slice, read: slice, write: slice, weight: float) -> None:
    """Let the head at `rows` carry what it attends to from dimensions `read` to `write`."""
    import torch

    eye = torch.eye(rows.stop - rows.start)
    attention.v_proj.weight[rows] = 0.0
    attention.v_proj.weight[rows, read] = eye
    attention.v_proj.bias[rows] = 0.0
    attention.o_proj.weight[:, rows] = 0.0
    attention.o_proj.weight[write, rows] = eye * weight
