"""Families of models: the engine's numbers are the model's, and chats are exact over turns."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.chat.chat import Chat
from turnrl.agents.chat.template import TODAY
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.head import say_only
from turnrl.agents.models.kv_cache import RowCache
from turnrl.agents.models.state_cache import StateCache

from ..families import FAMILIES, STATES, build, has_its_template, table, tokenizer_of

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

OBSERVED = [
    "Now red.\n\nThere is:\n  - a key",
    "It's a caf\u00e9. \U0001f511  Two   spaces\n> ",
    "Now blue",
    "Done.",
]
THOUGHT = "<think>\nidea {}\n</think>\n\nred"


def exact(model: Any, tokenizer: Any, ids: list[int], start: int) -> list[float]:
    """Log-probabilities by one plain pass over a whole text, of the ids that are tokens."""
    with torch.no_grad():
        logits_LV: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    logits_LV[:, len(tokenizer) :] = -torch.inf
    logprobs_LV = logits_LV.log_softmax(-1)
    return [float(logprobs_LV[i - 1, ids[i]]) for i in range(start, len(ids))]


async def converse(
    engine: TorchEngine, tokenizer: Any, seed: int, thinks: bool
) -> list[tuple[list[int], Completion]]:
    """Four turns; every other one is the engine's own, the others are told with a thought."""
    chat = Chat(tokenizer, FullHistory(), system="Play.")
    played = []
    async with engine.conversation(f"c{seed}") as talk:
        for turn, observation in enumerate(OBSERVED):
            chat.observe(f"{observation} {seed}")
            sampling = Sampling(
                max_tokens=3 + 2 * seed, seed=seed, stop_token_ids=chat.stop_token_ids
            )
            said = await talk.generate(chat.ids, sampling)
            played.append((list(chat.ids), said))
            ids, stopped = said.token_ids, said.finish_reason == "stop"
            if thinks and turn % 2:
                ids, stopped = chat.encode_response(chat.continued(THOUGHT.format(turn))), True
            answer = [*chat.ids, *tokenizer("blue")["input_ids"]]
            scores = await talk.score(answer, len(chat.ids))
            played.append((list(chat.ids), Completion(answer[len(chat.ids) :], scores, "length")))
            chat.respond(ids, stopped=stopped)
    return played


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engines_log_probabilities_are_those_of_a_plain_pass(name: str) -> None:
    tokenizer, model = tokenizer_of(name), build(name)
    assert say_only(model, tokenizer.get_vocab().values()) == model.config.vocab_size - len(
        tokenizer
    )
    engine = TorchEngine(model, tokenizer)
    assert isinstance(engine._cache, StateCache if FAMILIES[name].keeps == STATES else RowCache)

    async def work() -> list[list[tuple[list[int], Completion]]]:
        return await asyncio.gather(
            *(converse(engine, tokenizer, seed, thinks=seed > 0) for seed in range(3))
        )

    for played in asyncio.run(work()):
        for prompt, said in played:
            ids = prompt + said.token_ids
            assert max(said.token_ids) < len(tokenizer)
            expected = exact(model, tokenizer, ids, len(prompt))
            assert said.logprobs == pytest.approx(expected, abs=1e-4)
    assert engine.stats.cached_tokens > engine.stats.prompt_tokens / 2
    assert engine.kept_tokens == 0


def reference(chat: Chat) -> list[int]:
    """What transformers makes of the same messages, at the date that `Chat` tells."""
    tokenizer = copy.deepcopy(chat.tokenizer)
    told = f"'{TODAY.strftime('%d %b %Y')}'"
    tokenizer.chat_template = tokenizer.chat_template.replace('strftime_now("%d %b %Y")', told)
    messages = chat.context.messages(chat.history)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # it knows no system role
        first, second, *rest = messages
        first["role"], first["content"] = "user", f"{first['content']}\n\n{second['content']}"
        messages = [first, *rest]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("thinks", [False, True], ids=["plain", "thinking"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].template])
def test_the_tokens_of_a_chat_are_those_of_the_familys_template(name: str, thinks: bool) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    if not has_its_template(family):
        pytest.skip(f"{family.template} cannot be fetched")
    chat = Chat(tokenizer, FullHistory(), system="Play.\nOne command.")
    for turn, observation in enumerate(OBSERVED):
        prompt = chat.observe(observation)
        assert chat.ids == reference(chat)
        changed = turn > 0 and (family.rewrites or (family.cuts and (thinks or chat.opened)))
        assert prompt.extends == (turn > 0 and not changed)
        if thinks and family.cuts:
            assert "idea" not in tokenizer.decode(chat.ids)
        said = THOUGHT.format(turn) if thinks else "red"
        chat.respond(chat.encode_response(chat.continued(said)), stopped=True)
    assert tokenizer.convert_tokens_to_ids(family.special[0]) in chat.stop_token_ids


def test_the_table_of_families_in_the_docs_is_that_of_these_tests() -> None:
    assert table() in PAGE.read_text("utf-8")
