"""Reference: what the policy is compared with, what of it is copied, and that a resume keeps it."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from turnrl import Recipe
from turnrl.agents.models.config import LoraConfig, ModelConfig
from turnrl.agents.models.load import Loaded, load
from turnrl.agents.models.save import save
from turnrl.foundation.errors import UserError
from turnrl.foundation.plugins import Need
from turnrl.training.batch import TokenBatch
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.local import Learner
from turnrl.training.learner.reference import Reference, ReferenceConfig, frozen_copy
from turnrl.training.plan import plan
from turnrl.training.run import train

from ..toy_world import TEXTS, recipe, records
from .test_update import advantages, batch_of, tokens

SMALL = ModelConfig(layers=1, width=16, heads=2, vocabulary=320, init_std=0.3, device="cpu")
KL: dict[str, Any] = {"regularizers": [{"name": "kl", "coefficient": 0.1}], "optim": {"lr": 0.02}}


def loaded(lora: int | None = None) -> Loaded:
    adapters = None if lora is None else LoraConfig(rank=lora)
    return load(SMALL.model_copy(update={"lora": adapters}), corpus=lambda: TEXTS)


def logprobs(learner: Learner, batch: TokenBatch) -> Tensor:
    """What the reference says of a batch."""
    return learner.measured(batch).logprobs_of("ref")


def learn(learner: Learner, batch: TokenBatch, steps: int = 1, first: int = 0) -> None:
    for step in range(first, first + steps):
        measured = learner.measured(batch)
        learner.update([learner.work(measured, tokens(advantages(batch)))], step)


def learner_of(policy: nn.Module, needs: set[Need] | None = None, **reference: Any) -> Learner:
    config = LearnerConfig.model_validate(KL | {"reference": reference})
    return Learner(config, policy, needs=needs or set())


# By hand.


def followed(kind: str, policies: list[float], **fields: Any) -> list[float]:
    """A reference of one number that begins at 0, after each step of a policy that goes so."""
    policy = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(policy.weight)
    reference = Reference(policy, ReferenceConfig.model_validate({"kind": kind, **fields}))
    found = []
    for done, value in enumerate(policies, 1):
        nn.init.constant_(policy.weight, value)
        reference.follow(done)
        with reference.model() as model:
            found.append(float(next(model.parameters())))
    return found


def test_references_that_follow_go_by_hand() -> None:
    assert followed("ema", [1.0, 1.0]) == pytest.approx([0.005, 0.009975])
    assert followed("ema", [1.0, 1.0, 1.0, 3.0], decay=0.5, every=2) == [0.0, 0.5, 0.5, 1.75]
    assert followed("soup", [1.0, 3.0]) == [0.5, 1.5]
    assert followed("soup", [1.0, 3.0, 5.0, 7.0], every=2) == [0.0, 1.5, 1.5, 3.5]
    assert followed("start", [1.0, 2.0]) == [0.0, 0.0]


# What it is.


def test_the_policy_at_the_start_never_changes() -> None:
    batch, learner = batch_of("sliding_window"), learner_of(loaded().model)
    before = logprobs(learner, batch)
    learn(learner, batch, 2)
    assert torch.equal(logprobs(learner, batch), before)
    assert not torch.equal(logprobs(learner_of(learner.model), batch), before), "it has learnt"


def test_a_saved_model_is_a_reference(tmp_path: Path) -> None:
    batch, saved = batch_of("sliding_window"), loaded()
    with torch.no_grad():
        for weight in saved.model.parameters():
            weight.add_(0.01)
    save(saved.model, saved.tokenizer, tmp_path / "saved")
    learner = learner_of(loaded().model, kind="checkpoint", path=str(tmp_path / "saved"))
    expected = logprobs(learner_of(saved.model), batch)
    assert torch.equal(logprobs(learner, batch), expected)
    learn(learner, batch)
    assert torch.equal(logprobs(learner, batch), expected)
    with pytest.raises(UserError, match=r"reference.path: '.*nothing' is no folder"):
        learner_of(loaded().model, kind="checkpoint", path=str(tmp_path / "nothing"))
    other = load(SMALL, corpus=lambda: ["another world"])
    with pytest.raises(UserError, match=r"has \d+ tokens and the policy \d+: a reference has"):
        learner_of(other.model, kind="checkpoint", path=str(tmp_path / "saved"))


@pytest.mark.parametrize("lora", [None, 2])
@pytest.mark.parametrize("kind", ["ema", "soup"])
def test_a_reference_that_follows_is_between_the_start_and_the_policy(
    kind: str, lora: int | None
) -> None:
    batch, policy = batch_of("full_history"), loaded(lora).model
    learner = learner_of(policy, kind=kind, decay=0.5)
    start = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    learn(learner, batch)
    assert learner.reference is not None
    own = learner.reference.own
    assert own.keys() == start.keys()
    now = dict(policy.named_parameters())
    assert any(not torch.equal(now[name], start[name]) for name in start)
    for name, weight in own.items():
        torch.testing.assert_close(weight, (start[name] + now[name]) / 2)


# With adapters.


def bases(model: Any) -> int:
    """How many tensors of the size of the model's embeddings live anywhere, each memory once."""
    gc.collect()
    shape = model.get_input_embeddings().weight.shape
    return len(
        {
            thing.data_ptr()
            for thing in gc.get_objects()
            if issubclass(type(thing), Tensor) and thing.shape == shape
        }
    )


