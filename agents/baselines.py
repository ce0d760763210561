"""Baselines and teachers: random, expert, and the demonstrator whose episodes carry tokens to learn from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..envs import TurnInfo
from ..envs.pool import EnvFailure, EnvSession
from ..plugins import UserError
from .agent import Agent, Player, stream_seed
from .chat import Chat, Prompt
from .context.base import Context
from .episode import Turn
from .parsers.base import Parser


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
        self.admissible = (info or {}).get("admissible_actions")

    async def move(self) -> Turn:
        """Any admissible action. Raises UserError where the world lists none."""
        if not self.admissible:
            raise UserError("the random agent needs a world that lists its admissible actions; this one does not")
        return _silent(self.rng.choice(sorted(self.admissible)))


class RandomAgent(Agent):
    """Plays uniformly over the admissible actions."""

    extras = frozenset({"admissible_actions"})

    def player(self, session: str, seed: int) -> RandomPlayer:
        """A player with its own random stream."""
        return RandomPlayer(stream_seed(seed, session))


class ExpertPlayer(Player):
    """Follows the world's own expert."""

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Remember whom to ask."""
        self.world = world

    async def move(self) -> Turn:
        """The expert's action. Raises UserError where there is no expert, EnvFailure if it has no answer here."""
        return _silent(await self._expert())

    async def _expert(self) -> str:
        action = await self.world.expert_action()
        if action is None:
            raise UserError("this world has no expert: use another agent")
        return action


class ExpertAgent(Agent):
    """Plays the world's own expert."""

    extras = frozenset({"expert"})

    def player(self, session: str, seed: int) -> ExpertPlayer:
        """A player that asks the expert at each turn."""
        return ExpertPlayer()


class DemonstratorPlayer(ExpertPlayer):
    """An expert whose turns carry the tokens a perfect language model would have written."""

    def __init__(self, agent: DemonstratorAgent, seed: int) -> None:
        self.agent, self.rng = agent, random.Random(seed)

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Start the chat as a language player would."""
        super().begin(world, observation, info)
        self._chat = self.agent.chat(world.instructions, world.tools)
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Feed the answer under the agent's renaming."""
        self.admissible = (info or {}).get("admissible_actions")
        self._prompt = self._chat.observe(rename(observation, self.agent.renaming))

    async def move(self) -> Turn:
        """The expert's action, or with probability `noise` a random one that is context but not learnt from."""
        noisy = self.rng.random() < self.agent.noise and bool(self.admissible)
        action = self.rng.choice(sorted(self.admissible or [])) if noisy else await self._expert()
        text = self.agent.parser.render(rename(action, self.agent.renaming))
        ids = [*self.agent.tokenizer.encode(text, add_special_tokens=False), self._chat.stop_token_ids[0]]
        prompt: Prompt = self._prompt
        self._chat.respond(ids, stopped=True)
        return Turn(prompt.new_ids, prompt.extends, ids, [0.0] * len(ids), text=text, action=action, trained=not noisy)


class DemonstratorAgent(Agent):
    """Makes supervised episodes: expert actions, tokenised exactly as the policy would see and say them.

    Args:
        tokenizer, context, parser, system: as of the `LanguageAgent` that will learn.
        noise: probability of a random admissible action at each turn, so that recovery is seen too.
        renaming: words to exchange in everything the policy sees and says (a symmetry of the world).
    """

    def __init__(
        self,
        tokenizer: Any,
        context: Context,
        parser: Parser,
        *,
        system: bool = True,
        noise: float = 0.0,
        renaming: Mapping[str, str] | None = None,
    ) -> None:
        self.tokenizer, self.context, self.parser, self.system = tokenizer, context, parser, system
        self.noise, self.renaming = noise, renaming or {}
        self.extras = frozenset({"expert"} | ({"admissible_actions"} if noise else set()))

    def chat(self, instructions: str, tools: list[dict[str, Any]] | None) -> Chat:
        """The same conversation a `LanguageAgent` would open."""
        system = f"{instructions}\n{self.parser.expects}".strip() if self.system else ""
        return Chat(self.tokenizer, self.context, system=system, tools=tools)

    def player(self, session: str, seed: int) -> DemonstratorPlayer:
        """A player with its own noise; the renaming does not change the noise."""
        return DemonstratorPlayer(self, stream_seed(seed, session))


def rename(text: str, renaming: Mapping[str, str]) -> str:
    """Exchange whole words of `text`, keeping a capital first letter."""
    if not renaming:
        return text
    import re

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        new = renaming[word.lower()]
        return new.capitalize() if word[0].isupper() else new

    return re.sub(rf"\b({'|'.join(map(re.escape, renaming))})\b", swap, text, flags=re.IGNORECASE)


BASELINES: dict[str, type[RandomAgent] | type[ExpertAgent]] = {"random": RandomAgent, "expert": ExpertAgent}

__all__ = ["BASELINES", "DemonstratorAgent", "EnvFailure", "ExpertAgent", "RandomAgent", "rename"]
