"""Boundaries: what plug-ins answer is looked at where it comes in, and a mistake is told with the
plug-in's name.

Each function asks one plug-in for its one answer. All raise PluginError if the plug-in raises, or
answers in another type or shape than its slot takes; what follows can then rely on both.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ..agents.episode import Episode, Group, episodes_of
from ..agents.models.forward import Scores
from ..envs import Task
from ..foundation.errors import PluginError, boundary
from ..foundation.plugins import Plugin
from ..rewards.base import TurnReward
from .auxiliary.base import Auxiliary
from .batch import TokenBatch
from .controllers.base import Controller, Steerable
from .credit.base import Advantages, Credit
from .curriculum.base import Curriculum
from .diagnostics.base import Diagnostic
from .losses.base import PolicyLoss
from .modifiers.base import Modifier
from .objective import LossOutput, Objective
from .regularizers.base import Regularizer
from .reward_table import RewardTable
from .selection.base import Replay, Selection
from .view import StepView
from .work import Work


def advantages_of(credit: Credit, rewards: RewardTable, batch: TokenBatch) -> Advantages:
    """Ask an estimator for its advantages, and return them per token [B, L].

    They are float64, without gradient.
    """
    what = f"credit '{credit.name}'"
    with boundary(what):
        answer: Any = credit(rewards, batch)
    if not isinstance(answer, Advantages):
        raise PluginError(f"{what} answered {_named(answer)}: expected Advantages")
    if answer.level == "turn":
        axes = "[E, T]: one number per turn of each episode"
        shape = (batch.episodes, batch.max_turns)
        values_BL = batch.spread(_tensor(answer.values, shape, what, axes))
    else:
        values_BL = _tensor(answer.values, batch.tokens_BL.shape, what, _PER_TOKEN)
    targets_BL = answer.critic_targets_BL
    if targets_BL is not None:
        targets_BL = _tensor(targets_BL, batch.tokens_BL.shape, what, _PER_TOKEN)
    return Advantages(values_BL, "token", targets_BL)


def modified(modifier: Modifier, advantages: Advantages, batch: TokenBatch) -> Advantages:
    """Ask a modifier for the advantages [B, L] in the place of the given ones."""
    what = f"modifier '{modifier.name}'"
    with boundary(what):
        answer = modifier(advantages.values, batch)
    return replace(advantages, values=_tensor(answer, batch.tokens_BL.shape, what, _PER_TOKEN))


def token_loss(
    objective: Objective, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
) -> LossOutput:
    """Ask a loss or a regularizer for its term per token."""
    what = _term(objective)
    with boundary(what):
        answer: Any = objective(scores, batch, advantages_BL)
    if not isinstance(answer, LossOutput):
        raise PluginError(f"{what} answered {_named(answer)}: expected a LossOutput")
    for part in (answer.loss_BL, *answer.metrics.values()):
        _check(part, scores.logprobs_BL.shape, what, _PER_TOKEN)
    return answer


def batch_loss(
    objective: Objective, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Ask a loss or a regularizer for its term of a whole batch, and metrics."""
    what = _term(objective)
    with boundary(what):
        answer: Any = objective.batch_loss(scores, batch, advantages_BL)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
        raise PluginError(f"{what} answered {_named(answer)}: expected its value and a dict")
    _check(answer[0], (), what, "[]: one number")
    return answer


def reward_of(term: Regularizer, batch: TokenBatch) -> Tensor | None:
    """Ask a regularizer for its reward per token [B, L], or None."""
    what = f"regularizer '{term.name}'"
    with boundary(what):
        answer = term.reward_BL(batch)
    return None if answer is None else _tensor(answer, batch.tokens_BL.shape, what, _PER_TOKEN)


