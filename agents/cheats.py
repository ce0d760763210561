"""Probes: scripted players that are after rewards and not after the goal.

    agent = ProbeAgent("bonus_farming", parser, max_turns=20, max_words=64)

Their turns are written in the format of a parser and read back by it, one dummy token per word, so
that rewards on texts, tags and lengths see what they would see in training. A probe may try actions
out before its first turn and then resets its world, which by contract is the same world again.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from itertools import cycle, islice

from ..envs import TurnInfo
from ..envs.pool.pool import EnvSession
from .agent import Agent, Player, Unplayable, stream_seed
from .episode import Episode, Turn
from .parsers.base import Parser, read_action, write_action
from .tagger.base import speaks
from .tagger.rules import RuleTagger

NONSENSE = "ruminate"
"""A command that no world understands."""
SPEECH = (
    "Let us consider with the greatest care every step that a truly thoughtful agent would weigh"
    " here, for wisdom lies in patience, and the path to the goal becomes clear to whoever reflects"
    " on it deeply and completely."
).split()
SPAM = ("planning", "explore", "reflection")
LONGEST = 200
"""Words of a speech at most."""
TRIALS = 40
"""Actions or pairs of actions that are tried out at most."""


def written(
    parser: Parser, action: str, thought: str | None = None, tag: str | None = None
) -> Turn:
    """Write a turn as a model would, and take what the parser makes of it.

    The tag is left out if the parser knows no such tag.
    """
    if tag is not None and parser.parse(parser.render("look", "A thought.", tag)).tag != tag:
        tag = None
    text = write_action(parser, action, thought, tag)
    parsed, words = read_action(parser, text), len(text.split())
    return Turn(
        prompt_ids=[],
        extends=True,
        response_ids=[0] * words,
        logprobs=[0.0] * words,
        text=text,
        action=parsed.action,
        tag=parsed.tag,
    )


def reword(episode: Episode, parser: Parser) -> None:
    """Rewrite the turns of an episode in a parser's format.

    `RuleTagger` gives tags and thoughts if the parser knows them.
    """
    tagged = RuleTagger().tag(episode) if speaks(parser) else [None] * len(episode.turns)
    for turn, before in zip(episode.turns, tagged, strict=True):
        if turn.action is not None:
            thought, tag = (before.thought, before.tag) if before else (None, None)
            new = written(parser, turn.action, thought, tag)
            turn.text, turn.tag, turn.response_ids, turn.logprobs = (
                new.text,
                new.tag,
                new.response_ids,
                new.logprobs,
            )


class Probe(Player):
    """Base of the scripted players that are after rewards."""

    own_words = False
    """It writes thoughts of its own; the turns of the others may be reworded."""

    def __init__(self, parser: Parser, max_turns: int, max_words: int, seed: int) -> None:
        self.parser, self.max_turns, self.max_words = parser, max_turns, max_words
        self.rng, self.turn = random.Random(seed), 0

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Remember the world and how it starts."""
        self.world, self.start = world, info
        self.observe(observation, info)

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Remember which actions are admissible now."""
        if info is not None:
            self.admissible = sorted(info["admissible_actions"] or ())

    async def move(self) -> Turn:
        """Play the next turn. Raises Unplayable where the world does not tell enough."""
        if self.turn == 0:
            await self.prepare()
        self.turn += 1
        return self.say(await self.act())

    async def prepare(self) -> None:
        """Find out what is needed before the first turn; leaves the world at its start."""

    @abstractmethod
    async def act(self) -> str:
        """Choose the action of a turn; `turn` counts from 1."""

    def say(self, action: str) -> Turn:
        """Write the turn in which an action is played."""
        return written(self.parser, action)

    async def expert(self) -> str:
        """Ask for the expert's action. Raises Unplayable without an expert."""
        action = await self.world.expert_action()
        if action is None:
            raise Unplayable("it follows the world's expert, and there is none")
        return action

    async def try_out(self, *actions: str) -> list[tuple[str, TurnInfo]]:
        """Play actions from the world's start; return its answers.

        There are fewer of them if an action is refused or the task is over.
        """
        await self.world.reset()
        answers = []
        for action in actions:
            observation, _, terminated, truncated, info = await self.world.step(action)
            if terminated or truncated or not info["valid_action"]:
                break
            answers.append((observation, info))
        return answers

    async def idle(self) -> str:
        """Find the first admissible action that changes nothing, given twice; else `NONSENSE`."""
        found = NONSENSE
        for action in self.admissible[:TRIALS]:
            answers = await self.try_out(action, action)
            if (
                len(answers) == 2
                and answers[0][0] == answers[1][0]
                and _same(self.start, *(a[1] for a in answers))
            ):
                found = action
                break
        await self.world.reset()
        return found


def _same(*infos: TurnInfo) -> bool:
    """Tell whether all of these show the world equally far, with the same actions possible."""
    states = [
        (
            sorted(info["admissible_actions"] or ()),
            info["score"],
            info["progress"],
            info["milestones"],
        )
        for info in infos
    ]
    return all(state == states[0] for state in states)


