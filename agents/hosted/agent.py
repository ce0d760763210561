"""HostedAgent: a model behind the chat route of a server, which plays in messages::

    endpoint = Endpoint(EndpointConfig(url="http://localhost:8000/v1", model="m"), "player")
    agent = HostedAgent(endpoint, FullHistory(), Line(), Sampling(max_tokens=256))
    evaluate("textworld/quest-v0", agent=agent)

With the parser ``tool_call`` the model is offered one tool, whose argument is the command, and has
to call it. Token ids are kept where the server tells them (vLLM does), and where they are those of
the distribution that was asked for.
"""

from __future__ import annotations

from ...envs import TurnInfo
from ...envs.pool.pool import EnvSession
from ...envs.tools import tool
from ..agent import Agent, Player, stream_seed
from ..context.base import Context, History, shown
from ..engines.base import Sampling
from ..episode import Turn
from ..parsers.base import Parser, read_action
from ..teachers.endpoint import Endpoint
from .route import ChatRoute
from .wire import Said, wire_messages

_ACT = tool("act", "Do something in the world.", action="the whole command")
"""The tool of worlds that have none of their own which is read."""


class HostedAgent(Agent):
    """A model behind a server that plays.

    Args:
        endpoint: the server, and how hard it may be asked.
        context: what is shown at each turn.
        parser: how an action is read out of a response. Its stop strings are not sent, because
            servers cut them off.
        sampling: how responses are sampled.
        system: send the world's instructions and the expected format as a system prompt.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: Context,
        parser: Parser,
        sampling: Sampling,
        *,
        system: bool = True,
    ) -> None:
        self.context, self.parser, self.system = context, parser, system
        self.route = ChatRoute(endpoint, sampling)

    def player(self, episode_id: str, seed: int) -> HostedPlayer:
        """Make a player with a conversation of its own."""
        return HostedPlayer(self, episode_id, seed)


class HostedPlayer(Player):
    """One conversation of a `HostedAgent`."""

    def __init__(self, agent: HostedAgent, episode_id: str, seed: int) -> None:
        self.agent, self.episode_id, self.seed = agent, episode_id, seed
        self._called: dict[str, Said] = {}
        """Responses with tool calls, by their text."""
        self._tokens: list[int] = []
        """The last prompt and its response; empty where the server did not tell them."""

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Start the conversation with the world's instructions."""
        parser = self.agent.parser
        self._tools = parser.shown(world.tools or ()) or parser.shown([_ACT])
        # A call that is spelled out would be written where a real one is meant.
        self._expects = "Answer with one call of the tool." if self._tools else parser.expects
        system = f"{world.instructions}\n{self._expects}".strip() if self.agent.system else ""
        self.history = History(system=system, observations=[observation])

    async def move(self) -> Turn:
        """Ask for a response and parse it. Raises ContextOverflow, EngineError, BudgetSpent."""
        messages = wire_messages(shown(self.agent.context, self.history), self._called)
        seed = stream_seed(self.seed, self.episode_id, len(self.history.responses))
        said = await self.agent.route.ask(messages, self._tools, seed)
        text = said.text
        if said.calls:
            self._called[text] = said
        self.history.responses.append(text)
        parsed = read_action(self.agent.parser, text)
        turn = Turn(
            prompt_ids=[],
            extends=bool(self.history.responses[:-1]),
            response_ids=[],
            logprobs=[],
            counted=said.written,
            text=text,
            action=parsed.action,
            tag=parsed.tag,
            finish_reason=said.finish_reason,
        )
        self._keep_tokens(turn, said)
        return turn

    def _keep_tokens(self, turn: Turn, said: Said) -> None:
        """Fill in what was read and written in tokens, if the server told them."""
        before, prompt = self._tokens, said.prompt_ids
        # Servers tell the log-probabilities of temperature 1, whatever they sample with.
        if prompt is None or self.agent.route.sampling.temperature not in (0, 1):
            self._tokens = []
            return
        same = next(
            (i for i, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b),
            min(len(before), len(prompt)),
        )
        turn.extends = bool(before) and same == len(before)
        turn.prompt_ids = prompt[same:] if turn.extends else list(prompt)
        turn.repeated = 0 if turn.extends else same
        turn.response_ids, turn.logprobs = list(said.token_ids), list(said.logprobs)
        self._tokens = [*prompt, *said.token_ids]

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Take the answer; the next move sees it."""
        self.history.observations.append(observation)

    @property
    def expects(self) -> str:
        """Say what the parser wants, or that the tool is to be called."""
        return self._expects
