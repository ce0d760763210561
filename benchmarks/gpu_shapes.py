"""Models and episodes of the sizes that gpu.py measures, made of words without a meaning.

The shapes of episodes are those of the recipes `household` and `search`, without their worlds,
which a bare machine has not: tasks and groups of a step are the recipes' own; tokens of an opening,
of an observation and of an action, and turns, are means over 12 and 24 training tasks that the
expert played, with the recipes' tokenizers. The expert of household needs 8 turns, and a policy
that is being trained may take 25: here it takes 12.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import turnrl
from pydantic import Field
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from turnrl import EnvSettings, Outcome, Task, TextEnv
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.models import tiny
from turnrl.envs import Split
from turnrl.training.batch import TokenBatch
from turnrl.training.recipe import Recipe

WORLD = "benchmark/words-v0"
WORDS = 256
"""Words that the world says; every model knows them."""
SIZES: dict[str, dict[str, Any]] = {
    "135M": {
        "words": 49_152,
        "layers": 30,
        "width": 576,
        "heads": 9,
        "kv_heads": 3,
        "intermediate": 1536,
    },
    "20M": {"words": 2048, "layers": 8, "width": 448, "heads": 7, "intermediate": 1344},
    "0.5M": {"words": 640, "layers": 4, "width": 96, "heads": 2, "intermediate": 288},
}
"""Qwen2 models by their size; the largest has the shape of SmolLM2-135M."""
CONTEXT = 2048
TEMPLATE = (
    "{% for m in messages %}<|start|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|> {% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """How large a step is, and its episodes in tokens."""

    tasks: int
    group: int
    turns: int
    opening: int
    seen: int
    said: int


SHAPES = {
    "household": Shape(12, 6, 12, 153, 25, 8),
    "search": Shape(64, 2, 3, 26, 150, 12),
    "quick": Shape(2, 2, 3, 12, 6, 3),
}


class WordsEnv(TextEnv):
    """A world that answers any action with words and a reward by its characters alone."""

    class Settings(EnvSettings):
        """How much it says, and how often."""

        opening: int = Field(10, ge=1, description="words of the first observation")
        seen: int = Field(10, ge=1, description="words of the others")

    settings: Settings
    instructions = "w0 w1"

    def _tasks(self, split: Split) -> list[Task]:
        seeds = {"train": range(1000), "valid": (1000,), "test": (1001,)}[split]
        return [self.task(seed, split) for seed in seeds]

    def _begin(self, task: Task) -> Outcome:
        return Outcome(said(str(task.seed), self.settings.opening))

    def _act(self, action: str) -> Outcome:
        reward = zlib.crc32(action.encode()) % 1000 / 1000
        return Outcome(said(action, self.settings.seen), reward=reward)


turnrl.register(WORLD, WordsEnv)


def said(seed: str, count: int) -> str:
    """Choose so many words."""
    rng = random.Random(zlib.crc32(seed.encode()))
    return " ".join(f"w{rng.randrange(WORDS)}" for _ in range(count))


def tokenizer_of(words: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words, none of which ends a response."""
    known = ["<|start|>", "<|end|>", "?", *(f"w{i}" for i in range(words - 3))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE)


def model_of(size: str, device: torch.device) -> tuple[Any, PreTrainedTokenizerFast]:
    """Make a model with random weights, the same on every device, and its tokenizer."""
    sizes = dict(SIZES[size])
    tokenizer = tokenizer_of(sizes.pop("words"))
    return tiny.build(tokenizer, max_context=CONTEXT, **sizes).to(device), tokenizer


def flops_of(model: Any, batch: TokenBatch) -> float:
    """Count the arithmetic of an update that computes every token once, forward and backward.

    Six operations per token and weight of the layers, per sampled token and weight of the head, and
    those of causal attention. What is computed again, or not at all, does not count.
    """
    config = model.config
    head = model.get_output_embeddings().weight
    layers = int(sum(p.numel() for p in model.parameters()) - head.numel())
    lengths_B = batch.lengths_B.double()
    pairs = float((lengths_B**2).sum()) * config.num_hidden_layers * config.hidden_size
    said = int(batch.mask_BL.sum())
    return 6.0 * (layers * float(lengths_B.sum()) + int(head.numel()) * said + float(pairs))


def groups_of(shape: Shape, vocabulary: int, seed: int = 0) -> list[Group]:
    """Make the episodes of a step out of random tokens, none of which was ever played."""
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    def episode(task: Task, opening: list[int]) -> Episode:
        turns = [
            Turn(
                prompt_ids=ids(shape.seen + 3) if t else opening,
                extends=t > 0,
                response_ids=ids(shape.said),
                logprobs=[-5.0] * shape.said,
            )
            for t in range(shape.turns)
        ]
        return Episode(task, turns=turns, stop=StopReason.TURN_LIMIT)

    groups = []
    for seed in range(shape.tasks):
        task, opening = Task(env=WORLD, seed=seed, split="train"), ids(shape.opening)
        groups.append(Group(task, [episode(task, opening) for _ in range(shape.group)]))
    return groups


def recipe_of(shape: Shape, steps: int, token_budget: int, bf16: bool | str) -> Recipe:
    """Return a recipe whose steps have this shape; its model is made apart."""
    stage = {
        "name": "rl",
        "steps": steps + 2,  # the last step of a stage writes episodes
        "tasks_per_step": shape.tasks,
        "group_size": shape.group,
        "concurrency": shape.tasks * shape.group,
        "tasks": 500,
        "credit": {"name": "turn_return", "gamma": 0.9},
        "loss": {"name": "ppo_clip"},
        "token_budget": token_budget,
        "bf16": bf16,
        "save_episodes": 0,
    }
    return Recipe.parse(
        {
            "name": "gpu",
            "env": {"id": WORLD, "opening": shape.opening, "seen": shape.seen},
            "engine": {"max_batch": shape.tasks * shape.group},
            "agent": {
                "max_turns": shape.turns,
                "system": False,
                "sampling": {"temperature": 1.0, "max_tokens": shape.said},
            },
            "rewards": [{"name": "environment"}],
            "stages": [stage],
        }
    )


def median(values: Sequence[float]) -> float:
    """Return the middle one of the sorted values, the lower of two."""
    return sorted(values)[(len(values) - 1) // 2]
