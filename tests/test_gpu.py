"""What a GPU computes is what the CPU computes: `make test-gpu` runs these where there is one.

With the CPU in the place of the GPU the same tests run everywhere, so that they are known to work.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from turnrl import Recipe, evaluate
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.forward import score_batch
from turnrl.foundation.plugins import Need
from turnrl.training.batch import TokenBatch
from turnrl.training.boundaries import advantages_of
from turnrl.training.credit.base import CREDITS
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.local import Learner
from turnrl.training.run import train
from turnrl.training.run_folder.log import Record

from .agents.test_torch_engine import VOCABULARY, build
from .toy_world import recipe, records
from .training.test_learner import paid
from .training.test_update import model, played

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device of a test; skip it, with what is missing, where it is not there."""
    if request.param == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        pytest.skip(
            f"torch {torch.__version__} is a build without CUDA"
            if built is None
            else f"torch {torch.__version__}, for CUDA {built}, sees no GPU"
        )
    return torch.device(request.param)


on_each = pytest.mark.parametrize("device", DEVICES, indirect=True)


def logprobs(policy: Any, batch: TokenBatch, bf16: bool = False) -> Tensor:
    """The log-probabilities of a batch, on the CPU."""
    rows = list(batch.split(150))
    found = score_batch(policy, batch.tokens_BL, batch.mask_BL, rows, temperature=0.7, bf16=bf16)
    return found.logprobs_BL.cpu()


@on_each
def test_log_probabilities_are_those_of_the_cpu(device: torch.device) -> None:
    batch = TokenBatch.pack(played("sliding_window"))
    there = copy.deepcopy(model()).to(device)
    torch.testing.assert_close(
        logprobs(there, batch.to(device)), logprobs(model(), batch), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        logprobs(there, batch.to(device), bf16=True), logprobs(model(), batch), rtol=0, atol=0.2
    )


@on_each
@pytest.mark.parametrize("bf16", [False, "auto"])
def test_an_update_is_that_of_the_cpu(device: torch.device, bf16: bool | str) -> None:
    """Of a policy with critic and reference; `auto` is bfloat16 on the GPU, and is near."""
    config = LearnerConfig.model_validate(
        {
            "token_budget": 150,
            "bf16": bf16,
            "regularizers": [{"name": "kl"}, {"name": "entropy"}],
            "minibatches": 2,
            "optim": {"lr": 1e-3},
        }
    )
    norms, weights = [], []
    for where in (torch.device("cpu"), device):
        learner = Learner(config, copy.deepcopy(model()).to(where), needs={Need.VALUES})
        batch = learner.measured(TokenBatch.pack(played("sliding_window"), device=where))
        advantages = advantages_of(CREDITS.build({"name": "gae"}), paid(batch), batch)
        metrics = learner.update([learner.work(batch, advantages)])
        norms.append(metrics["grad_norm"])
        weights.append(torch.cat([w.flatten().cpu() for w in learner.weights().values()]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-3 if bf16 is False else 0.1)
    # Adam's first steps have the size of the learning rate whatever the gradient: where it is all
    # rounding, the weights go another way, by no more than two steps of it.
    difference = (weights[1] - weights[0]).abs()
    assert float(difference.max()) < 5e-3
    assert float(difference.mean()) < (1e-4 if bf16 is False else 1e-3)


async def said(engine: TorchEngine, prompts: list[list[int]], **fields: Any) -> list[Completion]:
    """A response to each prompt, in a conversation of its own."""
    talks = [engine.conversation(f"{i:02d}") for i in range(len(prompts))]

    async def one(i: int) -> Completion:
        async with talks[i] as talk:
            return await talk.generate(prompts[i], Sampling(seed=i, **fields))

    return list(await asyncio.gather(*(one(i) for i in range(len(prompts)))))


def policies() -> Iterator[tuple[str, Any]]:
    """Models of a few families, with windows and with capped logits among them."""
    for family in ("qwen2", "llama", "gpt_neox"):
        yield family, build(family, initializer_range=0.05)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "sliding_window": 8,
    }
    torch.manual_seed(0)
    yield "mistral", transformers.MistralForCausalLM(transformers.MistralConfig(**sizes)).eval()
    capped = transformers.Gemma2Config(**sizes, attn_implementation="eager")
    yield "gemma2", transformers.Gemma2ForCausalLM(capped).eval()


