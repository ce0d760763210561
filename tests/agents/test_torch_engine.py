"""TorchEngine against plain forward passes without a cache: numbers, scheduling, failures."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from turnrl.agents.engines.base import (
    Completion,
    ContextOverflow,
    Conversation,
    EngineError,
    Sampling,
)
from turnrl.agents.engines.scheduler import Scheduler
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.foundation.errors import UserError

transformers = pytest.importorskip("transformers")
VOCABULARY = 97
FAMILIES = ["qwen2", "llama", "gpt_neox", "mistral", "gemma3"]
NUMBERS = itertools.count()


def build(family: str = "qwen2", seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    } | fields
    if family == "qwen2":
        config = transformers.Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **common)
        return transformers.Qwen2ForCausalLM(config).eval()
    if family == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(num_key_value_heads=4, **common)
        ).eval()
    if family == "mistral":
        config = transformers.MistralConfig(num_key_value_heads=2, sliding_window=6, **common)
        return transformers.MistralForCausalLM(config).eval()
    if family == "gemma3":  # a layer with a window below one without
        common |= {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}
        config = transformers.Gemma3TextConfig(num_key_value_heads=2, head_dim=16, **common)
        return transformers.Gemma3ForCausalLM(config).eval()
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**common)).eval()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(limited())


@torch.no_grad()
def reference(model: Any, ids: list[int], start: int, temperature: float = 1.0) -> list[float]:
    logits = model(torch.tensor([ids]), use_cache=False).logits[0].float() / temperature
    return [float(logits[i - 1].log_softmax(-1)[ids[i]]) for i in range(start, len(ids))]


@torch.no_grad()
def greedy(model: Any, ids: list[int], n: int) -> list[int]:
    ids = list(ids)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[-n:]


def words(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(n)]


async def ask(engine: TorchEngine, prompt: list[int], sampling: Sampling) -> Completion:
    """A response in a conversation of its own."""
    async with engine.conversation(f"alone-{next(NUMBERS)}") as talk:
        return await talk.generate(prompt, sampling)


Turn = tuple[list[int], Sampling, Completion]


async def converse(
    talk: Conversation, turns: int, jitter: Callable[[], float], **fields: Any
) -> list[Turn]:
    """A conversation of `turns` turns with observations and answers of several lengths."""
    rng = random.Random(talk.id)
    history = words(rng, rng.randint(3, 30))
    played: list[Turn] = []
    for turn in range(turns):
        sampling = Sampling(max_tokens=rng.randint(1, 6), seed=rng.randrange(1000) + turn, **fields)
        completion = await talk.generate(history, sampling)
        played.append((list(history), sampling, completion))
        history = history + completion.token_ids + words(rng, rng.randint(1, 25))
        await asyncio.sleep(jitter())
    talk.close()
    return played


async def conversations(
    engine: TorchEngine, n: int, jitter: Callable[[], float], **fields: Any
) -> list[list[Turn]]:
    talks = [engine.conversation(f"s{i:02d}") for i in range(n)]
    return await asyncio.gather(
        *(converse(talk, 2 + i % 4, jitter, **fields) for i, talk in enumerate(talks))
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_conversations_match_plain_forward(family: str) -> None:
    model = build(family)
    engine = TorchEngine(model, patience_ms=1)
    rng = random.Random(0)
    for fields in ({"temperature": 0}, {"temperature": 0.8}):
        for played in run(conversations(engine, 7, lambda: rng.random() * 0.01, **fields)):
            for prompt, sampling, completion in played:
                ids = prompt + completion.token_ids
                if fields["temperature"] == 0:
                    assert completion.token_ids == greedy(model, prompt, sampling.max_tokens)
                expected = reference(model, ids, len(prompt), fields["temperature"] or 1.0)
                assert completion.logprobs == pytest.approx(expected, abs=1e-5)
                assert len(completion.token_ids) == sampling.max_tokens
                assert completion.finish_reason == "length"
    assert engine.stats.cached_tokens > engine.stats.prompt_tokens > 0
    assert engine._cache.rows == []


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_admission_rule_does_not_change_results(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    expected = run(conversations(TorchEngine(model), 9, lambda: 0))
    monkeypatch.setattr(Scheduler.__init__, "__defaults__", (share,))
    for played, other in zip(
        expected, run(conversations(TorchEngine(model, max_batch=5), 9, lambda: 0)), strict=True
    ):
        for (_, _, a), (_, _, b) in zip(played, other, strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_result_does_not_depend_on_the_batch() -> None:
    engine = TorchEngine(build())
    rng = random.Random(1)
    requests = [
        (words(rng, rng.randint(1, 40)), Sampling(max_tokens=8, seed=i, top_p=0.9))
        for i in range(32)
    ]

    async def together(n: int) -> list[Completion]:
        return list(await asyncio.gather(*(ask(engine, p, s) for p, s in requests[:n])))

    everything = run(together(32))
    for n in (1, 2):
        for a, b in zip(run(together(n)), everything, strict=False):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_cache_is_reused_and_cut_back() -> None:
    model = build()
    engine = TorchEngine(model)
    talk = engine.conversation("a")

    async def work() -> None:
        prompt = list(range(20))
        first = await talk.generate(prompt, Sampling(max_tokens=5))
        assert (engine.stats.prompt_tokens, engine.stats.cached_tokens) == (20, 0)
        longer = prompt + first.token_ids + [1, 2, 3]
        second = await talk.generate(longer, Sampling(max_tokens=5))
        # The last sampled token was never encoded.
        assert (engine.stats.prompt_tokens, engine.stats.cached_tokens) == (20 + 4, 24)
        assert second.logprobs == pytest.approx(
            reference(model, longer + second.token_ids, len(longer)), abs=1e-5
        )
        other = [*prompt[:10], 50, 51]
        third = await talk.generate(other, Sampling(max_tokens=5))
        assert engine.stats.cached_tokens == 24 + 10
        assert third.logprobs == pytest.approx(
            reference(model, other + third.token_ids, len(other)), abs=1e-5
        )
        await talk.generate(other, Sampling(max_tokens=1))
        assert engine.stats.cached_tokens == 24 + 10 + 11  # a prompt's last token is always encoded

    run(work())


def test_memory_is_bounded_by_dropping_idle_caches() -> None:
    model = build()
    engine = TorchEngine(model, max_cached_tokens=60, patience_ms=0)
    talks = {name: engine.conversation(name) for name in "abc"}

    async def work() -> None:
        for name in "abcab":
            prompt = [ord(name) - 90] * 30
            completion = await talks[name].generate(prompt, Sampling(max_tokens=2))
            assert completion.logprobs == pytest.approx(
                reference(model, prompt + completion.token_ids, 30), abs=1e-5
            )
        assert engine.stats.cached_tokens == 0
        assert len(engine._rows) == 1

    run(work())


def test_long_prompts_are_encoded_in_pieces() -> None:
    model = build()
    engine = TorchEngine(model)
    engine._cache.budget = 32
    rng = random.Random(3)
    prompts = [words(rng, n) for n in (100, 70, 33, 5)]

    async def work() -> None:
        made = await asyncio.gather(*(ask(engine, p, Sampling(max_tokens=3)) for p in prompts))
        for prompt, completion in zip(prompts, made, strict=True):
            expected = reference(model, prompt + completion.token_ids, len(prompt))
            assert completion.logprobs == pytest.approx(expected, abs=1e-5)
        assert await engine.score(prompts[0], 20) == pytest.approx(
            reference(model, prompts[0], 20), abs=1e-5
        )

    run(work())


def test_seeds() -> None:
    engine = TorchEngine(build(initializer_range=0.02))

    async def work() -> list[list[int]]:
        made = await asyncio.gather(
            *(ask(engine, [1], Sampling(max_tokens=12, seed=s)) for s in (1, 1, 2))
        )
        return [completion.token_ids for completion in made]

    first, same, other = run(work())
    assert first == same != other


def test_score_leaves_the_cache_as_it_was() -> None:
    model = build()
    engine = TorchEngine(model)
    talk = engine.conversation("a")

    async def work() -> None:
        prompt = list(range(15))
        completion = await talk.generate(prompt, Sampling(max_tokens=4))
        history = prompt + completion.token_ids
        answers = [[*history, 9, 8, 7], [*history, 5], [*history[:5], 60, 61]]
        stored = list(engine._rows["a"].tokens)
        for ids in answers[:2]:
            assert await talk.score(ids, len(ids) - 1) == pytest.approx(
                reference(model, ids, len(ids) - 1), abs=1e-5
            )
            assert engine._rows["a"].tokens == stored
        assert await talk.score(history, 3) == pytest.approx(reference(model, history, 3), abs=1e-5)
        assert engine._rows["a"].tokens == stored
        scores = await asyncio.gather(*(engine.score(ids, 2) for ids in answers))
        for ids, got in zip(answers, scores, strict=True):
            assert got == pytest.approx(reference(model, ids, 2), abs=1e-5)
        longer = [*history, 1, 2]
        completion = await talk.generate(longer, Sampling(max_tokens=4))
        assert completion.logprobs == pytest.approx(
            reference(model, longer + completion.token_ids, len(longer)), abs=1e-5
        )
        assert await engine.score([1, 2], 2) == []
        with pytest.raises(ValueError, match="start"):
            await engine.score([1, 2], 0)

    run(work())


class Letters:
    """A tokenizer whose token i is the character with code i + 30."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(i + 30) for i in ids)


