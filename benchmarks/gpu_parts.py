"""The measurements of gpu.py, which runs each part in a process of its own.

    python benchmarks/gpu_parts.py PART --device cuda [--quick]

Every figure is printed as a line of JSON as soon as it is known.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import importlib.util
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
import turnrl
from gpu_shapes import SHAPES, SIZES, WORLD, Shape, flops_of, groups_of, median, model_of, recipe_of
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models import tricks
from turnrl.agents.models.devices import computes_bf16, device_of
from turnrl.agents.models.forward import score_batch
from turnrl.envs.pool.pool import EnvPool
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import Advantages
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.local import Learner
from turnrl.training.run_folder.log import RunLog
from turnrl.training.session import Session
from turnrl.training.stages.rl import Rl
from turnrl.training.walk import Trainer

TOY = Path(__file__).parents[1] / "tests" / "toy_world.py"
CPU = torch.device("cpu")


class Bench:
    """Where and how much is measured; `tell` prints a figure."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.sizes = ["0.5M"] if quick else list(SIZES)
        self.bf16 = [False, *([True] if computes_bf16("auto", device) else [])]

    def tell(self, **figures: Any) -> None:
        """Print figures as one line."""
        print(json.dumps(figures), flush=True)

    def seconds(self, work: Callable[[], Any], times: int = 3) -> float:
        """Measure some work after it was done once; the median."""
        work()
        found = []
        for _ in range(1 if self.quick else times):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return median(found)

    def wait(self) -> None:
        """Wait until the device has done all that it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_mib(self) -> int:
        """Return the most memory that was used since the last call: of the GPU, or the process."""
        if self.device.type != "cuda":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        used = torch.cuda.max_memory_allocated(self.device) // 2**20
        torch.cuda.reset_peak_memory_stats(self.device)
        return used

    def product(self, bf16: bool) -> float:
        """Measure a product of large matrices, in operations per second."""
        n, dtype = 512 if self.device.type == "cpu" else 8192, torch.float32
        a = torch.randn(n, n, device=self.device, dtype=torch.bfloat16 if bf16 else dtype)
        return 2 * n**3 / self.seconds(lambda: a @ a, 5)


@contextmanager
def with_tricks(device: torch.device, **fields: Any) -> Iterator[None]:
    """Compute with other tricks than those that are said to pay on a device."""
    name = "CPU" if device.type == "cpu" else "GPU"
    kept = getattr(tricks, name)
    setattr(tricks, name, replace(kept, **fields))
    try:
        yield
    finally:
        setattr(tricks, name, kept)


def answers(
    engine: TorchEngine, prompts: Sequence[Sequence[int]], tokens: int, **fields: Any
) -> list[Completion]:
    """Draw a response to each prompt, in a conversation of its own."""

    async def all_of_them() -> list[Completion]:
        talks = [engine.conversation(f"{i:04d}") for i in range(len(prompts))]

        async def one(i: int) -> Completion:
            async with talks[i] as talk:
                sampling = Sampling(max_tokens=tokens, seed=i, **fields)
                return await talk.generate(prompts[i], sampling)

        return await asyncio.gather(*(one(i) for i in range(len(prompts))))

    return asyncio.run(all_of_them())


def prompts_of(bench: Bench, vocabulary: int, rows: int, length: int) -> list[list[int]]:
    """Make random prompts."""
    generator = torch.Generator("cpu").manual_seed(0)
    made: list[list[int]] = torch.randint(
        0, vocabulary, (rows, length), generator=generator, device="cpu"
    ).tolist()
    return made


def learner_of(model: Any, bf16: bool, token_budget: int) -> Learner:
    """Make a learner of the default loss that takes one step per update."""
    fields = {"bf16": bf16, "token_budget": token_budget, "optim": {"lr": 1e-4}}
    return Learner(LearnerConfig.model_validate(fields), model)


def update(learner: Learner, batch: TokenBatch) -> dict[str, float]:
    """Take a step of advantages that differ from token to token."""
    values_BL = batch.mask_BL * (batch.tokens_BL % 3 - 1).float()
    return learner.update([learner.work(batch, Advantages(values_BL, "token"))])


def machine(bench: Bench) -> None:
    """Name the device and its software, and measure its largest products of matrices."""
    name, memory = platform.machine(), None
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        name, memory = properties.name, properties.total_memory // 2**20
    bench.tell(
        device=name,
        memory_mib=memory,
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        transformers=transformers.__version__,
    )
    for bf16 in bench.bf16:
        bench.tell(product="bfloat16" if bf16 else "float32", tflops=bench.product(bf16) / 1e12)


def parity(bench: Bench) -> None:
    """Compare the device with the CPU and itself: log-probabilities, an update, the engine."""
    size = "0.5M" if bench.quick else "20M"
    here, tokenizer = model_of(size, CPU)
    there = copy.deepcopy(here).to(bench.device)
    shape = SHAPES["quick"] if bench.quick else replace(SHAPES["household"], tasks=4, turns=6)
    batch = TokenBatch.pack(groups_of(shape, len(tokenizer)))
    moved = batch.to(bench.device)

    def scored(model: Any, batch: TokenBatch, bf16: bool) -> torch.Tensor:
        rows = list(batch.split(4096))
        tokens_BL, mask_BL = batch.tokens_BL, batch.mask_BL
        found = score_batch(model, tokens_BL, mask_BL, rows, temperature=1.0, bf16=bf16)
        return found.logprobs_BL.cpu()

    expected_BL = scored(here, batch, False)
    for bf16 in bench.bf16:
        gap = (scored(there, moved, bf16) - expected_BL).abs().max()
        bench.tell(parity="logprobs", bf16=bf16, largest_nats=float(gap))
    before = torch.cat([p.detach().flatten() for p in here.parameters()])
    norms, weights = [], []
    for model, part in ((here, batch), (there, moved)):
        norms.append(update(learner_of(model, False, 4096), part)["grad_norm"])
        weights.append(torch.cat([p.detach().flatten().cpu() for p in model.parameters()]))
    step = (weights[0] - before).abs().max()
    bench.tell(
        parity="update",
        grad_norms=norms,
        largest_step=float(step),
        largest_difference=float((weights[1] - weights[0]).abs().max()),
        mean_difference=float((weights[1] - weights[0]).abs().mean()),
    )
    there.load_state_dict(here.state_dict())
    prompts = prompts_of(bench, len(tokenizer), 4 if bench.quick else 32, 16)
    made = [answers(TorchEngine(model, tokenizer), prompts, 24) for model in (here, there, there)]
    plain = answers(TorchEngine(there, tokenizer, ahead=1), prompts, 24)
    full_BL = []
    for prompt, done in zip(prompts, made[1], strict=True):
        ids = torch.tensor([[*prompt, *done.token_ids]], device=bench.device)
        with torch.no_grad():
            logprobs_LV = there(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        chosen = logprobs_LV[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])
        full_BL.append((chosen[:, 0].cpu() - torch.tensor(done.logprobs)).abs().max())

    def equal(one: list[Completion], other: list[Completion]) -> float:
        same = [a.token_ids == b.token_ids for a, b in zip(one, other, strict=True)]
        return sum(same) / len(same)

    bench.tell(
        parity="engine",
        largest_nats_to_full_pass=float(torch.stack(full_BL).max()),
        same_responses_again=equal(made[1], made[2]),
        same_responses_token_by_token=equal(made[1], plain),
        same_responses_as_the_cpu=equal(made[0], made[1]),
    )


def engine(bench: Bench) -> None:
    """Count tokens per second of the engine, and of `generate` of transformers."""
    for size in bench.sizes:
        model, tokenizer = model_of(size, bench.device)
        for rows in (4,) if bench.quick else (64, 16):
            tokens = 8 if bench.quick else 64
            prompts = prompts_of(bench, len(tokenizer), rows, 16 if bench.quick else 256)
            for ahead in (1, 4) if bench.quick else (1, 4, 8, 32):
                made = TorchEngine(model, tokenizer, max_batch=rows, ahead=ahead)
                taken = bench.seconds(lambda: answers(made, prompts, tokens), 1)  # noqa: B023
                recorded = None if made._ahead is None else [*made._ahead._graphs.values()]
                bench.tell(
                    engine=size,
                    rows=rows,
                    ahead=ahead,
                    tokens_per_second=round(rows * tokens / taken),
                    graphs=recorded and [graph is not None for graph in recorded],
                )
            ids = torch.tensor(prompts, device=bench.device)
            options = {"do_sample": True, "max_new_tokens": tokens, "min_new_tokens": tokens}

            def generate() -> None:
                mask = torch.ones_like(ids)  # noqa: B023
                model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **options)  # noqa: B023

            taken = bench.seconds(generate, 1)
            bench.tell(generate=size, rows=rows, tokens_per_second=round(rows * tokens / taken))
        bench.tell(engine=size, peak_mib=bench.peak_mib())


def training(bench: Bench) -> None:
    """Measure an update in operations per second, beside the largest product of matrices."""
    peaks = {bf16: bench.product(bf16) for bf16 in bench.bf16}
    shape = SHAPES["quick"] if bench.quick else SHAPES["household"]
    for size in bench.sizes:
        model, tokenizer = model_of(size, bench.device)
        batch = TokenBatch.pack(groups_of(shape, len(tokenizer)), device=bench.device)
        for bf16 in bench.bf16:
            for budget in (4096,) if bench.quick else (4096, 16_384):
                learner = learner_of(copy.deepcopy(model), bf16, budget)
                bench.peak_mib()
                taken = bench.seconds(lambda: update(learner, batch))  # noqa: B023
                rate = flops_of(model, batch) / taken
                bench.tell(
                    update=size,
                    bf16=bf16,
                    token_budget=budget,
                    tokens_per_second=round(int(batch.lengths_B.sum()) / taken),
                    tflops=round(rate / 1e12, 3),
                    utilisation=round(rate / peaks[bf16], 4),
                    peak_mib=bench.peak_mib(),
                )


def ways(bench: Bench) -> None:
    """Measure an update, and the encoding of prompts, with each trick alone and without any."""
    none = dict.fromkeys(("last_layer", "beginnings", "openings", "blocks"), False)
    each: list[dict[str, Any]] = [{}, *({name: True} for name in none)]
    each += [{"encoded": 4096}, {"encoded": 65_536}, {"logits": 1 << 23}, {"logits": 1 << 28}]
    shape = SHAPES["quick"] if bench.quick else SHAPES["household"]
    for size in bench.sizes[:2]:
        model, tokenizer = model_of(size, bench.device)
        batch = TokenBatch.pack(groups_of(shape, len(tokenizer)), device=bench.device)
        learner = learner_of(model, bench.bf16[-1], 16_384)
        some = prompts_of(bench, len(tokenizer), 2 if bench.quick else 12, shape.opening)
        prompts = [prompt for prompt in some for _ in range(shape.group)]
        for fields in each:
            with with_tricks(bench.device, **none | fields):
                made = TorchEngine(model, tokenizer, max_batch=len(prompts))
                bench.tell(
                    trick=fields,
                    size=size,
                    update=bench.seconds(lambda: update(learner, batch)),  # noqa: B023
                    prompts=bench.seconds(lambda: answers(made, prompts, 1)),  # noqa: B023
                )


async def steps_of(bench: Bench, size: str, shape: Shape, steps: int) -> list[dict[str, float]]:
    """Take a step to warm up, and some more; returns the seconds of each by phase."""
    model, tokenizer = model_of(size, bench.device)
    budget = 4096 if bench.device.type == "cpu" else 16_384
    recipe = recipe_of(shape, steps, budget, "auto")
    player = TorchEngine(model, tokenizer, max_batch=recipe.engine.max_batch)
    agent = recipe.agent.build(player, tokenizer)
    pool, prototype = EnvPool(slots=shape.tasks * shape.group), turnrl.make(WORLD)
    with tempfile.TemporaryDirectory() as folder:
        try:
            log = RunLog(Path(folder) / "run")
            session = Session(
                recipe, model, tokenizer, player, agent, prototype, pool, log, progress=False
            )
            stage = recipe.stages[0]
            assert isinstance(stage, Rl)
            trainer, found = Trainer(session, stage, 0), []
            for number in range(steps + 1):
                began = time.perf_counter()
                metrics = await trainer.step(number)
                bench.wait()
                told = ("tokens/prompt", "tokens/generated", "engine_gap", "engine_gap/max")
                figures = {"seconds": time.perf_counter() - began, **trainer.seconds}
                found.append(figures | {name: metrics[name] for name in told})
            return found[1:]
        finally:
            await pool.aclose()
            prototype.close()


def steps(bench: Bench) -> None:
    """Measure whole steps of episodes of the recipes' shapes, and what memory they take."""
    for size in reversed(bench.sizes):
        for name in ("quick",) if bench.quick else ("household", "search"):
            bench.peak_mib()
            found = asyncio.run(steps_of(bench, size, SHAPES[name], 1 if bench.quick else 2))
            middle = {key: round(median([one[key] for one in found]), 6) for key in found[0]}
            bench.tell(
                step=name, episodes="synthetic", size=size, **middle, peak_mib=bench.peak_mib()
            )


def learning(bench: Bench) -> None:
    """Train a small model in a toy world, from nothing to success, by a recipe."""
    spec = importlib.util.spec_from_file_location("toy_world", TOY)
    assert spec is not None
    assert spec.loader is not None
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    data = toy.recipe(
        pool={"imports": [str(TOY)]},
        rl={"steps": 2 if bench.quick else 30, "tasks_per_step": 8, "group_size": 8},
        rewards=[{"name": "outcome"}, {"name": "progress"}],
        evaluate={"test_tasks": 12},
    )
    data["model"] |= {"device": str(bench.device)}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = turnrl.train(data, run_dir=Path(folder) / "run", progress=False)
        taken = time.perf_counter() - began
        rates = {name: result[name] and result[name]["success"] for name in ("before", "after")}
    bench.tell(learning="toy/lights-v0", seconds=round(taken, 1), **rates)


PARTS: dict[str, Callable[[Bench], None]] = {
    "machine": machine,
    "parity": parity,
    "engine": engine,
    "update": training,
    "tricks": ways,
    "steps": steps,
    "learning": learning,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    if options.quick:
        torch.set_num_threads(1)
    PARTS[options.part](Bench(device_of(options.device, "--device"), options.quick))


if __name__ == "__main__":
    main()
