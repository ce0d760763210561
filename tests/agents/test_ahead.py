"""Decoding as on a GPU, on the CPU: several tokens on the device before the host looks at them.

Every test of the engine that is imported here runs with the tricks that pay on a GPU: buffers that
stay, steps that ask the host nothing, plain passes of the model. Only that the steps are recorded
as CUDA graphs needs a GPU.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from turnrl import check_engine
from turnrl.agents.engines.base import Completion, EngineError, Sampling
from turnrl.agents.engines.torch.ahead import Ahead, Slots, _read
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.engines.torch.sampling import hash_seeds, uniform, uniform_on_device
from turnrl.agents.models import tricks
from turnrl.agents.models.slots import SlotCache, bucket

from . import test_kv_cache, test_torch_engine
from .test_torch_engine import VOCABULARY, ask, build, conversations, reference, run, words

test_a_push_changes_results_and_drops_caches = (
    test_torch_engine.test_a_push_changes_results_and_drops_caches
)
test_cache_is_reused_and_cut_back = test_torch_engine.test_cache_is_reused_and_cut_back
test_cancellation_and_close = test_torch_engine.test_cancellation_and_close
test_context_overflow = test_torch_engine.test_context_overflow
test_long_prompts_are_encoded_in_pieces = test_torch_engine.test_long_prompts_are_encoded_in_pieces
test_memory_is_bounded_by_dropping_idle_caches = (
    test_torch_engine.test_memory_is_bounded_by_dropping_idle_caches
)
test_ragged_conversations_match_plain_forward = (
    test_torch_engine.test_ragged_conversations_match_plain_forward
)
test_result_does_not_depend_on_the_batch = (
    test_torch_engine.test_result_does_not_depend_on_the_batch
)
test_same_bits_whatever_environments_take = (
    test_torch_engine.test_same_bits_whatever_environments_take
)
test_score_leaves_the_cache_as_it_was = test_torch_engine.test_score_leaves_the_cache_as_it_was
test_what_a_failed_pass_stored_harms_nobody = (
    test_torch_engine.test_what_a_failed_pass_stored_harms_nobody
)
test_stops_and_lengths = test_torch_engine.test_stops_and_lengths
test_training_works_after_generation = test_torch_engine.test_training_works_after_generation
test_a_group_shares_its_opening = test_kv_cache.test_a_group_shares_its_opening


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tricks, "CPU", tricks.GPU)


def test_the_engine_decodes_ahead() -> None:
    engine = TorchEngine(build())
    assert isinstance(engine._cache, SlotCache)
    assert isinstance(engine._ahead, Ahead)
    assert engine._ahead.steps == tricks.GPU.ahead > 1
    run(ask(engine, [1, 2], Sampling(max_tokens=10)))
    assert engine.stats.decode_steps == 9, "the first token comes with the prompt"


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_the_same_seeds_give_the_same_tokens_however_far_ahead(steps: int) -> None:
    """Of conversations with stop tokens, filters, least lengths, and rows that come and go."""
    model = build(initializer_range=0.05)
    fields: dict[str, Any] = {
        "top_p": 0.95,
        "top_k": 60,
        "min_tokens": 2,
        "stop_token_ids": tuple(range(0, VOCABULARY, 9)),
    }
    for more in ({}, fields):
        played = [
            run(conversations(TorchEngine(model, ahead=ahead), 7, lambda: 0.0, **more))
            for ahead in (1, steps)
        ]
        for one, other in zip(*played, strict=True):
            for (_, _, a), (_, _, b) in zip(one, other, strict=True):
                assert a.token_ids == b.token_ids
                assert a.finish_reason == b.finish_reason
                assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_what_was_sampled_after_a_stop_string_is_dropped() -> None:
    """Of the tokens, of the cache, and of the statistics."""

    class Words:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(f"<{i}>" for i in ids)

    model = build(initializer_range=0.02)
    free = run(ask(TorchEngine(model), [3], Sampling(max_tokens=20, seed=5))).token_ids
    engine = TorchEngine(model, Words())
    talk = engine.conversation("a")

    async def work() -> None:
        stopped = await talk.generate([3], Sampling(max_tokens=20, seed=5, stop=(f"<{free[4]}>",)))
        end = free.index(free[4]) + 1
        assert (stopped.token_ids, stopped.finish_reason) == (free[:end], "stop")
        assert engine._rows["a"].tokens == [3, *free[: end - 1]]
        assert engine.stats.generated_tokens == end
        longer = [3, *free[:end], 7, 8]
        after = await talk.generate(longer, Sampling(max_tokens=9, seed=6))
        assert after.logprobs == pytest.approx(
            reference(model, longer + after.token_ids, len(longer)), abs=1e-5
        )

    run(work())


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_windows_and_caps_are_those_of_a_plain_pass(family: str) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "sliding_window": 8,
    }
    torch.manual_seed(0)
    if family == "mistral":
        made = transformers.MistralForCausalLM(transformers.MistralConfig(**sizes))
    else:
        config = transformers.Gemma2Config(**sizes, attn_implementation="eager")
        made = transformers.Gemma2ForCausalLM(config)
    engine = TorchEngine(made.eval())
    assert engine._ahead is not None
    for played in run(conversations(engine, 4, lambda: 0.0)):
        for prompt, _, done in played:
            expected = reference(made, prompt + done.token_ids, len(prompt))
            assert done.logprobs == pytest.approx(expected, abs=1e-5)


class OfTheHost(TorchDispatchMode):
    """Collects the operations that a tensor of the CPU goes into or comes out of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, and note it if it is one."""
        answer = func(*args, **(kwargs or {}))
        self.count += 1
        tensors = [x for x in tree_leaves((args, kwargs, answer)) if isinstance(x, torch.Tensor)]
        if any(tensor.device.type != "meta" for tensor in tensors):
            self.found.append(str(func))
        return answer


class Made(TorchFunctionMode):
    """Collects the calls that make a tensor of numbers of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note it if it is one."""
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt_neox"])
def test_a_step_asks_the_host_nothing(family: str, filtered: bool) -> None:
    """On `meta` there are no numbers: to ask for one is an error, and to bring one is seen."""
    cache = SlotCache(build(family).to("meta"))
    cache._no_grad = torch.no_grad  # operations are then seen as the kernels that they are made of
    with cache.inference():
        cache.encode([cache.take(), cache.take()], [[1, 2, 3], [4]])
        slots = Slots(2, VOCABULARY, 4, cache.device)
        cache.reserve(2, 8)
        with OfTheHost() as moved, Made() as made:
            for _ in range(2):
                slots.advance(cache, 128, filtered, filtered)
        assert moved.count > 100
        assert not moved.found
        assert not made.found
        with moved, made:
            slots.left_B.copy_(torch.zeros(2, dtype=torch.int64, device="cpu"))
            torch.tensor([1], device="meta")
        assert moved.found
        assert made.found
        with pytest.raises(RuntimeError, match="meta"):
            bool(slots.left_B.any())


def test_a_step_is_recorded_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording runs the step twice, and replays do what was recorded: nobody notices."""
    model = build(initializer_range=0.05)
    recorded: list[tuple[int, bool, bool]] = []

    class Graph:
        def __init__(self, ahead: Ahead, slots: Slots, way: tuple[int, bool, bool]) -> None:
            self.replay = lambda: slots.advance(ahead.cache, *way)

    def record(self: Ahead, slots: Slots, way: tuple[int, bool, bool]) -> Any:
        assert not slots.left_B.any()
        for _ in range(2):
            slots.advance(self.cache, *way)
        recorded.append(way)
        return Graph(self, slots, way)

    def play(records: bool) -> list[Any]:
        engine = TorchEngine(model)
        assert engine._ahead is not None
        engine._ahead.records = records
        return [
            [(done.token_ids, done.logprobs) for _, _, done in turns]
            for fields in ({}, {"top_k": 20, "min_tokens": 2, "stop_token_ids": (1, 2, 3)})
            for turns in run(conversations(engine, 6, lambda: 0.0, **fields))
        ]

    expected = play(False)
    monkeypatch.setattr(Ahead, "_recorded", record)
    assert play(True) == expected
    assert {(True, True), (False, False)} <= {way[1:] for way in recorded}
    assert len(recorded) < 20


