"""ModelConfig: which model plays and learns, as data: the `model` block of a recipe."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Bf16 = bool | Literal["auto"]
"""Whether updates compute in bfloat16 over float32 weights; `auto` is on GPUs that have it."""

DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
KNOWN = "it is auto, cpu, cuda or cuda:N"


class LoraConfig(BaseModel):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685) through peft: only they are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: float = Field(
        default=32.0, gt=0, description="scale of the adapters: they count alpha / rank"
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dropout before the adapters; 0 keeps log-probabilities exact",
    )
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear",
        description="names of the layers that get adapters, or all linear layers but the head",
    )


class ModelConfig(BaseModel):
    """The `model` block of a recipe. The sizes shape a tiny model; a pretrained one has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(
        default="tiny",
        min_length=1,
        description="tiny, smollm2, a folder in Hugging Face format, or a Hugging Face Hub id",
    )
    layers: int = Field(default=3, ge=1, description="tiny: transformer blocks")
    width: int = Field(default=96, ge=8, description="tiny: hidden size")
    heads: int = Field(
        default=4, ge=1, description="tiny: attention heads; width / heads must be even"
    )
    kv_heads: int | None = Field(
        default=None,
        ge=1,
        description="tiny: key and value heads; must divide heads; default heads",
    )
    intermediate: int | None = Field(
        default=None, ge=8, description="tiny: hidden size of the MLP; default 3 x width"
    )
    vocabulary: int = Field(
        default=1024, ge=300, description="tiny: entries of the tokenizer, at most"
    )
    corpus: int = Field(
        default=20, ge=1, description="tiny: training tasks whose play the tokenizer is trained on"
    )
    init_std: float = Field(
        default=0.02, gt=0, description="tiny: standard deviation of the initial weights"
    )
    copying: bool = Field(
        default=False,
        description=(
            "tiny: start from attention that copies what was read, names and ids for example"
        ),
    )
    codes: bool = Field(
        default=False,
        description=(
            "tiny: each identifier that the world lists, such as a product id, is a single token"
        ),
    )
    max_context: int = Field(
        default=1024,
        ge=16,
        description=(
            "longest prompt plus response, in tokens; a pretrained model's own limit holds if lower"
            " (with longrope that is its original context)"
        ),
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description=(
            "type of the weights; train in float32: small updates vanish in bfloat16, and float16"
            " only plays"
        ),
    )
    device: str = Field(
        default="auto",
        description=(
            "where it plays and learns: cpu, cuda, cuda:N, or auto for a GPU if there is one"
        ),
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of random weights (tiny, LoRA)")
    lora: LoraConfig | None = Field(
        default=None, description="train low-rank adapters instead of all weights"
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not DEVICES.fullmatch(value):
            raise ValueError(f"'{value}' is no device: {KNOWN}")
        return value
