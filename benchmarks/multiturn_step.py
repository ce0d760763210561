"""CPU seconds of one whole optimiser step over many turns, by phase.

The workload, through the same `Trainer.step` as every run: 4 tasks x 4 episodes, 8 turns, two
sentences of about 40 tokens per observation, exactly 8 sampled tokens per answer at temperature 1
(1,024 per step, about 8,200 tokens with prompts), a Qwen2 from scratch of 4 layers x 256 (4 heads,
2 of keys and values, intermediate 768, vocabulary 4,096, tied: 4,198,656 parameters), credit
`grpo`, loss `ppo_clip`, learning rate 1e-4, no KL term, one update per batch. The world answers
with noise in microseconds. One step warms up; the figures are medians of `--steps` more (of
`engine_gap/max` the largest).

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/multiturn_step.py --steps 5 [--bf16]
    [--gain] [--json]

TRL 1.16 takes 18.6 CPU seconds for this workload in its own environment loop, 9.1 with a rollout
function written by hand, 5.9 if that function also keeps keys and values across turns.
`docs/performance.md` holds our figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import turnrl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from turnrl import Outcome, Task, TextEnv
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models import tiny
from turnrl.agents.parsers.line import Line
from turnrl.envs import Split
from turnrl.envs.pool.pool import EnvPool
from turnrl.training.recipe import Recipe
from turnrl.training.run_folder.log import RunLog
from turnrl.training.session import Session
from turnrl.training.stages.rl import Rl
from turnrl.training.walk import Trainer

PARAMETERS = 4_198_656
VOCABULARY = 4096
WORLD = "benchmark/noise-v0"
PHASES = ("generation", "rollout", "reward", "score", "credit", "update")
"""Forward passes and sampling; the rest of playing; rewards; packing; advantages; backward, AdamW,
weights.
"""

PLACES = ("kitchen", "cellar", "attic", "garden", "library", "hall", "workshop", "pantry")
THINGS = ("lamp", "rope", "coin", "letter", "apple", "hammer", "candle", "mirror")
ROOM = (
    "You are now standing in the {} of the old house and beside the window you can see a {} that"
    " somebody left there . From here a narrow door leads to the {} and a flight of stairs leads"
    " down ."
)
RULES = (
    "You explore an old house . At every turn you read where you are and what you can see in that"
    " place . Then you write one command on one line , such as go to the hall or take the lamp ."
    " Never write more ."
)
TEMPLATE = (
    "{% for m in messages %}<|start|> {{ m['role'] }} {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|> assistant {% endif %}"
)


class NoiseEnv(TextEnv):
    """A world that answers any action with the next room and a reward by its characters alone."""

    instructions = RULES

    def _tasks(self, split: Split) -> list[Task]:
        return [
            self.task(seed, split)
            for seed in {"train": range(64), "valid": (64,), "test": (65,)}[split]
        ]

    def _begin(self, task: Task) -> Outcome:
        return Outcome(self._room(str(task.seed)))

    def _act(self, action: str) -> Outcome:
        return Outcome(self._room(action), reward=(zlib.crc32(action.encode()) % 1000) / 1000)

    @staticmethod
    def _room(seed: str) -> str:
        noise = zlib.crc32(seed.encode())
        return ROOM.format(PLACES[noise % 8], THINGS[noise // 8 % 8], PLACES[noise // 64 % 8])


turnrl.register(WORLD, NoiseEnv)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of 4,096 whole words, none of which ends a response.

    Every answer therefore has its 8 tokens from the plain softmax.
    """
    known = dict.fromkeys(" ".join((ROOM, RULES, *PLACES, *THINGS)).split())
    known |= dict.fromkeys(("<|start|>", "<|end|>", "system", "user", "assistant", "?"))
    known |= dict.fromkeys(Line().expects.split())
    words = [*known, *(f"w{i}" for i in range(VOCABULARY - len(known)))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE)


def make_recipe(steps: int, bf16: bool, token_budget: int, gain: bool) -> Recipe:
    """Make a recipe of the workload; its model is built in `measure`."""
    rewards: list[dict[str, Any]] = [{"name": "environment"}]
    if gain:
        rewards.append({"name": "information_gain", "target": "goal", "goal": "take the lamp"})
    stage = {
        "name": "rl",
        "steps": steps + 2,  # the last step of a stage writes episodes
        "tasks_per_step": 4,
        "group_size": 4,
        "concurrency": 16,
        "credit": {"name": "grpo"},
        "loss": {"name": "ppo_clip"},
        "optim": {"lr": 1e-4},
        "token_budget": token_budget,
        "bf16": bf16,
        "save_episodes": 0,
    }
    return Recipe.parse(
        {
            "name": "multiturn_step",
            "env": {"id": WORLD},
            "agent": {"max_turns": 8, "sampling": {"temperature": 1.0, "max_tokens": 8}},
            "rewards": rewards,
            "stages": [stage],
        }
    )


