"""TokenBatch: groups of episodes as tensors, with one glossary for every axis:

    G groups      E episodes               T turns of an episode    K named rewards
    B sequences   L tokens of a sequence   D hidden units           P pairs of episodes

An episode is one sequence, or several where its context was rewritten. A tensor's name ends in its
axes. A minibatch or a micro-batch is some of the sequences (`select`): what has the axes B and L is
cut, what has others stays whole, so that indices keep their meaning.

Every token carries its turn index, or -1 if the policy did not sample it. Nothing else says where
turns are. What is known beside that is told by name: `scores` of tokens by who computed them
(``engine``, ``old``, ``ref``), and `signals`: what turns note (`Turn.signals`, as ``NAME_ET``),
pairs (``chosen_P``, ``rejected_P``), and what the learner lays there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..agents.episode import Group, StopReason, episodes_of
from ..agents.models.devices import moved
from ..agents.models.forward import Scores
from ..foundation.errors import UserError
from ..foundation.plugins import Need
from .packing import checked_pairs, columns, numbered, rows_of, rows_of_texts, signals_of
from .storing import flattened, unflattened

AXES = ("BL", "B", "E", "ET", "G", "P")
"""How names of tensors end: `TokenBatch.select` cuts the first two, and leaves the others whole."""

PROVIDED = {"old": Need.OLD_LOGPROBS, "ref": Need.REF_LOGPROBS}
"""The need by which a plug-in asks for scores that not every batch has."""


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
    scores: dict[str, Scores]
    """The numbers of each sampled token by who computed them; 0 where ``turn_BL`` is -1.

    ``engine``: float32, the policy that behaved, at sampling time. It is always there.
    ``old``: the trainer's own before the first update, the policy that a loss stays near to; where
    nobody needs it, the engine's are used (`behaviour_logprobs_BL`).
    ``ref``: the reference of the stage, the policy as it was at its start or what its `reference`
    block says.
    """
    versions_BL: Tensor
    """int64: version of the weights that sampled this token (`Turn.version`); -1 where the policy
    did not sample it, or nobody did.
    """
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
    stops: tuple[StopReason, ...] = ()
    """Why each episode stopped, along E; without it, what is not terminated met the task's own turn
    limit.
    """
    state_ET: Tensor | None = None
    """int64: equal numbers are equal last words of the world before the turn (`Episode.states`); -1
    without a turn.
    """
    tag_ET: Tensor | None = None
    """int64: the kind of reasoning that the response named (`Turn.tag`), -1 if none."""
    heard_BL: Tensor | None = None
    """bool: what the world said here for the first time, with the template's words around it."""
    temperature: float = 1.0
    """Sampling temperature, so that the trainer can reproduce what the engine says."""

    version: int = 0
    """Version of the engine's weights when the batch was packed: those that an update begins with.
    """

    # Costly fields, present only if some plug-in requires them.
    values_BL: Tensor | None = None
    """Critic's value of the state before this token was sampled, at action tokens ('values').
    Anything elsewhere.
    """
    bootstrap_E: Tensor | None = None
    """Critic's value of the state after the last turn, where the credit bootstraps; 0 elsewhere,
    None if nowhere.
    """
    signals: dict[str, Tensor] = field(default_factory=dict)
    """Tensors beside the tokens by name, each of which ends in its axes (`AXES`)."""

    @property
    def mask_BL(self) -> Tensor:
        """Tell which tokens the policy sampled, bool."""
        return self.turn_BL >= 0

    @property
    def off_policy_BL(self) -> Tensor:
        """Tell which sampled tokens are not of the engine's weights of now, bool.

        Those weights are `version`; the tokens are of older ones or of nobody's. A cut of the batch
        says the same of each token. Where the engine is as new as the policy, they are the tokens
        whose ratio is not 1 on a first update.
        """
        return self.mask_BL & (self.versions_BL < self.version)

    @property
    def turn_T(self) -> Tensor:
        """Count turns along the axis T: 0, 1, ..., int64."""
        return torch.arange(self.max_turns, device=self.turns_E.device)

    @property
    def mask_ET(self) -> Tensor:
        """Tell which turns exist, bool."""
        return self.turn_T[None, :] < self.turns_E[:, None]

    @property
    def tokens_E(self) -> Tensor:
        """Count the sampled tokens of each episode, int64."""
        return self.per_episode(self.mask_BL.sum(1))

    @property
    def device(self) -> torch.device:
        """Return the device of the batch's tensors."""
        return self.tokens_BL.device

    @property
    def episodes(self) -> int:
        """Return the size of the axis E."""
        return len(self.group_E)

    @property
    def max_turns(self) -> int:
        """Return the size of the axis T."""
        return int(self.turns_E.max()) if len(self.turns_E) else 0

    @property
    def behaviour_logprobs_BL(self) -> Tensor:
        """Return the denominator of the importance ratio.

        The trainer's own log-probabilities if they were computed, else the engine's.
        """
        return self.logprobs_of("old" if "old" in self.scores else "engine")

    def logprobs_of(self, name: str) -> Tensor:
        """Return the log-probabilities [B, L] of the scores `name`.

        Raises:
            UserError: nobody asked for them; the sentence says how to.
        """
        if name in self.scores:
            return self.scores[name].logprobs_BL
        known = f"this batch has no scores '{name}', but those of {', '.join(self.scores)}"
        if name not in PROVIDED:
            raise UserError(known)
        need = f"Need.{PROVIDED[name].name}"
        raise UserError(f"{known}: a plug-in that reads '{name}' lists {need} in 'requires'")

    def with_scores(self, **more: Scores) -> TokenBatch:
        """Return the batch with these scores too, in the place of those of the same name."""
        return replace(self, scores=self.scores | more)

    def stopped_E(self, reasons: Collection[StopReason]) -> Tensor:
        """Tell which episodes stopped for one of these reasons, bool [E]."""
        if not self.stops:
            return ~self.terminated_E & (StopReason.TURN_LIMIT in reasons)
        stopped = [stop in reasons for stop in self.stops]
        return torch.tensor(stopped, dtype=torch.bool, device=self.device)

    def spread(self, values_ET: Tensor) -> Tensor:
        """Put each turn's number on each of its tokens, 0 elsewhere: [E, T] -> [B, L]."""
        if values_ET.shape[1] == 0:
            return values_ET.new_zeros(self.turn_BL.shape)
        values_BT = values_ET[self.episode_B]
        spread_BL = values_BT.gather(1, self.turn_BL.clamp(min=0))
        return torch.where(self.mask_BL, spread_BL, 0)

    def per_turn(self, values_BL: Tensor) -> Tensor:
        """Add up each turn's sampled tokens, float64: [B, L] -> [E, T].

        NaN elsewhere is harmless.
        """
        sums_ET = values_BL.new_zeros(self.episodes, self.max_turns, dtype=torch.float64)
        rows, columns = self.mask_BL.nonzero(as_tuple=True)
        where = (self.episode_B[rows], self.turn_BL[rows, columns])
        return sums_ET.index_put_(where, values_BL[rows, columns].double(), accumulate=True)

    def per_episode(self, values_B: Tensor) -> Tensor:
        """Add up each episode's sequences: [B] -> [E]."""
        return values_B.new_zeros(self.episodes).index_add_(0, self.episode_B, values_B)

    def select(self, rows: Sequence[int] | Tensor) -> TokenBatch:
        """Take the sequences `rows`, cut to their longest.

        Fields per episode stay whole, so indices keep their meaning.
        """
        index = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        width = int(self.lengths_B[index].max()) if len(index) else 0

        def cut(name: str, value: Tensor) -> Tensor:
            axes = name.rpartition("_")[2]
            if axes not in AXES:
                raise ValueError(f"'{name}' does not end in its axes: {', '.join(AXES)}")
            if axes == "BL":
                return value[index, :width]
            return value[index] if axes == "B" else value

        return self._map(cut)

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move the batch to another device."""
        return self._map(lambda _, value: moved(value, device))

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> TokenBatch:
        """Replace every tensor by what `change` makes of its name and value."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {n: change(n, value) for n, value in own.items() if isinstance(value, Tensor)}
        signals = {name: change(name, value) for name, value in self.signals.items()}
        scores = {n: one.map(partial(change, "scores_BL")) for n, one in self.scores.items()}
        return replace(self, **changed, signals=signals, scores=scores)  # type: ignore[arg-type]

    def split(self, token_budget: int) -> Iterator[Tensor]:
        """Yield the rows of micro-batches, which are of similar length.

        Rows x longest <= budget, but one row at least.
        """
        order = torch.argsort(self.lengths_B, stable=True).tolist()
        lengths = self.lengths_B.tolist()
        start = 0
        for end in range(1, len(order) + 1):
            full = end < len(order) and (end + 1 - start) * lengths[order[end]] > token_budget
            if full or end == len(order):
                yield torch.tensor(order[start:end], device=self.device)
                start = end

    @classmethod
    def pack(
        cls,
        groups: Sequence[Group],
        *,
        merge: bool = True,
        closing: Collection[StopReason] = (),
        temperature: float = 1.0,
        version: int | None = None,
        device: torch.device | str = "cpu",
    ) -> TokenBatch:
        """Make tensors of groups.

        Args:
            groups: what was played; failed episodes are already gone.
            merge: consecutive turns that extend each other become one sequence; False makes every
                turn its own sequence (the same loss, more tokens).
            closing: to episodes that stopped for one of these reasons, append what would have come
                after the last response, for a critic to bootstrap from.
            temperature: at which the responses were sampled.
            version: of the engine's weights now; default the newest that sampled a token here.
            device: where its tensors are made.

        Raises:
            UserError: a turn notes a signal that is no number.
        """
        episodes = episodes_of(groups)
        rows = [
            (e, row)
            for e, episode in enumerate(episodes)
            for row in rows_of(episode, merge, closing)
        ]
        long = partial(torch.tensor, dtype=torch.long, device=device)
        flags = partial(torch.tensor, dtype=torch.bool, device=device)
        turns = [turn for episode in episodes for turn in episode.turns]
        versions = [turn.version for turn in turns if turn.trained and turn.response_ids]
        return cls(
            **columns(rows, device),
            group_E=long([g for g, group in enumerate(groups) for _ in group]),
            turns_E=long([len(episode.turns) for episode in episodes]),
            terminated_E=flags([not episode.stop.truncated for episode in episodes]),
            stops=tuple(episode.stop for episode in episodes),
            success_E=flags([episode.success for episode in episodes]),
            state_ET=numbered([episode.states() for episode in episodes], device),
            tag_ET=numbered([[turn.tag for turn in ep.turns] for ep in episodes], device),
            temperature=temperature,
            version=max(versions, default=0) if version is None else version,
            signals=signals_of(episodes, device),
        )

    @classmethod
    def of_texts(
        cls,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        pairs: Sequence[tuple[int, int]] = (),
        *,
        temperature: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> TokenBatch:
        """Make tensors of texts that no engine sampled: each answer is an episode of one turn.

        Answers to equal prompts are a group. The engine's log-probabilities are NaN: what reads
        them cannot be computed. The signals ``chosen_P`` and ``rejected_P`` are the episodes of
        each pair; where a minibatch lacks the sequence of one, its `tokens_E` is 0. An objective
        whose `whole` is 'group' sees both or neither of a pair of answers to one prompt.

        Args:
            prompts: token ids before each answer.
            answers: token ids to be scored, the stop token included.
            pairs: indices of (chosen, rejected) answers.
            temperature: at which they are scored.
            device: where its tensors are made.

        Raises:
            UserError: a prompt or an answer is missing or empty, or a pair is none.
        """
        rows = list(enumerate(rows_of_texts(prompts, answers)))
        long = partial(torch.tensor, dtype=torch.long, device=device)
        flags = partial(torch.full, (len(rows),), dtype=torch.bool, device=device)
        number: dict[tuple[int, ...], int] = {}
        return cls(
            **columns(rows, device),
            group_E=long([number.setdefault(tuple(prompt), len(number)) for prompt in prompts]),
            turns_E=long([1 for _ in rows]),
            terminated_E=flags(fill_value=True),
            success_E=flags(fill_value=False),
            temperature=temperature,
            signals={
                "chosen_P": long([chosen for chosen, _ in checked_pairs(pairs, len(rows))]),
                "rejected_P": long([rejected for _, rejected in pairs]),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the batch as plain data, to be stored.

        ``tensors`` is a flat dict of contiguous copies, which safetensors takes, and ``rest`` is
        JSON-serialisable.
        """
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        rest = {"temperature": self.temperature, "version": self.version}
        return {
            "tensors": flattened(own, self.scores, self.signals),
            "rest": rest | {"stops": [stop.value for stop in self.stops]},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> TokenBatch:
        """Restore the batch that `state_dict` was called on.

        Raises:
            UserError: a tensor is missing, or one is there that no batch has.
        """
        kinds = {item.name: item.type for item in fields(cls)}
        needed = [name for name, kind in kinds.items() if kind == "Tensor"]
        known = [*needed, *(name for name, kind in kinds.items() if kind == "Tensor | None")]
        own, scores, signals = unflattened(state["tensors"], known, needed)
        rest = dict(state["rest"])
        stops = tuple(map(StopReason, rest.pop("stops")))
        return cls(**own, **rest, scores=scores, signals=signals, stops=stops)


def map_groups(group_E: Tensor, apply: Callable[[Tensor], None]) -> None:
    """Call `apply` with the episode indices of each group, in order of the groups."""
    for g in group_E.unique(sorted=True).tolist():
        apply((group_E == g).nonzero().flatten())
