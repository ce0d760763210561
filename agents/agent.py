"""Agent: who plays. The hook is `Player`, one conversation with one world::

    class Stubborn(Player):
        async def move(self):
            return Turn([], True, [], [], text="look", action="look")

    class StubbornAgent(Agent):
        def player(self, episode_id, seed):
            return Stubborn()

`LanguageAgent` is the one that learns: an engine, a Context and a Parser. The baselines
(`baselines.py`) are Agents too.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from ..envs import TurnInfo
from ..foundation.errors import UserError
from .chat.chat import Chat, Prompt
from .chat.template import TODAY
from .context.base import Context
from .engines.base import Conversation, Engine, Sampling
from .episode import Turn
from .parsers.base import Parser, read_action, write_action

if TYPE_CHECKING:
    from ..envs.pool.pool import EnvSession


class Unplayable(UserError):
    """The world does not tell what an agent needs to choose an action."""


def stream_seed(*parts: object) -> int:
    """Compute a 63-bit seed that depends on nothing but the parts.

    It is equal in every process and on every machine.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Player(ABC):
    """One conversation with one world."""

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:  # noqa: B027
        """Look at a world that was reset; `observation` is its opening."""

    @abstractmethod
    async def move(self) -> Turn:
        """Say something; the fields about the world's answer are filled in by `play`."""

    def observe(self, observation: str, info: TurnInfo | None) -> None:  # noqa: B027
        """Look at what the world answered.

        `info` is None if the response could not be parsed and the world stood still.
        """

    def closing(self) -> Prompt | None:
        """Return what would have been fed next, for an episode that a limit cut."""
        return None

    @property
    def full(self) -> bool:
        """Tell whether the end of the context cut the last response, and nothing more fits."""
        return False

    @property
    def expects(self) -> str:
        """Return the format of a response in one sentence, to answer an unparsable one."""
        return "Write one action."

    @property
    def conversation(self) -> Conversation | None:
        """Return the player's dialogue with an engine, open until the player is closed.

        None without one.
        """
        return None

    def close(self) -> None:  # noqa: B027
        """End the conversation."""


class Agent(ABC):
    """Makes a Player per episode."""

    extras: frozenset[str] = frozenset()
    """What it needs in the info: see `TextEnv.extras`."""

    @abstractmethod
    def player(self, episode_id: str, seed: int) -> Player:
        """Make a fresh player, which has to be closed. Equal ids and seeds play equally."""


