"""Companions: who acts beside the walk of a step, by hand and in whole runs."""

from __future__ import annotations

import asyncio
import copy
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor, nn
from turnrl import Recipe
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.base import ContextOverflow
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.models.forward import Scores
from turnrl.envs import Outcome, Split, Task, TextEnv, register
from turnrl.foundation.errors import PluginError, UserError
from turnrl.foundation.plugins import Need
from turnrl.training.auxiliary.base import AUXILIARIES, Auxiliary
from turnrl.training.auxiliary.spark_recycle import SparkRecycle, balanced, questions
from turnrl.training.batch import TokenBatch
from turnrl.training.controllers.adaptive_kl import AdaptiveKl
from turnrl.training.controllers.base import Controller, Steerable
from turnrl.training.diagnostics.base import Diagnostic
from turnrl.training.diagnostics.update_sparsity import UpdateSparsity
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.local import Learner
from turnrl.training.losses.base import LOSSES, PolicyLoss
from turnrl.training.objective import LossOutput
from turnrl.training.plan import env_extras, plan
from turnrl.training.run import train
from turnrl.training.view import StepView
from turnrl.training.walk import Trainer
from turnrl.training.work import Work

from ..agents.fake_engine import FakeEngine, tokenizer
from ..logged import listening, logged
from ..toy_world import recipe, records
from .test_trainer import session_of
from .test_update import advantages, batch_of, model, tokens

HERE = "tests.training.test_companions"


def shown(batch: TokenBatch | None = None, **fields: Any) -> StepView:
    """A step of which only the given parts are looked at."""
    nothing: Any = None
    given = batch_of("full_history") if batch is None else batch
    made = {
        "step": 0,
        "seed": 7,
        "groups": [],
        "rewards": nothing,
        "advantages": nothing,
        "metrics": {},
        "model": nothing,
        "initial": {},
        "agent": nothing,
    }
    return StepView(batch=given, **made | fields)


# By hand: adaptive_kl.


