"""The rules of `check_engine`, one function each: returns (a remark), raises AssertionError, or
raises Skip.

::

    @rule("seeds")
    async def _seeds(trial):
        first, again = await trial.ask(seed=1), await trial.ask(seed=1)
        assert first == again, "the same seed gives another response"

A rule is skipped where one that it `needs` has failed, so that one defect is reported once.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable

from ...foundation.aio import await_all
from .base import (
    Capabilities,
    Completion,
    ContextOverflow,
    Conversation,
    EngineError,
    EngineStats,
    Sampling,
)
from .trial import RULES, TOKENS, EngineTrial, rule

__all__ = ["RULES"]

_LONGEST = 4096
"""Longest context that is filled to its end."""


# -- responses -------------------------------------------------------------------------------------


@rule("declares", needs=())
async def _declares(trial: EngineTrial) -> str:
    engine = trial.engine
    assert isinstance(engine.capabilities, Capabilities), "'capabilities' is no Capabilities"
    assert isinstance(engine.stats, EngineStats), "'stats' is no EngineStats"
    assert isinstance(engine.max_context, int), "'max_context' is no number of tokens"
    assert engine.max_context >= 32, f"a context of {engine.max_context} tokens holds no dialogue"
    can = [name for name in Capabilities.__slots__ if getattr(engine.capabilities, name)]
    return ", ".join(can) or "generates only"


@rule("response", needs=("declares",))
async def _response(trial: EngineTrial) -> None:
    before = trial.engine.stats.requests, trial.engine.stats.generated_tokens
    for seed in range(3):
        said = await trial.ask(trial.prompt(seed), seed=seed)
        ids, count = said.token_ids, len(said.token_ids)
        assert count == len(said.logprobs), (
            f"{count} tokens came with {len(said.logprobs)} log-probabilities"
        )
        assert (count, said.finish_reason) == (TOKENS, "length"), (
            f"{TOKENS} tokens and no stop were asked for: {count} came, '{said.finish_reason}'"
        )
        assert all(isinstance(i, int) and i >= 0 for i in ids), f"ids are not ids: {ids}"
        assert all(math.isfinite(p) and p <= 0 for p in said.logprobs), (
            f"log-probabilities are not finite or above 0: {said.logprobs}"
        )
        assert said.version == trial.engine.version, (
            f"a response has version {said.version}, the engine {trial.engine.version}"
        )
    after = trial.engine.stats.requests, trial.engine.stats.generated_tokens
    counted = after[0] - before[0], after[1] - before[1]
    assert counted == (3, 3 * TOKENS), (
        f"3 responses of {TOKENS} tokens are counted as {counted[0]} of {counted[1]} in all"
    )


@rule("seeds")
async def _seeds(trial: EngineTrial) -> str | None:
    said = [await trial.ask(seed=seed) for seed in range(8)]
    for seed, one in enumerate(said):
        assert trial.same(one, await trial.ask(seed=seed)), (
            f"seed {seed} gives another response when it is asked again"
        )
    if all(p > -trial.tolerance for one in said for p in one.logprobs):
        return "the model is certain of every token"
    assert any(one.token_ids != said[0].token_ids for one in said), (
        "eight seeds give the same response"
    )
    return None


@rule("greedy")
async def _greedy(trial: EngineTrial) -> None:
    first, other = [await trial.ask(temperature=0, seed=seed) for seed in (1, 2)]
    assert trial.same(first, other), "at temperature 0 the response depends on the seed"


@rule("length")
async def _length(trial: EngineTrial) -> None:
    whole = await trial.ask(seed=3)
    short = await trial.ask(seed=3, max_tokens=3)
    assert (short.token_ids, short.finish_reason) == (whole.token_ids[:3], "length"), (
        f"max_tokens=3 gives {short.token_ids} ('{short.finish_reason}'), the first tokens without"
        f" it are {whole.token_ids[:3]}"
    )


@rule("stop token")
async def _stop_token(trial: EngineTrial) -> None:
    whole = await trial.ask(seed=4)
    token = whole.token_ids[TOKENS // 2]
    end = whole.token_ids.index(token) + 1
    said = await trial.ask(seed=4, stop_token_ids=(token,))
    assert (said.token_ids, said.finish_reason) == (whole.token_ids[:end], "stop"), (
        f"the stop token {token} ends {whole.token_ids} as {said.token_ids}"
        f" ('{said.finish_reason}'): it is kept, nothing comes after it, and the reason is 'stop'"
    )


@rule("context")
async def _context(trial: EngineTrial) -> str | None:
    longest = trial.engine.max_context
    with_room = trial.prompt(length=min(longest, _LONGEST) - 3)
    for length in (longest, longest + 1):
        try:
            await trial.ask([0] * length)
        except ContextOverflow:
            continue
        raise AssertionError(f"a prompt of {length} tokens fits into a context of {longest}")
    if longest > _LONGEST:
        return f"{longest} tokens, not filled"
    said = await trial.ask(with_room)
    assert (len(said.token_ids), said.finish_reason) == (3, "length"), (
        f"three tokens before the end of the context {len(said.token_ids)} are sampled"
        f" ('{said.finish_reason}')"
    )
    return None


# -- scores ----------------------------------------------------------------------------------------


@rule("score")
async def _score(trial: EngineTrial) -> None:
    trial.can("scores")
    prompt = trial.prompt(5)
    for temperature in (1.0, 0.0):
        said = await trial.ask(prompt, seed=5, temperature=temperature)
        tokens = prompt + said.token_ids
        scores = await trial.engine.score(tokens, len(prompt))
        assert trial.near(scores, said.logprobs), (
            f"what was sampled at temperature {temperature:g} with {said.logprobs} is scored"
            f" {scores}"
        )
    whole = await trial.engine.score(tokens, 1)
    assert len(whole) == len(tokens) - 1, f"{len(tokens) - 1} tokens have {len(whole)} scores"
    assert trial.near(whole[len(prompt) - 1 :], scores), "scores depend on where scoring starts"
    assert await trial.engine.score(tokens, len(tokens)) == [], "scores of no token"


@rule("score in a conversation", needs=("score", "turns"))
async def _score_in_a_conversation(trial: EngineTrial) -> None:
    trial.can("scores")
    async with trial.conversation() as talk:
        prompt = trial.prompt(6)
        said = await talk.generate(prompt, Sampling(max_tokens=TOKENS, seed=6))
        history = prompt + said.token_ids
        for finished in (False, True):
            if finished:
                talk.finish()
            for tokens in (history + trial.prompt(7, 4), history[:5] + trial.prompt(8, 4)):
                there = await talk.score(tokens, 3)
                assert trial.near(there, await trial.engine.score(tokens, 3)), (
                    f"{'finished' if finished else 'open'}: a conversation scores otherwise than"
                    " its engine"
                )


# -- conversations ---------------------------------------------------------------------------------


async def _dialogue(
    trial: EngineTrial, talk: Conversation, turns: int, pause: Callable[[], float]
) -> list[tuple[list[int], Sampling, Completion]]:
    """Play turns of several lengths; what is said depends on the id of the conversation alone."""
    rng, history, said = random.Random(talk.id), trial.prompt(talk.id, 6), []
    for turn in range(turns):
        sampling = Sampling(max_tokens=rng.randint(1, 4), seed=rng.randrange(2**31))
        completion = await talk.generate(history, sampling)
        said.append((history, sampling, completion))
        history = history + completion.token_ids + trial.prompt((talk.id, turn), rng.randint(1, 3))
        await asyncio.sleep(pause())
    return said


@rule("turns")
async def _turns(trial: EngineTrial) -> None:
    async with trial.conversation() as talk:
        said = await _dialogue(trial, talk, 3, lambda: 0)
    for history, sampling, completion in said:
        alone = await trial.ask(history, **sampling.model_dump())
        assert trial.same(completion, alone), (
            f"the same prompt of {len(history)} tokens gives {completion.token_ids} in a"
            f" conversation and {alone.token_ids} in one of its own"
        )


@rule("together", needs=("turns",))
async def _together(trial: EngineTrial) -> None:
    talks = [trial.conversation() for _ in range(6)]

    async def play(talk: Conversation) -> list[tuple[list[int], Sampling, Completion]]:
        async with talk:
            return await _dialogue(trial, talk, 3, lambda: 0)

    for said in await await_all(play(talk) for talk in talks):
        for history, sampling, completion in said:
            alone = await trial.ask(history, **sampling.model_dump())
            assert trial.same(completion, alone), (
                f"a response beside others is {completion.token_ids}, alone {alone.token_ids}"
            )


@rule("ids", needs=("turns",))
async def _ids(trial: EngineTrial) -> None:
    talk = trial.engine.conversation("check-twice")
    try:
        trial.engine.conversation("check-twice")
    except ValueError:
        pass
    else:
        raise AssertionError("an id that is in use opens a second conversation")
    await talk.generate(trial.prompt(9), Sampling(max_tokens=2))
    talk.close()
    talk.close()
    async with trial.engine.conversation("check-twice") as again:
        said = await again.generate(trial.prompt(10), Sampling(max_tokens=TOKENS))
    assert trial.same(said, await trial.ask(trial.prompt(10))), (
        "a conversation answers otherwise because one of the same id was closed before"
    )


@rule("bit-exact", needs=("together",))
async def _bit_exact(trial: EngineTrial) -> None:
    trial.can("bit_exact")

    async def play(timing: int) -> list[list[tuple[list[int], list[float]]]]:
        rng, said = random.Random(timing), {}
        names = [f"exact-{i:02d}" for i in range(9)]
        first = [trial.engine.conversation(names.pop(0)) for _ in range(4)]

        async def lane(talk: Conversation) -> None:
            while True:
                said[talk.id] = await _dialogue(
                    trial, talk, 2, lambda: rng.choice((0, 0.001, 0.004))
                )
                if not names:
                    return talk.close()
                last, talk = talk, trial.engine.conversation(names.pop(0))
                last.close()

        await await_all(lane(talk) for talk in first)
        return [[(c.token_ids, c.logprobs) for _, _, c in said[name]] for name in sorted(said)]

    assert await play(1) == await play(2), (
        "the bits of responses depend on how long conversations are away"
    )


@rule("over")
async def _over(trial: EngineTrial) -> None:
    talk = trial.conversation()
    talk.finish()
    await _fails(talk.generate(trial.prompt(), Sampling(max_tokens=1)), "a finished conversation")
    talk.close()
    await _fails(talk.generate(trial.prompt(), Sampling(max_tokens=1)), "a closed conversation")
    waits = trial.conversation()  # asks for nothing, so that a patient engine leaves others pending
    talk = trial.conversation()
    asked = asyncio.ensure_future(
        talk.generate(trial.prompt(), Sampling(max_tokens=trial.engine.max_context // 2))
    )
    await asyncio.sleep(0)
    pending = not asked.done()
    talk.close()
    if pending:
        await _fails(asked, "a conversation that was closed while its request was pending")
    waits.close()
    await trial.ask()


async def _fails(work: Awaitable[Completion], who: str) -> None:
    try:
        await work
    except EngineError:
        return
    raise AssertionError(f"{who} got a response")


@rule("frees")
async def _frees(trial: EngineTrial) -> str:
    before = trial.engine.kept_tokens
    assert before == 0, f"{before} tokens are kept though every conversation is closed"
    async with trial.conversation() as talk:
        await talk.generate(trial.prompt(), Sampling(max_tokens=4))
        kept = trial.engine.kept_tokens
        talk.finish()
    await trial.ask(trial.prompt(11))
    after = trial.engine.kept_tokens
    assert after == 0, f"{after} tokens are kept though every conversation is closed"
    return f"{kept} tokens of an open conversation"


# -- failures --------------------------------------------------------------------------------------


@rule("failure")
async def _failure(trial: EngineTrial) -> None:
    expected = await trial.ask()
    unknown = [10**9]
    try:
        await trial.ask(unknown)
    except EngineError:
        pass
    except Exception as error:
        raise AssertionError(
            f"an id that no model knows raises {type(error).__name__}, not EngineError"
        ) from error
    else:
        raise AssertionError("an id that no model knows gets a response")
    assert trial.same(expected, await trial.ask()), "after a failure the engine answers otherwise"


@rule("cancel")
async def _cancel(trial: EngineTrial) -> None:
    expected = await trial.ask()
    async with trial.conversation() as talk:
        asked = asyncio.ensure_future(
            talk.generate(trial.prompt(), Sampling(max_tokens=trial.engine.max_context // 2))
        )
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        said = await talk.generate(trial.prompt(), Sampling(max_tokens=TOKENS))
    assert trial.same(expected, said), "after a cancelled request a conversation answers otherwise"


# -- weights ---------------------------------------------------------------------------------------


@rule("push")
async def _push(trial: EngineTrial) -> None:
    said = []
    for version, which in enumerate((0, 1, 0), 101):
        await trial.push(which, version)
        said.append(await trial.ask())
        assert said[-1].version == version, (
            f"after a push of version {version} a response has version {said[-1].version}"
        )
    assert not trial.same(said[0], said[1]), (
        "a push changes nothing: responses are sampled with the weights before it"
    )
    assert trial.same(said[0], said[2]), "the same weights pushed again answer otherwise"


@rule("push in a conversation", needs=("push", "turns"))
async def _push_in_a_conversation(trial: EngineTrial) -> None:
    await trial.push(0, 111)
    async with trial.conversation() as talk:
        history = trial.prompt(12)
        history += (await talk.generate(history, Sampling(max_tokens=4))).token_ids
        await trial.push(1, 112)
        said = await talk.generate(history, Sampling(max_tokens=TOKENS))
        assert said.version == 112, "after a push an open conversation has the version before it"
    assert trial.same(said, await trial.ask(history)), (
        "after a push an open conversation answers with what was computed before it"
    )
    await trial.push(0, 113)


@rule("push in a response", needs=("push",))
async def _push_in_a_response(trial: EngineTrial) -> str:
    await trial.push(0, 121)
    before = trial.engine.stats.generated_tokens
    async with trial.conversation() as talk:
        long = Sampling(max_tokens=trial.engine.max_context // 2)
        asked = asyncio.ensure_future(talk.generate(trial.prompt(13), long))
        while trial.engine.stats.generated_tokens == before and not asked.done():
            await asyncio.sleep(0)
        in_flight = not asked.done()
        await trial.push(1, 122)
        said = await asked
    assert said.version == 121, (
        f"a response that began with version 121 says that version {said.version} sampled it"
    )
    await trial.push(0, 123)
    return "" if in_flight else "the response was over before the push"
