"""The first update after play has ratio 1, whatever the recipe, the model and the arithmetic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from turnrl import Recipe, UserError
from turnrl.agents.models.config import LoraConfig, ModelConfig
from turnrl.agents.models.forward import Scores
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save
from turnrl.agents.models.tiny import train_tokenizer
from turnrl.training.batch import TokenBatch
from turnrl.training.losses.ppo_clip import PpoClip
from turnrl.training.objective import LossOutput
from turnrl.training.session import Session
from turnrl.training.walk import Trainer
from turnrl.training.work import Work

from ..toy_world import TEXTS, recipe
from .test_trainer import session_of


def first_ratios(session: Session, steps: int = 1) -> list[Tensor]:
    """Importance ratios at the sampled tokens, a tensor for each forward pass of first updates."""
    seen: list[Tensor] = []

    class Watching(PpoClip):
        def token_loss(
            self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
        ) -> LossOutput:
            gap_BL = scores.logprobs_BL.detach() - batch.behaviour_logprobs_BL
            seen.append(gap_BL[batch.mask_BL].exp())
            return super().token_loss(scores, batch, advantages_BL)

    stage: Any = session.recipe.stages[-1]
    trainer = Trainer(session, stage, 1)
    trainer.learner.loss = Watching()
    for number in range(steps):
        metrics = asyncio.run(trainer.step(number))
        assert metrics["tokens/trained"] > 50
    return seen


def farthest(ratios: list[Tensor]) -> float:
    return float((torch.cat(ratios) - 1).abs().max())


SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 0.01},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"max_tokens": 1},
    {"max_tokens": 12},
    {"stop": ["e"]},
    {"stop": ["ed", "n"], "max_tokens": 9},
    {"stop_token_ids": [70, 71, 72, 290]},
]


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
def test_every_sampling_setting_that_is_allowed_is_on_policy(
    tmp_path: Path, sampling: dict[str, Any], context: str
) -> None:
    agent = {
        "max_turns": 4,
        "system": False,
        "context": {"name": context},
        "sampling": {"max_tokens": 6} | sampling,
    }
    with session_of(tmp_path / "run", recipe(agent=agent, rl={"tasks_per_step": 8})) as session:
        # Rounding of the logits is divided by the temperature.
        assert farthest(first_ratios(session)) < 2e-5 / min(sampling.get("temperature", 1.0), 1.0)


def test_what_lock_step_learns_from_is_of_the_weights_that_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a batch of the step before would be off-policy, to the last token."""
    with session_of(tmp_path / "run", recipe(rl={"tasks_per_step": 4})) as session:
        stage: Any = session.recipe.stages[-1]
        trainer, batches = Trainer(session, stage, 1), list[TokenBatch]()
        learn = trainer.learner.update

        def update(works: Sequence[Work], *rest: Any) -> dict[str, float]:
            batches.append(works[0].batch)
            return learn(works, *rest)

        monkeypatch.setattr(trainer.learner, "update", update)
        for number in range(2):
            asyncio.run(trainer.step(number))
    assert [batch.version for batch in batches] == [0, 1]
    for batch in batches:
        assert batch.versions_BL[batch.mask_BL].eq(batch.version).all()
        assert not batch.off_policy_BL.any()
    stale = replace(batches[0], version=1)
    assert stale.off_policy_BL.equal(stale.mask_BL)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_tokens", 1),
        ("min_tokens", 40),
        ("top_p", 0.99),
        ("top_p", 0.2),
        ("top_k", 1),
        ("top_k", 5000),
        ("temperature", 0),
        ("temperature", 1e-3),
    ],
)
def test_sampling_that_the_trainer_cannot_compute_is_refused_where_it_is_learnt_from(
    setting: str, value: float
) -> None:
    data = recipe(agent={"sampling": {setting: value}})
    with pytest.raises(UserError, match=rf"agent\.sampling\.{setting}=.* must be") as error:
        Recipe.parse(data)
    assert "\n" not in str(error.value)
    assert Recipe.parse(data | {"stages": data["stages"][:1]}).agent.sampling


def test_greedy_evaluation_of_sampled_training_is_no_contradiction() -> None:
    made = Recipe.parse(
        recipe(evaluate={"temperature": 0}, agent={"sampling": {"temperature": 0.7}})
    )
    assert (made.agent.sampling.temperature, made.evaluation.temperature) == (0.7, 0)


def test_evaluation_samples_as_play_does_unless_told_otherwise() -> None:
    assert (
        Recipe.parse(recipe(agent={"sampling": {"temperature": 0.7}})).evaluation.temperature == 0.7
    )
    assert Recipe.parse(recipe()).evaluation.temperature == 1.0


def gpt2(folder: Path) -> str:
    """A tiny GPT-2 of random weights, with more dropout than the 0.1 of the pretrained one."""
    tokenizer = train_tokenizer(TEXTS, 320)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        resid_pdrop=0.5,
        embd_pdrop=0.5,
        attn_pdrop=0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    save(GPT2LMHeadModel(config), tokenizer, folder)
    return str(folder)


