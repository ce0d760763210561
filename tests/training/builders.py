"""Batches by hand: turns as rows of indices, and episodes out of random numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.models.forward import Scores
from turnrl.envs.task import Task
from turnrl.training.batch import TokenBatch
from turnrl.training.reward_table import RewardTable

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())
NAN = float("nan")


def golden(name: str) -> Tensor:
    return torch.tensor(GOLDEN["inputs"][name], dtype=torch.float64)


def entry(name: str) -> tuple[Tensor, float]:
    found = GOLDEN["entries"][name]
    return torch.tensor(found["value"], dtype=torch.float64), found["atol"]


def batch_of(
    turn_BL: list[list[int]],
    *,
    episodes: list[int] | None = None,
    groups: list[int] | None = None,
    turns: list[int] | None = None,
    terminated: list[bool] | None = None,
) -> TokenBatch:
    """One episode per row unless `episodes` says otherwise; -1 is padding or observation."""
    width = max(len(row) for row in turn_BL)
    turn = torch.tensor([row + [-1] * (width - len(row)) for row in turn_BL])
    episode_B = torch.tensor(episodes if episodes is not None else list(range(len(turn_BL))))
    count = int(episode_B.max()) + 1
    most = [int(turn[episode_B == e].max()) + 1 for e in range(count)]
    return TokenBatch(
        tokens_BL=torch.zeros_like(turn),
        lengths_B=torch.tensor([len(row) for row in turn_BL]),
        turn_BL=turn,
        scores={"engine": scores(torch.zeros(turn.shape, dtype=torch.float64))},
        versions_BL=torch.where(turn >= 0, 0, -1),
        episode_B=episode_B,
        group_E=torch.tensor(groups or [0] * count),
        turns_E=torch.tensor(turns or most),
        terminated_E=torch.tensor(terminated or [True] * count),
        success_E=torch.zeros(count, dtype=torch.bool),
    )


def scores(logprobs_BL: Tensor, **more: Tensor) -> Scores:
    """What a forward pass would have given."""
    return Scores({"logprobs": logprobs_BL, **more})


def table(
    rewards: dict[str, list[list[float]]], weights: dict[str, float] | None = None
) -> RewardTable:
    """name -> per episode -> per turn; weights of 1 unless they are given."""
    rows = next(iter(rewards.values()))
    width = max((len(row) for row in rows), default=0)
    padded = [[[*row, *[0.0] * (width - len(row))] for row in each] for each in rewards.values()]
    return RewardTable(
        tuple(rewards),
        torch.tensor([(weights or {}).get(name, 1.0) for name in rewards], dtype=torch.float64),
        torch.tensor(padded, dtype=torch.float64).view(len(rewards), len(rows), width),
        torch.tensor([len(row) for row in rows]),
    )


def table_of(values_KET: Tensor, batch: TokenBatch) -> RewardTable:
    """One reward of weight 1 by its numbers."""
    return RewardTable(("r",), torch.ones(1, dtype=torch.float64), values_KET, batch.turns_E)


def episodic(
    rewards: list[list[float]], groups: list[int] | None = None
) -> tuple[TokenBatch, RewardTable]:
    """One token per turn, one row per episode, and its rewards."""
    batch = batch_of([list(range(len(turns))) or [-1] for turns in rewards], groups=groups)
    return batch, table({"r": rewards})


def golden_batch() -> tuple[TokenBatch, RewardTable]:
    """Two turns per episode, the first of three tokens, with the golden rewards on their turns."""
    mask, reward_BL = golden("mask").bool(), golden("token_rewards")
    turn = torch.where(mask, (torch.arange(12) > 2).long(), -1)
    batch = batch_of(turn.tolist(), groups=GOLDEN["inputs"]["group"])
    reward_ET = torch.stack([reward_BL[:, :3].sum(1), reward_BL[:, 3:].sum(1)], 1)
    return batch, table_of(reward_ET[None], batch)


def returns_batch() -> tuple[TokenBatch, RewardTable]:
    """The golden returns, all on the last turn."""
    batch, rewards = golden_batch()
    values_KET = torch.zeros_like(rewards.values_KET)
    values_KET[0, :, 1] = golden("rewards")
    return batch, table_of(values_KET, batch)


def random_episode(
    rng: random.Random, turns: int, *, rewrites: float = 0.3, gaps: float = 0.0
) -> Episode:
    """Every token id is unique, so that what was packed can be told apart."""
    ids = iter(range(rng.randrange(10**6) * 1000, 10**12))

    def take(n: int) -> list[int]:
        return [next(ids) for _ in range(n)]

    made = []
    for t in range(turns):
        extends = t > 0 and rng.random() > rewrites
        size = 0 if rng.random() < gaps else rng.randint(1, 4)
        made.append(
            Turn(
                prompt_ids=take(rng.randint(0 if extends else 1, 3)),
                extends=extends,
                response_ids=take(size),
                logprobs=[-rng.random() - 0.01 for _ in range(size)],
                env_reward=rng.choice([0.0, 0.0, rng.uniform(-1, 1)]),
            )
        )
    cut = rng.random() < 0.4
    limit = rng.choice([StopReason.TURN_LIMIT, StopReason.CURRICULUM_LIMIT])
    return Episode(
        task=Task(env="toy/made-v0", seed=0),
        turns=made,
        stop=limit if cut else StopReason.LOST,
        closing_ids=take(2) if cut else [],
    )


def random_groups(
    seed: int, sizes: tuple[int, ...] = (3, 1, 4), most: int = 5, **options: float
) -> list[Group]:
    rng = random.Random(seed)
    return [
        Group(
            Task(env="toy/made-v0", seed=g),
            [random_episode(rng, rng.randint(1, most), **options) for _ in range(n)],
        )
        for g, n in enumerate(sizes)
    ]


def env_rewards(groups: list[Group]) -> dict[str, list[list[float]]]:
    return {
        "environment": [
            [turn.env_reward for turn in episode.turns] for group in groups for episode in group
        ]
    }


def by_token(
    batch: TokenBatch, number_of: dict[tuple[int, int, int], int], values: Tensor
) -> Tensor:
    """`values` [B, L] by sampled token (episode, turn, position in the turn); NaN elsewhere."""
    seen: dict[tuple[int, int], int] = {}
    index_BL = torch.full(batch.turn_BL.shape, -1)
    for b, column in batch.mask_BL.nonzero().tolist():
        key = (int(batch.episode_B[b]), int(batch.turn_BL[b, column]))
        seen[key] = seen.get(key, -1) + 1
        index_BL[b, column] = number_of[(*key, seen[key])]
    return torch.where(index_BL >= 0, values[index_BL.clamp(min=0)], NAN)


def numbered(groups: list[Group]) -> dict[tuple[int, int, int], int]:
    """A number for every response token: the axis of parameters that do not depend on packing."""
    episodes = [episode for group in groups for episode in group]
    keys = [
        (e, t, k)
        for e, ep in enumerate(episodes)
        for t, turn in enumerate(ep.turns)
        for k in range(len(turn.response_ids))
    ]
    return {key: n for n, key in enumerate(keys)}
