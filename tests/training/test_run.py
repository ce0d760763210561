"""A run from its recipe to its folder: repeatable, resumable, and never ended by one episode."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import turnrl
from transformers import AutoModelForCausalLM, AutoTokenizer
from turnrl import Episode, Recipe, UserError, evaluate
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save
from turnrl.agents.saved_agent import load_agent
from turnrl.training.corpus import world_text
from turnrl.training.plan import plan
from turnrl.training.run import train
from turnrl.training.run_folder.log import Record

from ..toy_world import TEXTS, LightsEnv, recipe, records

WORLD = str(Path(__file__).parents[1] / "toy_world.py")


def run(folder: Path, data: dict[str, Any], **options: Any) -> dict[str, Any]:
    return train(Recipe.parse(data), run_dir=folder, progress=False, **options)


def rl_lines(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in records(folder) if line["stage"] == "rl" and line["kind"] == kind]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / name)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def same_weights(left: Path, right: Path) -> None:
    for name in ("last", "rl"):
        a, b = weights(left, name), weights(right, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"evaluate": {"every": 2, "tasks": 4, "test_tasks": 4}},
    "critic": {
        "rl": {
            "credit": {"name": "gae"},
            "regularizers": [{"name": "kl"}],
            "minibatches": 2,
            "updates": 2,
        }
    },
    "chosen": {
        "rl": {
            "curriculum": {"name": "horizon", "first": 2, "tasks": {"name": "prioritized"}},
            "selection": [{"name": "zero_variance", "refill": 2}],
            "modifiers": [{"name": "adora"}],
        },
    },
    "average": {"rl": {"average": 0.7}, "evaluate": {"every": 2, "tasks": 4, "test_tasks": 4}},
    "lora": {
        "model": recipe()["model"] | {"lora": {"rank": 4}},
        "rl": {"regularizers": [{"name": "kl"}], "average": 0.5},
        "evaluate": {"every": 2, "tasks": 4, "test_tasks": 4},
    },
}


def variant(name: str) -> dict[str, Any]:
    changes = VARIANTS[name]
    rl = {"steps": 10, "checkpoint_every": 5, **changes.get("rl", {})}
    return recipe(**(changes | {"rl": rl, "sft": {"epochs": 6}}))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path: Path, name: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, variant(name))

    def interrupt(record: Record) -> None:
        if (record["stage"], record["step"], record["kind"]) == ("rl", 7, "train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parts, variant(name), on_record=interrupt)
    torch.manual_seed(99)
    run(parts, variant(name), resume=True)
    assert records(parts) == records(whole)
    same_weights(parts, whole)


def test_the_averaged_weights_are_saved_and_played(tmp_path: Path) -> None:
    """With a decay near 1 they stay those of the warm start, whatever is learnt meanwhile."""
    data = recipe(rl={"steps": 3, "average": 0.999999}, evaluate={"test_tasks": 12})
    result = run(tmp_path, data)
    last, rl, sft = (weights(tmp_path, name) for name in ("last", "rl", "sft"))
    assert all(torch.allclose(rl[key], sft[key], atol=1e-5) for key in sft)
    assert not all(torch.allclose(last[key], sft[key], atol=1e-3) for key in sft)
    assert result["before"] == result["after"]


def test_interrupted_in_the_warm_start_and_after_the_end(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    data = recipe(rl={"steps": 2}, sft={"epochs": 6}, evaluate={"test_tasks": 4})
    result = run(whole, data)

    def interrupt(record: Record) -> None:
        if (record["stage"], record["step"]) == ("sft", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parts, data, on_record=interrupt)
    run(parts, data, resume=True)
    assert records(parts) == records(whole)
    again = run(whole, data, resume=True)
    assert records(whole) == records(parts)
    assert (again["before"], again["after"]) == (result["before"], result["after"])


def test_same_seed_same_run(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        run(folder, recipe(rl={"steps": 3}, sft={"epochs": 6}, seed=seed))
    first, second, other = map(records, folders)
    assert first == second
    assert first != other
    same_weights(folders[0], folders[1])


def test_the_folder_is_a_product(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lines: list[dict[str, Any]] = []
    data = recipe(evaluate={"every": 2, "tasks": 4, "test_tasks": 6})
    result = run(folder, data, on_record=lines.append)
    assert Recipe.load(folder / "recipe.yaml") == Recipe.parse(data)
    assert [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ] == lines
    assert json.loads((folder / "result.json").read_text()) == result
    assert result.keys() >= {"before", "after", "seconds", "seed"}
    assert result["after"].keys() == {"success", "low", "high", "n"}
    assert result["after"]["n"] == 6
    kinds = [(line["stage"], line["kind"]) for line in lines]
    assert {
        ("sft", "train"),
        ("sft", "test"),
        ("rl", "train"),
        ("rl", "eval"),
        ("rl", "test"),
    } == set(kinds)
    files = sorted(path.name for path in (folder / "episodes").iterdir())
    plays = ["rl-000001", "rl-000002", "rl-000004", "test-rl-000004", "test-sft-000012"]
    assert files == [f"{name}.jsonl.gz" for name in plays]
    with gzip.open(folder / "episodes" / files[0], "rt") as file:
        episodes = [Episode.from_json(json.loads(line)) for line in file]
    assert len(episodes) == 4
    assert all(turn.rewards.keys() == {"outcome"} for e in episodes for turn in e.turns)
    assert all(turn.advantage is not None for e in episodes for turn in e.turns)
    for name in ("sft", "rl", "best", "last"):
        checkpoint = folder / "checkpoints" / name
        assert AutoModelForCausalLM.from_pretrained(checkpoint).config.model_type == "qwen2"
        assert AutoTokenizer.from_pretrained(checkpoint).chat_template
        assert evaluate("toy/lights-v0", str(checkpoint), tasks=2, progress=False).n == 2
    assert load_agent(folder).max_turns == 4
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    with pytest.raises(UserError, match="already holds a run"):
        run(folder, data)
    with pytest.raises(UserError, match="nothing to resume"):
        run(tmp_path / "empty", data, resume=True)


def test_lora_learns_adapters_and_saves_a_checkpoint_that_plays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = recipe()["model"] | {"lora": {"rank": 4, "alpha": 8}}
    lora_sft = {"epochs": 20, "optim": {"lr": 0.02}}
    looks = {"every": 2, "tasks": 4, "test_tasks": 12, "temperature": 0}
    rewards = [{"name": "progress"}, {"name": "invalid_action", "weight": 0.1}]
    data = recipe(model=model, sft=lora_sft, evaluate=looks, rewards=rewards)
    result = run(folder, data)
    assert all(line["engine_gap"] < 1e-4 for line in rl_lines(folder))
    assert any(line["grad_norm"] > 0 for line in rl_lines(folder))
    # The test was played by the best adapters: the merged checkpoint plays the same.
    best = evaluate(
        "toy/lights-v0", str(folder), params={"length": 3}, tasks=12, temperature=0, progress=False
    )
    assert best.success == result["after"]["success"]
    assert not any("lora" in name for name in weights(folder))
    # Only the adapters moved: the embeddings are those that the model began with.
    start = load(
        Recipe.parse(recipe()).model.model_copy(
            update={"name": str(folder / "checkpoints" / "sft")}
        )
    ).model
    end = weights(folder, "rl")
    assert torch.equal(
        start.state_dict()["model.embed_tokens.weight"], end["model.embed_tokens.weight"]
    )
    assert not torch.equal(
        start.state_dict()["model.layers.0.mlp.up_proj.weight"],
        end["model.layers.0.mlp.up_proj.weight"],
    )


def test_a_crashing_episode_is_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    env = {"id": "toy/faulty_lights-v0", "length": 3, "broken": [4, 5, 6]}
    run(tmp_path / "run", recipe(env=env, rl={"steps": 5, "tasks": 12, "tasks_per_step": 4}))
    lines = rl_lines(tmp_path / "run")
    assert len(lines) == 5
    assert sum(line.get("lost/env_error", 0) for line in lines) > 0
    for line in lines:
        assert line["episodes"] + line.get("lost/env_error", 0) == 16
        assert (
            sum(value for key, value in line.items() if key.startswith("stop/")) == line["episodes"]
        )
        assert line["useful_share"] <= 1


def test_worlds_in_worker_processes_and_bf16(tmp_path: Path) -> None:
    small = {"rl": {"steps": 2}, "sft": {"epochs": 6}}
    run(tmp_path / "threads", recipe(**small))
    processes = {"backend": "process", "workers": 1, "imports": [WORLD]}
    run(tmp_path / "processes", recipe(**small, pool=processes))
    assert records(tmp_path / "processes") == records(tmp_path / "threads")
    rough = {"rl": {"steps": 2, "bf16": True}, "sft": {"epochs": 6, "bf16": True}}
    run(tmp_path / "bf16", recipe(**rough))
    lines = rl_lines(tmp_path / "bf16")
    assert all(0 < line["engine_gap"] < 0.2 for line in lines)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "bf16").values())


def test_the_model_keeps_to_the_context_of_the_recipe(tmp_path: Path) -> None:
    made = load(
        Recipe.parse(recipe()).model.model_copy(update={"max_context": 1024}), corpus=lambda: TEXTS
    )
    save(made.model, made.tokenizer, tmp_path / "model")
    data = recipe(
        rl={"steps": 1, "credit": {"name": "gae"}},
        model={"name": str(tmp_path / "model"), "max_context": 24},
    )
    run(tmp_path / "run", data | {"stages": data["stages"][1:]})
    [line] = rl_lines(tmp_path / "run")
    assert line["stop/context_limit"] > 0
    assert line["episodes"] == 16


def test_plan_says_what_train_would_do() -> None:
    made = plan(Recipe.parse(recipe()))
    assert made["tasks"] == {"train": 40, "valid": 12, "test": 12}
    assert [stage["stage"] for stage in made["stages"]] == ["sft", "rl"]
    assert made["stages"][1]["episodes_per_step"] == 16
    words = [
        f"{a}{b}" for a in "abcdefghijkl" for b in "mnopqrstuvwx"
    ] * 2  # more pairs than a vocabulary of 320 holds
    model = load(Recipe.parse(recipe()).model, corpus=lambda: words).model
    assert made["parameters"] == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"evaluate": {"test_tasks": 13}},
            r"the test split of toy/lights-v0 has 12 tasks, so tasks=13",
        ),
        (
            {"evaluate": {"every": 1, "tasks": 14}},
            r"the valid split of toy/lights-v0 has 12 tasks, so tasks=14",
        ),
        ({"rl": {"tasks": 41}}, r"the train split of toy/lights-v0 has 40 tasks, so tasks=41"),
        (
            {"sft": {"validation": 15}},
            r"the valid split of toy/lights-v0 has 12 tasks, so tasks=15",
        ),
        ({"rl": {"symmetries": 3}}, "symmetries=3, but toy/lights-v0 knows 2"),
    ],
)
def test_what_the_world_does_not_have_is_said_before_anything_is_trained(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    seen: list[Record] = []
    with pytest.raises(UserError, match=sentence):
        train(
            Recipe.parse(recipe(**change)),
            run_dir=tmp_path / "run",
            progress=False,
            on_record=seen.append,
        )
    assert seen == []
    with pytest.raises(UserError, match=sentence):
        plan(Recipe.parse(recipe(**change)))


def test_a_tiny_model_reads_the_expert_where_nothing_is_listed(tmp_path: Path) -> None:
    silent = recipe(env={"id": "toy/silent_lights-v0", "length": 2}, rl={"steps": 1})
    run(tmp_path / "run", silent)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoints" / "rl").encode("Now")
    with pytest.raises(UserError, match="neither lists admissible actions nor has an expert"):
        run(tmp_path / "other", silent | {"env": {"id": "toy/secret_lights-v0"}})


def test_codes_of_the_world_are_single_tokens_if_the_model_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = recipe(rl={"steps": 1}, model=recipe()["model"] | {"codes": True})
    with pytest.raises(UserError, match=r"model\.codes: toy/lights-v0 lists no identifiers"):
        run(tmp_path / "none", asks)
    monkeypatch.setattr(LightsEnv, "codes", ("B0Q7", "B0Q8"))
    for name, data, pieces in (
        ("whole", asks, 1),
        ("spelled", asks | {"model": recipe()["model"]}, 4),
    ):
        run(tmp_path / name, data)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name / "checkpoints" / "rl")
        assert len(tokenizer.encode("B0Q7")) == pieces
        assert tokenizer.decode(tokenizer.encode("click B0Q7, B0Q8!")) == "click B0Q7, B0Q8!"


def test_the_spelling_of_codes_is_no_text_for_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LightsEnv, "codes", ("red",))

    def read(**model: Any) -> list[str]:
        asked = Recipe.parse(recipe(model=recipe()["model"] | model))
        return asyncio.run(world_text(asked, turnrl.make("toy/lights-v0"), progress=False))

    spelled, whole = read(corpus=8), read(corpus=8, codes=True)
    assert any("Now red" in text for text in spelled)
    assert not any(re.search(r"\bred\b", text) for text in whole)
    assert any("Now blue" in text for text in whole)
    assert len(whole) == len(set(whole)) <= len(spelled), (
        "what differed by a code is the same text now"
    )
    assert len(read(corpus=2)) < len(spelled)
