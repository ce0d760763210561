"""Baselines: random over the admissible actions, and the world's own expert."""

from __future__ import annotations

import random

from ..envs import TurnInfo
from ..envs.pool.pool import EnvSession
from .agent import Agent, Player, Unplayable, stream_seed
from .engines.base import EngineError
from .episode import Turn


def _silent(action: str, *, trained: bool = True) -> Turn:
    """Make a turn of a player that writes no tokens."""
    return Turn(
        prompt_ids=[],
        extends=True,
        response_ids=[],
        logprobs=[],
        text=action,
        action=action,
        trained=trained,
    )


class RandomPlayer(Player):
    """A player that chooses uniformly among the admissible actions."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Remember which actions are admissible at first."""
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Remember which actions are admissible now."""
        self.admissible = info["admissible_actions"] if info is not None else None

    async def move(self) -> Turn:
        """Choose any admissible action. Raises Unplayable where the world lists none."""
        if not self.admissible:
            raise Unplayable(
                "the random agent needs a world that lists its admissible actions; here it does not"
            )
        return _silent(self.rng.choice(sorted(self.admissible)))


class RandomAgent(Agent):
    """The agent that plays uniformly over the admissible actions."""

    extras = frozenset({"admissible_actions"})

    def player(self, episode_id: str, seed: int) -> RandomPlayer:
        """Make a player with its own random stream."""
        return RandomPlayer(stream_seed(seed, episode_id))


class ExpertPlayer(Player):
    """A player that follows the world's own expert, with some noise if asked for."""

    def __init__(self, noise: float, seed: int) -> None:
        self.noise, self.rng = noise, random.Random(seed)
        self.strayed = False

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Remember the world, whose expert is asked at each turn."""
        self.world = world
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Remember which actions are admissible now, for the noise."""
        self.admissible = info["admissible_actions"] if info is not None else None

    async def move(self) -> Turn:
        """Choose the expert's action, or a random one that is not to be learnt from.

        Raises Unplayable without an expert, EngineError where it is lost after noise.
        """
        if self.admissible and self.rng.random() < self.noise:
            self.strayed = True
            return _silent(self.rng.choice(sorted(self.admissible)), trained=False)
        action = await self.world.expert_action()
        if action is None:
            if self.strayed:
                raise EngineError("the expert knows no way on from where noise has led")
            raise Unplayable("this world has no expert here: use another agent")
        return _silent(action)


class ExpertAgent(Agent):
    """The agent that plays the world's own expert.

    Args:
        noise: probability of a random admissible action at each turn, so that recovery is seen too.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.extras = frozenset({"admissible_actions"} if noise else ())

    def player(self, episode_id: str, seed: int) -> ExpertPlayer:
        """Make a player that asks the expert at each turn."""
        return ExpertPlayer(self.noise, stream_seed(seed, episode_id))


BASELINES: dict[str, type[RandomAgent] | type[ExpertAgent]] = {
    "random": RandomAgent,
    "expert": ExpertAgent,
}
