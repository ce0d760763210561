"""Baselines: random over the admissible actions, and the world's own expert."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from ..envs import TurnInfo
from ..envs.pool import EnvSession
from ..plugins import UserError
from .agent import Agent, Player, stream_seed
from .engines.base import EngineError
from .episode import Turn


class Unplayable(UserError):
    """The world does not tell what this agent needs to choose an action."""


def _silent(action: str, *, trained: bool = True) -> Turn:
    """A turn of a player that writes no tokens."""
    return Turn(prompt_ids=[], extends=True, response_ids=[], logprobs=[], text=action, action=action, trained=trained)


class RandomPlayer(Player):
    """Uniform over the admissible actions."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Remember what is admissible."""
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Remember what is admissible."""
        self.admissible = info["admissible_actions"] if info is not None else None

    async def move(self) -> Turn:
        """Any admissible action. Raises Unplayable where the world lists none."""
        if not self.admissible:
            raise Unplayable("the random agent needs a world that lists its admissible actions; this one does not")
        return _silent(self.rng.choice(sorted(self.admissible)))


class RandomAgent(Agent):
    """Plays uniformly over the admissible actions."""

    extras = frozenset({"admissible_actions"})

    def player(self, session: str, seed: int) -> RandomPlayer:
        """A player with its own random stream."""
        return RandomPlayer(stream_seed(seed, session))


def garbled(action: str, words: Sequence[str], rng: random.Random) -> str:
    """The action with words after its first exchanged for others, as a learner gets them wrong.

    Each is with probability 1/2, one at least; an action of one word gets another word. Without `words` it stays.

    >>> garbled("take cup 1 from shelf 2", ["sofa"], random.Random(1))
    'take sofa 1 from shelf sofa'
    """
    if not words:
        return action
    places = list(re.finditer(r"\w+", action))[1:]
    if not places:
        return f"{action} {rng.choice(words)}"
    sure = rng.choice(places)
    for place in reversed(places):
        if place is sure or rng.random() < 0.5:
            action = action[: place.start()] + rng.choice(words) + action[place.end() :]
    return action


class ExpertPlayer(Player):
    """Follows the world's own expert, with some noise and some mistakes if asked for."""

    def __init__(self, noise: float, mistakes: float, seed: int) -> None:
        self.noise, self.mistakes, self.rng = noise, mistakes, random.Random(seed)
        self.words: dict[str, None] = {}
        self.strayed = False

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Remember whom to ask."""
        self.world = world
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Remember what is admissible, for the noise, and the words, for the mistakes."""
        self.admissible = info["admissible_actions"] if info is not None else None
        if self.mistakes:
            self.words.update(dict.fromkeys(re.findall(r"\w+", observation)))

    async def move(self) -> Turn:
        """The expert's action, or another one that is not to be learnt from.

        Raises Unplayable without an expert, EngineError where it is lost after noise or a mistake.
        """
        drawn = self.rng.random() if self.noise or self.mistakes else 1.0
        if self.admissible and drawn < self.noise:
            self.strayed = True
            return _silent(self.rng.choice(sorted(self.admissible)), trained=False)
        action = await self.world.expert_action()
        if action is None:
            if self.strayed:
                raise EngineError("the expert knows no way on from where noise or a mistake has led")
            raise Unplayable("this world has no expert: use another agent")
        if self.noise <= drawn < self.noise + self.mistakes:
            self.strayed = True
            return _silent(garbled(action, list(self.words), self.rng), trained=False)
        return _silent(action)


class ExpertAgent(Agent):
    """Plays the world's own expert.

    Args:
        noise: probability of a random admissible action at each turn, so that recovery is seen too.
        mistakes: probability of the expert's action with other words of the episode in it (`garbled`), which the world
            mostly refuses. Together with `noise` at most 1.
    """

    def __init__(self, noise: float = 0.0, mistakes: float = 0.0) -> None:
        self.noise, self.mistakes = noise, mistakes
        self.extras = frozenset({"expert"} | ({"admissible_actions"} if noise else set()))

    def player(self, session: str, seed: int) -> ExpertPlayer:
        """A player that asks the expert at each turn."""
        return ExpertPlayer(self.noise, self.mistakes, stream_seed(seed, session))


BASELINES: dict[str, type[RandomAgent] | type[ExpertAgent]] = {"random": RandomAgent, "expert": ExpertAgent}