class Repetition(Probe):
    """A cheat that plays the expert's first action, again and again."""

    async def prepare(self) -> None:
        """Ask the expert for its first action."""
        self.action = await self.expert()

    async def act(self) -> str:
        """Choose the expert's first action."""
        return self.action


class TagSpam(Probe):
    """A cheat that plays random actions under each kind of reasoning in turn.

    Not for worlds that list no actions.

    In a format without tags it is random play.
    """

    own_words = True

    async def act(self) -> str:
        """Choose any admissible action."""
        if not self.admissible:
            raise Unplayable("it needs a world that lists its admissible actions")
        return self.rng.choice(self.admissible)

    def say(self, action: str) -> Turn:
        """Write the turn with the next tag, whatever the action is."""
        kind = SPAM[(self.turn - 1) % len(SPAM)]
        return written(self.parser, action, f"This is {kind}.", kind)


class BonusFarming(Probe):
    """A cheat that goes forth and back between two states; not for worlds that list no actions.

    The pair is the first whose second round is answered like its first one; without such a pair,
    the first two admissible actions.
    """

    async def prepare(self) -> None:
        """Find two actions that undo each other."""
        if len(self.admissible) < 2:
            raise Unplayable("it needs a world that lists at least two admissible actions")
        self.pair = await self._round_trip()
        await self.world.reset()

    async def act(self) -> str:
        """Go forth on odd turns, back on even ones."""
        return self.pair[(self.turn - 1) % 2]

    async def _round_trip(self) -> tuple[str, str]:
        trials = 0
        for forth in self.admissible:
            for _, info in await self.try_out(forth):
                for back in sorted(info["admissible_actions"] or ()):
                    trials += 1
                    if trials > TRIALS:
                        return self.admissible[0], self.admissible[1]
                    if back != forth and await self._returns(forth, back):
                        return forth, back
        return self.admissible[0], self.admissible[1]

    async def _returns(self, forth: str, back: str) -> bool:
        # Scores and milestones may go up with every round: that is what is farmed.
        tried = await self.try_out(forth, back, forth, back)
        answers = [(said, sorted(info["admissible_actions"] or ())) for said, info in tried]
        return len(answers) == 4 and answers[0] != answers[1] and answers[:2] == answers[2:]


class EmptyEloquence(Probe):
    """A cheat that writes very long thoughts and plays an action that changes nothing.

    The action is a word that no world understands, if none is listed.

    In a format without room for thoughts the speech itself is the action.
    """

    own_words = True

    async def prepare(self) -> None:
        """Write the speech, and find the action."""
        self.speech = " ".join(islice(cycle(SPEECH), min(self.max_words, LONGEST)))
        room = self.parser.parse(self.parser.render("look", self.speech)).thought is not None
        self.action = await self.idle() if room else self.speech

    async def act(self) -> str:
        """Choose the action that changes nothing."""
        return self.action

    def say(self, action: str) -> Turn:
        """Write the turn with all of the speech."""
        return written(self.parser, action, self.speech, "planning")


class LengthPadding(Probe):
    """A cheat that plays useless turns before each action of the expert's plan.

    It wins on the last turn possible.

    Where the world lists no such action it uses a word that no world understands.
    """

    async def prepare(self) -> None:
        """Play the plan once to know its length, and place its actions."""
        self.filler = await self.idle()
        length, over = 0, False
        while not over and length < self.max_turns:
            _, _, terminated, truncated, _ = await self.world.step(await self.expert())
            over, length = terminated or truncated, length + 1
        await self.world.reset()
        spare = self.max_turns - length
        self.useful = {k + spare * k // length for k in range(1, length + 1)}

    async def act(self) -> str:
        """Choose the plan's next action on its turns, else nothing useful."""
        return (
            (await self.world.expert_action() or self.filler)
            if self.turn in self.useful
            else self.filler
        )


PROBES: dict[str, type[Probe]] = {
    "repetition": Repetition,
    "tag_spam": TagSpam,
    "bonus_farming": BonusFarming,
    "empty_eloquence": EmptyEloquence,
    "length_padding": LengthPadding,
}


class ProbeAgent(Agent):
    """The agent that plays one of the `PROBES`.

    Args:
        name: which one.
        parser: the format of its turns.
        max_turns: the turn limit it plays under.
        max_words: words of a thought at most.
    """

    extras = frozenset({"admissible_actions"})

    def __init__(self, name: str, parser: Parser, *, max_turns: int, max_words: int) -> None:
        self.probe, self.parser, self.max_turns, self.max_words = (
            PROBES[name],
            parser,
            max_turns,
            max_words,
        )

    def player(self, episode_id: str, seed: int) -> Probe:
        """Make a player with its own random stream."""
        return self.probe(
            self.parser, self.max_turns, self.max_words, stream_seed(seed, episode_id)
        )
