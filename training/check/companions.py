"""The promises of auxiliaries, controllers and diagnostics."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import torch
from torch import Tensor

from ...foundation.checking import Rules, Skip
from ...foundation.errors import PluginError, UserError
from ..auxiliary.base import Auxiliary
from ..boundaries import diagnosed, memory_of, steer, works_of
from ..controllers.base import Controller
from ..diagnostics.base import Diagnostic
from ..view import StepView
from ..work import Work
from .common import untouched
from .views import Bench, bench

SEEDS = range(3)
AUXILIARY: Rules[Auxiliary] = Rules()
CONTROLLER: Rules[Controller] = Rules()
DIAGNOSTIC: Rules[Diagnostic] = Rules()


def _parts(view: StepView) -> tuple[Any, ...]:
    """Collect all of a step that somebody could write into."""
    told = (dict(view.metrics), dict(view.initial), dict(view.model.state_dict()))
    return (view.groups, view.batch, view.rewards, view.advantages, *told)


def _works(auxiliary: Auxiliary, view: StepView) -> list[Work]:
    try:
        return untouched(lambda: asyncio.run(works_of(auxiliary, view)), *_parts(view))
    except UserError as error:
        if isinstance(error, PluginError):
            raise
        raise Skip(str(error)) from None


def _weights(used: Bench) -> Tensor:
    return torch.cat([w.detach().flatten() for w in used.learner.model.parameters()]).clone()


@AUXILIARY.rule("answers")
def brings(auxiliary: Auxiliary) -> str:
    """Check that an update can learn from the works, and that the step stays as it was.

    The metrics of that update have to be finite.
    """
    count = 0
    for seed in SEEDS:
        used = bench()
        view = used.view(seed)
        works = _works(auxiliary, view)
        metrics = used.learner.update([used.own(view), *works])
        strange = [name for name, value in metrics.items() if not math.isfinite(value)]
        assert not strange, f"metrics that are not finite: {', '.join(strange)}"
        count += len(works)
    return f"{count} works in {len(SEEDS)} steps"


@AUXILIARY.rule("same answer twice", needs=("answers",))
def brings_again(auxiliary: Auxiliary) -> None:
    """Check that works follow from the step and the memory alone.

    So a resumed run learns from the same.
    """
    used = bench()
    view = used.view(1)
    memory = memory_of(auxiliary)
    first = _works(auxiliary, view)
    auxiliary.load_state_dict(memory)
    again = _works(auxiliary, view)
    assert len(first) == len(again), "asked again it brings another number of works"
    for a, b in zip(first, again, strict=True):
        same = torch.equal(a.batch.tokens_BL, b.batch.tokens_BL)
        assert same, "asked again it brings other tokens"
        assert torch.equal(a.advantages_BL, b.advantages_BL), "asked again it pays otherwise"


def _steered(controller: Controller, used: Bench, steps: int) -> list[Tensor]:
    """Collect the weights that updates made, of some steps under a controller.

    Fails if the controller moved weights to where no update had left them.
    """
    made = [_weights(used)]
    for step in range(steps):
        view = used.view(step, step)
        for updated in (False, True):
            data = (view.groups, view.batch, view.rewards, view.advantages, dict(view.metrics))
            untouched(lambda: steer(controller, view, used.learner, updated=updated), *data)  # noqa: B023
            known = any(torch.equal(_weights(used), weights) for weights in made)
            assert known, "it moved weights to where no update had left them"
            if not updated:
                used.learner.update([used.own(view)], step)
                made.append(_weights(used))
    return made


@CONTROLLER.rule("answers")
def steers(controller: Controller) -> None:
    """Check that a controller sets numbers from 0 on, and moves weights to those of an update.

    Steps have to stay as they were.
    """
    _steered(controller, bench(), 4)


@CONTROLLER.rule("steers what there is", needs=("answers",))
def knows(controller: Controller) -> None:
    """Check that a controller sets no factor but of objectives that are minimised."""
    used = bench()
    known = set(used.learner.factors) | controller.steers()
    _steered(controller, used, 2)
    strange = sorted(set(used.learner.factors) - known)
    assert not strange, f"it set factors that nobody reads: {', '.join(strange)}"


@CONTROLLER.rule("steers by what it remembers", needs=("answers",))
def steers_again(controller: Controller) -> None:
    """Check that a controller steers on as before after its memory was saved and loaded."""
    used = bench()
    _steered(controller, used, 2)
    memory, state = memory_of(controller), used.learner.snapshot()
    factors = []
    for _ in range(2):
        used.learner.rollback(state)
        controller.load_state_dict(memory)
        view = used.view(2, 2)
        steer(controller, view, used.learner, updated=False)
        steer(controller, view, used.learner, updated=True)
        factors.append(dict(used.learner.factors))
    assert factors[0] == factors[1], "a resumed run is steered otherwise"


@DIAGNOSTIC.rule("answers")
def measures(diagnostic: Diagnostic) -> str:
    """Check that a diagnostic gives finite numbers by name, before and after an update."""
    used, names = bench(), set[str]()
    for seed in SEEDS:
        view = used.view(seed)
        found = diagnosed(diagnostic, view)
        strange = [name for name, value in found.items() if not math.isfinite(value)]
        assert not strange, f"numbers that are not finite: {', '.join(strange)}"
        names |= found.keys()
        used.learner.update([used.own(view)], seed)
    return f"{len(names)} numbers"


@DIAGNOSTIC.rule("changes nothing", needs=("answers",))
def reads_only(diagnostic: Diagnostic) -> None:
    """Check that a diagnostic leaves the step, the weights and their gradients as they were."""
    used = bench()
    view = used.view(0)
    used.learner.update([used.own(view)])
    untouched(lambda: diagnosed(diagnostic, view), *_parts(view))
    written = any(weight.grad is not None for weight in view.model.parameters())
    assert not written, "it left gradients behind"


@DIAGNOSTIC.rule("same answer twice", needs=("answers",))
def measures_again(diagnostic: Diagnostic) -> None:
    """Check that equal steps have equal numbers."""
    used = bench()
    view, memory = used.view(0), memory_of(diagnostic)
    used.learner.update([used.own(view)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = diagnosed(diagnostic, view)
        diagnostic.load_state_dict(memory)
        torch.manual_seed(0)
        assert diagnosed(diagnostic, view) == first, "asked again it measures otherwise"
