"""Reference: the policy that the one that learns is compared with.

It is a copy of what is trained beside weights that both share, and no copy at all where switching
adapters off gives it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ...agents.models.config import ModelConfig
from ...agents.models.load import load
from ...agents.models.lora import adapters_off, untouched_adapters
from ...foundation.errors import UserError


class ReferenceConfig(BaseModel):
    """The `reference` block of an rl stage."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["start", "checkpoint", "soup", "ema"] = Field(
        "start",
        description=(
            "which policy it is: that at the start of the stage, a saved one, the mean of the start"
            " and the policy as it was lately, or a running mean of the policy"
        ),
    )
    path: str | None = Field(
        None, description="folder of the saved model, for checkpoint; relative to the recipe"
    )
    decay: float = Field(
        0.995, ge=0, lt=1, description="share of an ema that is left when it is updated"
    )
    every: int = Field(1, ge=1, description="steps between two updates of a soup or an ema")

    @model_validator(mode="after")
    def _path_belongs(self) -> Self:
        if (self.path is not None) != (self.kind == "checkpoint"):
            raise ValueError("'path' belongs to kind: checkpoint, which needs it")
        return self


class Reference:
    """The policy as it was, as it was saved, or as it is on average.

    ``start`` never changes. ``checkpoint`` is another model, which may have another shape, but the
    same tokens. ``soup``: ``ref <- (start + policy) / 2``, ``ema``: ``ref <- decay * ref + (1 -
    decay) * policy``, after every `every`-th step; of an adapted model the adapters are averaged,
    each matrix by itself.

    Where only adapters are trained the other weights are the policy's own. If the adapters have not
    been trained yet, ``start`` is the policy with its adapters switched off, and nothing is copied.

    Papers: the running mean is that of GRPO-CARE (arXiv 2506.16141), with 0.995 every 10 steps; the
    soup is inspired by SALSA (arXiv 2411.01798), where it is of two models that were fine-tuned
    before. Source: a description of the code of TencentARC/GRPO-CARE; general knowledge of the
    other.

    Args:
        policy: as it is now.
        config: which reference.

    Raises:
        UserError: the saved model cannot be read, or has other tokens.
    """

    def __init__(self, policy: nn.Module, config: ReferenceConfig) -> None:
        self.policy, self.config = policy, config
        off = config.kind == "start" and untouched_adapters(policy)
        self._copy = None if off else self._made()
        self._start = self._trained() if config.kind == "soup" else {}

    @contextmanager
    def model(self) -> Iterator[nn.Module]:
        """Lend the model that computes the reference's scores."""
        if self._copy is not None:
            yield self._copy
            return
        with adapters_off(self.policy):
            yield self.policy

    @property
    def own(self) -> dict[str, Tensor]:
        """Collect the weights that the reference does not share with the policy, by name."""
        if self._copy is None:
            return {}
        shared = {id(weight) for weight in self.policy.parameters()}
        return {n: w for n, w in self._copy.named_parameters() if id(w) not in shared}

    @property
    def start(self) -> Mapping[str, Tensor]:
        """Return the trained weights as they were at the start, by name.

        Empty if the reference holds none of that time.
        """
        return self.own if self.config.kind == "start" else self._start

    @property
    def follows(self) -> bool:
        """Tell whether it changes as the policy does."""
        return self.config.kind in ("soup", "ema")

    @torch.no_grad()
    def follow(self, done: int) -> None:
        """Go after the policy, if it is time.

        Args:
            done: steps of the stage that are done.
        """
        if not self.follows or done % self.config.every:
            return
        policy, own = dict(self.policy.named_parameters()), self.own
        for name, weight in own.items():
            if self.config.kind == "ema":
                weight.lerp_(policy[name], 1.0 - self.config.decay)
            else:
                weight.copy_(self._start[name]).add_(policy[name]).mul_(0.5)

    def state_dict(self) -> dict[str, Any]:
        """Return what makes a resume exact; the policy's own weights are not among it."""
        return {"copied": self._copy is not None, "own": self.own, "start": self._start}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if not state["copied"]:
            self._copy = None
        elif self._copy is None:
            self._copy = self._made()
        for into, key in ((self.own, "own"), (self._start, "start")):
            for name, weight in into.items():
                weight.copy_(state[key][name])

    def _made(self) -> nn.Module:
        if self.config.path is None:
            return frozen_copy(self.policy)
        return saved_policy(self.config.path, self.policy)

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.own.items()}


def frozen_copy(policy: nn.Module) -> nn.Module:
    """Copy the policy as it is now, never to be trained; frozen weights exist once for both."""
    frozen = {id(weight): weight for weight in policy.parameters() if not weight.requires_grad}
    return copy.deepcopy(policy, frozen).eval().requires_grad_(False)


def saved_policy(path: str, policy: nn.Module) -> nn.Module:
    """Load a saved model beside the policy, on its device. Raises UserError."""
    if not Path(path).expanduser().is_dir():
        raise UserError(f"reference.path: '{path}' is no folder of a saved model")
    weight = next(policy.parameters())
    dtype: Any = str(weight.dtype).removeprefix("torch.")
    device = "cpu" if weight.device.type == "cpu" else f"cuda:{weight.device.index or 0}"
    model: nn.Module = load(ModelConfig(name=path, dtype=dtype, device=device)).model
    rows, wanted = (len(each.get_output_embeddings().weight) for each in (model, policy))  # type: ignore[operator]
    if rows != wanted:
        raise UserError(
            f"reference.path: the model in '{path}' has {rows} tokens and the policy {wanted}: a"
            " reference has the policy's own tokenizer"
        )
    return model.eval().requires_grad_(False)
