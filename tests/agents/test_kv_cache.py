"""Equal opening prompts are encoded once; what the conversations hold afterwards is their own."""

from __future__ import annotations

import asyncio
import random

import pytest
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine

from .test_torch_engine import FAMILIES, build, reference, run, words


@pytest.mark.parametrize("family", FAMILIES)
def test_a_group_shares_its_opening(family: str) -> None:
    model = build(family)
    engine = TorchEngine(model)
    rng = random.Random(1)
    openings = [words(rng, 20), words(rng, 31)]
    fed: list[int] = []
    encode = engine._cache.encode

    def counting(rows: list[object], new: list[list[int]], **fields: bool) -> object:
        fed.append(len(rows) * max(map(len, new)))
        return encode(rows, new, **fields)

    engine._cache.encode = counting  # type: ignore[assignment, method-assign]

    async def one(i: int) -> list[tuple[list[int], Completion]]:
        history, played = list(openings[i % 2]), []
        for turn in range(3):
            done = await talks[i].generate(history, Sampling(max_tokens=4, seed=10 * i + turn))
            played.append((list(history), done))
            history += done.token_ids + words(random.Random(i), 5)
        talks[i].close()
        return played

    talks = [engine.conversation(f"s{i}") for i in range(6)]

    async def all_of_them() -> list[list[tuple[list[int], Completion]]]:
        return await asyncio.gather(*(one(i) for i in range(6)))

    played = run(all_of_them())
    assert fed[0] == 2 * 31  # two rows of the longer opening, not six
    assert len({tuple(episode[0][1].token_ids) for episode in played}) > 2
    for episode in played:
        for history, done in episode:
            ids = history + done.token_ids
            assert done.logprobs == pytest.approx(reference(model, ids, len(history)), abs=1e-5)


def test_equal_texts_are_scored_alike() -> None:
    model = build()
    engine = TorchEngine(model)
    ids = words(random.Random(2), 12)

    async def work() -> tuple[list[float], ...]:
        return await asyncio.gather(
            engine.score(ids, 4), engine.score(ids, 4), engine.score(ids, 9)
        )

    scores = run(work())
    assert scores[0] == scores[1] == pytest.approx(reference(model, ids, 4), abs=1e-5)
    assert scores[2] == pytest.approx(scores[0][5:], abs=1e-5)
