"""Texts of the world that a tiny model's tokenizer is trained on, and what shall be single tokens
of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from ..agents.agent import Agent, Unplayable
from ..agents.baselines import ExpertAgent, RandomAgent
from ..agents.episode import Episode
from ..agents.evaluate import play_tasks
from ..agents.parsers.base import write_action
from ..agents.symmetry import rename
from ..envs import Task, TextEnv
from ..foundation.errors import UserError
from .recipe import Recipe


async def world_text(recipe: Recipe, prototype: TextEnv, progress: bool) -> list[str]:
    """Collect what worlds say in play of training tasks, as text to train a tokenizer.

    Play is random where the world lists what can be done, else the expert's. Raises UserError if it
    has neither.
    """
    tasks = prototype.tasks("train")[: recipe.model.corpus]
    prototype.prepare(tasks, progress=progress)
    try:
        episodes = await _read(RandomAgent(), recipe, tasks, progress)
    except Unplayable:
        try:
            episodes = await _read(ExpertAgent(), recipe, tasks, progress)
        except Unplayable:
            raise UserError(
                f"a tiny model's tokenizer is trained on play, but {recipe.env_id} neither lists"
                " admissible actions nor has an expert: use a saved or pretrained model"
            ) from None
    parser = recipe.agent.parser
    # A format that is more than the action is text too: its answers, and what a player who misses
    # it is told.
    texts = [prototype.instructions, *([parser.expects] if parser.marks else [])]
    for episode in episodes:
        exchanges = ((write_action(parser, turn.text), turn.observation) for turn in episode.turns)
        parts = [episode.opening, *itertools.chain.from_iterable(exchanges)]
        texts += [rename("\n".join(parts), renaming) for renaming in ({}, *prototype.symmetries)]
    if not recipe.model.codes:
        return texts
    # Nothing is to be learnt from the spelling of what will be single tokens.
    codes = set(prototype.codes)
    return list(
        dict.fromkeys(
            re.sub(r"\w+", lambda word: "" if word[0] in codes else word[0], text) for text in texts
        )
    )


async def _read(
    agent: Agent, recipe: Recipe, tasks: Sequence[Task], progress: bool
) -> list[Episode]:
    pool = recipe.pool.build(16, agent.extras)
    try:
        episodes, _ = await play_tasks(
            agent,
            tasks,
            pool,
            max_turns=2 * recipe.agent.max_turns,
            seed=recipe.seed,
            concurrency=16,
            label="reading the world's text",
            progress=progress,
        )
    finally:
        await pool.aclose()
    return episodes


def marks(recipe: Recipe, prototype: TextEnv) -> tuple[str, ...]:
    """List the single tokens of a tiny model: what holds its format together, the world's codes.

    Codes only if the recipe asks for them. Raises UserError if the world has none.
    """
    if recipe.model.codes and not prototype.codes:
        raise UserError(f"model.codes: {recipe.env_id} lists no identifiers")
    return (*recipe.agent.parser.marks, *(prototype.codes if recipe.model.codes else ()))
