"""Slots: a name becomes a class, and every mistake one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field
from turnrl.foundation import plugins
from turnrl.foundation.errors import UserError
from turnrl.foundation.plugins import Need, Plugged
from turnrl.rewards.base import REWARDS, TurnReward
from turnrl.training.credit.base import CREDITS, Advantages, Credit
from turnrl.training.losses.base import LOSSES


class Mine(Credit):
    """A third party's estimator."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.VALUES})
    name: Literal["mine"] = "mine"
    gamma: float = Field(1.0, ge=0)

    def __call__(self, rewards: Any, batch: Any) -> Any:
        return Advantages(rewards.total_ET)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    made = ModuleType("third_party")
    made.Mine, made.other, made.Wrong = Mine, 3, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party", made)
    return "third_party"


def sentence(call: Any, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_built_in_by_name() -> None:
    assert {"grpo", "rloo", "gae", "turn_return"} <= set(CREDITS.names())
    assert "base" not in CREDITS.names()
    assert not any(name.startswith("_") for name in CREDITS.names())
    built = CREDITS.build({"name": "grpo"})
    assert isinstance(built, Credit)
    assert built.name == "grpo"
    assert CREDITS.build(built) is built


def test_every_built_in_is_named_like_its_file() -> None:
    for slot in (CREDITS, LOSSES):
        for name in slot.names():
            assert slot.get(name).model_fields["name"].default == name


def test_dotted_path(module: str) -> None:
    assert CREDITS.get(f"{module}:Mine") is Mine
    built = CREDITS.build({"name": f"{module}:Mine", "gamma": 0.5})
    assert built == Mine(gamma=0.5)
    assert built.needs() == {"values"}


def test_entry_point(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("mine", f"{module}:Mine", "turnrl.training.credit")]
    entries.append(EntryPoint("gone", "no_such_package:Gone", "turnrl.training.credit"))

    monkeypatch.setattr(
        plugins, "entry_points", lambda *, group: [e for e in entries if e.group == group]
    )
    monkeypatch.setattr(plugins, "_installed", plugins._installed.__wrapped__)
    assert "mine" in CREDITS.names()
    assert CREDITS.get("mine") is Mine
    assert CREDITS.build({"name": "mine", "gamma": 0.5}) == Mine(gamma=0.5)
    assert "mine" not in LOSSES.names()
    sentence(lambda: CREDITS.get("gone"), "gone", "no_such_package")


def test_unknown_names(module: str) -> None:
    sentence(lambda: CREDITS.get("grppo"), "training.credit", "did you mean 'grpo'")
    sentence(lambda: CREDITS.get("base"), "base", "known: ", "grpo")
    sentence(lambda: CREDITS.get("_stats"), "_stats")
    sentence(lambda: CREDITS.get("no_such_package.mine:Mine"), "no_such_package")
    for path in (f"{module}:Gone", ":Mine", f"{module}:", ".relative:Mine", ":"):
        sentence(lambda path=path: CREDITS.get(path), f"'{path}'")
    for thing in ("other", "Wrong"):
        sentence(lambda thing=thing: CREDITS.get(f"{module}:{thing}"), "not a subclass of Credit")


def test_bad_fields() -> None:
    sentence(
        lambda: CREDITS.build({"name": "gae", "lamm": 1}),
        "training.credit 'gae'",
        "'lamm'",
        "did you mean 'lam'",
    )
    sentence(lambda: CREDITS.build({"name": "gae", "lam": 2}), "lam", "less than or equal to 1")
    sentence(lambda: CREDITS.build({"gamma": 1}), "needs a 'name'")
    sentence(lambda: CREDITS.build({"name": 3}), "needs a 'name'")
    nested = {"name": "ppo_clip", "importance": {"capp": 3}}
    sentence(lambda: LOSSES.build(nested), "'importance.capp'", "did you mean 'cap'")


def test_a_need_that_nobody_provides_is_refused_when_the_class_is_made() -> None:
    def make(words: Any) -> type[Credit]:
        return type(
            "Typo", (Credit,), {"requires": words, "__annotations__": {"requires": ClassVar[Any]}}
        )

    sentence(lambda: make({"progres"}), "Typo", "'progres'", "did you mean 'progress'?")
    sentence(lambda: make({"values", "xyz"}), "'xyz'", "known: ", "ref_logprobs")
    sentence(lambda: make("values"), "set of needs")
    sentence(lambda: make({3}), "set of needs")
    assert make({"values"}).requires == {Need.VALUES}
    assert all(isinstance(need, Need) for need in make({"values"}).requires)


def test_a_plugin_without_memory_has_none() -> None:
    plugin = CREDITS.build({"name": "grpo"})
    assert plugin.state_dict() == {}
    plugin.load_state_dict({})


class Block(BaseModel):
    credit: Plugged[Credit]
    rewards: list[Plugged[TurnReward]] = []


def test_a_field_takes_a_plugin_or_its_data_and_is_written_with_every_default() -> None:
    built = CREDITS.build({"name": "gae", "lam": 0.5})
    assert Block(credit=built).credit is built
    read = Block.model_validate(
        {"credit": {"name": "gae", "lam": 0.5}, "rewards": [{"name": "winrate"}]}
    )
    assert read.credit == built
    assert read.model_dump()["credit"] == built.model_dump()
    [winrate] = read.model_dump(mode="json")["rewards"]
    assert winrate["by"] == REWARDS.build({"name": "outcome"}).model_dump() != {"name": "outcome"}
    assert Block.model_validate(read.model_dump(mode="json")) == read
    assert read.model_dump(exclude_unset=True)["credit"] == {"name": "gae", "lam": 0.5}


def test_what_is_no_plugin_is_told_where_it_stands() -> None:
    for wrong in ("gae", 3, None, REWARDS.build({"name": "outcome"})):
        with pytest.raises(ValueError, match=r"credit\n.*needs a name, with fields beside it"):
            Block.model_validate({"credit": wrong})
    sentence(
        lambda: Block.model_validate({"credit": {"name": "gae", "lamm": 1}}), "did you mean 'lam'"
    )


def test_a_plugin_of_a_third_party_is_written_as_it_was_named(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from turnrl.training.credit.grpo import Grpo\nclass Mine(Grpo): pass\n"
    )
    (tmp_path / "link.py").symlink_to(tmp_path / "mine.py")
    monkeypatch.syspath_prepend(tmp_path)
    for path in (f"{module}:Mine", f"{tmp_path}/mine.py:Mine", f"{tmp_path}/link.py:Mine"):
        block = Block.model_validate({"credit": {"name": path}})
        written = block.model_dump(mode="json")
        assert written["credit"]["name"] == path
        assert Block.model_validate(written) == block
        assert block.credit.name != path, "metrics go by the name of the class"
    # One that was made in Python is named by the place of its class.
    file_class: Any = type(block.credit)
    gae: Any = CREDITS.get("gae")
    for made, wanted in (
        (Mine(), f"{Mine.__module__}:Mine"),
        (file_class(), f"{tmp_path}/mine.py:Mine"),
        (gae(), "gae"),
    ):
        written = Block(credit=made).model_dump(mode="json")
        assert written["credit"]["name"] == wanted
        assert Block.model_validate(written).credit == made


def test_what_begins_remembers_apart_from_what_the_recipe_holds() -> None:
    from turnrl.training.curriculum.base import CURRICULA

    configured = CURRICULA.build({"name": "horizon", "tasks": {"name": "prioritized"}})
    live = configured.begin()
    live.load_state_dict({"rates": {"a": [1.0, 2.0, 0.0]}})
    assert live.state_dict()["rates"]
    assert configured.state_dict() == configured.begin().state_dict() == {"rates": {}}


def package(folder: Path, name: str, entry_points: str) -> None:
    """An installed package of this name, as far as its metadata goes."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


GOOD_WORLD = """
import turnrl
class Good(turnrl.TextEnv):
    def _tasks(self, split): return [self.task(0, split)]
    def _begin(self, task): return turnrl.Outcome("")
    def _act(self, action): return turnrl.Outcome("", ended=True)
turnrl.register("good/world-v0", Good)
"""


@pytest.mark.parametrize(
    ("entries", "module"),
    [
        ("[turnrl.envs]\nbroken = no_such_module_here\n", ""),
        ("[turnrl.envs]\nbroken = broken_world\n", "raise RuntimeError('an old\\nversion')"),
        ("[turnrl.envs]\nbroken = broken_world\n", "def f(:\n"),
        ("[turnrl.envs]\nbroken = broken_world\n", "import sys; sys.exit(7)"),
        ("[turnrl.envs]\nbroken = broken_world:Gone\n", ""),
        ("[turnrl.envs]\nbroken = not a module !\n", ""),
        ("[turnrl.training.credit]\nbroken = no_such_module_here:Mine\n", ""),
        ("[turnrl.training.credit]\nbroken = broken_world\n", ""),
    ],
)
def test_a_broken_package_costs_a_warning_that_names_it(
    tmp_path: Path, entries: str, module: str
) -> None:
    package(tmp_path, "broken-worlds", entries)
    package(tmp_path, "z-good-worlds", "[turnrl.envs]\ngood = good_world\n")
    (tmp_path / "good_world.py").write_text(GOOD_WORLD)
    (tmp_path / "broken_world.py").write_text(module)
    script = "import sys; from turnrl.cli.main import main; main()"
    done = {
        command: subprocess.run(
            [sys.executable, "-c", script, *command.split()],
            capture_output=True,
            text=True,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        )
        for command in ("envs", "methods")
    }
    for one in done.values():
        assert one.returncode == 0, one.stderr
        assert "Traceback" not in one.stderr
    assert "good/world-v0" in done["envs"].stdout
    assert "grpo" in done["methods"].stdout
    told = [one.stderr for one in done.values() if "broken" in one.stderr]
    assert told
    assert all(line.startswith("turnrl: warning: ") for text in told for line in text.splitlines())
    if "turnrl.envs" in entries:
        assert "broken-worlds" in told[0]