def test_stops_and_lengths() -> None:
    model = build(initializer_range=0.02)
    engine = TorchEngine(model, Letters())

    async def work() -> None:
        free = (await ask(engine, [3], Sampling(max_tokens=30, seed=5))).token_ids
        assert len(free) == 30
        token = free[10]
        at = free.index(token)
        stopped = await ask(engine, [3], Sampling(max_tokens=30, seed=5, stop_token_ids=(token,)))
        assert (stopped.token_ids, stopped.finish_reason) == (free[: at + 1], "stop")
        text = Letters().decode(free[7:9])
        stopped = await ask(engine, [3], Sampling(max_tokens=30, seed=5, stop=("never!", text)))
        assert stopped.finish_reason == "stop"
        assert Letters().decode(stopped.token_ids).endswith(text)
        assert stopped.token_ids == free[: len(stopped.token_ids)]
        later = await ask(engine, [3], Sampling(max_tokens=30, seed=5, stop=(text,), min_tokens=20))
        assert (later.token_ids, later.finish_reason) == (free[:20], "stop")
        every = tuple(range(1, VOCABULARY))
        late = await ask(engine, [3], Sampling(max_tokens=30, min_tokens=4, stop_token_ids=every))
        assert late.token_ids[:4] == [0] * 4
        assert late.logprobs[:4] == [0.0] * 4
        assert len(late.token_ids) == 5 or late.token_ids[4] == 0

    run(work())
    with pytest.raises(UserError, match="tokenizer"):
        run(ask(TorchEngine(model), [3], Sampling(stop=("x",))))