class LanguageAgent(Agent):
    """A language model that plays.

    Args:
        engine: where tokens come from.
        tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
        context: what is shown at each turn.
        parser: how an action is read out of a response.
        sampling: how responses are sampled; stop tokens of the template and the parser are added.
        system: send the world's instructions and the expected format as a system prompt.
        arguments: variables of the chat template.
        today: the date that the chat template is told.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        context: Context,
        parser: Parser,
        sampling: Sampling,
        *,
        system: bool = True,
        arguments: Mapping[str, Any] | None = None,
        today: date = TODAY,
    ) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.arguments, self.today = arguments, today
        self.context, self.parser, self.sampling, self.system = context, parser, sampling, system

    def chat(self, instructions: str, tools: list[dict[str, Any]] | None) -> Chat:
        """Make an empty conversation under this agent's context.

        Of the world's tools it shows those that the parser reads calls of: the others would ask for
        a format that is not understood.
        """
        system = f"{instructions}\n{self.parser.expects}".strip() if self.system else ""
        shown = self.parser.shown(tools or ()) or None
        return Chat(
            self.tokenizer,
            self.context,
            system=system,
            tools=shown,
            arguments=self.arguments,
            today=self.today,
        )

    def player(self, episode_id: str, seed: int) -> LanguagePlayer:
        """Make a player with its own conversation with the engine, opened at once."""
        return LanguagePlayer(self, episode_id, seed)

    def encode_answer(self, action: str, part: str) -> tuple[list[int], int]:
        """Write a response with this action up to the end of `part`, as ids; find `part` in it.

        The second number is the index of the first id of `part`. A token that holds characters of
        `part` and of what stands before or after it counts as part of it, so that tokenizers which
        merge across that border lose nothing. Raises ValueError if the response does not hold
        `part`.
        """
        chat, text = self.chat("", None), write_action(self.parser, action)
        if text.count(part) > 1:  # a thought that a parser makes up may give the answer away
            text = write_action(self.parser, action, "Now I know enough.")
        text = chat.continued(text)
        start = text.rindex(part)
        ids = chat.encode_response(text)
        # A token may hold a part of a character: only beginnings that read like the text count.
        said = [
            self.tokenizer.decode(ids[:i], clean_up_tokenization_spaces=False)
            for i in range(len(ids) + 1)
        ]
        first = max(i for i, beginning in enumerate(said) if text[:start].startswith(beginning))
        end = min(
            i for i, beginning in enumerate(said) if beginning.startswith(text[: start + len(part)])
        )
        return ids[:end], first


class LanguagePlayer(Player):
    """One conversation of a `LanguageAgent`."""

    def __init__(self, agent: LanguageAgent, episode_id: str, seed: int) -> None:
        self.agent, self.episode_id, self.seed = agent, episode_id, seed
        self.turns = 0
        self.prompt: Prompt | None = None
        self._full = False
        self._talk = agent.engine.conversation(episode_id)

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Start the chat with the world's instructions."""
        self._chat = self.agent.chat(world.instructions, world.tools)
        self.prompt = self._chat.observe(observation)
        # A model that always reasons may mention the format: its own end of the turn ends the
        # response then.
        stop = () if self._chat.opened else self.agent.parser.stop
        self._sampling = self.agent.sampling.model_copy(
            update={
                "stop_token_ids": (*self.agent.sampling.stop_token_ids, *self._chat.stop_token_ids),
                "stop": (*self.agent.sampling.stop, *stop),
            }
        )

    async def move(self) -> Turn:
        """Sample a response and parse it. Raises ContextOverflow, EngineError."""
        assert self.prompt is not None
        sampling = self._sampling.model_copy(
            update={"seed": stream_seed(self.seed, self.episode_id, self.turns)}
        )
        completion = await self._talk.generate(self._chat.ids, sampling)
        stopped = (
            completion.finish_reason == "stop"
            and completion.token_ids[-1] in self._sampling.stop_token_ids
        )
        text = self._chat.respond(completion.token_ids, stopped=stopped)
        parsed = read_action(self.agent.parser, self._chat.opened + text)
        turn = Turn(
            prompt_ids=self.prompt.new_ids,
            extends=self.prompt.extends,
            response_ids=completion.token_ids,
            logprobs=completion.logprobs,
            repeated=self.prompt.repeated,
            text=text,
            action=parsed.action,
            tag=parsed.tag,
            finish_reason=completion.finish_reason,
            version=completion.version,
        )
        self.turns += 1
        self.prompt = None
        self._full = (
            completion.finish_reason == "length" and len(completion.token_ids) < sampling.max_tokens
        )
        return turn

    @property
    def full(self) -> bool:
        """Tell whether the last response ended before its own length limit, and not by itself."""
        return self._full

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Feed the answer; the next move sees it."""
        self.prompt = self._chat.observe(observation)

    def closing(self) -> Prompt | None:
        """Return the prompt that was never answered; None if the model cannot read all of it."""
        return (
            self.prompt
            if self.prompt and len(self._chat.ids) <= self.agent.engine.max_context
            else None
        )

    @property
    def expects(self) -> str:
        """Return what the parser expects, in one sentence."""
        return self.agent.parser.expects

    @property
    def conversation(self) -> Conversation:
        """Return the player's own dialogue with the agent's engine."""
        return self._talk

    def close(self) -> None:
        """Close the conversation."""
        self._talk.close()
