"""Recipe: overrides, and one sentence for every mistake, with the nearest known key."""

from __future__ import annotations

import re
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from turnrl import Recipe, UserError
from turnrl.rewards.outcome import Outcome
from turnrl.training.credit.gae import Gae
from turnrl.training.credit.grpo import Grpo
from turnrl.training.losses.ppo_clip import PpoClip
from turnrl.training.plan import plan
from turnrl.training.regularizers.kl import Kl
from turnrl.training.stages.rl import Rl
from turnrl.training.stages.sft import Sft

from ..toy_world import LightsSettings

DATA: dict[str, Any] = {
    "name": "toy",
    "env": {"id": "toy/lights-v0", "length": 2},
    "rewards": [{"name": "outcome"}, {"name": "progress", "weight": 0.1}],
    "stages": [
        {"name": "sft"},
        {"name": "rl", "optim": {"lr": 0.1}, "regularizers": [{"name": "kl"}]},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(DATA))
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = deepcopy(DATA)
    target: Any = data
    parts = path.split("/")
    for part in parts[:-1]:
        if isinstance(target, dict):
            target.setdefault(part, {})
        target = target[int(part) if part.isdigit() else part]
    target[parts[-1]] = value
    return data


def complaint(call: Any) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("sead", "seed"),
        ("model/wide", "width"),
        ("model/lora/rnk", "rank"),
        ("engine/max_bach", "max_batch"),
        ("agent/parsr", "parser"),
        ("agent/sampling/temprature", "temperature"),
        ("agent/parser", "line"),
        ("pool/worker", "workers"),
        ("evaluate/evry", "every"),
        ("stages/0/demonstration", "demonstrations"),
        ("stages/1/step", "steps"),
        ("stages/1/optim/lrr", "lr"),
        ("stages/1/critic/clp", "clip"),
        ("stages/1/regularizers/0/coeficient", "coefficient"),
        ("rewards/1/wait", "weight"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(path: str, hint: str) -> None:
    value = {"name": "lin"} if path == "agent/parser" else 1
    message = complaint(lambda: Recipe.parse(changed(path, value), "toy.yaml"))
    assert f"did you mean '{hint}'?" in message
    assert ("lin" if path == "agent/parser" else path.rpartition("/")[2]) in message


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        ("stages/0/tagger", {"name": "rule"}, "did you mean 'rules'?"),
        ("stages/0/tagger", {"name": "rules", "stepz": 1}, "did you mean 'steps'?"),
        (
            "stages/0/tagger",
            {"name": "endpoint"},
            "agents.tagger 'endpoint': endpoint: Field required",
        ),
        ("stages/0/tagger", "rules", "toy.yaml: training.stages 'sft': tagger: needs a name"),
        ("stages/1/credit", {"name": "grpoo"}, "did you mean 'grpo'?"),
        ("stages/1/credit", {"name": "grpo", "epz": 1}, "did you mean 'eps'?"),
        ("stages/1/loss", {"name": "ppo"}, "ppo_clip"),
        ("stages/1/curriculum", {"name": "random"}, "uniform"),
        ("rewards", [{"name": "outcome"}, {"name": "outcome"}], "listed twice"),
        ("rewards", {"name": "outcome"}, "rewards"),
        (
            "stages/1/regularizers",
            [{"name": "kl"}, {"name": "kl", "place": "reward"}],
            "listed twice",
        ),
        ("stages", [], "stages"),
        ("stages", 3, "stages"),
        ("stages", [3], "stages.0"),
        ("stages", [{"name": "rl"}, {"name": "rl"}], "listed twice"),
        ("stages", [{"name": "ppo"}], "known: rl, sft"),
        ("env", {"level": 3}, "id"),
        ("seed", -1, "seed"),
        ("name", "a/b", "name"),
        ("stages/1/steps", "many", "toy.yaml: training.stages 'rl': steps: "),
    ],
)
def test_bad_values(path: str, value: Any, part: str) -> None:
    assert part in complaint(lambda: Recipe.parse(changed(path, value), "toy.yaml"))


@pytest.mark.parametrize(
    "tagger",
    [{"name": "rules"}, {"name": "endpoint", "endpoint": {"url": "http://a", "model": "m"}}],
)
def test_a_tagger_needs_a_parser_that_knows_the_tags(tagger: dict[str, Any]) -> None:
    data = changed("stages/0/tagger", tagger)
    parsers: list[dict[str, Any]] = [
        {"name": "line"},
        {"name": "tags"},
        {"name": "tags", "thoughts": ["planning"]},
    ]
    for parser in parsers:
        message = complaint(
            lambda parser=parser: Recipe.parse(data | {"agent": {"parser": parser}}, "toy.yaml")
        )
        assert message.startswith(
            f"toy.yaml: sft: tagger '{tagger['name']}' needs a parser that knows the tags planning,"
        )
    [said] = re.findall(r"set agent\.parser: (.*)", message)
    Recipe.parse(data | {"agent": {"parser": yaml.safe_load(said)}})


