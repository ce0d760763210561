"""The rules: tags and thoughts from facts known before the turn, in words that parsers read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.baselines import ExpertAgent
from turnrl.agents.demonstrations import retell
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.facts import facts_of
from turnrl.agents.parsers.base import PARSERS
from turnrl.agents.parsers.tags import Tags
from turnrl.agents.symmetry import rename
from turnrl.agents.tagger.base import KINDS, PARSER, TAGGERS, Tagged, speaks
from turnrl.agents.tagger.rules import RuleTagger
from turnrl.envs import Task
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS

from ..toy_world import LightsEnv
from .fake_engine import FakeEngine, agent, perfect, tokenizer
from .test_demonstrations import played

PARSER_CONFIG = {"name": "tags", "thoughts": list(KINDS), "require_think": True}
SWAP = LightsEnv.symmetries[0]
EAST = {"east": "west", "west": "east"}
ACTIONS = (
    st.none()
    | st.text(max_size=40)
    | st.sampled_from(["go east", "look", "</action>", "type <b> into form"])
)


def acted(action: str | None, answer: str, **fields: Any) -> Turn:
    valid: dict[str, Any] = (
        {} if action else {"valid_action": False, "invalid_reason": "unparsable"}
    )
    return Turn(
        [], True, [], [], text=action or "", action=action, observation=answer, **(valid | fields)
    )


def episode(*turns: Turn, opening: str = "Go east, then north, and take the coin.") -> Episode:
    return Episode(
        Task(env="toy/made-v0", seed=0),
        opening=opening,
        turns=list(turns),
        stop=StopReason.WON,
        success=True,
    )


def test_tags_and_thoughts_follow_from_what_happened() -> None:
    made = episode(
        acted("go east", "A hall."),
        acted("go north", "A wall.", valid_action=False),
        acted("go West", "The start."),
        acted("go east", "A hall."),
        acted("take coin", "Taken. A lamp shines.", milestones=["coin"]),
        acted("light red lamp", "Light.", milestones=["coin"]),
        acted("light red lamp", "More light.", milestones=["coin"]),
    )
    assert RuleTagger().tag(made) == [
        Tagged("planning", "Plan: east, north, coin."),
        Tagged("explore", "Not tried yet: north."),
        Tagged("reflection", "go north failed, now go West."),
        Tagged("monitor", "Next: east."),
        Tagged("reflection", "go east failed, now take coin."),
        Tagged("planning", "Plan: red lamp."),
        Tagged("monitor", "Next: red lamp."),
    ]


def test_an_action_of_one_word_names_itself_and_explores_nothing() -> None:
    made = episode(acted("red", "Now blue"), acted("blue", "Now red"))
    assert RuleTagger().tag(made) == [
        Tagged("planning", "Plan: red."),
        Tagged("monitor", "Next: blue."),
    ]


def test_what_could_not_be_parsed_is_reflected_on() -> None:
    made = episode(acted(None, "Invalid answer."), acted("go east", "A hall."))
    assert RuleTagger().tag(made)[1] == Tagged("reflection", "That failed, now go east.")


def test_a_gain_is_no_failure_whatever_the_world_says() -> None:
    gains: list[dict[str, Any]] = [
        {"score": 1.0},
        {"score": 2.0, "milestones": ["a"]},
        {"milestones": ["a", "b"]},
        {},
    ]
    facts = facts_of(
        episode(*(acted("press button", "Click.", **gain) for gain in [*gains, {"score": 2.0}]))
    )
    assert [fact.effect for fact in facts] == [True, True, True, False, False]
    assert [len(fact.failures) for fact in facts] == [0, 0, 0, 0, 1]


def test_a_plan_names_only_what_was_told_and_never_noise() -> None:
    turns = [
        acted(f"take {thing}", f"Taken {thing}.")
        for thing in ("key", "coin", "sword", "lamp", "coin")
    ]
    turns[1].trained = False
    made = episode(*turns, opening="There is a key, a coin and a lamp.")
    assert RuleTagger().tag(made)[0].thought == "Plan: key, lamp, coin."
    assert RuleTagger(steps=1).tag(made)[0].thought == "Plan: key."


def test_the_slot_builds_what_a_recipe_names() -> None:
    made = episode(
        acted("take key", "Taken key."),
        acted("take coin", "Taken coin."),
        opening="A key and a coin.",
    )
    built = TAGGERS.build({"name": "rules", "steps": 1})
    assert asyncio.run(built(made)) == RuleTagger(steps=1).tag(made)
    assert not built.failures
    with pytest.raises(
        UserError, match=r"agents\.tagger 'rules': steps: .* greater than or equal to 1"
    ):
        TAGGERS.build({"name": "rules", "steps": 0})


def test_long_actions_are_cut_in_thoughts() -> None:
    [tagged] = RuleTagger().tag(episode(acted("type " + "word " * 500, "Typed.")))
    assert len(tagged.thought) < 80


MADE = st.builds(
    lambda turns, opening: episode(*turns, opening=opening),
    st.lists(
        st.builds(
            acted,
            ACTIONS,
            st.text(max_size=5),
            milestones=st.lists(st.just("sub-goal"), max_size=3),
        ),
        max_size=6,
    ),
    st.text(max_size=20),
)


@given(made=MADE)
def test_any_episode_is_tagged_in_words_that_are_read_back(made: Episode) -> None:
    parser, answers = Tags(thoughts=KINDS, require_think=True), RuleTagger().tag(made)
    assert answers == RuleTagger().tag(made)
    assert len(answers) == len(made.turns)
    for tagged in answers:
        assert tagged.tag in KINDS
        assert not set("<>\n") & set(tagged.thought)
        parsed = parser.parse(parser.render("go east", tagged.thought, tagged.tag))
        assert (parsed.action, parsed.thought, parsed.tag) == (
            "go east",
            tagged.thought,
            tagged.tag,
        )


@given(made=MADE)
def test_tags_do_not_know_the_future(made: Episode) -> None:
    tags = [tagged.tag for tagged in RuleTagger().tag(made)]
    for t, turn in enumerate(made.turns):
        cut = replace(
            made,
            turns=[
                *made.turns[:t],
                replace(turn, observation="?", valid_action=False, milestones=[]),
            ],
        )
        assert [tagged.tag for tagged in RuleTagger().tag(cut)] == tags[: t + 1]


def test_the_parser_that_errors_recommend_speaks_the_tags() -> None:
    assert yaml.safe_load(PARSER) == {"agent.parser": PARSER_CONFIG}
    assert speaks(PARSERS.build(PARSER_CONFIG))
    assert speaks(PARSERS.build(PARSER_CONFIG | {"require_think": False}))


@pytest.mark.parametrize("config", [{"name": "line"}, {"name": "tags"}, {"name": "tool_call"}])
def test_other_parsers_do_not(config: dict[str, Any]) -> None:
    assert not speaks(PARSERS.build(config))
    assert not speaks(PARSERS.build({"name": "tags", "thoughts": ["planning", "explore"]}))


@pytest.mark.parametrize("renaming", [{}, SWAP])
def test_retold_with_thoughts(renaming: dict[str, str]) -> None:
    model = agent(FakeEngine(perfect), parser=PARSER_CONFIG)
    for expert in played(ExpertAgent()):
        answers = RuleTagger().tag(expert)
        told = retell(expert, model, "", renaming, tagged=answers)
        assert [turn.tag for turn in told.turns] == [tagged.tag for tagged in answers]
        for turn, tagged in zip(told.turns, answers, strict=True):
            parsed = model.parser.parse(turn.text)
            assert parsed.action == rename(turn.action or "", renaming)
            assert (parsed.tag, parsed.thought) == (tagged.tag, rename(tagged.thought, renaming))
            assert tokenizer().decode(turn.response_ids).startswith(turn.text)


def test_thoughts_are_renamed_with_everything_else() -> None:
    made = episode(
        acted("go east", "A hall."),
        acted("go west", "No.", valid_action=False),
        acted("go up", "Up."),
    )
    told = retell(
        made,
        agent(FakeEngine(perfect), parser=PARSER_CONFIG),
        "",
        EAST,
        tagged=RuleTagger().tag(made),
    )
    assert [turn.text for turn in told.turns] == [
        "<planning>Plan: west.</planning><action>go west</action>",
        "<explore>Not tried yet: east.</explore><action>go east</action>",
        "<reflection>go east failed, now go up.</reflection><action>go up</action>",
    ]
    plain = retell(made, agent(FakeEngine(perfect)), "", EAST)
    assert [(turn.text, turn.tag) for turn in plain.turns] == [
        ("go west", None),
        ("go east", None),
        ("go up", None),
    ]


def test_a_demonstration_earns_what_its_tags_promise() -> None:
    made = episode(
        acted("go east", "A hall."),
        acted("open box", "It is locked.", valid_action=False),
        acted("take key", "You have a key."),
        acted("unlock chest", "It is open."),
        acted("look", "You see it all."),
    )
    told = retell(
        made,
        agent(FakeEngine(perfect), parser=PARSER_CONFIG),
        "",
        {},
        tagged=RuleTagger().tag(made),
    )
    for turn, source in zip(told.turns, made.turns, strict=True):
        turn.valid_action = source.valid_action
    [row] = asyncio.run(REWARDS.build({"name": "meta_reasoning"})(Group(made.task, [told]), None))
    assert [turn.tag for turn in told.turns] == [
        "planning",
        "explore",
        "reflection",
        "explore",
        "monitor",
    ]
    assert row == [1, 0, 1, 1, 0]
