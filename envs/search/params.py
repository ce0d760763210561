"""Parameters of ``search/qa-v0``, checked. What is left at its default does not appear in the ids
of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...foundation.config import explain, keys_of
from ...foundation.errors import UserError


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bm25(_Block):
    """Words that occur, weighted by how rare they are, in this process."""

    name: Literal["bm25"] = "bm25"
    k1: float = Field(0.9, gt=0, le=10, description="how soon repeated words stop to count")
    b: float = Field(0.4, ge=0, le=1, description="how much long passages are discounted")


class Http(_Block):
    """A server that speaks Search-R1's protocol."""

    name: Literal["http"]
    url: str = Field(
        pattern=r"^https?://\S+$", description="where requests are posted, /retrieve included"
    )
    timeout: float = Field(
        20.0, gt=0, le=600, description="seconds to connect, and between parts of the answer"
    )


class Dense(_Block):
    """Vectors of a transformer encoder, compared exactly."""

    name: Literal["dense"]
    model: str = Field(
        min_length=1, description="folder of a Hugging Face encoder, or its name on the hub"
    )
    pooling: Literal["mean", "cls"] = Field("mean", description="which output stands for the text")
    query_prefix: str = Field("", description="put before every query, such as 'query: ' for E5")
    passage_prefix: str = Field("", description="put before every passage")
    device: str = Field("cpu", description="where the encoder runs; the comparison is numpy's")


RetrieverParams = Annotated[Bm25 | Http | Dense, Field(discriminator="name")]


class Params(_Block):
    """See `turnrl.envs.search.env.SearchEnv`."""

    data: str | None = None
    corpus: str | None = None
    retriever: RetrieverParams = Field(default_factory=Bm25)
    hops: int | None = Field(None, ge=1, le=20)
    topk: int = Field(3, ge=1, le=20)
    observation_chars: int = Field(1200, ge=200, le=100_000)
    reward: Literal["em", "f1"] = "em"
    pages: int = Field(3000, ge=300, le=200_000)
    world: int = Field(0, ge=0)

    @field_validator("data", "corpus")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # Workers run in a directory of their own.
        if value is None:
            return None
        path = Path(value).expanduser().resolve()
        if not path.exists():
            raise ValueError(f"there is no {path}")
        return str(path)

    @field_validator("retriever", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _together(self) -> Params:
        if self.data is None and self.corpus is not None:
            raise ValueError("corpus=... needs data=..., the questions that are asked about it")
        if self.data is None and self.retriever.name == "http":
            raise ValueError(
                "the retriever 'http' needs data=..., questions that its passages answer"
            )
        generated = {"pages", "world"} & self.model_fields_set
        if self.data is not None and any(
            getattr(self, name) != Params.model_fields[name].default for name in generated
        ):
            raise ValueError(
                f"{sorted(generated)[0]} belongs to the generated encyclopedia: leave it out with"
                " data=..."
            )
        return self


def given(params: Params) -> dict[str, Any]:
    """What was asked for that is not the default, as JSON: `check` makes the same parameters of it."""
    asked = params.model_dump(mode="json", exclude_defaults=True)
    if "retriever" in asked:
        asked["retriever"]["name"] = params.retriever.name
    return asked


def check(params: Mapping[str, Any]) -> Params:
    """The parameters, complete. Raises UserError naming the first that is unknown, out of range or
    not there.
    """
    try:
        return Params.model_validate(dict(params))
    except ValidationError as error:
        raise UserError(explain(error, "search/qa", keys_of(Params))) from None
