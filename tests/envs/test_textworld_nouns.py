"""Renamings of nouns: TextWorld's own words, exchanged within their kind, without a trace."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import turnrl
from turnrl.agents.symmetry import rename
from turnrl.envs.textworld.coin import COMPASS
from turnrl.envs.textworld.nouns import KINDS, renamings

ALL = [noun for kind in KINDS for noun in kind]


def test_they_are_the_nouns_of_the_house_theme() -> None:
    spec = find_spec("textworld")
    assert spec is not None
    assert spec.origin is not None
    grammar = (Path(spec.origin).parent / "generator/data/text_grammars/house_obj.twg").read_text(
        "utf-8"
    )
    rules = "fruit|candy|colour|shape|smell|brandname|number"
    found = re.findall(rf"^(?:\w*\(\w\)_noun\w*|{rules}):(.*)$", grammar, re.MULTILINE)
    words = {word.lower() for line in found for word in re.findall(r"\w+", line)}
    assert set(ALL) <= words
    assert len(ALL) == len(set(ALL))


def test_every_renaming_is_one_to_one_within_kinds() -> None:
    made = renamings(64)
    assert len({tuple(sorted(renaming.items())) for renaming in made}) == 64
    assert made == renamings(64)
    for renaming in made:
        for kind in KINDS:
            assert sorted(renaming[noun] for noun in kind) == sorted(kind)
        directions = {d: renaming[d] for d in ("north", "south", "east", "west") if d in renaming}
        assert directions in ({}, *COMPASS)


def test_a_quest_is_won_under_every_renaming() -> None:
    env = turnrl.make("textworld/quest-v0")
    assert env.symmetries[: len(COMPASS)] == COMPASS
    task = env.tasks("valid")[0]
    for renaming in env.symmetries:
        back = {new: old for old, new in renaming.items()}
        text, info = env.reset(options={"task": task})
        while not info["success"]:
            assert rename(rename(text, renaming), back) == text
            action = env.expert_action()
            assert action is not None
            seen = rename(action, renaming)
            text, _, _, _, info = env.step(rename(seen, back))
    env.close()