def test_fresh_adapters_that_are_off_are_the_start_and_nothing_is_copied() -> None:
    batch, policy = batch_of("sliding_window"), loaded(lora=2).model
    before, frozen = bases(policy), copy.deepcopy(policy)
    assert bases(policy) == before + 1, "a whole copy would be seen"
    expected = logprobs(learner_of(frozen), batch)
    del frozen
    learner = learner_of(policy)
    assert learner.reference is not None
    assert learner.reference.own == {}
    assert bases(policy) == before
    learn(learner, batch, 2)
    assert any(bool(p.any()) for name, p in policy.named_parameters() if "lora_B" in name)
    assert torch.equal(logprobs(learner, batch), expected)
    # The policy plays and learns on with its adapters.
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    old = learner.measured(batch).logprobs_of("ref")
    assert not torch.equal(logprobs(learner_of(policy), batch), old)


def test_trained_adapters_are_copied_beside_one_set_of_other_weights() -> None:
    batch, policy = batch_of("sliding_window"), loaded(lora=2).model
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    expected = logprobs(learner_of(copy.deepcopy(policy)), batch)
    before, learner = bases(policy), learner_of(policy, needs={Need.INITIAL_WEIGHTS})
    assert bases(policy) == before
    assert learner.reference is not None
    assert all("lora_" in name for name in learner.reference.own)
    assert learner.initial.keys() == learner.reference.own.keys()
    learn(learner, batch, 2)
    assert torch.equal(logprobs(learner, batch), expected)
    assert not any(p.requires_grad for p in frozen_copy(policy).parameters())


def test_a_snapshot_copies_neither_frozen_weights_nor_a_reference_that_stands_still() -> None:
    batch, policy = batch_of("full_history"), loaded(lora=2).model
    learner, before = learner_of(policy), bases(policy)
    kept = learner.snapshot()
    assert bases(policy) == before
    start = {name: p.detach().clone() for name, p in policy.named_parameters()}
    learn(learner, batch)
    assert any(not torch.equal(p, start[name]) for name, p in policy.named_parameters())
    learner.rollback(kept)
    assert all(torch.equal(p, start[name]) for name, p in policy.named_parameters())
    whole = learner_of(loaded().model)
    assert "reference" not in whole.snapshot()


def test_a_resumed_reference_of_adapters_is_still_the_policy_without_them() -> None:
    batch, policy = batch_of("full_history"), loaded(lora=2).model
    learner = learner_of(policy)
    learn(learner, batch)
    expected, state = logprobs(learner, batch), copy.deepcopy(learner.state_dict())
    resumed = learner_of(copy.deepcopy(policy))
    assert not torch.equal(logprobs(resumed, batch), expected), "these adapters are its start"
    resumed.load_state_dict(state)
    assert torch.equal(logprobs(resumed, batch), expected)