def test_buffers_stay_where_they_are() -> None:
    """Over rollouts and pushes of weights; a longer context or weights elsewhere move them."""
    model = build()
    engine = TorchEngine(model)
    cache = engine._cache
    assert isinstance(cache, SlotCache)
    run(conversations(engine, 5, lambda: 0.0))
    generation, where = cache.generation, [a.data_ptr() for a, _ in cache._buffers.values()]
    run(engine.push(model.state_dict(), 1))
    run(conversations(engine, 5, lambda: 0.0))
    assert cache.generation == generation
    assert [a.data_ptr() for a, _ in cache._buffers.values()] == where
    run(ask(engine, [1] * 300, Sampling(max_tokens=2)))
    assert cache.generation > generation
    generation = cache.generation
    with torch.no_grad():
        model.lm_head.weight.data = model.lm_head.weight.data.clone()
    run(engine.push(model.state_dict(), 2))
    assert cache.generation > generation


def test_conversations_that_are_away_keep_what_they_hold() -> None:
    """A step writes beyond the end of rows that are no part of it, and nowhere else."""
    model = build()
    engine = TorchEngine(model, patience_ms=0)
    rng = random.Random(0)
    histories = {name: words(rng, 5 + 9 * i) for i, name in enumerate("abcde")}
    talks = {name: engine.conversation(name) for name in histories}

    async def say(name: str, tokens: int) -> Completion:
        done = await talks[name].generate(histories[name], Sampling(max_tokens=tokens, seed=1))
        histories[name] += done.token_ids
        return done

    async def work() -> None:
        await asyncio.gather(*(say(name, 3) for name in talks))
        for away in ("abcd", "bce", "e"):  # the others answer while these are away
            await asyncio.gather(*(say(name, 11) for name in talks if name not in away))
        for name in talks:
            prompt = list(histories[name])
            done = await say(name, 4)
            expected = reference(model, prompt + done.token_ids, len(prompt))
            assert done.logprobs == pytest.approx(expected, abs=1e-5)

    run(work())