def test_context_overflow() -> None:
    engine = TorchEngine(build(), max_context=16)

    async def work() -> None:
        assert len((await ask(engine, [1] * 12, Sampling(max_tokens=4))).token_ids) == 4
        with pytest.raises(ContextOverflow):
            await ask(engine, [1] * 16, Sampling(max_tokens=1))
        cut = await ask(engine, [1] * 12, Sampling(max_tokens=5))
        assert (len(cut.token_ids), len(cut.logprobs), cut.finish_reason) == (4, 4, "length")
        [only] = (await ask(engine, [1] * 15, Sampling(max_tokens=5))).token_ids
        assert (
            await ask(engine, [1] * 15, Sampling(max_tokens=5, stop_token_ids=(only,)))
        ).finish_reason == "stop"
        with pytest.raises(ContextOverflow):
            await engine.score([1] * 17, 3)
        assert len((await ask(engine, [1], Sampling(max_tokens=2))).token_ids) == 2

    run(work())


def test_cancellation_and_close() -> None:
    engine = TorchEngine(build())

    async def work() -> None:
        away = engine.conversation("away")  # asks for nothing, so the others wait
        talks = [engine.conversation(name) for name in "ab"]
        tasks = [
            asyncio.ensure_future(talk.generate([1, 2], Sampling(max_tokens=3))) for talk in talks
        ]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        talks[1].close()
        with pytest.raises(EngineError, match="closed"):
            await tasks[1]
        assert engine._scheduler.waiting == []
        assert len(await engine.score([5, 6], 1)) == 1  # waits for nobody
        talks[0].close()
        async with engine.conversation("c") as talk:
            waiting = asyncio.ensure_future(talk.generate([5], Sampling(max_tokens=2)))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            away.close()
            await waiting
        async with engine.conversation("d") as talk:
            long = asyncio.ensure_future(talk.generate([5], Sampling(max_tokens=400)))
            await asyncio.sleep(0.02)
            long.cancel()
            assert len((await talk.generate([5], Sampling(max_tokens=2))).token_ids) == 2
            assert engine._scheduler.running == []

    run(work())