def plain(policy: Any, prompt: list[int], done: Completion) -> list[float]:
    """The log-probabilities of a response in one plain pass, on the device of the model."""
    ids = [*prompt, *done.token_ids]
    with torch.no_grad():
        tokens_1L = torch.tensor([ids], device=policy.device)
        logprobs_LV = policy(tokens_1L, use_cache=False).logits[0].float().log_softmax(-1)
    return [float(logprobs_LV[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]


@on_each
@pytest.mark.parametrize(
    ("family", "policy"), policies(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_the_engine_says_what_a_plain_pass_says(
    device: torch.device, family: str, policy: Any
) -> None:
    """With filters and stop tokens too; the same again; after a push; as without looking ahead."""
    policy = copy.deepcopy(policy).to(device)
    prompts = [[(7 * i + j) % VOCABULARY for j in range(1 + 5 * i)] for i in range(6)]
    engine = TorchEngine(policy)
    fields: dict[str, Any] = {"max_tokens": 20}
    some = fields | {"top_p": 0.9, "top_k": 50, "min_tokens": 2, "stop_token_ids": (1, 2, 3)}
    for options in (fields, some):
        first = asyncio.run(said(engine, prompts, **options))
        assert asyncio.run(said(engine, prompts, **options)) == first
        singly = asyncio.run(said(TorchEngine(policy, ahead=1), prompts, **options))
        assert [done.token_ids for done in singly] == [done.token_ids for done in first]
    for prompt, done in zip(prompts, asyncio.run(said(engine, prompts, **fields)), strict=True):
        assert done.logprobs == pytest.approx(plain(policy, prompt, done), abs=1e-4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    asyncio.run(engine.push(policy.state_dict(), 1))
    for prompt, done in zip(prompts, asyncio.run(said(engine, prompts, **fields)), strict=True):
        assert done.logprobs == pytest.approx(plain(policy, prompt, done), abs=1e-4)
    if device.type == "cuda":
        assert engine._ahead is not None
        assert engine._ahead._graphs
        assert None not in engine._ahead._graphs.values(), "a step could not be recorded"


@on_each
def test_a_step_does_not_wait_for_the_device(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(build().to(device), ahead=8)
    ahead = engine._ahead
    assert ahead is not None
    ahead.records = False
    stepped: list[Any] = []

    def quiet(*given: Any) -> None:
        stepped.append(given)
        if device.type != "cuda":
            return advance(*given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return advance(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    asyncio.run(said(engine, [[1, 2]], max_tokens=20))
    [slots] = ahead._slots.values()
    advance = slots.advance
    monkeypatch.setattr(slots, "advance", quiet)
    [done] = asyncio.run(said(engine, [[1, 2]], max_tokens=20, top_k=5))
    assert len(done.token_ids) == len(stepped) + 1 == 20


@on_each
def test_a_run_goes_on_from_the_cpu_to_the_device_and_back(
    device: torch.device, tmp_path: Path
) -> None:
    data = recipe(
        sft={"dropout": True},
        rl={
            "steps": 3,
            "checkpoint_every": 1,
            "credit": {"name": "gae"},
            "regularizers": [{"name": "kl"}],
            "average": 0.5,
        },
        evaluate={"every": 1, "tasks": 4, "test_tasks": 4},
    )

    def until(step: int) -> Any:
        def stop(record: Record) -> None:
            if (record["stage"], record["step"], record["kind"]) == ("rl", step, "eval"):
                raise KeyboardInterrupt

        return stop

    def go_on(where: str, step: int, resume: bool = True) -> None:
        made = Recipe.parse(data | {"model": data["model"] | {"device": where}})
        options: Any = {"run_dir": tmp_path / "run", "progress": False, "resume": resume}
        if step > 2:
            train(made, **options)
            return
        with pytest.raises(KeyboardInterrupt):
            train(made, **options, on_record=until(step))

    go_on("cpu", 1, resume=False)
    go_on(str(device), 2)
    go_on("cpu", 3)
    lines = [line for line in records(tmp_path / "run") if line["kind"] == "train"]
    steps = [line for line in lines if line["stage"] == "rl"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        assert line["engine_gap/max"] < (1e-3 if device.type == "cpu" else 0.1)
        assert math.isfinite(line["grad_norm"])
    tests = [line for line in records(tmp_path / "run") if line["kind"] == "test"]
    again = evaluate(
        "toy/lights-v0", agent=tmp_path / "run", tasks=4, device=str(device), progress=False
    )
    assert again.n == tests[-1]["n"] == 4


@contextmanager
def elsewhere() -> Iterator[None]:
    """The default device is one that holds no numbers."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@on_each
def test_nothing_of_a_run_is_made_on_another_device(device: torch.device, tmp_path: Path) -> None:
    data = recipe(
        rl={"steps": 1, "credit": {"name": "gae"}, "regularizers": [{"name": "kl"}]},
        rewards=[{"name": "outcome"}, {"name": "information_gain", "target": "expert"}],
        evaluate={"every": 1, "tasks": 2, "test_tasks": 2},
    )
    data["model"] |= {"device": str(device)}
    with elsewhere():
        train(Recipe.parse(data), run_dir=tmp_path / "run", progress=False)
    [step] = [
        line
        for line in records(tmp_path / "run")
        if line["stage"] == "rl" and line["kind"] == "train"
    ]
    assert math.isfinite(step["grad_norm"])
