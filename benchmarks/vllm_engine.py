"""Sampled tokens per CPU second of the torch engine and of the vLLM engine, on the same batch.

Three models with random weights (float32, one thread, temperature 1), two workloads:

- ``long``: 32 prompts of 64 tokens, 64 tokens sampled after each;
- ``turns``: 16 conversations of 10 turns, 118 new observation tokens and 32 sampled ones per turn.

The engines take turns, round by round; a round warms up, the figures are the best of `--rounds`
more. CPU seconds are those of this process, and for vLLM also those of its server. Equal seeds give
equal tokens, so that both do the same work; the share of equal responses is told. Run it after
`make setup-vllm` as ``OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/vllm_engine.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from turnrl.agents.engines.base import Conversation, Engine, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.engines.vllm import VllmEngineConfig
from turnrl.agents.models import tiny
from turnrl.agents.models.load import Loaded

MODELS: dict[str, dict[str, Any]] = {
    "0.5M": {"layers": 2, "width": 128, "heads": 4, "intermediate": 384},
    "3.4M": {"layers": 4, "width": 256, "heads": 4, "intermediate": 768},
    "25M": {"layers": 8, "width": 512, "heads": 8, "intermediate": 1536},
}
WORKLOADS = {"long": (32, 1, 64, 64), "turns": (16, 10, 118, 32)}
"""Conversations, turns, new tokens and sampled tokens of a turn."""
CONTEXT = 1536


def loaded_of(name: str) -> Loaded:
    """Make a model with random weights, and the tokenizer that a server wants to have."""
    tokenizer = tiny.train_tokenizer(["go north and take the coin " * 50], 400)
    model = tiny.build(tokenizer, max_context=CONTEXT, init_std=0.1, **MODELS[name])
    size = sum(p.numel() for p in model.parameters())
    return Loaded(model, tokenizer, {"max_context": CONTEXT, "parameters": size})


async def play(
    talk: Conversation, turns: int, new: int, sampled: int, vocabulary: int
) -> list[list[int]]:
    """Play one conversation with random observations."""
    rng, history, said = random.Random(talk.id), list[int](), []
    async with talk:
        for turn in range(turns):
            history += [rng.randrange(vocabulary) for _ in range(new)]
            sampling = Sampling(max_tokens=sampled, seed=rng.randrange(2**31) + turn)
            said.append((await talk.generate(history, sampling)).token_ids)
            history += said[-1]
    return said


async def round_of(engine: Engine, workload: str, vocabulary: int) -> list[list[int]]:
    """Play all conversations of a workload at once."""
    conversations, turns, new, sampled = WORKLOADS[workload]
    talks = [engine.conversation(f"{i:03d}") for i in range(conversations)]
    played = await asyncio.gather(*(play(talk, turns, new, sampled, vocabulary) for talk in talks))
    return [response for said in played for response in said]


def cpu_of_children() -> float:
    """Count the CPU seconds of all processes that this one has started and that still run."""
    children = psutil.Process().children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in children)


def measure(model: str, rounds: int) -> list[dict[str, Any]]:
    """Measure one model; returns a row for each workload."""
    loaded = loaded_of(model)
    engines: dict[str, Engine] = {
        "torch": TorchEngine(loaded.model, max_batch=32),
        "vllm": VllmEngineConfig(max_batch=32).make(loaded, CONTEXT),
    }
    clocks: dict[str, Callable[[], float]] = {
        "torch": time.process_time,
        "vllm": lambda: time.process_time() + cpu_of_children(),
    }
    found = []
    with asyncio.Runner() as runner:
        for workload, (conversations, turns, _, sampled) in WORKLOADS.items():
            best: dict[str, float] = {}
            said: dict[str, list[list[int]]] = {}
            for i in range(rounds + 1):
                for name, engine in engines.items():
                    before = clocks[name]()
                    said[name] = runner.run(round_of(engine, workload, len(loaded.tokenizer)))
                    if i:
                        spent = clocks[name]() - before
                        best[name] = min(spent, best.get(name, spent))
            tokens = conversations * turns * sampled
            same = [a == b for a, b in zip(said["torch"], said["vllm"], strict=True)]
            found.append(
                {
                    "model": model,
                    "parameters": loaded.description["parameters"],
                    "workload": workload,
                    "torch": round(tokens / best["torch"]),
                    "vllm": round(tokens / best["vllm"]),
                    "vllm/torch": round(best["torch"] / best["vllm"], 2),
                    "same_responses": round(sum(same) / len(same), 3),
                    "load_average": round(os.getloadavg()[0], 1),
                }
            )
        for engine in engines.values():
            runner.run(engine.aclose())
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds per engine")
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all", help="which one")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in MODELS if arguments.model == "all" else [arguments.model]:
        for row in measure(name, arguments.rounds):
            words = "  ".join(f"{key} {value}" for key, value in row.items())
            print(json.dumps(row) if arguments.json else words, flush=True)


if __name__ == "__main__":
    main()