def test_patience_ends() -> None:
    engine = TorchEngine(build(), patience_ms=20)
    engine.conversation("away")
    assert len(run(ask(engine, [1, 2], Sampling(max_tokens=3))).token_ids) == 3


def test_failure_in_the_forward_pass_is_an_engine_error() -> None:
    model = build()
    engine = TorchEngine(model)
    prompt = list(range(8))
    expected = run(ask(engine, prompt, Sampling(max_tokens=4)))
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of luck")

    handle = model.model.layers[1].register_forward_pre_hook(fail)

    async def work() -> None:
        with pytest.raises(EngineError, match="out of luck"):
            await talk.generate(prompt, Sampling(max_tokens=4))
        assert await talk.generate(prompt, Sampling(max_tokens=4)) == expected
        talk.close()

    talk = engine.conversation("a")
    run(work())
    handle.remove()
    with pytest.raises(EngineError, match="IndexError"):
        run(ask(engine, [VOCABULARY + 5], Sampling()))
    assert run(ask(engine, prompt, Sampling(max_tokens=4))) == expected


def test_what_a_failed_pass_stored_harms_nobody() -> None:
    """Not the conversation, which asks again, and not the one that gets its row."""
    model = build()
    engine = TorchEngine(model)
    spoils = [False]

    def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if spoils[0] else output

    handle = model.model.layers[0].self_attn.v_proj.register_forward_hook(spoil)

    async def work() -> None:
        others = [engine.conversation(name) for name in "xy"]  # keep what is stored alive
        for talk in others:
            talk.finish()
        for again in (False, True):
            talk = engine.conversation(f"a{again}")
            spoils[0] = True
            with pytest.raises(EngineError, match="not finite"):
                await talk.generate(list(range(30)), Sampling(max_tokens=4))
            spoils[0] = False
            if again:
                done = await talk.generate([1, 2], Sampling(max_tokens=4))
                expected = reference(model, [1, 2, *done.token_ids], 2)
                assert done.logprobs == pytest.approx(expected, abs=1e-5)
            talk.close()

    run(work())
    handle.remove()