def test_dropout_of_a_pretrained_config_is_off_in_rl(tmp_path: Path) -> None:
    model = {"name": gpt2(tmp_path / "model"), "max_context": 128}
    for merge in (True, False):
        data = recipe(
            model=model,
            rl={"updates": 2, "minibatches": 2, "merge": merge, "loss": {"name": "ppo_clip"}},
        )
        with session_of(tmp_path / str(merge), data) as session:
            first, *_ = first_ratios(session)
            assert farthest([first]) < 1e-4
            assert not any(module.training for module in session.model.modules())


@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_dropout_is_off_in_the_critic_too(tmp_path: Path, backbone: str) -> None:
    model = {"name": gpt2(tmp_path / "model"), "max_context": 128}
    data = recipe(model=model, rl={"credit": {"name": "gae"}, "critic": {"backbone": backbone}})
    with session_of(tmp_path / "run", data) as session:
        trainer = Trainer(session, session.recipe.stages[-1], 1)  # type: ignore[arg-type]
        modes: list[bool] = []
        assert trainer.learner.critic is not None
        for module in (*trainer.learner.critic.modules(), *session.model.modules()):
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(lambda m, *_: modes.append(m.training))
        asyncio.run(trainer.step(0))
    assert modes
    assert not any(modes)


def test_dropout_of_adapters_is_off_in_rl(tmp_path: Path) -> None:
    plain = load(ModelConfig(name=gpt2(tmp_path / "model")))
    adapted = load(ModelConfig(name=str(tmp_path / "model"), lora=LoraConfig(rank=2, dropout=0.9)))
    with session_of(
        tmp_path / "run", recipe(model={"name": str(tmp_path / "model"), "max_context": 128})
    ) as session:
        session.model, session.tokenizer = adapted.model, plain.tokenizer
        nn.init.normal_(next(p for n, p in adapted.model.named_parameters() if "lora_B" in n))
        session.engine.__init__(adapted.model, plain.tokenizer)  # type: ignore[misc]
        assert farthest(first_ratios(session)) < 1e-4


def test_dropout_of_a_warm_start_is_asked_for(tmp_path: Path) -> None:
    """With dropout a second look at the same episodes has another loss; without it has not."""
    from turnrl.training.supervised import SupervisedTrainer

    model = {"name": gpt2(tmp_path / "model"), "max_context": 128}
    found = {}
    for asked in (False, True):
        with session_of(
            tmp_path / str(asked), recipe(model=model, sft={"dropout": asked})
        ) as session:
            made = SupervisedTrainer(session, session.recipe.stages[0], 0)  # type: ignore[arg-type]
            train, _ = asyncio.run(made.demonstrate())
            losses = []
            for update in (0, 1, 0):
                with made.dropout(update):
                    losses.append(made.learn(train))
            found[asked] = losses
            assert made.loss_of(train) == made.loss_of(train)
            assert not session.model.training
    assert found[False][0] == found[False][1] == found[False][2]
    assert found[True][0] == found[True][2] != found[True][1], (
        "drawn anew for each update, by its number"
    )


def test_adapters_with_dropout_that_never_acts_are_refused() -> None:
    lora = {"model": {"lora": {"dropout": 0.1}}}
    with pytest.raises(UserError, match=r"model\.lora\.dropout=0\.1 would never act"):
        Recipe.parse(recipe(**lora))
    Recipe.parse(recipe(**lora, sft={"dropout": True}))


def test_float16_is_refused_for_training() -> None:
    data = recipe()
    data["model"] |= {"dtype": "float16"}
    with pytest.raises(UserError, match=r"model\.dtype=float16 cannot be trained"):
        Recipe.parse(data)


@pytest.mark.parametrize(("weights", "bf16"), [("float32", True), ("bfloat16", False)])
@pytest.mark.parametrize(
    "cut",
    [{}, {"token_budget": 200}, {"token_budget": 200, "minibatches": 4, "updates": 2}],
    ids=str,
)
def test_arithmetic_that_differs_from_the_engines_is_on_policy(
    tmp_path: Path, weights: str, bf16: bool, cut: dict[str, Any]
) -> None:
    data = recipe(rl={"bf16": bf16, "tasks_per_step": 8} | cut)
    data["model"] |= {"dtype": weights, "init_std": 0.6, "layers": 3, "width": 96}
    with session_of(tmp_path / "run", data) as session:
        assert session.engine.full_precision == (weights == "float32")
        first, *_ = first_ratios(session)
        assert farthest([first]) == 0


def test_later_minibatches_are_compared_with_the_policy_that_played(tmp_path: Path) -> None:
    """With a learning rate too small to move it, the policy is that of every minibatch."""
    data = recipe(rl={"bf16": True, "tasks_per_step": 8, "minibatches": 4, "optim": {"lr": 1e-12}})
    with session_of(tmp_path / "run", data) as session:
        assert farthest(first_ratios(session)) < 0.02
