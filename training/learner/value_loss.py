"""The critic's loss: clipped squared error against the returns that an
estimator gave.
"""

from __future__ import annotations

import torch
from torch import Tensor


def value_loss(
    values_BL: Tensor,
    old_values_BL: Tensor,
    returns_BL: Tensor,
    clip: float | None = 0.2,
    weights_BL: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Compute the clipped value loss, in squared reward units.

    ``0.5 * max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2)``, summed with `weights_BL`.
    Targets are selected, never multiplied by a mask, so that NaN and infinities elsewhere reach
    neither the loss nor the gradient.

    Args:
        values_BL: critic, with gradient.
        old_values_BL: critic at rollout.
        returns_BL: targets, NaN where there is none.
        clip: c, or None for the plain squared error.
        weights_BL: one weight per target, from `value_weights` of the whole batch; default: the
        mean over these targets.

    Returns:
        The scalar loss (0 without targets), and what adds up over cuts of a batch as the loss does:
        ``square``, the mean squared error, and ``clipped``, the share of targets at which the clip
        holds.

    Paper: PPO's reference implementation; the clip is not in arXiv 1707.06347. Source: the code of
    volcengine/verl.
    """
    target_BL = ~returns_BL.isnan()
    value_S, old_S = values_BL[target_BL], old_values_BL[target_BL].to(values_BL.dtype)
    return_S = returns_BL[target_BL].to(values_BL.dtype)
    weights_BL = value_weights(returns_BL) if weights_BL is None else weights_BL
    error_S = (value_S - return_S) ** 2
    clipped_S = torch.zeros_like(error_S, dtype=torch.bool)
    if clip is not None:
        clipped_error_S = (value_S.clamp(old_S - clip, old_S + clip) - return_S) ** 2
        clipped_S = clipped_error_S > error_S
        error_S = torch.maximum(error_S, clipped_error_S)
    loss = 0.5 * (error_S * weights_BL[target_BL].to(error_S.dtype)).sum()
    weights_S = weights_BL[target_BL]
    square = ((value_S.detach() - return_S) ** 2 * weights_S).sum()
    metrics = {"square": float(square), "clipped": float((clipped_S * weights_S).sum())}
    return loss, metrics


def value_weights(returns_BL: Tensor) -> Tensor:
    """Compute a weight per target: 1 / number of targets, 0 elsewhere; float64 [B, L].

    Compute it before the batch is cut.
    """
    target_BL = ~returns_BL.isnan()
    return target_BL.double() / target_BL.sum().clamp(min=1)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Compute ``1 - var(G - V) / var(G)`` over the targets (not NaN); 0 if they do not vary."""
    target = ~returns.isnan()
    value_S, return_S = values[target].double(), returns[target].double()
    if len(return_S) < 2 or float(return_S.var()) <= 1e-16:
        return 0.0
    return 1.0 - float((return_S - value_S).var() / return_S.var())
