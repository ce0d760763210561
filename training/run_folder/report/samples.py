"""Sample episodes, turn by turn, with the tokens that were trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ....agents.episode import Episode, Turn
from .chart import show
from .run_files import RunFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_TURNS = 40
MOST_CHARACTERS = 3000
MOST_TOKENS = 3000
"""Per episode, so that a report stays a few megabytes; what is cut says so."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one or more tokens."""

    text: str
    kind: str
    """'trained', 'shown' (sampled or demonstrated, but not learnt from), 'context', or 'break' (a
    new sequence).
    """
    logprob: str = ""


@dataclass(slots=True)
class TurnView:
    """One turn as it is shown."""

    number: int
    turn: Turn
    text: str
    observation: str
    rewards: list[tuple[str, str, str]]
    """(name, value, 'good', 'bad' or '')."""
    advantage: str
    leaning: str
    pieces: list[Piece]


@dataclass(slots=True)
class SampleEpisode:
    """One episode as it is shown."""

    stage: str
    step: int
    episode: Episode
    opening: str
    turns: list[TurnView] = field(default_factory=list)
    left_out: str = ""


def sign(value: float) -> str:
    """Name the class that colours a number."""
    return "good" if value > 0 else "bad" if value < 0 else ""


def cut(text: str) -> str:
    """Cut a text at the limit, and say how much is missing."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} [... {len(text) - MOST_CHARACTERS} more characters]"


def choose(run: RunFiles) -> list[SampleEpisode]:
    """Choose a success and a failure each from three kept steps of every stage.

    Those are the first, the middle and the last one.
    """
    tokenizer = find_tokenizer(run)
    samples: list[SampleEpisode] = []
    for stage in run.episode_stages():
        files = run.episode_files(stage)
        picked = sorted({0, len(files) // 2, len(files) - 1}) if files else []
        for step, path in (files[i] for i in picked):
            found: dict[bool, Episode] = {}
            for episode in run.episodes(path):
                found.setdefault(episode.success, episode)
                if len(found) == 2:
                    break
            samples += [
                view(found[won], stage, step, tokenizer) for won in (True, False) if won in found
            ]
    return samples


def find_tokenizer(run: RunFiles) -> Tokenizer | None:
    """Load the tokenizer of a checkpoint of the run, if one can be read.

    The run's notes name a damaged one.
    """
    for file in sorted(run.folder.checkpoints.glob("*/tokenizer.json")):
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(file))
        except Exception:  # the library raises no more special type
            run.notes.append(f"{file.relative_to(run.folder.path)} is damaged and left out")
    return None


def view(episode: Episode, stage: str, step: int, tokenizer: Tokenizer | None) -> SampleEpisode:
    """Prepare an episode to be shown."""
    sample, room = SampleEpisode(stage, step, episode, cut(episode.opening)), MOST_TOKENS
    for number, turn in enumerate(episode.turns[:MOST_TURNS], start=1):
        size = len(turn.prompt_ids) + len(turn.response_ids)
        pieces = list(_pieces(turn, number, tokenizer)) if tokenizer and size <= room else []
        room -= size
        sample.turns.append(
            TurnView(
                number=number,
                turn=turn,
                text=cut(turn.text),
                observation=cut(turn.observation),
                rewards=[
                    (name, f"{value:+.3g}", sign(value)) for name, value in turn.rewards.items()
                ],
                advantage="" if turn.advantage is None else f"{turn.advantage:+.3f}",
                leaning=sign(turn.advantage or 0.0),
                pieces=pieces,
            )
        )
    missing = []
    if len(episode.turns) > MOST_TURNS:
        missing.append(f"{len(episode.turns) - MOST_TURNS} more turns")
    if tokenizer and room < 0:
        missing.append(f"tokens beyond the first {MOST_TOKENS}")
    if missing:
        sample.left_out = (
            f"Not shown here: {' and '.join(missing)}; the file of this step in the run's folder"
            " has them."
        )
    return sample


def _pieces(turn: Turn, number: int, tokenizer: Tokenizer) -> Iterator[Piece]:
    if not turn.extends and number > 1:
        yield Piece("", "break")
    if turn.prompt_ids:
        yield Piece(_decode(tokenizer, turn.prompt_ids), "context")
    kind = "trained" if turn.trained else "shown"
    for text, first, last in split_tokens(tokenizer, turn.response_ids):
        logprobs = turn.logprobs[first:last]
        yield Piece(text, kind, show(sum(logprobs)) if logprobs else "")


def split_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Yield (text, first, last) of the smallest runs of tokens that decode to whole characters."""
    begun, done = 0, 0
    for i in range(1, len(ids) + 1):
        before, now = _decode(tokenizer, ids[begun:done]), _decode(tokenizer, ids[begun:i])
        # Half a character decodes to the replacement sign: wait for the token that completes it.
        if now.endswith("\ufffd") and i < len(ids):
            continue
        yield now[len(before) :], done, i
        begun, done = done, i


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))