class CpuEngine(TorchEngine):
    """Counts the CPU seconds of forward passes and sampling."""

    cpu_seconds = 0.0

    def _guarded(self, requests: list[Any], work: Callable[[], None]) -> None:
        began = time.process_time()
        super()._guarded(requests, work)
        self.cpu_seconds += time.process_time() - began


class CpuTrainer(Trainer):
    """Clocks its phases in CPU seconds of the process."""

    @contextmanager
    def _clock(self, phase: str) -> Iterator[None]:
        began, generated = time.process_time(), self.session.engine.cpu_seconds  # type: ignore[attr-defined]
        yield
        self.seconds[phase] = time.process_time() - began
        if phase == "play":
            self.seconds["generation"] = self.session.engine.cpu_seconds - generated  # type: ignore[attr-defined]


async def steps_of(trainer: CpuTrainer, steps: int) -> list[dict[str, float]]:
    """Take a warm-up step, then measure each step."""
    figures = []
    for number in range(steps + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        metrics = await trainer.step(number)
        phases = dict(trainer.seconds)
        played = phases.pop("play")
        figures.append(
            {
                "total": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "rollout": played - phases["generation"],
                **phases,
                "tokens_sampled": metrics["tokens/generated"],
                "tokens_prompt": metrics["tokens/prompt"],
                "engine_gap": metrics["engine_gap"],
                "engine_gap/max": metrics["engine_gap/max"],
            }
        )
    return figures[1:]


async def play(recipe: Recipe, folder: Path, steps: int) -> tuple[list[dict[str, float]], int]:
    """Build the parts of a run and take the steps; return the number of parameters too."""
    tokenizer = make_tokenizer()
    model = tiny.build(
        tokenizer, layers=4, width=256, heads=4, kv_heads=2, intermediate=768, max_context=1024
    )
    parameters = sum(p.numel() for p in model.parameters())
    if parameters != PARAMETERS:
        raise RuntimeError(f"the model has {parameters} parameters, not {PARAMETERS}")
    engine = CpuEngine(model, tokenizer)
    agent = recipe.agent.build(engine, tokenizer)
    pool = EnvPool(slots=16, workers=1)
    prototype = turnrl.make(WORLD)
    try:
        session = Session(
            recipe, model, tokenizer, engine, agent, prototype, pool, RunLog(folder), progress=False
        )
        stage = recipe.stages[0]
        assert isinstance(stage, Rl)
        return await steps_of(CpuTrainer(session, stage, 0), steps), parameters
    finally:
        await pool.aclose()
        prototype.close()


def measure(steps: int, bf16: bool, token_budget: int, gain: bool) -> dict[str, Any]:
    """Compute medians over the steps."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        figures, parameters = asyncio.run(
            play(make_recipe(steps, bf16, token_budget, gain), Path(folder), steps)
        )

    def median(name: str) -> float:
        return statistics.median(figure[name] for figure in figures)

    return {
        "total_cpu": round(median("total"), 3),
        "total_cpu_all": [round(figure["total"], 3) for figure in figures],
        "phases": {name: round(median(name), 4) for name in PHASES},
        "reward_share_of_play": round(
            median("reward") / (median("generation") + median("rollout")), 4
        ),
        "wall": round(median("wall"), 3),
        "tokens_sampled": int(median("tokens_sampled")),
        "tokens": int(median("tokens_sampled") + median("tokens_prompt")),
        "engine_gap": median("engine_gap"),
        "engine_gap/max": max(figure["engine_gap/max"] for figure in figures),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "parameters": parameters,
        "update_dtype": "bfloat16 autocast" if bf16 else "float32",
        "token_budget": token_budget,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    phases = figures.pop("phases")
    print(f"{'phase':<12} {'CPU s':>7}")
    for name, seconds in phases.items():
        print(f"{name:<12} {seconds:>7.3f}")
    print(f"{'whole step':<12} {figures.pop('total_cpu'):>7.3f}\n")
    for name, value in figures.items():
        print(f"{name}: {value}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the step that the command line asks for, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast in the update")
    parser.add_argument(
        "--gain", action="store_true", help="also the reward information_gain, for a fixed goal"
    )
    parser.add_argument(
        "--token-budget",
        type=int,
        default=2100,
        help="tokens of a micro-batch (2,100: four episodes)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    figures = measure(options.steps, options.bf16, options.token_budget, options.gain)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)


if __name__ == "__main__":
    main()
