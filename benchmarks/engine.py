"""CPU seconds that the torch engine needs to play, without learning.

Two workloads, random weights, random observations, one thread, float32, temperature 1:

- ``reference``: 16 conversations, 8 turns, about 40 new observation tokens and exactly 8 sampled
  tokens per turn, a Qwen2 of 4 layers x 256 (4,198,656 parameters);
- ``tiny``: 64 conversations, 8 turns, 40 new tokens and 2 to 4 sampled ones, a Qwen2 of 3 layers
  x 96.

Run it as ``OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/engine.py --json``. One
round warms up; the figures are medians of `--rounds` more; tokens per CPU second counts sampled
tokens only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import time
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from turnrl.agents.engines.base import Conversation, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine

WORKLOADS: dict[str, dict[str, Any]] = {
    "reference": {
        "conversations": 16,
        "turns": 8,
        "answer": (8, 8),
        "model": {
            "vocab_size": 4096,
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 768,
        },
    },
    "tiny": {
        "conversations": 64,
        "turns": 8,
        "answer": (2, 4),
        "model": {
            "vocab_size": 1000,
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 288,
        },
    },
}


async def play(talk: Conversation, turns: int, answer: tuple[int, int], vocabulary: int) -> None:
    """Play one conversation: random observations of 36 to 44 tokens, answers of a random length."""
    rng = random.Random(talk.id)
    history: list[int] = []
    async with talk:
        for turn in range(turns):
            history += [rng.randrange(vocabulary) for _ in range(rng.randint(36, 44))]
            sampling = Sampling(max_tokens=rng.randint(*answer), seed=rng.randrange(2**31) + turn)
            history += (await talk.generate(history, sampling)).token_ids


async def round_of(engine: TorchEngine, workload: dict[str, Any]) -> None:
    """Play all conversations of a workload at once."""
    talks = [engine.conversation(f"{i:03d}") for i in range(workload["conversations"])]
    vocabulary = workload["model"]["vocab_size"]
    await asyncio.gather(
        *(play(talk, workload["turns"], workload["answer"], vocabulary) for talk in talks)
    )


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Measure one workload."""
    torch.manual_seed(0)
    workload = WORKLOADS[name]
    config = Qwen2Config(
        tie_word_embeddings=True,
        bos_token_id=None,
        max_position_embeddings=1024,
        **workload["model"],
    )
    model = Qwen2ForCausalLM(config)
    engine = TorchEngine(model)
    seconds, sampled, rows = [], 0, 0
    for i in range(rounds + 1):
        before = engine.stats.generated_tokens, engine.stats.decode_rows, time.process_time()
        asyncio.run(round_of(engine, workload))
        if i:
            seconds.append(time.process_time() - before[2])
        sampled = engine.stats.generated_tokens - before[0]
        rows = engine.stats.decode_rows - before[1]
    median = statistics.median(seconds)
    return {
        "workload": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(median, 3),
        "cpu_seconds_all": [round(s, 3) for s in seconds],
        "sampled_tokens": sampled,
        "decode_rows": rows,
        "tokens_per_cpu_second": round(sampled / median),
        "prefill_calls_per_round": engine.stats.prefill_calls // (rounds + 1),
        "decode_steps_per_round": engine.stats.decode_steps // (rounds + 1),
        "load_average": os.getloadavg()[0],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure the chosen workloads, and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds per workload")
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all", help="which one")
    parser.add_argument("--json", action="store_true", help="print one JSON object per workload")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in WORKLOADS if arguments.workload == "all" else [arguments.workload]:
        figures = measure(name, arguments.rounds)
        print(
            json.dumps(figures)
            if arguments.json
            else "\n".join(f"{k}: {v}" for k, v in figures.items()) + "\n"
        )


if __name__ == "__main__":
    main()
