"""Diagnostic: numbers about a step that nothing depends on. The one hook is the call::

    class Longest(Diagnostic):  # training/diagnostics/longest.py
        name: Literal["longest"] = "longest"

        def __call__(self, view):
            return {"tokens": float(view.batch.tokens_E.max())}

The metrics have them as ``longest/tokens``. A run with diagnostics is bit for bit the run without:
they are asked last, outside of every random stream. One that raises costs its own numbers and is
logged once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from pydantic import Field

from ...foundation.plugins import Plugin, Slot
from ..view import StepView


class Diagnostic(Plugin):
    """Base of the slot ``training.diagnostics``.

    ``requires`` may name INITIAL_WEIGHTS of `Need`, and what the learner measures of a batch.
    """

    every: int = Field(
        1, ge=1, description="steps between two measurements; the first and the last step have one"
    )

    @abstractmethod
    def __call__(self, view: StepView) -> Mapping[str, float]:
        """Measure a step after its update: numbers by name.

        A number that there is not is left out.
        """


DIAGNOSTICS: Slot[Diagnostic] = Slot("turnrl.training.diagnostics", Diagnostic, "Diagnostics")
