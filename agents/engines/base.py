"""Engine: token ids in, token ids and log-probabilities out.

An engine serves many conversations at once and batches whatever requests are ready. A
*conversation* is an object whose lifetime is the contract: it is open from the call that makes it,
and nothing of it is left when the block ends::

    async with engine.conversation("episode-3") as talk:
        completion = await talk.generate(prompt_ids, Sampling(max_tokens=16, seed=1))

`generate` always takes the whole prompt; an engine that keeps caches finds the longest prefix it
already holds. The result of a request does not depend on what else is in the batch.

**No gaps.** Opening, finishing and closing a conversation never suspend. Who opens the next
conversation before closing the last, without an await in between, never lets an engine that waits
for all open conversations see one less; with such an engine (`Capabilities.bit_exact`) every bit of
the results then depends on neither the timing of requests nor the speed of environments.

A new engine derives from `Engine` and writes `_generate`, and of the other hooks those that it can
serve. A plug-in of the slot ``agents.engines`` (`EngineConfig`) makes it of a recipe's `engine`
block; `turnrl.check_engine` tries whether it keeps this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from ...foundation.errors import UserError
from ...foundation.plugins import Plugin, Slot
from ..episode import FinishReason

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.load import Loaded


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
    decode_rows: int = 0
    """Sum over decode steps of the responses in the batch. The first token of a response comes from
    its prefill.
    """
    prefill_calls: int = 0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do beside sampling responses."""

    scores: bool = False
    """It tells the log-probabilities of given tokens."""
    takes_weights: bool = False
    """It plays with the weights that are pushed to it."""
    shares_module: bool = False
    """It computes with the trainer's own module, so that a push of its weights copies nothing."""
    bit_exact: bool = False
    """The bits of its results depend on which conversations are open and on what they ask, never on
    when they ask.
    """


class ContextOverflow(Exception):
    """A prompt, or tokens to score, do not fit into the model's context. Ends that episode only."""


class EngineError(Exception):
    """The engine failed; the episode is retried or lost, never scored."""


