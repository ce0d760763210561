"""Ahead: several tokens of every response are sampled on the device before the host looks at them.

A host that reads every token waits for the device at each one, and the device for the host. Here
the state of the responses lies on the device: which token comes next and where it is stored, the
random stream, the tokens that end it and how many may still come. A step is one pass of the
decoder, sampling and the check for an end; nothing of it asks the host, so that on a GPU it is
recorded once as a CUDA graph and replayed. After some steps the host fetches what was sampled::

    ahead = Ahead(cache, steps=8, max_context=1024)
    tokens = ahead.decode(requests)         # for each, up to 8 pairs of a token and its logprob

Tokens are those of `SamplingBatch`: the random number behind token n of a request is the same one.
A response that ends before the others keeps its place and does nothing until all are looked at. Of
one that a stop string ends, which only the host can see, what was sampled after it is dropped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.devices import moved
from ...models.positions import rope_depends_on_length
from ...models.slots import SlotCache, bucket
from .requests import TorchRequest
from .sampling import draw, hash_seeds, uniform_on_device

logger = logging.getLogger(__name__)

_READ = 128
"""Fewest positions that a step reads."""

Sampled = list[tuple[int, float]]
"""Tokens with their log-probabilities."""


class Slots:
    """The state of up to B responses on the device, and the step that goes on with all of them.

    Args:
        rows: B.
        vocabulary: V, ids that can be sampled.
        steps: most steps that are fetched at once.
        device: where it lies, for good.
    """

    def __init__(self, rows: int, vocabulary: int, steps: int, device: torch.device) -> None:
        self.numbers_NB = torch.zeros(8, rows, dtype=torch.int64, device=device)
        self.warmth_2B = torch.ones(2, rows, dtype=torch.float64, device=device)
        self.stop_BV = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.out_K2B = torch.zeros(steps, 2, rows, dtype=torch.float64, device=device)
        self.at_1 = torch.zeros(1, dtype=torch.int64, device=device)
        # Views: token that comes next and its position, tokens so far and that may still come.
        self.token_B, self.position_B, self.index_B, self.left_B = self.numbers_NB[:4]
        self.stream_B, self.top_k_B, self.minimum_B, self.greedy_B = self.numbers_NB[4:]
        self._stops: list[tuple[int, ...]] = []

    def begin(self, requests: Sequence[TorchRequest], idle: Sequence[int], longest: int) -> int:
        """Take up requests, one in each row, and rows of nobody after them.

        Args:
            idle: positions of the rows of nobody.
            longest: positions of a context.

        Returns:
            The most tokens that a request may still sample.
        """
        columns = []
        seeds = hash_seeds([r.sampling.seed for r in requests]).view("int64").tolist()
        for request, stream in zip(requests, seeds, strict=True):
            sampling, count = request.sampling, len(request.token_ids)
            left = min(sampling.max_tokens - count, longest - len(request.tokens))
            place = (request.tokens[-1], len(request.tokens) - 1, count, left)
            top_k, greedy = sampling.top_k or 2**31, int(sampling.temperature == 0)
            columns.append((*place, stream, top_k, sampling.min_tokens, greedy))
        columns += [(0, position, 0, 0, 0, 2**31, 0, 1) for position in idle]
        warmth = [(r.sampling.temperature or 1.0, r.sampling.top_p) for r in requests]
        warmth += [(1.0, 1.0)] * len(idle)
        self._put(self.numbers_NB, columns)
        self._put(self.warmth_2B, warmth)
        self.at_1.zero_()
        self._forbid([r.sampling.stop_token_ids for r in requests])
        return max(column[3] for column in columns)

    def advance(self, cache: SlotCache, length: int, filtered: bool, minimum: bool) -> None:
        """Sample one more token for every response that goes on; the host is asked nothing.

        Args:
            cache: holds the rows.
            length: positions that are read.
            filtered: whether a response asks for top-k or top-p.
            minimum: whether a response asks for a least number of tokens.
        """
        hidden_BH = cache.step(self.token_B, self.position_B, length)
        logits_BV = cache.logits(hidden_BH).float()
        if minimum:
            forbidden_B1 = (self.index_B < self.minimum_B)[:, None]
            logits_BV = logits_BV.masked_fill(self.stop_BV & forbidden_B1, -torch.inf)
        temperature_B, top_p_B = self.warmth_2B
        logprobs_BV = (logits_BV / temperature_B.float()[:, None]).log_softmax(-1)
        filters = (self.top_k_B, top_p_B) if filtered else None
        drawn_B = draw(logprobs_BV, uniform_on_device(self.stream_B, self.index_B), filters)
        id_B = torch.where(self.greedy_B > 0, logits_BV.argmax(-1), drawn_B)
        logprob_B = logprobs_BV.gather(-1, id_B[:, None])[:, 0]
        alive_B = self.left_B > 0
        # Ids are exact in float64, so the host fetches one tensor.
        row_2B = torch.stack([id_B.double(), logprob_B.double()]).masked_fill(~alive_B, -1.0)
        self.out_K2B.index_copy_(0, self.at_1, row_2B[None])
        self.at_1 += 1
        on_B = alive_B & ~self.stop_BV.gather(1, id_B[:, None])[:, 0]
        # In place: a recorded step reads and writes the same memory whenever it is replayed.
        self.token_B.copy_(torch.where(alive_B, id_B, self.token_B))
        self.position_B += alive_B
        self.index_B += alive_B
        self.left_B.copy_((self.left_B - 1) * on_B)

    def fetch(self, steps: int, count: int) -> list[Sampled]:
        """Wait for the device, and read what was sampled for the first `count` rows.

        Raises FloatingPointError if a distribution was not finite.
        """
        out = self.out_K2B[:steps].tolist()
        found: list[Sampled] = []
        for b in range(count):
            pairs = [(int(ids[b]), logprobs[b]) for ids, logprobs in out if ids[b] >= 0]
            if not all(math.isfinite(logprob) for _, logprob in pairs):
                raise FloatingPointError("the logits of a response are not finite")
            found.append(pairs)
        return found

    def _put(self, tensor: Tensor, columns: Sequence[Sequence[float]]) -> None:
        """Overwrite a tensor [N, B] with B columns of the host."""
        fresh = torch.tensor(columns, dtype=tensor.dtype, device="cpu").T.contiguous()
        tensor.copy_(moved(fresh, tensor.device))

    def _forbid(self, stops: list[tuple[int, ...]]) -> None:
        """Note which tokens end each response, where that has changed."""
        if stops != self._stops:
            self._stops = stops
            known = self.stop_BV.shape[1]
            found = [(b, i) for b, ids in enumerate(stops) for i in ids if i < known]
            self.stop_BV.zero_()
            if found:
                where_2N = moved(torch.tensor(found, device="cpu").T, self.stop_BV.device)
                self.stop_BV[where_2N[0], where_2N[1]] = True


class Ahead:
    """Decodes the requests in the first rows of a cache, some steps at a time.

    Args:
        cache: whose first rows they are in.
        steps: most tokens of a response before the host looks at them.
        max_context: longest prompt plus response, in tokens.
    """

    def __init__(self, cache: SlotCache, steps: int, max_context: int) -> None:
        self.cache, self.steps, self.max_context = cache, steps, max_context
        # Frequencies that follow the longest row are compared on the host; what autocast makes of
        # the weights would be recorded, and not made anew when they change.
        fixed = cache.dtype is None and not rope_depends_on_length(cache.model.config)
        self.records = fixed and cache.device.type == "cuda"
        """Whether steps are recorded as CUDA graphs."""
        self._slots: dict[int, Slots] = {}
        self._graphs: dict[tuple[Any, ...], torch.cuda.CUDAGraph | None] = {}
        """By what they were recorded for; None where that was not possible."""
        self._pool: Any = None
        self._generation = -1

    def decode(self, requests: Sequence[TorchRequest]) -> list[Sampled]:
        """Sample up to `steps` more tokens for each request.

        The rows of the cache are not told: whoever calls this knows which tokens are kept.

        Args:
            requests: one for each of the first rows, in their order.

        Raises FloatingPointError if a distribution was not finite.
        """
        cache, samplings = self.cache, [r.sampling for r in requests]
        rows = bucket(len(requests))
        # Rows of nobody fill up the step, so that one graph serves many numbers of requests.
        cache.reserve(rows, 0)
        held = [len(row.tokens) for row in cache.rows[:rows]]
        cache.reserve(rows, max(held) + self.steps + 1)
        if self._generation != cache.generation:
            self._generation = cache.generation
            self._graphs.clear()
            self._pool = None  # the memory of graphs that are gone cannot be recorded into again
        slots = self._slots.get(rows)
        if slots is None:
            made = Slots(rows, cache.head.known, self.steps, cache.device)
            slots = self._slots[rows] = made
        length = min(_read(max(held[: len(requests)]) + self.steps), cache.capacity)
        filtered = any(s.top_p < 1 or s.top_k > 0 for s in samplings)
        way = (length, filtered, any(s.min_tokens and s.stop_token_ids for s in samplings))
        if self.records and (rows, *way) not in self._graphs:
            slots.begin([], held, self.max_context)
            self._graphs[rows, *way] = self._recorded(slots, way)
        left = slots.begin(requests, held[len(requests) :], self.max_context)
        graph, steps = self._graphs.get((rows, *way)), min(self.steps, left)
        for _ in range(steps):
            if graph is not None:
                graph.replay()
            else:
                slots.advance(cache, *way)
        return slots.fetch(steps, len(requests))

    def _recorded(self, slots: Slots, way: tuple[int, bool, bool]) -> torch.cuda.CUDAGraph | None:
        """Make a CUDA graph of a step in which no response goes on.

        None for a model that cannot be recorded.
        """
        device = self.cache.device
        try:
            with torch.cuda.device(device):
                side = torch.cuda.Stream(device)
                side.wait_stream(torch.cuda.current_stream(device))
                with torch.cuda.stream(side):  # libraries allocate what they need at the first call
                    slots.advance(self.cache, *way)
                torch.cuda.current_stream(device).wait_stream(side)
                # Graphs are replayed one after the other, and nothing but the slots is read
                # afterwards: one memory is enough for all of them.
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                graph = torch.cuda.CUDAGraph()
                # What other threads ask of the device meanwhile is no part of it, and no error.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    slots.advance(self.cache, *way)
        except RuntimeError as error:
            self._pool = None
            logger.warning(
                "a decode step of %s cannot be recorded as a CUDA graph, so it is slower: %s",
                type(self.cache.model).__name__,
                str(error).splitlines()[0],
            )
            return None
        return graph


def _read(length: int) -> int:
    """Round a length up to one of few: a power of two, or three quarters of one."""
    most = bucket(length, _READ)
    return most * 3 // 4 if length <= most * 3 // 4 and most > _READ else most
