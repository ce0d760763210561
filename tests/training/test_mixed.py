"""A run on several worlds: each task is demonstrated and played by its own world's rules."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from turnrl.envs import make_for
from turnrl.envs.registry import import_worlds
from turnrl.training.recipe import Recipe
from turnrl.training.run import train
from turnrl.training.stages.sft import Sft
from turnrl.training.supervised import SupervisedTrainer

from ..toy_world import recipe
from .test_trainer import session_of

CORRIDOR = str(Path(__file__).parent.parent / "envs" / "toy_envs.py")
import_worlds(CORRIDOR)
ENV = {
    "id": "turnrl/mixed-v0",
    "parts": [
        {"id": "toy/lights-v0", "length": 2, "weight": 2},
        {"id": "toy/corridor-v0", "length": 1},
    ],
}


def test_each_world_is_demonstrated_with_its_own_instructions(tmp_path: Path) -> None:
    data = recipe(env=ENV, sft={"demonstrations": 6})
    data["agent"]["system"] = True
    with session_of(tmp_path / "run", data) as session:
        stage = session.recipe.stages[0]
        assert isinstance(stage, Sft)
        train, _ = asyncio.run(SupervisedTrainer(session, stage, 0).demonstrate())
        shown = {
            episode.task.env: session.tokenizer.decode(episode.turns[0].prompt_ids)
            for episode in train
        }
    assert [episode.task.env for episode in train].count("toy/lights-v0") == 4
    for episode in train:
        for name, prompt in shown.items():
            assert (make_for(episode.task).instructions in prompt) == (name == episode.task.env)


def test_a_run_counts_by_family(tmp_path: Path) -> None:
    made = Recipe.parse(recipe(env=ENV, evaluate={"test_tasks": 6}))
    train(made, run_dir=tmp_path / "run", progress=False)
    records = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    test = [record for record in records if record["kind"] == "test"][-1]
    counts = {name: rate["n"] for name, rate in test["families"].items()}
    assert counts == {"toy/corridor-v0?length=1": 2, "toy/lights-v0?forgiving=false&length=2": 4}
