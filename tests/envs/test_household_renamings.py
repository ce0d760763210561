"""Renamings of household worlds: names are exchanged within their kind, no word of the rules."""

# What is imported after the check needs the extra.
# ruff: noqa: E402
from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from turnrl.agents.symmetry import rename
from turnrl.envs import make

games = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("household_games.py"))))
games.require()

from turnrl.envs.household.problem import sample
from turnrl.envs.household.renamings import kinds, names, renamings
from turnrl.envs.household.source import package


def test_every_renaming_is_one_to_one_within_kinds() -> None:
    made = renamings()
    assert len({tuple(sorted(renaming.items())) for renaming in made}) == len(made)
    for renaming in made:
        for kind in kinds():
            assert sorted(renaming[name] for name in kind) == sorted(kind)


def test_no_name_is_a_word_of_the_text_around_it() -> None:
    said = re.findall(r'(?:"rhs"|template|feedback)\s*::?\s*"(.*?)"', package().grammar)
    said = [re.sub(r"\{.*?\}|#.*?#|\\n", " ", text) for text in said]
    goals = [text for kind in package().goals.values() for text in kind["templates"]]
    words = set(re.findall(r"\w+", " ".join((*said, *goals)).lower()))
    assert {"arrive", "closed", "nothing", "task", "put", "examine"} <= words
    assert not words & set(names())


@pytest.mark.parametrize("kind", games.KINDS)
def test_whatever_has_a_number_has_a_name_and_the_game_is_won_under_another(kind: str) -> None:
    env = make(f"household/{kind}-v0")
    renaming = env.symmetries[0]
    back = {new: old for old, new in renaming.items()}
    text, info = env.reset(options={"task": env.task(games.small(kind))})
    seen = set()
    while not info["success"]:
        seen |= set(re.findall(r"\b([a-z]+) \d", text))
        action = env.expert_action()
        assert action is not None
        told = rename(action, renaming)
        text, _, _, _, info = env.step(rename(told, back))
    assert seen <= set(env.codes)
    problem = sample(kind, games.small(kind))
    assert {problem.target.lower(), problem.parent.lower()} <= set(env.codes)
    env.close()