def selected(selection: Selection, group: Group, returns: Sequence[float]) -> Group | None:
    """Ask a filter for what is left of a group: some of its episodes, or None."""
    what = f"selection '{selection.name}'"
    with boundary(what):
        answer: Any = selection(group, returns)
    if answer is None:
        return None
    known = {id(episode) for episode in group}
    if not isinstance(answer, Group) or not all(
        isinstance(e, Episode) and id(e) in known for e in answer.episodes
    ):
        raise PluginError(
            f"{what} answered {_named(answer)}: expected a Group of some of the given episodes, or"
            " None"
        )
    return answer


async def chosen(
    selection: Selection,
    groups: Sequence[Group],
    returns: Sequence[Sequence[float]],
    replay: Replay,
) -> list[Group]:
    """Ask a filter what is left of all groups, without those of which nothing is."""
    if type(selection).choose is Selection.choose:
        judged = (selected(selection, *pair) for pair in zip(groups, returns, strict=True))
        return [group for group in judged if group is not None and len(group)]
    what, known = f"selection '{selection.name}'", list(episodes_of(groups))

    async def watched(
        tasks: Sequence[Task], hints: Sequence[str] = ()
    ) -> tuple[list[Group], list[list[float]]]:
        again, paid = await replay(tasks, hints)
        known.extend(episodes_of(again))
        return again, paid

    with boundary(what):
        answer: Any = await selection.choose(groups, returns, watched)
    if not isinstance(answer, list | tuple) or not all(isinstance(g, Group) for g in answer):
        raise PluginError(f"{what} answered {_named(answer)}: expected a list of Group")
    ids = [id(episode) for episode in episodes_of(answer)]
    if set(ids) - {id(episode) for episode in known}:
        raise PluginError(f"{what} answered an episode that was not played")
    if len(set(ids)) < len(ids):
        raise PluginError(f"{what} answered an episode twice: each is learnt from once")
    return [group for group in answer if len(group)]


def next_tasks(
    curriculum: Curriculum, tasks: Sequence[Task], count: int, drawn: int, seed: int
) -> list[Task]:
    """Ask a curriculum for the next `count` tasks."""
    what = f"curriculum '{curriculum.name}'"
    with boundary(what):
        answer: Any = curriculum.sample(tasks, count, drawn, seed)
        chosen = list(answer)
    if len(chosen) != count or not all(isinstance(task, Task) for task in chosen):
        kinds = ", ".join(sorted({_named(task) for task in chosen})) or "nothing"
        raise PluginError(
            f"{what} answered {len(chosen)} entries ({kinds}): expected a list of {count} tasks"
        )
    return chosen


def turn_limit(curriculum: Curriculum, limit: int, progress: float) -> int:
    """Ask a curriculum for the turn limit of a step, from 1 to `limit`."""
    what = f"curriculum '{curriculum.name}'"
    with boundary(what):
        answer: Any = curriculum.max_turns(limit, progress)
    if not isinstance(answer, int) or not 1 <= answer <= limit:
        raise PluginError(
            f"{what} answered a turn limit of {answer!r}: expected a whole number from 1 to {limit}"
        )
    return answer


def observe(curriculum: Curriculum, groups: Sequence[Group]) -> None:
    """Tell a curriculum what was played."""
    with boundary(f"curriculum '{curriculum.name}'"):
        curriculum.observe(groups)


async def works_of(auxiliary: Auxiliary, view: StepView) -> list[Work]:
    """Ask an auxiliary for its works, whose names begin with its own."""
    what = f"auxiliary '{auxiliary.name}'"
    with boundary(what):
        answer: Any = auxiliary.works(view)
        if inspect.isawaitable(answer):
            answer = await answer
    if not isinstance(answer, list | tuple) or not all(isinstance(one, Work) for one in answer):
        raise PluginError(f"{what} answered {_named(answer)}: expected a list of Work")
    names = [work.name for work in answer]
    for work in answer:
        if work.name.partition("/")[0] != auxiliary.name or names.count(work.name) > 1:
            raise PluginError(
                f"{what} answered work '{work.name}': expected '{auxiliary.name}', or"
                f" '{auxiliary.name}/...' where there are several, each another name"
            )
        if not bool(work.advantages_BL[work.batch.mask_BL].isfinite().all()):
            raise PluginError(f"{what} answered advantages that are not finite: '{work.name}'")
    return list(answer)


