"""Engine ``vllm``: a vLLM server in an environment of its own, which takes every push of weights.

`make setup-vllm` makes that environment; docs/engines.md says what is sent, and what is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ..base import Capabilities, Engine, EngineConfig

if TYPE_CHECKING:
    from ...models.load import Loaded


class VllmEngineConfig(EngineConfig):
    """Generate on a vLLM server, which is started here and given the weights after every step.

    It samples by the rule of the torch engine: equal seeds give equal tokens, up to rounding.
    """

    name: Literal["vllm"] = "vllm"
    python: str | None = Field(
        None,
        description=(
            "interpreter of the environment that vLLM is installed in; default: the environment"
            " variable TURNRL_VLLM_PYTHON, then .venv-vllm/bin/python"
        ),
    )
    url: str | None = Field(
        None,
        description=(
            "address of a server on this machine that runs already, started as docs/engines.md"
            " says; default: one is started"
        ),
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type that the server computes in"
    )
    memory: int = Field(
        1, ge=1, description="GiB of memory for the server's cache of keys and values"
    )
    threads: int = Field(1, ge=1, le=1024, description="threads that the server computes with")
    arguments: list[str] = Field([], description="further arguments of the server's command line")
    start_seconds: float = Field(
        600.0, gt=0, description="seconds that the start of the server may take"
    )
    answer_seconds: float = Field(
        1800.0,
        gt=0,
        description="seconds without an answer after which the server is started again",
    )
    restarts: int = Field(
        3, ge=0, description="number of times that a server that died is started again"
    )

    @property
    def capabilities(self) -> Capabilities:
        """Declare scores and weights: its module is its own, and its batches depend on timing."""
        return Capabilities(scores=True, takes_weights=True)

    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        """Start a server with the loaded weights, or look at the one that runs.

        Raises UserError, with the server's own words, if there is none then.
        """
        from .engine import VllmEngine

        return VllmEngine(self, loaded, max_context or loaded.max_context)
