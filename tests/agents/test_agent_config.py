"""AgentConfig: what a template is told is part of it, is saved, and reaches the conversation."""

from __future__ import annotations

import asyncio
import copy
from datetime import date
from types import SimpleNamespace
from typing import Any, cast

import pytest
from turnrl import UserError
from turnrl.agents.agent import LanguagePlayer
from turnrl.agents.config import AgentConfig
from turnrl.agents.demonstrations import retell
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.episode import Episode, Turn
from turnrl.envs import Task
from turnrl.envs.core import TurnInfo
from turnrl.training.recipe import Recipe

from ..logged import logged, nothing_logged
from .fake_engine import FakeEngine, perfect, tokenizer

OPENS = (
    "{{ strftime_now('%Y') }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content"
    " }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinking |"
    " default(true) %}<think>\n{% endif %}{% endif %}"
)


def opening_tokenizer() -> Any:
    own = copy.deepcopy(tokenizer())
    own.chat_template = OPENS
    return own


def built(**config: Any) -> Any:
    return AgentConfig.model_validate({"system": False, **config}).build(
        FakeEngine(perfect), opening_tokenizer()
    )


def test_template_and_date_are_saved_and_read_again() -> None:
    config = AgentConfig.model_validate(
        {"template": {"thinking": False, "level": [1, "x"]}, "date": "2026-05-04"}
    )
    again = AgentConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert (again.template, again.date) == (
        {"thinking": False, "level": [1, "x"]},
        date(2026, 5, 4),
    )
    data = {"name": "x", "env": {"id": "textworld/coin-v0"}, "stages": [{"name": "rl"}]}
    recipe = Recipe.parse({**data, "agent": {"template": {"thinking": False}}})
    saved = recipe.model_dump(mode="json")["agent"]
    assert (saved["template"], saved["date"]) == ({"thinking": False}, "2025-01-01")


def test_template_and_date_reach_the_prompt() -> None:
    told = [
        built(**config).chat("", None)
        for config in ({}, {"template": {"thinking": False}, "date": "2031-01-01"})
    ]
    prompts = [tokenizer().decode(chat.observe("red").new_ids) for chat in told]
    assert prompts[0].startswith("2025<|im_start|>user")
    assert prompts[0].endswith("assistant\n<think>\n")
    assert prompts[1].startswith("2031<|im_start|>user")
    assert prompts[1].endswith("assistant\n")


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "strftime_now"])
def test_what_the_conversation_sets_cannot_be_set(name: str) -> None:
    with pytest.raises(UserError, match=name):
        Recipe.parse(
            {
                "name": "x",
                "env": {"id": "textworld/coin-v0"},
                "stages": [{"name": "rl"}],
                "agent": {"template": {name: 1}},
            }
        )


def test_a_variable_that_the_template_never_reads_is_warned_about() -> None:
    with logged("never reads 'thinkin'"):
        built(template={"thinkin": False})
    with nothing_logged():
        built(template={"thinking": False})


def test_a_stop_id_that_no_token_has_is_told_in_one_sentence() -> None:
    with pytest.raises(UserError, match="none of id 99999"):
        built(sampling={"stop_token_ids": [1, 99999]})


class Recorder(FakeEngine):
    """Remembers how it was asked."""

    async def _generate(self, conversation: str, prompt: Any, sampling: Sampling) -> Completion:
        self.sampling = sampling
        return await super()._generate(conversation, prompt, sampling)


def played(said: str, tokenizer_: Any, parser: str = "tags") -> tuple[Turn, Sampling]:
    engine = Recorder(lambda name, turn, prompt: said)
    player = (
        AgentConfig.model_validate({"system": False, "parser": {"name": parser}})
        .build(engine, tokenizer_)
        .player("a", 0)
    )
    assert isinstance(player, LanguagePlayer)
    player._chat = player.agent.chat("", None)
    world: Any = SimpleNamespace(instructions="", tools=None)
    player.begin(world, "red", cast(TurnInfo, {}))
    return asyncio.run(player.move()), engine.sampling


def test_an_answer_from_inside_reasoning_is_an_action_and_one_without_an_end_is_none() -> None:
    for said, action in (
        ("I saw <action>red</action>.</think><action>blue</action>", "blue"),
        ("<action>blue</action>", None),
        ("blue", None),
    ):
        turn, sampling = played(said, opening_tokenizer())
        assert (turn.action, turn.text) == (action, said)
        assert sampling.stop == ()  # a closing tag inside the reasoning must not end it
    turn, sampling = played("<action>blue</action>", tokenizer())
    assert (turn.action, sampling.stop) == ("blue", ("</action>",))
    assert played("hm\n</think>\n\nblue", opening_tokenizer(), "line")[0].action == "blue"


def test_demonstrations_close_the_reasoning_that_the_prompt_opens() -> None:
    turns = [Turn([], True, [], [], text="red", action="red", observation="Now blue")]
    episode = Episode(Task(env="x", seed=0), "Now red", turns=turns)
    agent = built(parser={"name": "tags"})
    [turn] = retell(episode, agent, "", {}).turns
    assert turn.text == "\n</think>\n\n<action>red</action>"
    assert tokenizer().decode(turn.response_ids) == f"{turn.text}<|im_end|>"
    assert agent.parser.parse(f"<think>\n{turn.text}").action == "red"
    ids, first = agent.encode_answer("red", "red")
    assert tokenizer().decode(ids[first:]) == "red"
