"""EndpointConfig: where a model listens, in a recipe, and EndpointError: why it gave no answer."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

FailureKind = Literal["timeout", "refused", "unavailable", "unreadable", "cut", "paused"]


class EndpointConfig(BaseModel):
    """The address of a model, and how hard it may be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(
        description="base address of an OpenAI-compatible server, e.g. http://localhost:8000/v1"
    )
    model: str = Field(min_length=1, description="name of the model, as the server knows it")
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        description="environment variable that holds the API key; none is sent where it is not set",
    )
    timeout: float = Field(60.0, gt=0, description="seconds that one attempt may take")
    retries: int = Field(
        4,
        ge=0,
        description="further attempts after a timeout, a broken connection or a status 429 or 5xx",
    )
    concurrency: int = Field(8, ge=1, description="requests in flight at once, at most")
    requests_per_minute: int | None = Field(
        None, ge=1, description="attempts in any 60 seconds, at most"
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        example = "needs an address such as http://localhost:8000/v1"
        parts = urlsplit(value)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or re.search(r"[\s\x00-\x1f]", value)
        ):
            raise ValueError(example)
        try:
            parts.hostname.encode("idna")
            port = parts.port
        except ValueError:  # UnicodeError is one: a name that no server can have
            raise ValueError(
                f"{example}, with the name of a server and a port below 65536"
            ) from None
        if port == 0:
            raise ValueError(f"{example}, with a port from 1 to 65535")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or _KEY.match(value):
            raise ValueError(
                "needs the name of an environment variable, such as OPENAI_API_KEY, and never the"
                " key itself"
            )
        return value


class TeacherConfig(EndpointConfig):
    """The address of a model that teaches or judges, and where its answers are kept."""

    cache: str | None = Field(
        None,
        description=(
            "file on a local disk that keeps answers; several runs of one machine may share it"
        ),
    )


_KEY = re.compile(
    r"(sk|pk|rk|hf|gsk|ghp|gho|xai|nvapi|pplx|r8|csk|fw|tgp|sess|AIza|AKIA|ya29|Bearer)"
    r"[_-]?(?=\w*[0-9])\w{12,}$"
    r"|(?=\w*[0-9])(?=\w*[a-z])\w{20,}$",
)
"""What looks like an API key and could still be the name of a variable."""


class EndpointError(Exception):
    """The endpoint gave no answer, and why.

    Args:
        kind: 'timeout'; 'refused', a status that asking again does not change; 'unavailable', the
            connection failed or the server was too busy or broken (429, 5xx); 'unreadable', not the
            JSON of a chat completion, or longer than is read; 'cut', nothing was written before
            `max_tokens`; 'paused', the server was not asked, because it did not answer for a while.
        passing: it may work later.
        silent: the server did not answer at all, or only that it is broken.
        after: seconds that the server asks to wait.
        status: that of its answer, if there was one.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        passing: bool = False,
        silent: bool = False,
        after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message
        self.passing, self.silent = passing, silent
        self.after, self.status = after, status
        self.first = False
        """It was the first request that this endpoint was ever sent."""
