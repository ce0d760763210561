"""AgentConfig: how a language model plays, as data. It is saved beside the weights, so a checkpoint can be played."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .agent import LanguageAgent
from .context.base import CONTEXTS, Context
from .engines.base import Engine, Sampling
from .parsers.base import PARSERS, Parser


class AgentConfig(BaseModel):
    """The `agent` block of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    context: dict[str, Any] = Field(
        {"name": "full_history"}, description="what the model is shown at each turn, by name and fields"
    )
    parser: dict[str, Any] = Field(
        {"name": "line"}, description="how an action is read out of a response, by name and fields"
    )
    max_turns: int = Field(50, ge=1, description="turns after which an episode is cut")
    system: bool = Field(True, description="send the world's instructions and the expected format as a system prompt")
    sampling: Sampling = Field(default_factory=Sampling, description="how responses are sampled")

    @field_validator("context")
    @classmethod
    def _known_context(cls, value: dict[str, Any]) -> dict[str, Any]:
        CONTEXTS.build(value)
        return value

    @field_validator("parser")
    @classmethod
    def _known_parser(cls, value: dict[str, Any]) -> dict[str, Any]:
        PARSERS.build(value)
        return value

    @model_validator(mode="after")
    def _workspace_reads_reports(self) -> AgentConfig:
        if (self.context.get("name") == "workspace") != (self.parser.get("name") == "report"):
            raise ValueError("context 'workspace' and parser 'report' belong together: use both or neither")
        return self

    def build_context(self) -> Context:
        """The context plug-in."""
        return CONTEXTS.build(self.context)

    def build_parser(self) -> Parser:
        """The parser plug-in."""
        return PARSERS.build(self.parser)

    def build(self, engine: Engine, tokenizer: Any, *, sampling: Sampling | None = None) -> LanguageAgent:
        """The agent that plays through `engine`."""
        return LanguageAgent(
            engine, tokenizer, self.build_context(), self.build_parser(), sampling or self.sampling, system=self.system
        )
