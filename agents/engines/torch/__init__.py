"""Engine ``torch``: the embedded one, on the trainer's own module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..base import Capabilities, Engine, EngineConfig

if TYPE_CHECKING:
    from ...models.load import Loaded


class TorchEngineConfig(EngineConfig):
    """Generate in the trainer's process, with the trainer's own weights and caches across turns."""

    name: Literal["torch"] = Field(
        "torch",
        description="who generates: the built-in engine, which shares the trainer's weights",
    )
    patience_ms: float | None = Field(
        None,
        ge=0,
        description=(
            "milliseconds that a forward pass waits for worlds to answer; null waits for all, so"
            " that reruns are equal"
        ),
    )

    @property
    def capabilities(self) -> Capabilities:
        """Declare all capabilities that there are; bit-exact where it waits for all worlds."""
        return Capabilities(
            scores=True, takes_weights=True, shares_module=True, bit_exact=self.patience_ms is None
        )

    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        """Serve the loaded module itself."""
        from .engine import TorchEngine

        return TorchEngine(
            loaded.model,
            loaded.tokenizer,
            max_batch=self.max_batch,
            max_context=max_context,
            patience_ms=self.patience_ms,
        )

    def plan(self, loaded: Loaded, max_context: int) -> dict[str, Any]:
        """Say what the model's layers keep, and so how fast it plays."""
        from ...models.model_check import cache_for

        cache = cache_for(loaded.model, None, max_context)
        return super().plan(loaded, max_context) | {"keeps": cache.kind}