class Reins:
    """A learner that only has a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factors = {"kl": factor}

    def snapshot(self) -> dict[str, Any]:
        raise AssertionError("it has no use for a snapshot")

    def rollback(self, snapshot: Mapping[str, Any]) -> None:
        raise AssertionError("it never goes back")


def steered(measured: float, share: float, factor: float = 1.0) -> float:
    """The factor after a step with this KL and so many tokens, as a share of the horizon."""
    reins, view = Reins(factor), shown(metrics={"kl": measured})
    horizon = round(int(view.batch.mask_BL.sum()) / share)
    AdaptiveKl(target=0.01, horizon=horizon).after_update(view, reins)
    return reins.factors["kl"]


def test_a_coefficient_of_the_kl_penalty_goes_by_hand() -> None:
    assert 0.01 * steered(0.02, 0.1) == pytest.approx(0.0102, rel=1e-3)
    assert steered(0.011, 0.1) == pytest.approx(1.01, rel=1e-3), "10 % above: a tenth of 10 %"
    assert steered(0.01, 0.1) == 1.0
    assert steered(-5.0, 0.1) == pytest.approx(0.98, rel=1e-3), "clipped"
    assert steered(5.0, 1.0) == steered(5.0, 50.0) == pytest.approx(1.2), "never more than a fifth"
    assert steered(float("nan"), 1.0) == 1.0
    assert steered(5.0, 1.0, factor=1e6) == 1e6
    assert steered(0.0, 1.0, factor=1e-6) == 1e-6
    reins = Reins()
    AdaptiveKl().after_update(shown(), reins)
    assert reins.factors == {"kl": 1.0}, "a step that measured no KL"


# By hand: update_sparsity.


def sparsity(change: list[list[float]], **fields: Any) -> Mapping[str, float]:
    model: Any = nn.Linear(len(change[0]), len(change), bias=False)
    initial = {"weight": model.weight.detach().clone()}
    with torch.no_grad():
        model.weight.add_(torch.tensor(change))
    return UpdateSparsity(**fields)(shown(model=model, initial=initial))


def test_the_sparsity_and_the_rank_of_an_update_by_hand() -> None:
    assert sparsity([[0.1, 0.0], [0.0, 0.0]], ranks=True) == {
        "share": 0.75,
        "share/least": 0.75,
        "share/most": 0.75,
        "rank": 0.5,
    }
    assert sparsity([[0.1, 0.0], [0.0, 0.2]], ranks=True)["rank"] == 1.0
    assert sparsity([[0.1, 0.1], [0.1, 0.1]], ranks=True)["rank"] == 0.5
    assert "rank" not in sparsity([[0.0, 0.0], [0.0, 0.0]], ranks=True)
    assert sparsity([[1e-6, 0.1]], tolerance=1e-5)["share"] == 0.5
    assert sparsity([[1e-6, 0.1]], tolerance=0.0)["share"] == 0.0
    assert sparsity([[0.1, 0.0]], each=True)["share/weight"] == 0.5


# By hand: spark_recycle.


def group_of(successes: Sequence[bool]) -> Group:
    """Episodes that differ in what was said, whose last observation gives the verdict away."""
    task, episodes = Task(env="toy/made-v0", seed=0), []
    for number, success in enumerate(successes):
        turns = [
            Turn([1], False, [2], [-1.0], text="first", observation="on the way"),
            Turn([3], True, [4], [-1.0], text=f"word {number}", observation="VERDICT"),
        ]
        stop = StopReason.WON if success else StopReason.LOST
        episodes.append(Episode(task, "You are here.", turns, stop, success))
    return Group(task, episodes)


def test_eight_episodes_of_which_three_won_give_eight_questions_and_fifteen() -> None:
    group = group_of([True] * 3 + [False] * 5)
    found = questions([group], random.Random(0))
    by_answer = {a: [q for q in found if q.answer == a] for a in ("yes", "no", "A", "B")}
    assert [len(each) for each in by_answer.values()] == [3, 5, 8, 7]
    for each in found:
        assert "VERDICT" not in each.question
        assert "You are here.\n> first\non the way\n> word " in each.question
    for each in by_answer["A"] + by_answer["B"]:
        first, second = (int(part[0]) for part in each.question.split("> word ")[1:])
        good, bad = (first, second) if each.answer == "A" else (second, first)
        assert good < 3 <= bad
    kept = [each.answer for each in balanced(found, random.Random(0))]
    assert [kept.count(answer) for answer in by_answer] == [3, 3, 7, 7]
    of_one_class = questions([group_of([True] * 4)], random.Random(0))
    assert [each.answer for each in of_one_class] == ["yes"] * 4
    assert balanced(of_one_class, random.Random(0)) == []


def recycled(answer: Any, per_episode: float = 2.0) -> list[Work]:
    """What becomes of a group of eight with three successes where the player answers so."""
    engine = FakeEngine(answer)
    agent = AgentConfig().build(engine, tokenizer())
    groups = [group_of([True] * 3 + [False] * 5)]
    view = shown(TokenBatch.pack(groups), groups=groups, agent=agent)
    works = asyncio.run(SparkRecycle(per_episode=per_episode, scale=0.5).works(view))
    assert not engine.conversations, "every conversation is closed"
    return list(works)


def right(conversation: str, turn: int, prompt: str) -> str:
    """The verdict, which the words of an attempt tell: the first three won."""
    said = [int(part[0]) for part in prompt.split("> word ")[1:]]
    if len(said) == 2:
        return "A" if said[0] < 3 else "B"
    return "Yes." if said[0] < 3 else "no"


def test_answers_are_paid_if_they_are_right_and_compared_with_those_to_the_same_question() -> None:
    [work] = recycled(right)
    assert work.metrics == {"questions": 16, "unanswered": 0, "accuracy": 1.0}
    assert work.scale == 0.5
    assert work.batch.episodes == 16 * 4
    assert not bool(work.advantages_BL.any()), "all alike: nothing to learn"

    def once(conversation: str, turn: int, prompt: str) -> str:
        return right(conversation, turn, prompt) if conversation.endswith(":002") else "maybe"

    [work] = recycled(once)
    assert work.metrics["accuracy"] == 0.25
    paid = work.advantages_BL[work.batch.mask_BL]
    assert set(paid.tolist()) == {0.75, -0.25}
    sums_E = work.batch.per_episode(work.advantages_BL.sum(1)) / work.batch.tokens_E
    assert torch.equal(sums_E > 0, work.batch.success_E)
    assert float(sums_E.sum()) == pytest.approx(0.0)
    assert len(recycled(right, per_episode=0.3)[0].batch.group_E.unique()) == 2


def test_a_question_that_cannot_be_answered_is_left_out_and_counted() -> None:
    def long(conversation: str, turn: int, prompt: str) -> str | Exception:
        return ContextOverflow() if "Attempt B" in prompt else "yes"

    [work] = recycled(long, per_episode=4.0)
    assert work.metrics == {"questions": 20, "unanswered": 14, "accuracy": 0.5}
    assert recycled(right, per_episode=0.1) == []
    with logged("none of 16 questions could be answered"):
        assert recycled(lambda *_: ContextOverflow()) == []


# In whole runs.


class Drawing(Diagnostic):
    """Draws random numbers, and asks the policy."""

    name: Literal["drawing"] = "drawing"

    def __call__(self, view: StepView) -> Mapping[str, float]:
        found = view.model(view.batch.tokens_BL[:1]).logits
        return {"number": float(torch.rand(())), "mean": float(found.mean())}


class Raising(Diagnostic):
    """Raises at every second step."""

    name: Literal["raising"] = "raising"

    def __call__(self, view: StepView) -> Mapping[str, float]:
        if view.step % 2:
            raise ZeroDivisionError(f"step {view.step}")
        return {"fine": 1.0}


class Counting(Auxiliary):
    """Brings one episode of the step again, as often as it was asked; remembers how often."""

    name: Literal["counting"] = "counting"
    _asked: int = PrivateAttr(0)

    async def works(self, view: StepView) -> Sequence[Work]:
        self._asked += 1
        batch = view.batch.select([self._asked % len(view.batch.lengths_B)])
        loss = LOSSES.build({"name": "reinforce"})
        ones_BL = batch.mask_BL.double()
        asked = {"asked": float(self._asked)}
        return [Work(self.name, batch, ones_BL, [loss], scale=self.scale, metrics=asked)]

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._asked = state["asked"]


class Remembering(PolicyLoss):
    """Remembers how many minibatches it was prepared for."""

    name: Literal["remembering"] = "remembering"
    _seen: int = PrivateAttr(0)

    def prepare(self, batch: TokenBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        self._seen += 1
        return {}, {"seen": float(self._seen)}

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        return LossOutput(-advantages_BL * scores.logprobs_BL / self._seen)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]


class Backwards(Controller):
    """Undoes every update."""

    name: Literal["backwards"] = "backwards"
    _kept: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    def before_update(self, view: StepView, learner: Steerable) -> None:
        self._kept[:] = [learner.snapshot()]

    def after_update(self, view: StepView, learner: Steerable) -> None:
        assert view.metrics["grad_norm"] > 0
        learner.factors["entropy"] = 3.0
        learner.rollback(self._kept[0])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]).clone()


RL: dict[str, Any] = {
    "steps": 4,
    "regularizers": [{"name": "kl", "coefficient": 0.1}, {"name": "entropy", "coefficient": 0.01}],
    "average": 0.5,
}
MODEL = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 320, "max_context": 512}


def data(**rl: Any) -> dict[str, Any]:
    env = {"id": "toy/lights-v0", "length": 2, "forgiving": False}
    return recipe(env=env, model={**MODEL, "init_std": 0.15}, rl=RL | rl)


def trained(folder: Path, given: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    train(Recipe.parse(given), run_dir=folder, progress=False, **options)
    return records(folder)


def steps_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["stage"] == "rl" and line["kind"] == "train"]


def saved(folder: Path) -> bytes:
    return (folder / "checkpoints" / "rl" / "model.safetensors").read_bytes()


def test_a_run_with_diagnostics_is_bit_for_bit_the_run_without(tmp_path: Path) -> None:
    names = [{"name": f"{HERE}:Drawing"}, {"name": "update_sparsity", "ranks": True, "every": 3}]
    plain = trained(tmp_path / "plain", data())
    watched = trained(tmp_path / "watched", data(diagnostics=names))
    kept = [
        {k: v for k, v in line.items() if not k.startswith(("drawing/", "update_sparsity/"))}
        for line in watched
    ]
    assert kept == plain
    assert saved(tmp_path / "plain") == saved(tmp_path / "watched")
    found = steps_of(watched)
    assert all("drawing/number" in line for line in found)
    assert ["update_sparsity/share" in line for line in found] == [True, False, True, True]
    assert 0 <= found[-1]["update_sparsity/share"] < 1
    assert 0 < found[-1]["update_sparsity/rank"] <= 1


def test_a_diagnostic_that_raises_costs_its_numbers_and_one_warning(tmp_path: Path) -> None:
    with listening() as said:
        lines = trained(tmp_path / "run", data(diagnostics=[{"name": f"{HERE}:Raising"}]))
    found = steps_of(lines)
    assert ["raising/fine" in line for line in found] == [True, False, True, False]
    [warning] = [text for text in said if "raising" in text]
    assert "step 2: diagnostic 'raising' raised ZeroDivisionError: step 1" in warning
    assert "test_companions.py" in warning


def test_a_controller_that_undoes_every_update_leaves_all_as_it_was(tmp_path: Path) -> None:
    backwards, counting = ([{"name": f"{HERE}:{name}"}] for name in ("Backwards", "Counting"))
    given = data(controllers=backwards, auxiliary=counting)
    with session_of(tmp_path, given) as session:
        stage: Any = session.recipe.stages[1]
        trainer = Trainer(session, stage, 1)
        before = weights(session.model)
        for step in range(3):
            metrics = asyncio.run(trainer.step(step))
            assert metrics["grad_norm"] > 0
            assert metrics["factor/entropy"] == 1.0
            assert torch.equal(weights(session.model), before)
        state = trainer.learner.state_dict()
        assert not state["optimizer"]["state"], "the optimiser has not moved either"
        with trainer.learner.averaged():
            assert torch.equal(weights(session.model), before)


def test_a_rollback_undoes_what_plug_ins_of_the_update_remember() -> None:
    remembering, loss = Counting(), {"name": f"{HERE}:Remembering"}
    learner = Learner(
        LearnerConfig.model_validate({"loss": loss}),
        copy.deepcopy(model()),
        companions=[remembering],
    )
    view = shown()
    work = learner.work(view.batch, tokens(advantages(view.batch)))

    def learn() -> dict[str, float]:
        return learner.update([work, *asyncio.run(remembering.works(view))])

    learn()
    kept, before = learner.snapshot(), weights(learner.model)
    first = learn()
    assert first["seen"] == first["counting/asked"] == 2
    learner.rollback(kept)
    assert torch.equal(weights(learner.model), before)
    assert learn() == first


def test_a_run_with_companions_that_is_resumed_is_the_run_that_was_not(tmp_path: Path) -> None:
    """What they remember, the factors and the weights of the start are in the checkpoint."""
    companions: dict[str, Any] = {
        "auxiliary": [{"name": f"{HERE}:Counting", "scale": 0.3}, {"name": "spark_recycle"}],
        "controllers": [{"name": "adaptive_kl", "target": 1e-4, "horizon": 1}],
        "diagnostics": [{"name": "update_sparsity"}],
    }
    whole = trained(tmp_path / "whole", data(**companions))
    trained(tmp_path / "half", data(**companions, steps=2))
    resumed = trained(tmp_path / "half", data(**companions), resume=True)
    assert steps_of(resumed) == steps_of(whole)
    assert saved(tmp_path / "half") == saved(tmp_path / "whole")
    found = steps_of(whole)
    assert [line["counting/asked"] for line in found] == [1, 2, 3, 4]
    assert any(line.get("spark_recycle/questions", 0) > 0 for line in found)
    assert found[0]["factor/kl"] == 1.0
    assert found[-1]["factor/kl"] != 1.0


class ShyEnv(TextEnv):
    """A world without an expert."""

    sizes: ClassVar[dict[Split, int]] = {"train": 8, "valid": 4, "test": 4}
    instructions = "Say anything."

    def _begin(self, task: Task) -> Outcome:
        return Outcome("Well?")

    def _act(self, action: str) -> Outcome:
        return Outcome("Good.", ended=True, success=True)


register("toy/shy-v0", ShyEnv)


class Progressing(Diagnostic):
    """Measures how far the episodes of a step came, as the world tells it."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.PROGRESS, Need.EXPERT})
    name: Literal["progressing"] = "progressing"

    def __call__(self, view: StepView) -> Mapping[str, float]:
        episodes = [episode for group in view.groups for episode in group]
        told = [episode.turns[-1].progress for episode in episodes]
        assert all(episode.expert for episode in episodes)
        return {"mean": statistics.mean(value for value in told if value is not None)}