def test_logits_that_are_not_finite_are_a_failure() -> None:
    model = build()
    engine = TorchEngine(model)
    talk = engine.conversation("a")
    ended = [0]

    def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        ended[0] += 1
        return output * float("nan") if ended[0] > 3 else output

    handle = model.lm_head.register_forward_hook(spoil)
    with pytest.raises(EngineError, match="not finite"):
        run(talk.generate([1, 2], Sampling(max_tokens=8)))
    with pytest.raises(EngineError, match="not finite"):
        run(talk.generate([1, 2], Sampling(max_tokens=8, temperature=0)))
    handle.remove()
    done = run(talk.generate([1, 2], Sampling(max_tokens=8)))
    assert done.logprobs == pytest.approx(reference(model, [1, 2, *done.token_ids], 2), abs=1e-5)


def test_it_keeps_the_contract_of_an_engine() -> None:
    first, second = build(seed=0, initializer_range=0.05), build(seed=1, initializer_range=0.05)
    weights = [{name: t.clone() for name, t in m.state_dict().items()} for m in (first, second)]
    check_engine(TorchEngine(first), vocabulary=VOCABULARY, weights=(weights[0], weights[1]))


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 10_000)), min_size=1))
def test_the_random_numbers_of_the_device_are_those_of_the_host(
    pairs: list[tuple[int, int]],
) -> None:
    streams, index = hash_seeds([seed for seed, _ in pairs]), [n for _, n in pairs]
    on_device = uniform_on_device(
        torch.from_numpy(streams.view(np.int64)), torch.tensor(index, dtype=torch.int64)
    )
    assert on_device.tolist() == uniform(streams, index).tolist()


def test_few_lengths_are_read() -> None:
    assert [bucket(n) for n in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]
    for n in range(1, 5000):
        assert n <= _read(n) <= max(128, n * 3 // 2)
    assert len({_read(n) for n in range(1, 4097)}) == 11
