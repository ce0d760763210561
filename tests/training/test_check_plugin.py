"""The checker of plug-ins passes every method that ships, and finds each broken promise by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor
from turnrl import check_plugin
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.episode import Group
from turnrl.agents.models.forward import Scores
from turnrl.envs import Task
from turnrl.foundation.errors import UserError
from turnrl.foundation.plugins import Plugin
from turnrl.rewards.base import TurnReward
from turnrl.training.auxiliary.base import Auxiliary
from turnrl.training.batch import TokenBatch
from turnrl.training.check.check import SUITES
from turnrl.training.controllers.base import Controller, Steerable
from turnrl.training.credit.base import Advantages, Credit
from turnrl.training.curriculum.base import Curriculum
from turnrl.training.diagnostics.base import Diagnostic
from turnrl.training.losses.base import PolicyLoss
from turnrl.training.modifiers.base import Modifier
from turnrl.training.objective import LossOutput
from turnrl.training.regularizers.base import Regularizer
from turnrl.training.reward_table import RewardTable
from turnrl.training.selection.base import Selection
from turnrl.training.view import StepView
from turnrl.training.work import Work

CONFIGURED: dict[str, dict[str, Any]] = {
    "clip": {"of": {"name": "progress"}},
    "delta": {"of": {"name": "progress"}},
    "gate": {
        "levels": [{"of": {"name": "outcome"}, "threshold": 1.0}, {"of": {"name": "progress"}}]
    },
    "pairwise": {"by": {"name": "outcome"}},
    "rl": {"steps": 2, "tasks_per_step": 2, "group_size": 2},
    "sft": {"demonstrations": 8, "epochs": 1},
}
"""Fields of the plug-ins that cannot be made without any, and of stages, which are run."""
MANY = [
    (slot, name)
    for slot, (registry, _) in SUITES.items()
    for name in registry.names()
    if name != "judge"  # it asks a server: tests/rewards/test_judge.py
]


@pytest.mark.parametrize(("slot", "name"), MANY, ids=[f"{slot}:{name}" for slot, name in MANY])
def test_every_method_that_ships_keeps_its_promises(slot: str, name: str) -> None:
    check_plugin(slot, {"name": name, **CONFIGURED.get(name, {})})


class WritesRewards(Credit):
    """Answers rightly, and changes what it was given."""

    name: Literal["writes"] = "writes"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        answer = Advantages.of_episodes(rewards.total_E, batch)
        rewards.values_KET.zero_()
        return answer


class NoMean(Credit):
    """Compares groups, it says, and pushes where nobody was paid."""

    compares = "group"
    name: Literal["no_mean"] = "no_mean"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        return Advantages.of_episodes(rewards.total_E + 1, batch)


class ByPlace(Credit):
    """Pays the first episode of the batch most."""

    name: Literal["by_place"] = "by_place"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        place_E = torch.arange(batch.episodes, 0, -1).double()
        return Advantages.of_episodes(place_E, batch)


class ByRow(Credit):
    """Depends on how an episode was cut into sequences."""

    name: Literal["by_row"] = "by_row"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        rows_E = torch.bincount(batch.episode_B, minlength=batch.episodes).double()
        return Advantages.of_episodes(rows_E, batch)


class Infinite(Credit):
    """Divides by nothing."""

    name: Literal["infinite"] = "infinite"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        return Advantages.of_episodes(rewards.total_E / 0.0, batch)


class Everywhere(Modifier):
    """Gives observations an advantage."""

    name: Literal["everywhere"] = "everywhere"

    def __call__(self, advantages_BL: Tensor, batch: TokenBatch) -> Tensor:
        return advantages_BL + 1


class Rewrites(TurnReward):
    """Changes the episodes that it judges; its field has no help."""

    name: Literal["rewrites"] = "rewrites"
    silent: int = 0

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        for episode in group:
            episode.turns[0].observation = "changed"
        return [[0.0] * len(episode.turns) for episode in group]


class Forgets(TurnReward):
    """Learns after a step, and does not save what."""

    name: Literal["forgets"] = "forgets"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[float(len(LEARNT))] * len(episode.turns) for episode in group]

    def update(self, groups: Sequence[Group]) -> Mapping[str, float]:
        LEARNT.extend(groups)
        return {}


LEARNT: list[Group] = []


class Moody(Selection):
    """Keeps every other group that it is shown."""

    name: Literal["moody"] = "moody"

    def __call__(self, group: Group, returns: Sequence[float]) -> Group | None:
        MOOD.append(0)
        return group if len(MOOD) % 2 else None


MOOD: list[int] = []


class Forgetful(Curriculum):
    """Draws by what it saw last, and remembers nothing of it."""

    name: Literal["forgetful"] = "forgetful"

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        return [tasks[len(SEEN) % len(tasks)]] * count

    def observe(self, groups: Sequence[Group]) -> None:
        SEEN.append(0)


SEEN: list[int] = []


class Unstable(Selection):
    """Is read back as something else than it was written as."""

    name: Literal["unstable"] = "unstable"
    halves: float = Field(1.0, description="a number that is halved whenever it is written")

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return {"name": "unstable", "halves": self.halves / 2}

    def __call__(self, group: Group, returns: Sequence[float]) -> Group | None:
        return group


class Relative(PolicyLoss):
    """Divides by what is largest in the part of the batch that it sees."""

    name: Literal["relative"] = "relative"

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        largest = advantages_BL.abs().max().clamp(min=1) + batch.tokens_BL.shape[0]
        return LossOutput(-advantages_BL * scores.logprobs_BL / largest)


class Restless(PolicyLoss):
    """Says that it skips tokens without an advantage, and pushes them."""

    name: Literal["restless"] = "restless"

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        return LossOutput(-scores.logprobs_BL)


class Scribbles(Regularizer):
    """Leaves something in the batch."""

    name: Literal["scribbles"] = "scribbles"

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        batch.signals["mine_BL"] = scores.logprobs_BL.detach()
        return LossOutput(scores.logprobs_BL**2)


class ByRows(PolicyLoss):
    """Takes a sequence for an episode."""

    granularity = "batch"
    name: Literal["by_rows"] = "by_rows"

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        return -(advantages_BL * scores.logprobs_BL).sum(1).square().mean(), {}


class Thief(Auxiliary):
    """Takes an episode out of the step."""

    name: Literal["thief"] = "thief"

    async def works(self, view: StepView) -> Sequence[Work]:
        view.groups[0].episodes.pop()
        return []


class Pushes(Controller):
    """Moves the weights itself."""

    name: Literal["pushes"] = "pushes"

    def after_update(self, view: StepView, learner: Steerable) -> None:
        with torch.no_grad():
            next(view.model.parameters()).add_(1.0)


class Mistypes(Controller):
    """Sets a factor that nobody reads."""

    name: Literal["mistypes"] = "mistypes"

    def before_update(self, view: StepView, learner: Steerable) -> None:
        learner.factors["entrpy"] = 2.0


class Counts(Controller):
    """Steers by how often it was asked, and does not save that."""

    name: Literal["counts"] = "counts"

    def before_update(self, view: StepView, learner: Steerable) -> None:
        ASKED.append(0)
        learner.factors["kl"] = float(len(ASKED))


ASKED: list[int] = []


class Leaves(Diagnostic):
    """Leaves gradients behind."""

    name: Literal["leaves"] = "leaves"

    def __call__(self, view: StepView) -> Mapping[str, float]:
        value = sum(weight.sum() for weight in view.model.parameters())
        assert isinstance(value, Tensor)
        value.backward()
        return {"sum": float(value.detach())}


class Ages(Diagnostic):
    """Measures how often it was asked."""

    name: Literal["ages"] = "ages"

    def __call__(self, view: StepView) -> Mapping[str, float]:
        ASKED.append(0)
        return {"age": float(len(ASKED))}


@pytest.mark.parametrize(
    ("slot", "plugin", "rules"),
    [
        ("credit", WritesRewards(), {"writes nothing"}),
        ("credit", NoMean(), {"no variance, no advantage"}),
        ("credit", ByPlace(), {"order changes nothing"}),
        ("credit", ByRow(), {"packing changes nothing"}),
        ("credit", Infinite(), {"answers"}),
        ("modifiers", Everywhere(), {"only where something was sampled"}),
        ("rewards", Rewrites(), {"answers", "fields have help"}),
        ("rewards", Forgets(), {"pays by what it remembers"}),
        ("selection", Moody(), {"answers"}),
        ("selection", Unstable(), {"is its configuration"}),
        ("losses", Relative(), {"cuts change nothing", "packing changes nothing"}),
        ("losses", Restless(), {"no advantage, no gradient"}),
        ("losses", ByRows(), {"packing changes nothing"}),
        ("regularizers", Scribbles(), {"writes nothing"}),
        ("curriculum", Forgetful(), {"draws by seed and memory alone"}),
        ("auxiliary", Thief(), {"answers"}),
        ("controllers", Pushes(), {"answers"}),
        ("controllers", Mistypes(), {"steers what there is"}),
        ("controllers", Counts(), {"steers by what it remembers"}),
        ("diagnostics", Leaves(), {"changes nothing"}),
        ("diagnostics", Ages(), {"same answer twice"}),
    ],
    ids=lambda value: value.name if isinstance(value, Plugin) else None,
)
def test_a_broken_promise_is_found_by_its_rule(slot: str, plugin: Plugin, rules: set[str]) -> None:
    report = check_plugin(slot, plugin, report=True)
    assert {result.name for result in report.failures} == rules
    with pytest.raises(AssertionError, match=next(iter(rules))):
        check_plugin(slot, plugin)


def test_a_slot_that_is_not_checked_is_told_with_its_nearest_neighbour() -> None:
    with pytest.raises(UserError, match="did you mean 'credit'"):
        check_plugin("credits", "grpo")
