"""TokenBatch: groups of episodes as tensors. One glossary for every axis:

    E episodes    T turns of an episode    K named rewards
    B sequences   L tokens of a sequence   (an episode is one sequence, or several where its context was rewritten)

Every token carries its turn index, or -1 if the policy did not sample it. Nothing else says where
turns are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from ..agents.episode import Episode, Group, StopReason, episodes_of


@dataclass(slots=True)
class TokenBatch:
    """Sequences ready for the model, with what credit and losses need beside them.

    Rows of one episode are neighbours, in the order of its turns, so that row-major order is the
    order in which action tokens were sampled.
    """

    tokens_BL: Tensor
    """int64, right-padded with 0; `lengths_B` says what is real."""
    lengths_B: Tensor
    turn_BL: Tensor
    """int64: turn that sampled this token, -1 elsewhere."""
    logprobs_BL: Tensor
    """float32: log-probability at sampling time; 0 where ``turn_BL`` is -1."""
    episode_B: Tensor
    """int64: index of the episode a sequence belongs to."""
    group_E: Tensor
    """int64: index of the group an episode belongs to."""
    turns_E: Tensor
    """int64: number of turns."""
    terminated_E: Tensor
    """bool: the world ended the episode; False means that a limit cut it."""
    success_E: Tensor
    """bool: the world's verdict."""
    reward_names: tuple[str, ...] = ()
    """The axis K."""
    stops: tuple[StopReason, ...] = ()
    """Why each episode stopped, along E; without it, what is not terminated met the task's own turn
    limit.
    """
    reward_weights_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    state_ET: Tensor | None = None
    """int64: equal numbers are equal last words of the world before the turn (`Episode.states`); -1
    without a turn.
    """
    tag_ET: Tensor | None = None
    """int64: the kind of reasoning that the response named (`Turn.tag`), -1 if none."""
    heard_BL: Tensor | None = None
    """bool: what the world said here for the first time, with the template's words around it."""
    temperature: float = 1.0
    """Sampling temperature, so that the trainer can reproduce `logprobs_BL`."""

    # Costly fields, present only if some plug-in requires them.
    old_logprobs_BL: Tensor | None = None
    """Trainer's log-probabilities before the first update ('old_logprobs'); else the engine's are
    used.
    """
    ref_logprobs_BL: Tensor | None = None
    """Log-probabilities of the reference, the policy as it was at the start of the rl stage
    ('ref_logprobs').
    """
    values_BL: Tensor | None = None
    """Critic's value of the state before this token was sampled, at action tokens ('values').
    Anything elsewhere.
    """
    bootstrap_E: Tensor | None = None
    """Critic's value of the state after the last turn, where the credit bootstraps; 0 elsewhere,
    None if nowhere.
    """
    signals: dict[str, Tensor] = field(default_factory=dict)
    """What an estimator leaves for a loss, [B, L]; 'returns' are the critic's targets, NaN where
    there is none.
    """

    @property
    def mask_BL(self) -> Tensor:
        """bool: tokens the policy sampled."""
        return self.turn_BL >= 0

    @property
    def mask_ET(self) -> Tensor:
        """bool: turns that exist."""
        return torch.arange(self.max_turns)[None, :] < self.turns_E[:, None]

    @property
    def episodes(self) -> int:
        """Size of the axis E."""
        return len(self.group_E)

    @property
    def max_turns(self) -> int:
        """Size of the axis T."""
        return int(self.turns_E.max()) if len(self.turns_E) else 0

    @property
    def behaviour_logprobs_BL(self) -> Tensor:
        """The denominator of the importance ratio: the trainer's own if computed, else the
        engine's.
        """
        return self.logprobs_BL if self.old_logprobs_BL is None else self.old_logprobs_BL

    def stopped_E(self, reasons: Collection[StopReason]) -> Tensor:
        """bool [E]: the episode stopped for one of these reasons."""
        if not self.stops:
            return ~self.terminated_E & (StopReason.TURN_LIMIT in reasons)
        return torch.tensor([stop in reasons for stop in self.stops], dtype=torch.bool)

    def spread(self, values_ET: Tensor) -> Tensor:
        """[E, T] -> [B, L]: each turn's number on each of its tokens, 0 elsewhere."""
        if values_ET.shape[1] == 0:
            return values_ET.new_zeros(self.turn_BL.shape)
        values_BT = values_ET[self.episode_B]
        spread_BL = values_BT.gather(1, self.turn_BL.clamp(min=0))
        return torch.where(self.mask_BL, spread_BL, torch.zeros((), dtype=spread_BL.dtype))

    def total_ET(self, rewards_KET: Tensor) -> Tensor:
        """[K, E, T] -> [E, T]: the weighted sum of the named rewards, 0 where there is no turn."""
        weights_K = self.reward_weights_K.to(rewards_KET.dtype)
        total_ET = torch.einsum("k,ket->et", weights_K, rewards_KET)
        return torch.where(self.mask_ET, total_ET, torch.zeros((), dtype=total_ET.dtype))

    def select(self, rows: Sequence[int] | Tensor) -> TokenBatch:
        """The sequences `rows`, cut to their longest; fields per episode stay whole, so indices
        keep their meaning.
        """
        index = torch.as_tensor(rows, dtype=torch.long)
        width = int(self.lengths_B[index].max()) if len(index) else 0
        cut: dict[str, object] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor) and item.name.endswith("_BL"):
                cut[item.name] = value[index, :width]
            elif isinstance(value, Tensor) and item.name.endswith("_B"):
                cut[item.name] = value[index]
        cut["signals"] = {name: value[index, :width] for name, value in self.signals.items()}
        return replace(self, **cut)  # type: ignore[arg-type]

    def split(self, token_budget: int) -> Iterator[Tensor]:
        """Row indices of micro-batches: rows of similar length, rows x longest <= budget (one row
        at least).
        """
        order = torch.argsort(self.lengths_B, stable=True).tolist()
        lengths = self.lengths_B.tolist()
        start = 0
        for end in range(1, len(order) + 1):
            full = end < len(order) and (end + 1 - start) * lengths[order[end]] > token_budget
            if full or end == len(order):
                yield torch.tensor(order[start:end])
                start = end

    @classmethod
    def pack(
        cls,
        groups: Sequence[Group],
        *,
        merge: bool = True,
        closing: Collection[StopReason] = (),
        temperature: float = 1.0,
    ) -> TokenBatch:
        """Groups as tensors.

        Args:
            groups: what was played; failed episodes are already gone.
            merge: consecutive turns that extend each other become one sequence; False makes every
                turn its own sequence (the same loss, more tokens).
            closing: to episodes that stopped for one of these reasons, append what would have come
                after the last response, for a critic to bootstrap from.
            temperature: at which the responses were sampled.
        """
        episodes = episodes_of(groups)
        rows = [
            (e, row) for e, episode in enumerate(episodes) for row in _rows(episode, merge, closing)
        ]
        width = max((len(row.tokens) for _, row in rows), default=0)
        return cls(
            tokens_BL=_pad([row.tokens for _, row in rows], width, 0, torch.long),
            lengths_B=torch.tensor([len(row.tokens) for _, row in rows], dtype=torch.long),
            turn_BL=_pad([row.turns for _, row in rows], width, -1, torch.long),
            logprobs_BL=_pad([row.logprobs for _, row in rows], width, 0.0, torch.float32),
            episode_B=torch.tensor([e for e, _ in rows], dtype=torch.long),
            group_E=torch.tensor(
                [g for g, group in enumerate(groups) for _ in group], dtype=torch.long
            ),
            turns_E=torch.tensor([len(episode.turns) for episode in episodes], dtype=torch.long),
            terminated_E=torch.tensor(
                [not episode.stop.truncated for episode in episodes], dtype=torch.bool
            ),
            stops=tuple(episode.stop for episode in episodes),
            success_E=torch.tensor([episode.success for episode in episodes], dtype=torch.bool),
            heard_BL=_pad([row.heard for _, row in rows], width, False, torch.bool),
            state_ET=_numbered([episode.states() for episode in episodes]),
            tag_ET=_numbered([[turn.tag for turn in episode.turns] for episode in episodes]),
            temperature=temperature,
        )

    def with_rewards(
        self, rewards: Mapping[str, list[list[float]]], weights: Mapping[str, float]
    ) -> tuple[TokenBatch, Tensor]:
        """This batch with the axis K named, and rewards_KET (float64, 0 where there is no turn).

        Args:
            rewards: name -> per episode -> per turn, over all episodes of the batch in order.
            weights: name -> weight.
        """
        rewards_KET = torch.zeros(len(rewards), self.episodes, self.max_turns, dtype=torch.float64)
        for k, per_episode in enumerate(rewards.values()):
            for e, values in enumerate(per_episode):
                rewards_KET[k, e, : len(values)] = torch.tensor(values, dtype=torch.float64)
        weights_K = torch.tensor([weights[name] for name in rewards], dtype=torch.float64)
        return replace(self, reward_names=tuple(rewards), reward_weights_K=weights_K), rewards_KET


