"""A stage of a run in one file."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from turnrl.training.run_folder.checkpoint import TrainerState
from turnrl.training.session import Session
from turnrl.training.stages.base import Stage


class Shake(Stage):
    """Add noise to all weights, so that what follows has something to do.

    Source: an example.
    """

    name: Literal["shake"] = "shake"
    size: float = Field(0.01, ge=0, description="standard deviation of the noise")

    async def run(self, session: Session, index: int, state: TrainerState | None = None) -> int:
        """Add it once, tell the engine, and save what came out."""
        noise = torch.Generator().manual_seed(session.recipe.seed)
        with torch.no_grad():
            for weight in session.model.parameters():
                weight.add_(self.size * torch.randn(weight.shape, generator=noise))
        await session.engine.push(session.model.state_dict(), 1)
        session.record(self.label, 1, "train", {"size": self.size})
        session.save(self.label, (index, 1))
        return 1