def steer(controller: Controller, view: StepView, learner: Steerable, *, updated: bool) -> None:
    """Let a controller act, before or after the update of a step."""
    what = f"controller '{controller.name}'"
    with boundary(what):
        (controller.after_update if updated else controller.before_update)(view, learner)
    for name, factor in learner.factors.items():
        if not isinstance(factor, float | int) or not 0 <= factor < math.inf:
            raise PluginError(
                f"{what} set the factor of '{name}' to {factor!r}: expected a number from 0 on"
            )


def learnt(reward: TurnReward, groups: Sequence[Group]) -> dict[str, float]:
    """Let a reward learn from what a step learnt from; returns its numbers under its name."""
    what = f"reward '{reward.name}'"
    with boundary(what):
        answer: Any = reward.update(groups)
    return _numbers(answer, reward.name, what)


def diagnosed(diagnostic: Diagnostic, view: StepView) -> dict[str, float]:
    """Ask a diagnostic for its numbers, and return them under its name."""
    what = f"diagnostic '{diagnostic.name}'"
    with boundary(what):
        answer: Any = diagnostic(view)
    return _numbers(answer, diagnostic.name, what)


def _numbers(answer: Any, name: str, what: str) -> dict[str, float]:
    """Return numbers by name, each under the plug-in's own."""
    if not isinstance(answer, Mapping):
        raise PluginError(f"{what} answered {_named(answer)}: expected numbers by name")
    for key, value in answer.items():
        if not isinstance(key, str) or not isinstance(value, float | int):
            raise PluginError(
                f"{what} answered {_named(value)} for {key!r}: expected a number for each name"
            )
    return {f"{name}/{key}": float(value) for key, value in answer.items()}


def memory_of(plugin: Plugin) -> dict[str, Any]:
    """Ask a plug-in for what it remembers, and return a copy.

    It must be plain, or no checkpoint could give it back.
    """
    what = f"plug-in '{plugin.name}'"
    with boundary(what):
        answer: Any = plugin.state_dict()
        odd = _odd_part(answer)
        copied = copy.deepcopy(answer)
    if not isinstance(answer, dict) or odd:
        raise PluginError(
            f"{what} remembers {odd or _named(answer)} (state_dict): expected a dict of numbers,"
            " texts, lists, dicts and tensors"
        )
    return cast("dict[str, Any]", copied)


def _odd_part(value: Any) -> str:
    """Name the type of something inside a value that no checkpoint can give back; '' for none."""
    if isinstance(value, dict):
        return next(filter(None, map(_odd_part, [*value, *value.values()])), "")
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return next(filter(None, map(_odd_part, value)), "")
    plain = (
        value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, Tensor)
    )
    return "" if plain else _named(value)


_PER_TOKEN = "[B, L]: one number per token of each sequence"


def _term(objective: Objective) -> str:
    kind = "loss" if isinstance(objective, PolicyLoss) else "regularizer"
    return f"{kind} '{objective.name}'"


def _tensor(answer: Any, shape: Sequence[int], what: str, axes: str) -> Tensor:
    _check(answer, shape, what, axes)
    return answer.detach().double()  # type: ignore[no-any-return]


def _check(answer: Any, shape: Sequence[int], what: str, axes: str) -> None:
    if not isinstance(answer, Tensor):
        raise PluginError(f"{what} answered {_named(answer)}: expected a tensor {axes}")
    if tuple(answer.shape) != tuple(shape):
        raise PluginError(
            f"{what} answered a tensor {list(answer.shape)}: expected {list(shape)}, {axes}"
        )
    if answer.is_complex() or answer.dtype is torch.bool:
        raise PluginError(f"{what} answered a tensor of {answer.dtype}: expected numbers, {axes}")


def _named(value: Any) -> str:
    return "None" if value is None else type(value).__name__
