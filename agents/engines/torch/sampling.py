"""Sampling: one token for every row of a batch, each row with its own temperature, filters and
random stream.

The random number behind token ``n`` of a request depends on ``(seed, n)`` and on nothing else, so a
request samples the same tokens whatever else is in the batch::

    batch = SamplingBatch([Sampling(seed=1), Sampling(temperature=0.5, top_p=0.9, seed=2)], device)
    ids, logprobs = batch.sample(logits_BV, [0, 3])  # a first token, and a fourth

A token is the inverse of the cumulative distribution at that number. Reported log-probabilities are
those of ``log_softmax(logits / temperature)`` in float32 before top-k and top-p (at temperature 0:
of the plain logits). While `Sampling.min_tokens` forbids the stop tokens, they are forbidden in
that distribution too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...episode import FinishReason
    from ..base import Sampling

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_LOGITS_ROWS = 256
"""Positions whose logits are computed at a time when scoring."""
_WINDOW = 64
"""Tokens at the end of a response that are decoded to look for a stop string, plus four per
character of it.
"""


def _mix(x: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Scramble 64-bit integers by the splitmix64 finaliser, a bijection that looks random."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_A
    x = (x ^ (x >> np.uint64(27))) * _MIX_B
    return x ^ (x >> np.uint64(31))


def hash_seeds(seeds: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Compute the start of the random stream of each seed, uint64 [B].

    Seeds are taken modulo 2^64.
    """
    return _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], dtype=np.uint64) + _GOLDEN)