# In runs.


@pytest.mark.parametrize("kind", ["ema", "soup", "start"])
def test_a_rollback_takes_the_reference_back(kind: str) -> None:
    batch, learner = batch_of("full_history"), learner_of(loaded().model, kind=kind)
    learn(learner, batch)
    kept, before = learner.snapshot(), logprobs(learner, batch)
    learn(learner, batch, 2, first=1)
    after = logprobs(learner, batch)
    assert torch.equal(after, before) == (kind == "start")
    learner.rollback(kept)
    assert torch.equal(logprobs(learner, batch), before)
    learn(learner, batch, 2, first=1)
    assert torch.equal(logprobs(learner, batch), after)


def trained(folder: Path, steps: int, data: dict[str, Any], **options: Any) -> list[Any]:
    """The steps of reinforcement learning of a run, in which something moves without any reward."""
    terms = [{"name": "kl", "coefficient": 0.5}, {"name": "entropy", "coefficient": 0.1}]
    rl = {"steps": steps, "tasks_per_step": 2, "regularizers": terms, "checkpoint_every": 5}
    model = recipe()["model"] | {"lora": data.get("lora")}
    made = recipe(model=model, rl=rl | {"reference": data.get("reference", {})})
    if "lora" in data:
        del made["stages"][0]  # the adapters are fresh
    train(Recipe.parse(made), run_dir=folder, progress=False, **options)
    return [line for line in records(folder) if line["stage"] == "rl"]


@pytest.mark.parametrize(
    "data",
    [
        {"reference": {"kind": "ema", "decay": 0.7, "every": 2}},
        {"reference": {"kind": "soup", "every": 3}},
        {"lora": {"rank": 4}},
    ],
    ids=str,
)
def test_ten_steps_are_five_and_five_after_a_resume(tmp_path: Path, data: dict[str, Any]) -> None:
    whole = trained(tmp_path / "whole", 10, data)
    trained(tmp_path / "half", 5, data)
    resumed = trained(tmp_path / "half", 10, data, resume=True)
    assert resumed == whole
    assert whole[-1]["kl"] > 0
    weights = "checkpoints/rl/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "half" / weights).read_bytes()


# In recipes.


def test_a_path_belongs_to_a_saved_model_and_is_relative_to_the_recipe() -> None:
    for wrong in ({"kind": "checkpoint"}, {"kind": "ema", "path": "x"}):
        with pytest.raises(ValidationError, match="'path' belongs to kind: checkpoint"):
            ReferenceConfig.model_validate(wrong)
    rl = KL | {"reference": {"kind": "checkpoint", "path": "saved"}}
    stage: Any = Recipe.parse(recipe(rl=rl)).stages[1]
    assert stage.reference.path == str(Path.cwd() / "saved")


def test_a_reference_that_nothing_looks_at_is_refused() -> None:
    with pytest.raises(UserError, match=r"rl\.reference\.kind=ema: nothing in this stage needs"):
        Recipe.parse(recipe(rl={"reference": {"kind": "ema"}}))


def test_a_plan_counts_the_copies_of_a_reference() -> None:
    def mib(**changes: Any) -> float:
        kl = {"regularizers": [{"name": "kl"}], "token_budget": 1} if changes else {}
        model = {**recipe()["model"], "width": 256, "layers": 4} | changes.pop("model", {})
        found = plan(recipe(model=model, rl={"token_budget": 1, **kl, **changes}))
        return float(found["stages"][1]["memory_mib"])

    plain, start = mib(), mib(reference={"kind": "start"})
    assert start > plain
    assert mib(reference={"kind": "soup"}) - start == pytest.approx(start - plain, abs=1)
    assert mib(model={"lora": {"rank": 1}}) == pytest.approx(plain, abs=2)