def test_worlds_tell_what_somebody_beside_the_walk_needs(tmp_path: Path) -> None:
    given = data(steps=1, diagnostics=[{"name": f"{HERE}:Progressing"}])
    assert env_extras(Recipe.parse(given)) == {Need.PROGRESS}
    [step] = steps_of(trained(tmp_path / "run", given))
    assert 0 <= step["progressing/mean"] <= 1
    with pytest.raises(UserError, match=r"plug-in 'progressing' asks for the plan of the world's"):
        plan(given | {"env": {"id": "toy/shy-v0"}})


# What goes wrong is named.


def test_a_controller_without_what_it_steers_is_refused() -> None:
    given = recipe(rl={"controllers": [{"name": "adaptive_kl"}]})
    with pytest.raises(UserError, match="controller 'adaptive_kl' steers 'kl', which this stage"):
        Recipe.parse(given)
    with pytest.raises(UserError, match="'update_sparsity' is listed twice"):
        Recipe.parse(recipe(rl={"diagnostics": [{"name": "update_sparsity"}] * 2}))


class Wrong(Auxiliary):
    """Names its works, or pays them, as nobody can use them."""

    name: Literal["wrong"] = "wrong"
    how: str = "name"

    async def works(self, view: StepView) -> Any:
        loss = LOSSES.build({"name": "reinforce"})
        work = Work(self.name, view.batch, view.advantages.values, [loss])
        return {
            "name": [replace(work, name="other")],
            "twice": [work, work],
            "nan": [replace(work, advantages_BL=torch.full_like(work.advantages_BL, torch.nan))],
            "no work": [view.batch],
        }[self.how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("name", "answered work 'other': expected 'wrong'"),
        ("twice", "answered work 'wrong': expected 'wrong'"),
        ("nan", "answered advantages that are not finite"),
        ("no work", "answered list: expected a list of Work"),
    ],
)
def test_works_that_nobody_can_use_are_told_with_the_name_of_the_plug_in(
    tmp_path: Path, how: str, said: str
) -> None:
    wrong = AUXILIARIES.build({"name": f"{HERE}:Wrong", "how": how})
    with session_of(tmp_path, data(auxiliary=[wrong])) as session:
        stage: Any = session.recipe.stages[1]
        with pytest.raises(PluginError, match=f"auxiliary 'wrong' {said}"):
            asyncio.run(Trainer(session, stage, 1).step(0))


class Negative(Controller):
    """Sets a factor that turns a penalty into a reward."""

    name: Literal["negative"] = "negative"

    def before_update(self, view: StepView, learner: Steerable) -> None:
        learner.factors["kl"] = -1.0


def test_a_factor_that_is_no_factor_is_told_with_the_name_of_the_controller(tmp_path: Path) -> None:
    with session_of(tmp_path, data(controllers=[{"name": f"{HERE}:Negative"}])) as session:
        stage: Any = session.recipe.stages[1]
        said = "controller 'negative' set the factor of 'kl' to -1.0"
        with pytest.raises(PluginError, match=said):
            asyncio.run(Trainer(session, stage, 1).step(0))