@dataclass(slots=True)
class _Row:
    tokens: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    heard: list[bool] = field(default_factory=list)

    def add(
        self, ids: list[int], turn: int, logprobs: list[float] | None = None, news: int = 0
    ) -> None:
        """Append tokens; the last `news` of them were said by the world, for the first time."""
        self.tokens += ids
        self.turns += [turn] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)
        self.heard += [False] * (len(ids) - news) + [True] * news


def _rows(episode: Episode, merge: bool, closing: Collection[StopReason]) -> Iterator[_Row]:
    """The sequences of an episode; its last one ends with the closing ids if they are wanted."""
    row = _Row()
    for t, turn in enumerate(episode.turns):
        if t > 0 and not (merge and turn.extends):
            yield row
            row = _Row()
            row.add(episode.prompt(t), -1, news=len(turn.prompt_ids) - turn.repeated)
        else:
            row.add(turn.prompt_ids, -1, news=len(turn.prompt_ids) - turn.repeated)
        row.add(turn.response_ids, *((t, turn.logprobs) if turn.trained else (-1, None)))
    if episode.stop in closing and episode.closing_ids:
        if not (merge and episode.closing_extends):
            yield row
            row = _Row()
            if episode.closing_extends and episode.turns:
                row.add(episode.prompt(len(episode.turns) - 1) + episode.turns[-1].response_ids, -1)
        row.add(episode.closing_ids, -1)
    if row.tokens:
        yield row


def _numbered(names: Sequence[Sequence[str | None]]) -> Tensor:
    """[E, T]: a number for each name, in the order of their appearance; -1 for None and where there
    is no turn.
    """
    numbers: dict[str | None, int] = {None: -1}
    rows = [[numbers.setdefault(name, len(numbers) - 1) for name in row] for row in names]
    return _pad(rows, max((len(row) for row in rows), default=0), -1, torch.long)


def _pad(rows: Sequence[Sequence[float]], width: int, value: float, dtype: torch.dtype) -> Tensor:
    out = torch.full((len(rows), width), value, dtype=dtype)
    for b, row in enumerate(rows):
        out[b, : len(row)] = torch.tensor(row, dtype=dtype)
    return out


def map_groups(group_E: Tensor, apply: Callable[[Tensor], None]) -> None:
    """Call `apply` with the episode indices of each group, in order of the groups."""
    for g in group_E.unique(sorted=True).tolist():
        apply((group_E == g).nonzero().flatten())