class Conversation:
    """One dialogue with an engine, from the moment `Engine.conversation` makes it until it is
    closed.

    It is *open* at first, and an engine may wait for its next request; `finish` says that none will
    come, and leaves what the engine keeps of it to `score`; `close` frees that.
    """

    def __init__(self, engine: Engine, id: str) -> None:
        self.engine, self.id = engine, id
        self.finished = self.closed = False
        engine._opened(id)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """Sample a response to `prompt`.

        The end of the context ends it as `max_tokens` does ('length').

        Raises:
            ContextOverflow: the prompt leaves no room for a token.
            EngineError: the engine failed, or the conversation is over.
        """
        self._check_open()
        if self.finished:
            raise EngineError(f"conversation '{self.id}' is finished and asks for no response")
        if not prompt:
            raise ValueError("a prompt needs at least one token")
        if len(prompt) + 1 > self.engine.max_context:
            raise ContextOverflow(
                f"a prompt of {len(prompt)} tokens does not fit a context of"
                f" {self.engine.max_context}"
            )
        self.engine.stats.requests += 1
        return await self.engine._generate(self.id, prompt, sampling)

    async def score(self, tokens: Sequence[int], start: int) -> list[float]:
        """Compute log-probabilities as `Engine.score` does, from what is kept of the conversation.

        Nothing else of `tokens` is kept afterwards.
        """
        self._check_open()
        return await self.engine._checked_score(self.id, tokens, start)

    def finish(self) -> None:
        """Say that no response will be asked for any more; tokens may still be scored."""
        if not self.finished and not self.closed:
            self.finished = True
            self.engine._finished(self.id)

    def close(self) -> None:
        """Free what the engine keeps of the conversation.

        A pending request of it fails with EngineError.
        """
        if not self.closed:
            self.closed = True
            del self.engine.conversations[self.id]
            self.engine._closed(self.id)

    def _check_open(self) -> None:
        if self.closed:
            raise EngineError(f"conversation '{self.id}' is closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Engine(ABC):
    """Base of all engines: it checks what is asked, and hands it to the hooks below.

    Args:
        capabilities: what it can do.
        max_context: longest prompt plus response, in tokens.
    """

    def __init__(self, capabilities: Capabilities, max_context: int) -> None:
        self.capabilities, self.max_context = capabilities, max_context
        self.stats = EngineStats()
        self.version = 0
        """Version of the weights that were pushed last."""
        self.conversations: dict[str, Conversation] = {}
        """Those that are not closed, by id."""

    @property
    def full_precision(self) -> bool:
        """Tell whether weights and forward passes are float32.

        Log-probabilities are then those of a float32 trainer, up to rounding.
        """
        return False

    @property
    def kept_tokens(self) -> int:
        """Count the tokens of conversations that are kept computed; 0 when all are closed."""
        return 0

    def conversation(self, id: str) -> Conversation:
        """Open a conversation; its id is unique among those that are not closed.

        The order in which a bit-exact engine takes requests may depend on the ids.
        """
        if id in self.conversations:
            raise ValueError(f"conversation '{id}' is open already")
        talk = self.conversations[id] = Conversation(self, id)
        return talk

    async def score(self, tokens: Sequence[int], start: int) -> list[float]:
        """Compute the log-probability (nats, temperature 1) of each of ``tokens[start:]``.

        Each is given all that precedes it.

        Raises:
            ContextOverflow: `tokens` is longer than the context.
            EngineError: the engine failed.
            UserError: the engine does not score.
            ValueError: `start` is 0 or beyond the end.
        """
        return await self._checked_score(None, tokens, start)

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Use these weights for every token that is sampled after this was awaited.

        What was computed with older weights is forgotten. Responses that are being sampled go on
        with the new ones; their `Completion.version` stays that of their first token.

        Raises:
            UserError: the engine takes no weights.
            ValueError: the model has no weight of such a name.
        """
        if not self.capabilities.takes_weights:
            raise UserError(f"{type(self).__name__} takes no weights: it cannot follow a training")
        await self._push(weights, version)
        self.version = version

    async def aclose(self) -> None:
        """Close every conversation, and stop what the engine runs."""
        for talk in list(self.conversations.values()):
            talk.close()

    async def _checked_score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        if not self.capabilities.scores:
            raise UserError(f"{type(self).__name__} does not score given tokens")
        if not 1 <= start <= len(tokens):
            raise ValueError(f"start must be in 1..{len(tokens)}, not {start}")
        if len(tokens) > self.max_context:
            raise ContextOverflow(
                f"{len(tokens)} tokens do not fit a context of {self.max_context}"
            )
        return [] if start == len(tokens) else await self._score(conversation, tokens, start)

    # -- hooks -------------------------------------------------------------------------------------

    @abstractmethod
    async def _generate(
        self, conversation: str, prompt: Sequence[int], sampling: Sampling
    ) -> Completion:
        """Sample a response to a prompt that leaves room for a token."""

    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        """Compute log-probabilities of tokens that fit, at least one.

        `conversation` is None for none.
        """
        raise NotImplementedError

    async def _push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Use other weights for all that is sampled from now on; see `push`."""
        raise NotImplementedError

    def _opened(self, conversation: str) -> None:  # noqa: B027
        """Note that a conversation begins, and will ask for a response soon."""

    def _finished(self, conversation: str) -> None:  # noqa: B027
        """Note that a conversation will ask for no response any more."""

    def _closed(self, conversation: str) -> None:  # noqa: B027
        """Fail the pending request of a conversation that is over, and free what is kept of it."""


class EngineConfig(Plugin):
    """Base of the slot ``agents.engines``: the `engine` block of a recipe, which makes an engine.

    Name its plug-in file after its key, and import what is heavy in `make` alone.
    """

    max_batch: int = Field(64, ge=1, description="responses that are generated at once, at most")

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Declare what the engine will be able to do, before it is made."""

    @abstractmethod
    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        """Make an engine that plays with the model and the tokenizer that were loaded.

        Args:
            loaded: the model and its tokenizer.
            max_context: longest prompt plus response, in tokens; None for as long as the model
                allows.

        Raises UserError for a model that it cannot serve.
        """

    def plan(self, loaded: Loaded, max_context: int) -> dict[str, Any]:
        """Say how the engine would serve a model, without making it: what `--dry-run` shows.

        Raises UserError for a model that it cannot serve.
        """
        return {"name": self.recipe_key}


ENGINES: Slot[EngineConfig] = Slot(
    "turnrl.agents.engines",
    EngineConfig,
    "Engines",
    helpers=("check", "rules", "scheduler", "trial"),
)