def test_a_push_changes_results_and_drops_caches() -> None:
    model, other = build(seed=0), build(seed=1)
    engine = TorchEngine(model)
    talk = engine.conversation("a")

    async def work() -> None:
        history = list(range(12))
        history += (await talk.generate(history, Sampling(max_tokens=4))).token_ids
        with torch.no_grad():
            model.model.layers[0].self_attn.v_proj.weight.mul_(-1.5)
        pointer = model.model.embed_tokens.weight.data_ptr()
        await engine.push(model.state_dict(), 3)
        assert model.model.embed_tokens.weight.data_ptr() == pointer
        completion = await talk.generate(history, Sampling(max_tokens=4))
        assert completion.version == 3
        assert completion.logprobs == pytest.approx(
            reference(model, history + completion.token_ids, 16), abs=1e-5
        )
        long = asyncio.ensure_future(talk.generate(history, Sampling(max_tokens=300)))
        await asyncio.sleep(0.05)
        assert not long.done()
        await engine.push(other.state_dict(), 4)
        whole = history + (await long).token_ids
        assert (await long).version == 3
        assert (await long).logprobs[-50:] == pytest.approx(
            reference(other, whole, len(whole) - 50), abs=2e-5
        )
        with pytest.raises(ValueError, match="nonsense"):
            await engine.push({"nonsense": torch.zeros(1)}, 5)

    run(work())


def test_training_works_after_generation() -> None:
    model = build(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    ).train()
    engine = TorchEngine(model)
    completion = run(ask(engine, list(range(40)), Sampling(max_tokens=4)))
    assert model.training
    assert model.model.layers[0].training
    assert not any(t.is_inference() for t in [*model.parameters(), *model.buffers()])
    ids = torch.tensor([list(range(40)) + completion.token_ids])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    run(engine.push(model.state_dict(), 1))
    after = run(ask(engine, list(range(40)), Sampling(max_tokens=4)))
    model.eval()
    assert after.logprobs == pytest.approx(
        reference(model, list(range(40)) + after.token_ids, 40), abs=1e-5
    )


def test_same_bits_whatever_environments_take() -> None:
    model = build(initializer_range=0.02)

    def play(seed: int) -> list[list[tuple[list[int], list[float]]]]:
        rng = random.Random(seed)
        played = run(conversations(TorchEngine(model), 10, lambda: rng.choice([0, 0, 0.002, 0.01])))
        return [[(c.token_ids, c.logprobs) for _, _, c in turns] for turns in played]

    first = play(1)
    assert first == play(2)
    assert first == play(3)


def test_two_event_loops_keep_the_conversation() -> None:
    engine = TorchEngine(build())
    talk = engine.conversation("a")
    first = run(talk.generate([1, 2, 3], Sampling(max_tokens=4)))
    run(talk.generate([1, 2, 3, *first.token_ids, 5], Sampling(max_tokens=4)))
    assert engine.stats.cached_tokens == 6
    talk.close()

    async def abandon() -> None:
        asyncio.ensure_future(ask(engine, [1], Sampling(max_tokens=400)))  # noqa: RUF006
        await asyncio.sleep(0.01)

    run(abandon())
    assert len(run(ask(engine, [1], Sampling(max_tokens=2))).token_ids) == 2


class Tilted(transformers.LlamaForCausalLM):  # type: ignore[misc,name-defined]
    """A model that changes its logits after the head in a way of its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.arange(VOCABULARY) / VOCABULARY
        return output


class Forgetful(transformers.LlamaModel):  # type: ignore[misc,name-defined]
    """A decoder that keeps nothing in the cache that it is given."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        kwargs |= {"attention_mask": None, "use_cache": False}
        return super().forward(input_ids, **kwargs)


@pytest.mark.parametrize(("kind", "reason"), [("tilted", "by 0.9"), ("forgetful", "differ")])
def test_a_model_whose_logits_would_be_others_is_refused_by_name(kind: str, reason: str) -> None:
    model = build("llama")
    if kind == "tilted":
        model.__class__ = Tilted
    else:
        model.model.__class__ = Forgetful
    with pytest.raises(UserError, match=f"cannot serve {type(model).__name__}: .*{reason}") as no:
        TorchEngine(model)
    assert "use a model of another family" in str(no.value)
    assert "\n" not in str(no.value)
