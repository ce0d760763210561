"""Made-up episodes for the checker of plug-ins: every shape that a real step can give."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...agents.episode import Episode, Group, StopReason, Turn
from ...agents.models.forward import Scores
from ...envs import Task
from ..batch import TokenBatch
from ..reward_table import RewardTable

VOCABULARY = 50
REWARDS = ("outcome", "information_gain", "meta_reasoning")
"""Names of the rewards that the episodes were paid: those that some estimators ask for."""
WEIGHTS = {"outcome": 1.0, "information_gain": 0.5, "meta_reasoning": 0.25}


@dataclass(frozen=True)
class Sample:
    """Groups of episodes, and what a trainer makes of them."""

    groups: list[Group]
    table: RewardTable
    batch: TokenBatch


def sample(seed: int, *, merge: bool = True, flat: bool = False, alone: bool = False) -> Sample:
    """Make groups of different sizes whose episodes differ in everything that can differ.

    Among them are contexts that are rewritten on the way, turns without a token, episodes that a
    limit cut, groups without variance and a group of one.

    Args:
        merge: turns that extend each other are one sequence.
        flat: nobody is ever paid anything.
        alone: every group has one episode.
    """
    rng = random.Random(seed)
    sizes = [1, 1, 1] if alone else [4, 3, 2, 1]
    groups = [_group(rng, g, size, flat) for g, size in enumerate(sizes)]
    table = RewardTable.of(groups, WEIGHTS)
    return Sample(groups, table, _with_scores(TokenBatch.pack(groups, merge=merge), seed))


def reordered(given: Sample, order: list[int]) -> Sample:
    """Return the same groups in another order."""
    groups = [given.groups[g] for g in order]
    table = RewardTable.of(groups, WEIGHTS)
    return Sample(groups, table, _with_scores(TokenBatch.pack(groups), 0))


def _group(rng: random.Random, number: int, size: int, flat: bool) -> Group:
    task = Task(env="check/made-v0", seed=number)
    episodes = [_episode(rng, task) for _ in range(size)]
    for episode in episodes if flat or number == 2 else ():
        for turn in episode.turns:
            turn.rewards = dict.fromkeys(REWARDS, 0.0)
    return Group(task, episodes)


def _episode(rng: random.Random, task: Task) -> Episode:
    turns = [_turn(rng, t) for t in range(rng.randint(1, 5))]
    if not any(turn.response_ids for turn in turns):
        turns[0].response_ids, turns[0].logprobs = [7], [-0.5]
    success = rng.random() < 0.5
    stop = StopReason.WON if success else rng.choice([StopReason.LOST, StopReason.TURN_LIMIT])
    closing = [3, 4] if stop is StopReason.TURN_LIMIT else []
    episode = Episode(task=task, turns=turns, stop=stop, success=success, closing_ids=closing)
    for turn in turns:
        turn.rewards["outcome"] = float(success and turn is turns[-1])
    episode.opening, episode.answer, episode.expert = "You are here.", ["gold"], ["go north"]
    episode.start_progress = 0.0
    return episode


def _turn(rng: random.Random, t: int) -> Turn:
    extends = t > 0 and rng.random() < 0.6
    size = 0 if t > 0 and rng.random() < 0.15 else rng.randint(1, 4)
    ids = [rng.randrange(VOCABULARY) for _ in range(size)]
    turn = Turn(
        prompt_ids=[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4))],
        extends=extends,
        response_ids=ids,
        logprobs=[-rng.uniform(0.1, 2.0) for _ in ids],
        env_reward=rng.choice([0.0, 0.0, rng.uniform(-1, 1)]),
    )
    turn.text, turn.action = "go north", "go north" if ids else None
    turn.observation = rng.choice(["A room.", "A door.", "A lamp."])
    turn.valid_action = turn.action is not None and rng.random() < 0.8
    turn.progress = rng.random()
    turn.tag = rng.choice(["planning", "explore", None])
    turn.rewards = {name: rng.choice([0.0, rng.random() / 5]) for name in REWARDS}
    return turn


def _with_scores(batch: TokenBatch, seed: int) -> TokenBatch:
    """Add everything costly that a plug-in can ask for, made up by the tokens alone."""
    values_BL = torch.where(batch.mask_BL, batch.tokens_BL.double() / VOCABULARY - 0.5, 0.0)
    sampled_BL = batch.logprobs_of("engine")
    ref_BL = torch.where(batch.mask_BL, sampled_BL - 0.1, 0.0)
    made = {"old": Scores({"logprobs": sampled_BL}), "ref": Scores({"logprobs": ref_BL})}
    return replace(
        batch.with_scores(**made),
        values_BL=values_BL.float(),
        bootstrap_E=batch.turns_E.float() / 10,
    )


def moved_logprobs(batch: TokenBatch) -> Tensor:
    """Make log-probabilities [B, L] of a policy that moved away from the one that played."""
    shift_BL = (batch.tokens_BL.double() / VOCABULARY - 0.5) * 0.4
    return torch.where(batch.mask_BL, batch.logprobs_of("engine").double() + shift_BL, 0.0)
