"""Watch or play one episode in a terminal, turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from rich.panel import Panel
from rich.text import Text

from ..agents.agent import Agent, Player
from ..agents.baselines import BASELINES
from ..agents.chat.chat import Prompt
from ..agents.episode import Episode, Turn
from ..agents.play import play
from ..envs import Task, TextEnv, TurnInfo, make
from ..envs.pool.pool import EnvSession, pool_for
from ..foundation.errors import UserError
from ..foundation.printable import visible
from ..foundation.terminal import Terminal


class Quit(Exception):
    """The signal that the human left before the end."""


class HumanPlayer(Player):
    """A player that asks the person at the keyboard."""

    def __init__(self, console: Terminal) -> None:
        self.console = console

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Show the rules of the world once."""
        if world.instructions:
            self.console.print(Text(visible(world.instructions), style="dim"))
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Show which actions would be accepted."""
        if info and info["admissible_actions"]:
            self.console.print(
                Text(
                    visible(f"You may: {', '.join(sorted(info['admissible_actions']))}"),
                    style="dim",
                )
            )

    async def move(self) -> Turn:
        """Read one line from the keyboard. Raises Quit at the end of input."""
        try:
            line = self.console.input("[bold cyan]> [/]")
        except (EOFError, KeyboardInterrupt):
            raise Quit from None
        return Turn([], True, [], [], text=line, action=line)


class HumanAgent(Agent):
    """The agent that is the person at the keyboard."""

    extras = frozenset({"admissible_actions"})

    def __init__(self, console: Terminal) -> None:
        self.console = console

    def player(self, episode_id: str, seed: int) -> HumanPlayer:
        """Return a player that asks the person at the keyboard."""
        return HumanPlayer(self.console)


class PlayNarrator(Player):
    """A player that lets another one play and prints what happens."""

    def __init__(self, inner: Player, console: Terminal, *, echo: bool) -> None:
        self.inner, self.console, self.echo = inner, console, echo
        self.turns: list[Turn] = []

    @property
    def expects(self) -> str:
        """Return the format that the inner player expects."""
        return self.inner.expects

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Print the opening of the episode."""
        self.console.print(
            Panel(Text(visible(observation).strip()), title="opening", title_align="left")
        )
        self.inner.begin(world, observation, info)

    async def move(self) -> Turn:
        """Print what the inner player wrote and how it was understood."""
        turn = await self.inner.move()
        self.turns.append(turn)
        if self.echo:
            self.console.print(
                Text.assemble((f"{len(self.turns)} > ", "bold cyan"), visible(turn.text))
            )
            if turn.action != turn.text:
                self.console.print(Text(visible(f"    understood as: {turn.action}"), style="dim"))
        return turn

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Print the world's answer."""
        self.tell(self.turns[-1])
        self.inner.observe(observation, info)

    def tell(self, turn: Turn) -> None:
        """Print the answer to one turn, with its reward and whatever else is known."""
        facts = [f"reward {turn.env_reward:+g}"]
        facts += [f"score {turn.score:g}"] if turn.score is not None else []
        facts += [] if turn.valid_action else [f"refused: {turn.invalid_reason}"]
        subtitle = Text(", ".join(facts), style="green" if turn.valid_action else "red")
        title = f"turn {len(self.turns)}"
        self.console.print(
            Panel(
                Text(visible(turn.observation).strip()),
                title=title,
                title_align="left",
                subtitle=subtitle,
            )
        )

    def closing(self) -> Prompt | None:
        """Ask the inner player for its closing prompt."""
        return self.inner.closing()

    def close(self) -> None:
        """Close the inner player."""
        self.inner.close()


def choose_agent(
    name: str, console: Terminal, temperature: float | None, max_turns: int | None, trust: bool
) -> tuple[Agent, int]:
    """Find 'human', 'random', 'expert' or a checkpoint's agent, and its turn limit.

    Raises UserError.
    """
    if name == "human" or name in BASELINES:
        player = HumanAgent(console) if name == "human" else BASELINES[name]()
        return player, 50 if max_turns is None else max_turns
    from ..agents.saved_agent import load_named

    loaded = load_named(
        name, ["human", *BASELINES], temperature=temperature, max_turns=max_turns, trust=trust
    )
    return loaded.agent, loaded.max_turns


def choose_task(env: TextEnv, split: str, seed: int) -> Task:
    """Get the task number `seed` of a split ready to play. Raises UserError."""
    tasks = env.tasks(split)
    if seed >= len(tasks):
        raise UserError(
            f"the {split} split of {env.id} has {len(tasks)} tasks: choose --seed below"
            f" {len(tasks)}"
        )
    env.prepare([tasks[seed]])
    return tasks[seed]


def play_in_terminal(
    env: str,
    agent: str,
    *,
    params: dict[str, Any],
    split: str,
    seed: int,
    max_turns: int | None,
    temperature: float | None,
    console: Terminal,
    imports: Sequence[str] = (),
    trust: bool = False,
) -> Episode | None:
    """Play one episode and print it as it happens; None if the human left before its end.

    Args:
        seed: which task of the split, and the random choices of the player.
        max_turns: turn limit; None is the one that a checkpoint was trained under, 50 for other
            players.
        temperature: of a language model's sampling; None is that of the run's own evaluations.
        imports: modules or ``.py`` files that register worlds, for those that cannot run in
            threads.
        trust: whether a checkpoint may name classes whose code is then run.

    Raises:
        UserError: unknown environment, agent, split or checkpoint.
    """
    player, limit = choose_agent(agent, console, temperature, max_turns, trust)
    prototype = make(env, **params)
    try:
        task = choose_task(prototype, split, seed)
    finally:
        prototype.close()
    pool = pool_for(prototype, 1, extras=player.extras, imports=imports)
    narrator = PlayNarrator(
        player.player(f"terminal:{task.id}", seed), console, echo=agent != "human"
    )
    try:
        episode = asyncio.run(play(narrator, task, pool, max_turns=limit))
    except Quit:
        return None
    finally:
        narrator.close()
        pool.close()
    if episode.turns and not episode.stop.truncated:
        narrator.tell(episode.turns[-1])
    return episode
