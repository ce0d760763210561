"""Rows of token ids, with what stands beside each token, and how rows become tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor

from ..agents.episode import Episode, StopReason
from ..agents.models.devices import moved
from ..agents.models.forward import Scores
from ..foundation.errors import UserError

NOBODY = -1
"""The version of tokens that no weights sampled."""


@dataclass(slots=True)
class TokenRow:
    """A sequence while it is written: a number of each kind for every token."""

    tokens: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    heard: list[bool] = field(default_factory=list)

    def hear(self, ids: Sequence[int], news: int = 0) -> None:
        """Add tokens that are not learnt.

        The last `news` of them were said by the world, for the first time.
        """
        self._add(ids, -1, [0.0] * len(ids), NOBODY)
        self.heard[len(self.heard) - news :] = [True] * news

    def say(
        self, ids: Sequence[int], turn: int, logprobs: Sequence[float], version: int = NOBODY
    ) -> None:
        """Add a response, which is learnt."""
        self._add(ids, turn, logprobs, version)

    def _add(self, ids: Sequence[int], turn: int, logprobs: Sequence[float], version: int) -> None:
        self.tokens += ids
        self.turns += [turn] * len(ids)
        self.logprobs += logprobs
        self.versions += [version] * len(ids)
        self.heard += [False] * len(ids)


def rows_of(episode: Episode, merge: bool, closing: Collection[StopReason]) -> Iterator[TokenRow]:
    """Write the sequences of an episode.

    The last one ends with the closing ids if they are wanted.
    """
    row = TokenRow()
    for t, turn in enumerate(episode.turns):
        news = len(turn.prompt_ids) - turn.repeated
        if t > 0 and not (merge and turn.extends):
            yield row
            row = TokenRow()
            row.hear(episode.prompt(t), news)
        else:
            row.hear(turn.prompt_ids, news)
        if turn.trained:
            row.say(turn.response_ids, t, turn.logprobs, turn.version)
        else:
            row.hear(turn.response_ids)
    if episode.stop in closing and episode.closing_ids:
        if not (merge and episode.closing_extends):
            yield row
            row = TokenRow()
            if episode.closing_extends and episode.turns:
                row.hear(episode.prompt(len(episode.turns) - 1) + episode.turns[-1].response_ids)
        row.hear(episode.closing_ids)
    if row.tokens:
        yield row


def rows_of_texts(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Iterator[TokenRow]:
    """Write a sequence for each prompt and its answer, which nobody sampled.

    Raises:
        UserError: there are not as many of both, or one is empty.
    """
    if len(prompts) != len(answers):
        raise UserError(
            f"texts: {len(prompts)} prompts and {len(answers)} answers; each answer has a prompt of"
            " its own"
        )
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for what, ids in (("prompt of answer", prompt), ("answer", answer)):
            if not len(ids):
                raise UserError(f"texts: {what} {i} is empty; it needs a token")
        row = TokenRow()
        row.hear(prompt)
        row.say(answer, 0, [math.nan] * len(answer))
        yield row


def checked_pairs(pairs: Sequence[tuple[int, int]], answers: int) -> Sequence[tuple[int, int]]:
    """Return pairs of (chosen, rejected) answers. Raises UserError for one that is none."""
    for p, pair in enumerate(pairs):
        if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= i < answers for i in pair):
            raise UserError(
                f"texts: pair {p} is {tuple(pair)}; a pair is the index of a chosen and of another,"
                f" rejected answer, from 0 to {answers - 1}"
            )
    return pairs


def signals_of(episodes: Sequence[Episode], device: torch.device | str) -> dict[str, Tensor]:
    """Collect what turns note (`Turn.signals`) as ``NAME_ET``, float64.

    NaN where a turn has no such number.

    Raises:
        UserError: what is noted is no number.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    names = sorted({name for turn in turns for name in turn.signals})
    for turn in turns:
        for name, value in turn.signals.items():
            if not isinstance(value, int | float):
                raise UserError(f"the signal '{name}' of a turn is {value!r}: expected a number")
    found = {}
    for name in names:
        rows = [[turn.signals.get(name, math.nan) for turn in ep.turns] for ep in episodes]
        width = max(map(len, rows))
        found[f"{name}_ET"] = pad(rows, width, math.nan, torch.float64, device)
    return found


class Columns(TypedDict):
    """The fields of a `TokenBatch` that belong to sequences and tokens."""

    tokens_BL: Tensor
    lengths_B: Tensor
    turn_BL: Tensor
    scores: dict[str, Scores]
    versions_BL: Tensor
    heard_BL: Tensor
    episode_B: Tensor


def columns(rows: Sequence[tuple[int, TokenRow]], device: torch.device | str) -> Columns:
    """Make tensors of sequences, each with the index of its episode."""
    width = max((len(row.tokens) for _, row in rows), default=0)
    padded = partial(pad, width=width, device=device)
    sampled_BL = padded([row.logprobs for _, row in rows], value=0.0, dtype=torch.float32)
    lengths = [len(row.tokens) for _, row in rows]
    return Columns(
        tokens_BL=padded([row.tokens for _, row in rows], value=0, dtype=torch.long),
        lengths_B=torch.tensor(lengths, dtype=torch.long, device=device),
        turn_BL=padded([row.turns for _, row in rows], value=-1, dtype=torch.long),
        scores={"engine": Scores({"logprobs": sampled_BL})},
        versions_BL=padded([row.versions for _, row in rows], value=NOBODY, dtype=torch.long),
        heard_BL=padded([row.heard for _, row in rows], value=False, dtype=torch.bool),
        episode_B=torch.tensor([e for e, _ in rows], dtype=torch.long, device=device),
    )


def numbered(names: Sequence[Sequence[str | None]], device: torch.device | str) -> Tensor:
    """Give each name a number, in the order of their appearance [E, T].

    -1 for None and where there is no turn.
    """
    numbers: dict[str | None, int] = {None: -1}
    rows = [[numbers.setdefault(name, len(numbers) - 1) for name in row] for row in names]
    width = max((len(row) for row in rows), default=0)
    return pad(rows, width, -1, torch.long, device)


def pad(
    rows: Sequence[Sequence[float]],
    width: int,
    value: float,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Make a tensor of rows, with `value` after the end of each."""
    out = torch.full((len(rows), width), value, dtype=dtype, device="cpu")
    for b, row in enumerate(rows):
        out[b, : len(row)] = torch.tensor(row, dtype=dtype, device="cpu")
    return moved(out, device)
