"""Demonstrations: an expert's episode retold with the tokens of a perfect language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .agent import LanguageAgent
from .episode import Episode, Turn
from .parsers.base import write_action
from .symmetry import rename
from .tagger.base import Tagged


def retell(
    episode: Episode,
    agent: LanguageAgent,
    instructions: str,
    renaming: Mapping[str, str],
    tools: list[dict[str, Any]] | None = None,
    tagged: Sequence[Tagged] | None = None,
) -> Episode:
    """Retell an episode under a renaming, tokenised exactly as `agent` would see and say it.

    Turns marked as not trained stay context. Log-probabilities are zeros: nobody sampled these
    tokens. `tagged` says what is thought before each action, one a turn; without it nothing is.
    """
    chat = agent.chat(instructions, tools)
    told, observation = replace(episode, turns=[]), episode.opening
    thoughts = [None] * len(episode.turns) if tagged is None else tagged
    for turn, before in zip(episode.turns, thoughts, strict=True):
        prompt = chat.observe(rename(observation, renaming))
        thought, tag = (rename(before.thought, renaming), before.tag) if before else (None, None)
        written = write_action(agent.parser, rename(turn.action or "", renaming), thought, tag)
        text = chat.continued(written)
        ids = chat.encode_response(text)
        chat.respond(ids, stopped=True)
        told.turns.append(
            Turn(
                prompt_ids=prompt.new_ids,
                extends=prompt.extends,
                response_ids=ids,
                logprobs=[0.0] * len(ids),
                repeated=prompt.repeated,
                text=text,
                action=turn.action,
                tag=tag,
                observation=turn.observation,
                trained=turn.trained,
            )
        )
        observation = turn.observation
    return told


def fitting(episode: Episode, limit: int) -> Episode:
    """Cut an episode before the first turn whose prompt and response exceed `limit` tokens."""
    length = 0
    for t, turn in enumerate(episode.turns):
        length = (length if turn.extends else 0) + len(turn.prompt_ids) + len(turn.response_ids)
        if length > limit:
            return replace(episode, turns=episode.turns[:t])
    return episode