def test_overrides(file: Path) -> None:
    recipe = Recipe.load(
        file,
        [
            "rl.steps=20",
            "env.length=7",
            "rewards.progress.weight=0.5",
            "rl.optim.lr=1e-3",
            "model.width=48",
            "stages.0.epochs=2",
            "rl.credit={name: gae, lam: 0.5}",
            "rl.regularizers.kl.place=reward",
            "name=other",
        ],
    )
    sft, rl = recipe.stages
    assert isinstance(sft, Sft)
    assert isinstance(rl, Rl)
    assert recipe.name == "other"
    assert (rl.steps, rl.optim.lr, sft.epochs, recipe.model.width) == (20, 1e-3, 2, 48)
    assert recipe.env_params == {"length": 7}
    assert [reward.weight for reward in recipe.rewards] == [1.0, 0.5]
    assert rl.credit == Gae(lam=0.5)
    assert rl.regularizers == [Kl(place="reward")]


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("rl.steps", "key=value"),
        ("=3", "key=value"),
        ("rl=3", "name a key"),
        ("r.steps=3", "no key 'r'"),
        ("modl.width=3", "did you mean 'model'?"),
        ("rl.stepz=3", "did you mean 'steps'?"),
        ("rl.steps={", "not valid YAML"),
        ("name=2020-13-45", "not valid YAML"),
        ("rewards.progres.weight=1", "did you mean 'progress'?"),
        ("rewards.9.weight=1", "'9' is not in the list"),
        ("name.x=1", "is a value, not a block"),
        ("rl..steps=3", "unknown key"),
        ("stages.1.optim.lr.x=3", "is a value, not a block"),
    ],
)
def test_malformed_overrides(file: Path, override: str, part: str) -> None:
    assert part in complaint(lambda: Recipe.load(file, [override]))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name: [1", "not valid YAML"),
        (b"- 1\n- 2\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"name: caf\xe9\n", "not UTF-8"),
        (b"name: 2020-13-45\n", "not valid YAML"),
        (b"stages: 3\n", "name"),
        (b"1: 2\n", "1"),
        (b"\x00\x01", "not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    message = complaint(lambda: Recipe.load(path))
    assert part in message
    assert "broken.yaml" in message
    complaint(lambda: Recipe.load(path, ["rl.steps=2"]))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in complaint(lambda: Recipe.load(tmp_path / "gone.yaml"))
    assert "directory" in complaint(lambda: Recipe.load(tmp_path))


def test_a_dumped_recipe_is_the_same_recipe() -> None:
    recipe = Recipe.parse(changed("model/lora", {"rank": 4}))
    assert Recipe.parse(yaml.safe_load(recipe.dump())) == recipe


def test_a_saved_recipe_means_the_same_when_defaults_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every field of every plug-in is written, of plug-ins inside of plug-ins too."""
    data = changed("rewards", [{"name": "gate", "levels": [{"of": {"name": "winrate"}}]}])
    recipe = Recipe.parse(data)
    saved = yaml.safe_load(recipe.dump())
    for cls, field in ((Grpo, "eps"), (Outcome, "failure"), (PpoClip, "clip_low")):
        other = type(
            cls.__name__,
            (cls,),
            {"__module__": cls.__module__, "__annotations__": {field: float}, field: 0.125},
        )
        monkeypatch.setattr(sys.modules[cls.__module__], cls.__name__, other)
    again, anew = Recipe.parse(saved), Recipe.parse(data)
    assert again.dump() == recipe.dump()
    assert again.stages[1].model_dump()["credit"]["eps"] == 1e-6
    assert anew.dump() != recipe.dump()
    assert anew.stages[1].model_dump()["credit"]["eps"] == 0.125


@pytest.mark.parametrize(("slots", "alive"), [(None, 16), (2, 2), (64, 16)])
def test_a_pool_has_fewer_worlds_than_episodes_if_asked_to(slots: int | None, alive: int) -> None:
    assert Recipe.parse(changed("pool", {"slots": slots})).pool.build(16, ()).slots == alive


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_of_ours_is_one(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    assert recipe.evaluate.test_tasks, "there is a result on held-out tasks"


def test_a_planned_recipe_holds_every_parameter_of_its_world() -> None:
    parts = [{"id": "toy/lights-v0"}, {"id": "toy/lights-v0", "length": 2, "weight": 2}]
    for env in ({"id": "toy/lights-v0"}, {"id": "turnrl/mixed-v0", "parts": parts}):
        whole = plan(changed("env", env))["recipe"]["env"]
        again = plan(changed("env", whole))
        assert again["recipe"]["env"] == whole
        assert again["tasks"] == plan(changed("env", env))["tasks"]
        made = whole.get("parts", [whole])
        assert all(LightsSettings.model_fields.keys() <= each.keys() for each in made)
