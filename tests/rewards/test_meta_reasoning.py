"""Meta-reasoning: each kind is paid for what the world confirms, and nothing is paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.tagger.base import KINDS
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS

TASK = Task(env="toy/made-v0", seed=3)
MOVES = ("go kitchen", "go hall", "open box", "close box", "look", "take pen", "dance")
SPOKEN = st.lists(
    st.tuples(st.sampled_from((*KINDS, None)), st.sampled_from((*MOVES, None))), max_size=30
)


def said(
    tag: str | None, action: str | None, answer: str, *, valid: bool = True, text: str = ""
) -> Turn:
    turn = Turn(
        [1],
        False,
        [2],
        [-0.1],
        text=text,
        action=action,
        tag=tag,
        observation=answer,
        valid_action=valid,
    )
    if action is None:
        turn.valid_action, turn.invalid_reason, turn.tag = False, "unparsable", None
    elif not valid:
        turn.invalid_reason = "rejected"
    return turn


def episode(*turns: Turn, success: bool = True, opening: str = "You are in a room.") -> Episode:
    stop = StopReason.WON if success else StopReason.TURN_LIMIT
    return Episode(TASK, opening=opening, turns=list(turns), stop=stop, success=success)


def rewards(*episodes: Episode, **fields: Any) -> list[list[float]]:
    reward = REWARDS.build({"name": "meta_reasoning", **fields})
    return asyncio.run(reward(Group(TASK, list(episodes)), None))


def paid(*turns: Turn, success: bool = True, **fields: Any) -> list[float]:
    return rewards(episode(*turns, success=success), **fields)[0]


def known() -> list[Turn]:
    return [
        said("planning", "goto desk 1", "You are at desk 1."),
        said("explore", "open drawer 1", "Drawer 1 is open."),
        said("explore", "open drawer 1", "Drawer 1 is open."),
        said("monitor", "take pen 9", "Nothing happens.", valid=False),
        said("reflection", "goto shelf 1", "You are at shelf 1."),
        said(None, "look", "You see a shelf."),
    ]


def test_each_kind_is_paid_for_what_it_is_for() -> None:
    won, lost = rewards(episode(*known()), episode(*known(), success=False))
    assert won == [1, 1, 0, 0, 1, -0.1]
    assert lost == [0, 1, 0, 0, 1, -0.1]


def test_the_prices_are_fields() -> None:
    fields: dict[str, Any] = {
        "planning": 0.5,
        "explore": 2.0,
        "reflection": 3.0,
        "format_penalty": 0.25,
    }
    assert paid(*known(), **fields) == [0.5, 2, 0, 0, 3, -0.25]
    assert paid(*known(), min_failures=2) == [1, 1, 0, 0, 1, -0.1]
    assert paid(*known(), min_failures=3) == [1, 1, 0, 0, 0, -0.1]
    assert rewards(episode()) == [[]]


@pytest.mark.parametrize(("most", "count"), [(3, 3), (1, 1), (0, 0), (None, 6)])
def test_so_many_plans_are_paid(most: int | None, count: int) -> None:
    turns = [said("planning", "wait", "Time passes.") for _ in range(6)]
    assert paid(*turns, max_planning=most) == [1] * count + [0] * (6 - count)
    assert paid(*turns, max_planning=most, success=False) == [0] * 6


@pytest.mark.parametrize(
    ("action", "answer", "valid"),
    [
        ("close drawer 1", "Closed.", True),
        ("OPEN  dra\\wer 1!", "Open again.", True),
        ("goto shelf 1", "Drawer 1 is open.", True),
        ("goto shelf 1", "You are in a room.", True),
        ("goto shelf 1", "You cannot.", False),
        ("look", "A desk and a shelf.", True),
    ],
    ids=["old target", "other spelling", "old answer", "the opening", "refused", "no target"],
)
def test_an_exploration_is_new_to_the_world(action: str, answer: str, valid: bool) -> None:
    before = said("monitor", "open drawer 1", "Drawer 1 is open.")
    assert paid(before, said("explore", action, answer, valid=valid)) == [0, 0]
    assert paid(before, said("explore", "goto shelf 1", "A shelf.")) == [0, 1]


def test_a_refused_target_may_still_be_explored() -> None:
    tried = said("explore", "open drawer 1", "You are too far away.", valid=False)
    assert paid(tried, said("explore", "open drawer 1", "It is open.")) == [0, 1]


@pytest.mark.parametrize(
    "failure",
    [
        said("monitor", "take pen 9", "No.", valid=False),
        said(None, None, "Invalid answer."),
        said("monitor", "wait", "You are in a room."),
    ],
    ids=["refused", "unparsable", "the same answer as before"],
)
def test_a_reflection_follows_a_failure(failure: Turn) -> None:
    assert paid(failure, said("reflection", "goto shelf 1", "A shelf."))[1] == 1
    assert (
        paid(
            failure,
            said("monitor", "goto desk 1", "A desk."),
            said("reflection", "open it", "Open."),
        )[2]
        == 0
    )


def test_what_we_say_about_a_response_is_no_answer_of_the_world() -> None:
    """The answer to the last action is no new one because an unparsable turn lies between."""
    turns = [
        said("monitor", "open gate", "No.", valid=False),
        said(None, None, "Invalid answer."),
        said("monitor", "push gate", "No."),
        said("reflection", "goto shelf 1", "A shelf."),
    ]
    assert paid(*turns, min_failures=3)[3] == 1


def test_an_action_that_brings_the_same_answer_again_has_failed() -> None:
    walk = [said("monitor", f"go {room}", f"The {room}.") for room in ("hall", "attic", "hall")]
    assert paid(*walk, said("reflection", "open box", "Open."))[3] == 1
    assert paid(*walk[:2], said("reflection", "open box", "Open."))[2] == 0


@pytest.mark.parametrize(
    "correction",
    [
        said("reflection", "go hall", "No way.", valid=False),
        said("reflection", "Take PEN", "Taken."),
        said("reflection", "look", "You are in a room."),
        said("reflection", "dance", "No pen here."),
    ],
    ids=["refused", "the failed action", "what was seen before the failure", "the same answer"],
)
def test_a_reflection_corrects(correction: Turn) -> None:
    failure = said("monitor", "take pen", "No pen here.", valid=False)
    assert paid(failure, correction) == [0, 0]
    assert paid(failure, said("reflection", "go hall", "The hall.")) == [0, 1]


def test_a_reflection_differs_from_every_failure_of_its_run() -> None:
    run = [
        said("monitor", "push door", "No.", valid=False),
        said("monitor", "pull door", "No!", valid=False),
    ]
    assert paid(*run, said("reflection", "push door", "It opens.")) == [0, 0, 0]
    assert paid(*run, said("reflection", "unlock door", "It opens."), min_failures=2) == [0, 0, 1]


def test_nothing_without_one_of_the_four_tags() -> None:
    turns = [
        said("planning", "go hall", "The hall."),
        said("think", "open box", "Open."),
        said(None, None, "Invalid."),
    ]
    assert paid(*turns) == [1, -0.1, -0.1]


def test_what_the_model_writes_beside_tag_and_action_does_not_count() -> None:
    turns = [said("explore", "open box", "Open.", text=f"Surely new: {i}") for i in range(4)]
    assert paid(*turns) == [1, 0, 0, 0]


def test_a_parser_without_tags_is_said() -> None:
    plain = [said(None, "look", "You see."), said(None, None, "Invalid.")]
    with pytest.raises(
        UserError,
        match=r"parser: \{name: tags, thoughts: \[planning, explore, reflection, monitor\]",
    ):
        rewards(episode(*plain), episode(*plain))
    assert rewards(episode(*plain), episode(*known()))[0] == [-0.1, -0.1]
    assert rewards(episode(*plain[1:])) == [[-0.1]]


# -- probes: what an optimiser would try -----------------------------------------------------------


def lived(spoken: Sequence[tuple[str | None, str | None]], *, success: bool = True) -> Episode:
    """What a small house answers; it forgets nothing and repeats itself."""
    room, box, turns = "kitchen", "closed", []

    def view() -> str:
        return f"You are in the {room}. The box is {box}."

    made = episode(success=success, opening=view())
    for tag, action in spoken:
        valid, answer = True, None
        if action == "take pen":
            valid, answer = False, "There is no pen."
        elif action == "dance":
            answer = "You dance."
        elif action is None:
            answer = "Invalid answer."
        elif action.startswith("go "):
            room = action[3:]
        elif action != "look":
            box = "open" if action.startswith("open") else "closed"
        turns.append(said(tag, action, answer or view(), valid=valid))
    made.turns = turns
    return made


def by_kind(made: Episode) -> dict[str | None, float]:
    [values] = rewards(made)
    totals: dict[str | None, float] = dict.fromkeys(KINDS, 0.0)
    for turn, value in zip(made.turns, values, strict=True):
        totals[turn.tag] = totals.get(turn.tag, 0.0) + value
    return totals


START = [("monitor", "look")]
"""A tagged turn, so that no episode looks like one of another parser."""


@given(spoken=SPOKEN, success=st.booleans())
def test_totals_stay_within_the_bounds(spoken: list[Any], success: bool) -> None:
    made = lived([*START, *spoken], success=success)
    totals, turns = by_kind(made), made.turns
    done = [turn.action or "" for turn in turns if turn.valid_action]
    targets = {action.split()[1] for action in done if " " in action}
    answers = {turn.observation for turn in turns} - {made.opening}
    deeds = {(turn.action, turn.observation) for turn in turns if turn.valid_action}
    assert totals["planning"] == min(3, sum(turn.tag == "planning" for turn in turns)) * success
    assert totals["explore"] <= min(len(targets), len(answers))
    assert totals["reflection"] <= len(deeds)
    assert totals["monitor"] == 0


@given(spoken=SPOKEN, times=st.integers(2, 4))
def test_stretching_an_episode_pays_no_more_than_plans(spoken: list[Any], times: int) -> None:
    """The same turns again in a world that comes back: only plans below the cap are left to pay."""
    home = [("monitor", "go kitchen"), ("monitor", "close box")]
    once, often = ([*START, *([*spoken, *home] * n)] for n in (1, times))
    first, again = by_kind(lived(once)), by_kind(lived(often))
    assert (again["explore"], again["reflection"]) == (first["explore"], first["reflection"])
    assert first["planning"] <= again["planning"] <= 3
    assert again.get(None, 0.0) <= first.get(None, 0.0)


@pytest.mark.parametrize(
    ("kind", "most"), [("planning", 3), ("explore", 1), ("reflection", 0), ("monitor", 0)]
)
def test_spamming_a_tag_pays_no_more_than_using_it(kind: str, most: int) -> None:
    assert (
        by_kind(lived([(kind, action) for action in ("go hall", "go kitchen") * 20]))[kind] == most
    )


def test_repeating_the_rewarded_action_pays_once() -> None:
    assert sum(paid(*[said("explore", "open box", "Open.")] * 30)) == 1
    assert sum(paid(*[said("explore", "open box", f"{t} turns passed.") for t in range(30)])) == 1
    loop = [
        ("monitor", "take pen"),
        ("reflection", "go hall"),
        ("monitor", "take pen"),
        ("reflection", "go kitchen"),
    ]
    assert by_kind(lived(loop * 10))["reflection"] == 2
    assert by_kind(lived([("monitor", "take pen"), ("reflection", "look")] * 10))["reflection"] == 0