def uniform(
    streams: np.ndarray[Any, np.dtype[np.uint64]], index: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Compute number `index` of each stream, float64 [B] in [0, 1 - 2^-52].

    So ``u * x < x`` for every float64 x > 0.
    """
    bits = _mix(streams + (np.array(index, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def uniform_on_device(stream_B: Tensor, index_B: Tensor) -> Tensor:
    """Compute the numbers of `uniform` where its streams are, bit for bit.

    Args:
        stream_B: int64 with the bits of `hash_seeds`.
        index_B: int64.
    """
    bits_B = stream_B + (index_B + 1) * _signed(_GOLDEN)
    for shift, factor in ((30, _MIX_A), (27, _MIX_B)):
        bits_B = (bits_B ^ _shifted(bits_B, shift)) * _signed(factor)
    return _shifted(bits_B ^ _shifted(bits_B, 31), 12).double() * 2.0**-52


def _signed(number: np.uint64) -> int:
    """Return the signed number of the same 64 bits."""
    return int(number) - (int(number) >> 63 << 64)


def _shifted(bits_B: Tensor, shift: int) -> Tensor:
    """Move 64 bits to the right, zeros after them: of a signed number torch repeats the sign."""
    return (bits_B >> shift) & ((1 << (64 - shift)) - 1)


def draw(logprobs_BV: Tensor, u_B: Tensor, filters: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the inverse of each cumulative distribution at `u_B`: token ids [B].

    Of a distribution that is not finite it is any token; its log-probability is NaN.

    Args:
        logprobs_BV: float32 [B, V].
        u_B: float64 [B] in [0, 1).
        filters: top-k and top-p of each row, or None if no row has them; see `filter_probs`.
    """
    probs_BV = logprobs_BV.exp()
    if filters is not None:
        probs_BV = filter_probs(probs_BV, *filters)
    cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    target_B1 = u_B[:, None] * cumulative_BV[:, -1:]
    ids_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
    # An index beyond the end would be an error on the CPU, and the end of all work on a GPU.
    return ids_B.clamp_(max=logprobs_BV.shape[-1] - 1)


def filter_probs(probs_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor) -> Tensor:
    """Set all but the `top_k` most likely tokens to 0, then all but the top-p set of those.

    That is the smallest set with `top_p` of the rest.

    Args:
        probs_BV: probabilities, float, [B, V].
        top_k_B: int64 [B], V for no limit.
        top_p_B: float [B], 1 for no limit.

    Returns:
        Probabilities [B, V], not renormalised; of equal tokens the lower ids are kept.
    """
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(probs_BV.shape[-1], device=probs_BV.device)
    sorted_BV = sorted_BV.double().masked_fill(rank_V >= top_k_B[:, None], 0)
    total_BV = sorted_BV.cumsum(-1)
    before_BV = total_BV - sorted_BV
    outside_BV = (before_BV >= top_p_B[:, None].double() * total_BV[:, -1:]) & (
        top_p_B[:, None] < 1
    )
    kept_BV = sorted_BV.masked_fill(outside_BV, 0)
    return torch.zeros_like(kept_BV).scatter_(-1, order_BV, kept_BV)


class SamplingBatch:
    """Sampling parameters of the rows of a batch as tensors.

    Args:
        samplings: one per row.
        device: where the logits are.
    """

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        temperatures = [s.temperature for s in samplings]
        self._greedy = [t == 0 for t in temperatures]
        self._all_greedy, self._any_greedy = all(self._greedy), any(self._greedy)
        self._temperature_B1: Tensor | None = None
        if any(t not in (0, 1) for t in temperatures):
            self._temperature_B1 = torch.tensor([[t or 1.0] for t in temperatures], device=device)
        self._streams = hash_seeds([s.seed for s in samplings])
        self._filters: tuple[Tensor, Tensor] | None = None
        if any(s.top_p < 1 or s.top_k > 0 for s in samplings):
            top_k = torch.tensor([s.top_k or 2**31 for s in samplings], device=device)
            self._filters = (
                top_k,
                torch.tensor([s.top_p for s in samplings], device=device, dtype=torch.float64),
            )
        self._minimum = [
            (b, s) for b, s in enumerate(samplings) if s.min_tokens and s.stop_token_ids
        ]

    def sample(self, logits_BV: Tensor, index: Sequence[int]) -> tuple[list[int], list[float]]:
        """Sample one token per row.

        Args:
            logits_BV: float [B, V]; may be overwritten.
            index: how many tokens of its response each row has already, [B].

        Returns:
            Token ids [B] and their log-probabilities (nats) [B].

        Raises FloatingPointError if a distribution is not finite.
        """
        logits_BV = logits_BV.float()
        for b, sampling in self._minimum:
            if index[b] < sampling.min_tokens:
                logits_BV[b, list(sampling.stop_token_ids)] = -torch.inf
        scaled_BV = logits_BV if self._temperature_B1 is None else logits_BV / self._temperature_B1
        logprobs_BV = scaled_BV.log_softmax(-1)
        if self._all_greedy:
            ids_B = logits_BV.argmax(-1)
        else:
            u_B = torch.from_numpy(uniform(self._streams, index)).to(logits_BV.device)
            ids_B = draw(logprobs_BV, u_B, self._filters)
            if self._any_greedy:
                greedy_B = torch.tensor(self._greedy, device=logits_BV.device)
                ids_B = torch.where(greedy_B, logits_BV.argmax(-1), ids_B)
        chosen: list[float] = logprobs_BV.gather(-1, ids_B[:, None])[:, 0].tolist()
        if not all(map(math.isfinite, chosen)):
            raise FloatingPointError("the logits of a response are not finite")
        return ids_B.tolist(), chosen


class StopText:
    """Finds out when the text of a response contains one of its stop strings.

    A stop string can only be completed by a token whose own text holds its last character, or by
    one whose text is not valid alone (a piece of a character), so most tokens cost one look into a
    dictionary.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._text: dict[int, str] = {}

    def found(self, token_ids: Sequence[int], stop: Sequence[str], every: bool = False) -> bool:
        """Tell whether the last token completes one of `stop` in the text of `token_ids`.

        With `every`, whether any token does.
        """
        if every:
            text = self._decode(token_ids)
            return any(s in text for s in stop)
        last = token_ids[-1]
        if last not in self._text:
            self._text[last] = self._decode([last])
        text = self._text[last]
        if "�" not in text and not any(s[-1:] in text for s in stop):
            return False
        recent = self._decode(token_ids[-_WINDOW - 4 * max(map(len, stop)) :])
        return any(s in recent for s in stop)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def finish_reason(
    token_ids: Sequence[int], sampling: Sampling, text: StopText | None
) -> FinishReason | None:
    """Say why a response ends with its last token, or None if it goes on."""
    length = len(token_ids)
    if token_ids[-1] in sampling.stop_token_ids:
        return "stop"
    # A stop string that was completed before the minimum counts as soon as the minimum is reached.
    asked = sampling.stop and length >= sampling.min_tokens
    if (
        asked
        and text is not None
        and text.found(token_ids, sampling.stop, every=length == sampling.min_tokens)
    ):
        return "stop"
    return "length" if length >= sampling.max_tokens else None


def token_logprobs(
    head: Callable[[Tensor], Tensor], hidden_NH: Tensor, targets: Sequence[int]
) -> list[float]:
    """Compute log-probabilities (nats, temperature 1) of `targets`.

    Each is given the hidden state before it.

    Args:
        head: from hidden states [N, H] to logits [N, V].
        hidden_NH: at least as many as there are targets.
        targets: token ids.
    """
    scores: list[float] = []
    for first in range(0, len(targets), _LOGITS_ROWS):
        ids_N = torch.tensor(targets[first : first + _LOGITS_ROWS], device=hidden_NH.device)
        logprobs_NV = head(hidden_NH[first : first + len(ids_N)]).float().log_softmax(-1)
        scores += logprobs_NV.gather(-1, ids_N[:, None])[:, 0].tolist()
    return scores
