"""Engine: token ids in, token ids and log-probabilities out.

An engine serves many conversations at once and batches whatever requests are ready. A *session*
names a conversation whose KV cache it may keep::

    engine.open("episode-3") completion = await engine.generate(prompt_ids, Sampling(max_tokens=16,
    seed=1), session="episode-3") engine.close("episode-3")

`generate` always takes the whole prompt; an engine that keeps caches finds the longest prefix it
already holds. The result of a request does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from ..episode import FinishReason

if TYPE_CHECKING:
    from torch import Tensor


class Sampling(BaseModel):
    """How to sample one response. Log-probabilities are those of the distribution that was sampled
    from, taken before top-p and top-k, after the temperature (so that a trainer can reproduce them
    from logits / temperature)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(
        1.0,
        ge=0,
        description=(
            "sampling temperature; 0 is greedy, with the log-probabilities of temperature 1"
        ),
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="probability of the smallest set of tokens that is sampled from; 1 is all",
    )
    top_k: int = Field(
        0, ge=0, description="number of most likely tokens that is sampled from; 0 is all"
    )
    max_tokens: int = Field(64, ge=1, description="longest response, in tokens")
    min_tokens: int = Field(
        0, ge=0, description="shortest response, in tokens: no stop token is sampled before"
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="stop strings; the text that completes one ends the response"
    )
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="token ids that end the response (kept as its last token)"
    )
    seed: int = Field(
        0,
        ge=0,
        description="seed of a response; a run sets it, and equal seeds give equal responses",
    )


@dataclass(slots=True)
class Completion:
    """What an engine sampled."""

    token_ids: list[int]
    """Sampled ids, the stop token included if one was sampled."""
    logprobs: list[float]
    """Natural log-probability of each id."""
    finish_reason: FinishReason
    version: int = 0
    """Version of the weights that sampled its first token."""


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was made; differences give the figures of a step."""

    requests: int = 0
    prompt_tokens: int = 0
    """Prompt tokens that were encoded (not found in a cache)."""
    cached_tokens: int = 0
    """Prompt tokens that were found in a cache."""
    generated_tokens: int = 0
    scored_tokens: int = 0
    decode_steps: int = 0
    decode_slots: int = 0
    """Sum over decode steps of the rows in the batch. The first token of a response comes from its
    prefill.
    """
    prefill_calls: int = 0
    busy_seconds: float = 0.0


class ContextOverflow(Exception):
    """A prompt, or tokens to score, do not fit into the model's context. Ends that episode only."""


class EngineError(Exception):
    """The engine failed; the episode is retried or lost, never scored."""


class Engine(Protocol):
    """What `agents/` needs of an engine."""

    stats: EngineStats
    max_context: int
    """Longest prompt plus response, in tokens."""

    @property
    def full_precision(self) -> bool:
        """Weights and forward passes are float32: log-probabilities are those of a float32 trainer,
        up to rounding.
        """

    def open(self, session: str) -> None:
        """Announce a conversation: it will ask for its next response soon."""

    def park(self, session: str) -> None:
        """The conversation is over and nobody waits for it, but `score` may use its cache until it
        is closed.
        """

    def close(self, session: str) -> None:
        """Forget a conversation and free its cache."""

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """Sample a response to `prompt`; the end of the context ends it as `max_tokens` does
        ('length').

        Raises ContextOverflow if the prompt leaves no room for a token, EngineError.
        """

    async def score(
        self, tokens: Sequence[int], start: int, *, session: str | None = None
    ) -> list[float]:
        """Log-probabilities (temperature 1) of ``tokens[start:]`` given what precedes each; ``start
        >= 1``.
        """

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Use these weights for every token that is sampled after this was awaited; caches of older
        weights are dropped.
        """
