"""Parity: do engine and trainer play the same model? Asked after every push of weights.

A fixed prompt is continued by the engine, and scored by it where it can; the trainer's own
log-probabilities of the same tokens have to agree. An engine that answered "done" but plays on with
older weights, or whose caches hold what was computed with them, is found out before an episode is
played.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..agents.engines.base import Engine, Sampling
from ..agents.models.forward import score_batch
from ..foundation.errors import RunFailed

EXACT = 1e-4
"""Largest difference of a log-probability, in nats, where engine and trainer compute in float32."""
ROUGH = 0.2
"""Largest mean difference where one of them does not. Rounding to bfloat16 moves a log-probability
by some hundredths on average, now and then by several tenths: this finds another model, not one
that is a small step behind.
"""
_PROMPT = 160
"""Length of the prompt: longer than the blocks of 128 tokens in which servers keep caches."""
_RESPONSE = 8


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences between engine and trainer, in nats, over the tokens of the probe."""

    largest: float
    mean: float
    tokens: int
    exact: bool
    """Both compute in float32."""

    @property
    def holds(self) -> bool:
        """Tell whether they play the same model, up to rounding."""
        return self.largest <= EXACT if self.exact else self.mean <= ROUGH

    def __str__(self) -> str:
        bound = f"at most {EXACT:g}" if self.exact else f"at most {ROUGH:g} on average"
        return (
            f"the log-probabilities of {self.tokens} tokens differ by up to {self.largest:.2g} nats"
            f" ({self.mean:.2g} on average), and {bound} would be rounding"
        )


async def measure(engine: Engine, model: nn.Module, version: int) -> Parity:
    """Compare engine and model on the probe.

    Args:
        engine: has been given the weights of `model`.
        model: the trainer's.
        version: of the weights; it seeds the continuation.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    rng = random.Random(0)
    length = max(1, min(_PROMPT, engine.max_context - _RESPONSE))
    prompt = [rng.randrange(rows) for _ in range(length)]
    async with engine.conversation("parity") as talk:
        said = await talk.generate(prompt, Sampling(max_tokens=_RESPONSE, seed=version))
    tokens = prompt + said.token_ids
    own = _scores(model, tokens)
    pairs = list(zip(said.logprobs, own[length - 1 :], strict=True))
    if engine.capabilities.scores:
        pairs += zip(await engine.score(tokens, 1), own, strict=True)
    # What is not a number is no agreement, and compares as none.
    gaps = [gap if (gap := abs(a - b)) == gap else float("inf") for a, b in pairs]
    exact = engine.full_precision and all(p.dtype == torch.float32 for p in model.parameters())
    return Parity(max(gaps), sum(gaps) / len(gaps), len(gaps), exact)


async def check_parity(engine: Engine, model: nn.Module, version: int) -> Parity:
    """Measure the parity of an engine that was given the weights of `model`.

    Raises RunFailed, with the figures, where they play two models.
    """
    parity = await measure(engine, model, version)
    if not parity.holds:
        raise RunFailed(
            f"after the push of version {version} {type(engine).__name__} plays another model than"
            f" the trainer: {parity}"
        )
    return parity


def _scores(model: nn.Module, tokens: Sequence[int]) -> list[float]:
    """Compute the log-probability of each token after the first, as the trainer does."""
    device = next(model.parameters()).device
    tokens_1L = torch.tensor([tokens], device=device)
    mask_1L = torch.ones_like(tokens_1L, dtype=torch.bool)
    mask_1L[0, 0] = False
    training = model.training
    model.eval()
    try:
        rows = [torch.zeros(1, dtype=torch.int64, device=device)]
        scores = score_batch(model, tokens_1L, mask_1L, rows, temperature=1.0, bf16=False)
    finally:
        model.train(training)
    found: list[float] = scores.logprobs_BL[0, 1:].tolist()
    return found
