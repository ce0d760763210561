"""AgentConfig: how a language model plays, as data saved beside its weights."""

from __future__ import annotations

import datetime
import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from ..foundation.errors import UserError
from ..foundation.plugins import Plugged
from .agent import LanguageAgent
from .chat.rendering import RESERVED
from .chat.template import TODAY, template_of
from .context.base import CONTEXTS, Context
from .engines.base import Engine, Sampling
from .parsers.base import PARSERS, Parser

logger = logging.getLogger(__name__)


class AgentConfig(BaseModel):
    """The `agent` block of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    context: Plugged[Context] = Field(
        default_factory=lambda: CONTEXTS.build({"name": "full_history"}),
        description="what the model is shown at each turn, by name and fields",
    )
    parser: Plugged[Parser] = Field(
        default_factory=lambda: PARSERS.build({"name": "line"}),
        description="how an action is read out of a response, by name and fields",
    )
    max_turns: int = Field(50, ge=1, description="turns after which an episode is cut")
    system: bool = Field(
        True, description="send the world's instructions and the expected format as a system prompt"
    )
    template: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="variables of the chat template, for example enable_thinking: false",
    )
    date: datetime.date = Field(
        TODAY,
        description=(
            "the date that the chat template is told: the clock is never read, so runs can be"
            " repeated"
        ),
    )
    sampling: Sampling = Field(default_factory=Sampling, description="how responses are sampled")

    @field_validator("template")
    @classmethod
    def _free_names(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(RESERVED & value.keys()):
            raise ValueError(f"'{taken[0]}' is given by the conversation and cannot be set")
        return value

    @model_validator(mode="after")
    def _workspace_reads_reports(self) -> AgentConfig:
        if (self.context.name == "workspace") != (self.parser.name == "report"):
            raise ValueError(
                "context 'workspace' and parser 'report' belong together: use both or neither"
            )
        return self

    def build(
        self, engine: Engine, tokenizer: Any, *, sampling: Sampling | None = None
    ) -> LanguageAgent:
        """Make the agent that plays through `engine`.

        Warns of template variables that the chat template never reads.

        Raises UserError if the tokenizer's chat template cannot be used, or has no token for a stop
        id.
        """
        beyond = [i for i in self.sampling.stop_token_ids if not 0 <= i < len(tokenizer)]
        if beyond:
            raise UserError(
                f"agent.sampling.stop_token_ids: the tokenizer has {len(tokenizer)} tokens, none of"
                f" id {beyond[0]}"
            )
        known = template_of(tokenizer, self.template, self.date)
        if unknown := known.unknown_arguments(self.template):
            logger.warning("agent.template: the chat template never reads '%s'", unknown[0])
        return LanguageAgent(
            engine,
            tokenizer,
            self.context,
            self.parser,
            sampling or self.sampling,
            system=self.system,
            arguments=self.template,
            today=self.date,
        )
