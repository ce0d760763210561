"""The parameters of ``search/qa-v0`` and of its retrievers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..settings import EnvSettings


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Bm25(_Block):
    """Words that occur, weighted by how rare they are, in this process."""

    name: Literal["bm25"] = "bm25"
    k1: float = Field(0.9, gt=0, le=10, description="how soon repeated words stop to count")
    b: float = Field(0.4, ge=0, le=1, description="how much long passages are discounted")


class Http(_Block):
    """A server that speaks Search-R1's protocol."""

    name: Literal["http"]
    url: str = Field(
        pattern=r"^https?://\S+$", description="address that is asked, /retrieve included"
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
    pooling: Literal["mean", "cls"] = Field(
        "mean",
        description="which output of the encoder stands for a text: the mean, or the first token's",
    )
    query_prefix: str = Field(
        "", description="words in front of every query, such as 'query: ' for E5"
    )
    passage_prefix: str = Field("", description="words in front of every passage")
    device: str = Field(
        "cpu", description="device that the encoder runs on; the comparison is numpy's"
    )


Retrieval = Annotated[Bm25 | Http | Dense, Field(discriminator="name")]


class SearchSettings(EnvSettings):
    """Parameters of search/qa."""

    data: str | None = Field(
        None, description="file or folder of questions (default: the generated encyclopedia)"
    )
    corpus: str | None = Field(
        None,
        description="file of passages to search (default: those that came with the questions)",
    )
    retriever: Retrieval = Field(
        default_factory=lambda: Bm25(name="bm25"),
        description="how pages are found: 'bm25', or {name: bm25 | http | dense, ...its settings}",
    )
    hops: int | None = Field(
        None,
        ge=1,
        le=20,
        description="how many supporting pages a question has (default: any number)",
    )
    topk: int = Field(3, ge=1, le=20, description="passages that a search shows")
    observation_chars: int = Field(
        1200,
        ge=200,
        le=100_000,
        description="characters of an observation, about; a search shares them among its passages",
    )
    reward: Literal["em", "f1"] = Field(
        "em",
        description="what an answer earns: 'em' 1 for an exact match, 'f1' the F1 of its words",
    )
    pages: int = Field(3000, ge=300, le=200_000, description="size of the generated encyclopedia")
    world: int = Field(0, ge=0, description="seed of the generated encyclopedia")

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
    def _together(self) -> SearchSettings:
        if self.data is None and self.corpus is not None:
            raise ValueError("corpus=... needs data=..., the questions that are asked about it")
        if self.data is None and self.retriever.name == "http":
            raise ValueError(
                "the retriever 'http' needs data=..., questions that its passages answer"
            )
        generated = {"pages", "world"} & self.model_fields_set
        if self.data is not None and any(
            getattr(self, name) != SearchSettings.model_fields[name].default for name in generated
        ):
            raise ValueError(
                f"{sorted(generated)[0]} belongs to the generated encyclopedia: leave it out with"
                " data=..."
            )
        return self

    def params(self) -> dict[str, Any]:
        """Return the parameters that are not at their default; a retriever keeps its name."""
        asked = super().params()
        if "retriever" in asked:
            asked["retriever"]["name"] = self.retriever.name
        return asked
