"""TokenBatch: what was sampled is what is trained, wherever it was packed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.models.forward import Scores
from turnrl.envs.sanitise import REASONS
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.training.batch import TokenBatch, map_groups

from .builders import NAN, batch_of, env_rewards, numbered, random_groups, scores, table

SEEDS = st.integers(0, 10**6)


def packed(
    seed: int, merge: bool, closing: frozenset[StopReason] = frozenset(), gaps: float = 0.2
) -> tuple[list[Group], list[Episode], TokenBatch]:
    groups = random_groups(seed, gaps=gaps)
    return (
        groups,
        [episode for group in groups for episode in group],
        TokenBatch.pack(groups, merge=merge, closing=closing),
    )


@settings(max_examples=30)
@given(seed=SEEDS, merge=st.booleans(), closing=st.frozensets(st.sampled_from(StopReason)))
def test_round_trip(seed: int, merge: bool, closing: frozenset[StopReason]) -> None:
    """Sampled tokens, row by row, are the responses; what precedes each is the engine's prompt."""
    groups, episodes, batch = packed(seed, merge, closing)
    expected = [
        (e, t, token, logprob)
        for e, episode in enumerate(episodes)
        for t, turn in enumerate(episode.turns)
        for token, logprob in zip(turn.response_ids, turn.logprobs, strict=True)
    ]
    row, column = batch.mask_BL.nonzero(as_tuple=True)
    assert batch.episode_B[row].tolist() == [e for e, *_ in expected]
    assert batch.turn_BL[row, column].tolist() == [t for _, t, *_ in expected]
    assert batch.tokens_BL[row, column].tolist() == [token for *_, token, _ in expected]
    torch.testing.assert_close(
        batch.logprobs_of("engine")[row, column], torch.tensor([p for *_, p in expected])
    )
    first_seen = set()
    for b, c in zip(row.tolist(), column.tolist(), strict=True):
        key = (int(batch.episode_B[b]), int(batch.turn_BL[b, c]))
        if key not in first_seen:
            assert batch.tokens_BL[b, :c].tolist() == episodes[key[0]].prompt(key[1])
        first_seen.add(key)
    assert batch.group_E.tolist() == [g for g, group in enumerate(groups) for _ in group]
    assert batch.turns_E.tolist() == [len(episode.turns) for episode in episodes]
    assert batch.terminated_E.tolist() == [not episode.stop.truncated for episode in episodes]


@settings(max_examples=30)
@given(seed=SEEDS, merge=st.booleans())
def test_turns_tile_the_responses(seed: int, merge: bool) -> None:
    """A turn lies in one row, without a hole, and nothing outside the mask carries a number."""
    _, episodes, batch = packed(seed, merge)
    spans: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for b, c in batch.mask_BL.nonzero().tolist():
        spans.setdefault((int(batch.episode_B[b]), int(batch.turn_BL[b, c])), []).append((b, c))
    for (e, t), places in spans.items():
        assert len({b for b, _ in places}) == 1
        columns = [c for _, c in places]
        assert columns == list(
            range(columns[0], columns[0] + len(episodes[e].turns[t].response_ids))
        )
    assert int(batch.mask_BL.sum()) == sum(episode.response_tokens for episode in episodes)
    assert not batch.logprobs_of("engine")[~batch.mask_BL].any()
    past_end = torch.arange(batch.tokens_BL.shape[1])[None] >= batch.lengths_B[:, None]
    assert not batch.tokens_BL[past_end].any()
    assert batch.turn_BL[past_end].eq(-1).all()


@settings(max_examples=20)
@given(seed=SEEDS, merge=st.booleans())
def test_numbers_land_in_their_own_turn(seed: int, merge: bool) -> None:
    groups, episodes, batch = packed(seed, merge)
    spread_BL = batch.spread(table(env_rewards(groups), {"environment": 3.0}).total_ET)
    for b, c in batch.mask_BL.nonzero().tolist():
        turn = episodes[int(batch.episode_B[b])].turns[int(batch.turn_BL[b, c])]
        assert float(spread_BL[b, c]) == pytest.approx(3 * turn.env_reward)
    assert not spread_BL[~batch.mask_BL].any()


@settings(max_examples=30)
@given(seed=SEEDS, merge=st.booleans(), budget=st.integers(1, 200))
def test_split_covers_every_row_once_within_the_budget(seed: int, merge: bool, budget: int) -> None:
    _, _, batch = packed(seed, merge)
    cuts = list(batch.split(budget))
    assert sorted(torch.cat(cuts).tolist()) == list(range(len(batch.lengths_B)))
    for rows in cuts:
        micro = batch.select(rows)
        assert micro.tokens_BL.shape == (len(rows), int(batch.lengths_B[rows].max()))
        assert micro.tokens_BL.numel() <= budget or len(rows) == 1


def test_select_keeps_what_belongs_to_episodes() -> None:
    _, _, batch = packed(3, merge=False)
    batch = replace(
        batch, values_BL=torch.rand(batch.turn_BL.shape), bootstrap_E=torch.rand(batch.episodes)
    )
    batch.signals["returns_BL"] = torch.rand(batch.turn_BL.shape)
    batch.signals["first_B"], batch.signals["won_E"] = batch.lengths_B, batch.success_E
    rows = [2, 0]
    micro = batch.select(rows)
    assert micro.values_BL is not None
    assert batch.values_BL is not None
    assert torch.equal(micro.values_BL, batch.values_BL[rows, : micro.tokens_BL.shape[1]])
    width = micro.tokens_BL.shape[1]
    assert torch.equal(micro.signals["returns_BL"], batch.signals["returns_BL"][rows, :width])
    assert micro.signals["first_B"].equal(micro.lengths_B)
    assert micro.signals["won_E"] is batch.success_E
    assert micro.episode_B.tolist() == batch.episode_B[rows].tolist()
    assert micro.bootstrap_E is batch.bootstrap_E
    assert micro.episodes == batch.episodes
    assert batch.select([]).tokens_BL.shape == (0, 0)


def test_scores_go_where_their_tokens_go() -> None:
    _, _, batch = packed(3, merge=False)
    made_BL, rows = torch.rand(batch.turn_BL.shape), [2, 0]
    made_BLD = torch.rand(*batch.turn_BL.shape, 5)
    batch = batch.with_scores(old=Scores({"logprobs": made_BL, "entropy": -made_BL}, made_BLD))
    micro = batch.select(rows)
    width = micro.tokens_BL.shape[1]
    assert width < made_BL.shape[1]
    assert micro.scores.keys() == {"engine", "old"}
    part = micro.scores["old"]
    assert part.of["logprobs"].equal(made_BL[rows, :width])
    assert part.of["entropy"].equal(-made_BL[rows, :width])
    assert part.hidden_BLD is not None
    assert part.hidden_BLD.equal(made_BLD[rows, :width])
    assert micro.logprobs_of("engine").equal(batch.logprobs_of("engine")[rows, :width])
    moved = batch.to("meta").scores
    assert {t.device.type for one in moved.values() for t in one.of.values()} == {"meta"}
    assert moved["old"].hidden_BLD is not None
    assert moved["old"].hidden_BLD.device.type == "meta"


def test_the_denominator_is_the_trainers_own_where_it_is_known() -> None:
    batch = batch_of([[0, 0]])
    old_BL, ref_BL = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0, -4.0]])
    known = batch.with_scores(ref=scores(ref_BL), old=scores(old_BL))
    assert batch.behaviour_logprobs_BL is batch.logprobs_of("engine")
    assert known.behaviour_logprobs_BL is known.logprobs_of("old") is old_BL
    assert known.logprobs_of("engine") is batch.logprobs_of("engine")
    assert batch.scores.keys() == {"engine"}, "the batch itself is as it was"
    for name, said in (
        ("old", "no scores 'old', but those of engine: .* lists Need.OLD_LOGPROBS in 'requires'"),
        ("ref", "no scores 'ref', but those of engine: .* lists Need.REF_LOGPROBS in 'requires'"),
        ("judge", "no scores 'judge', but those of engine$"),
    ):
        with pytest.raises(UserError, match=said):
            batch.logprobs_of(name)


def test_merging_saves_tokens_and_nothing_else() -> None:
    groups = random_groups(5)
    merged, single = TokenBatch.pack(groups), TokenBatch.pack(groups, merge=False)
    assert int(merged.lengths_B.sum()) < int(single.lengths_B.sum())
    assert len(single.lengths_B) == int(single.turns_E.sum())
    assert int(merged.mask_BL.sum()) == int(single.mask_BL.sum()) == len(numbered(groups))


def test_turns_that_are_context_only_are_not_trained() -> None:
    task = Task(env="toy/made-v0", seed=0)
    turns = [
        Turn([1, 2], False, [3], [-0.1]),
        Turn([4], True, [5, 6], [-0.2, -0.3], trained=False),
        Turn([7], True, [8], [-0.4]),
    ]
    batch = TokenBatch.pack(
        [Group(task, [Episode(task, turns=turns, stop=StopReason.WON, success=True)])]
    )
    assert batch.tokens_BL.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch.turn_BL.tolist() == [[-1, -1, 0, -1, -1, -1, -1, 2]]
    assert not batch.logprobs_of("engine")[~batch.mask_BL].any()
    assert batch.turns_E.tolist() == [3]
    assert batch.success_E.tolist() == [True]


def test_states_are_the_last_words_of_the_world() -> None:
    """Our own sentences about bad responses are the same in every room."""
    ours = [
        ("unparsable", "Invalid answer: Write one action."),
        *((reason, f"Invalid action: {REASONS[reason]}.") for reason in REASONS),
    ]

    def walk(room: str, reason: str, text: str) -> Episode:
        turns = [
            Turn(
                [1], False, [2], [-0.1], observation=text, valid_action=False, invalid_reason=reason
            ),
            Turn(
                [1], False, [2], [-0.1], observation=text, valid_action=False, invalid_reason=reason
            ),
            Turn(
                [1],
                False,
                [2],
                [-0.1],
                observation="No.",
                valid_action=False,
                invalid_reason="rejected",
            ),
            Turn([1], False, [2], [-0.1], observation="garden"),
        ]
        return Episode(task, opening=room, turns=turns, stop=StopReason.LOST)

    task = Task(env="toy/made-v0", seed=0)
    groups = [Group(task, [walk("kitchen", *said), walk("cellar", *said)]) for said in ours]
    state_ET = TokenBatch.pack(groups).state_ET
    assert state_ET is not None
    assert state_ET.tolist() == [[0, 0, 0, 1], [2, 2, 2, 1]] * len(ours)
    assert groups[0].episodes[1].states() == ["cellar", "cellar", "cellar", "No."]


@given(seed=SEEDS, merge=st.booleans())
def test_the_sum_per_turn_is_what_was_spread_times_its_tokens(seed: int, merge: bool) -> None:
    _, episodes, batch = packed(seed, merge)
    values_ET = torch.randn(batch.episodes, batch.max_turns, dtype=torch.float64)
    values_BL = torch.where(batch.mask_BL, batch.spread(values_ET), NAN)
    tokens = [[len(turn.response_ids) for turn in episode.turns] for episode in episodes]
    for e, t in batch.mask_ET.nonzero().tolist():
        expected = float(values_ET[e, t]) * tokens[e][t]
        assert float(batch.per_turn(values_BL)[e, t]) == pytest.approx(expected)
    assert batch.tokens_E.tolist() == [sum(row) for row in tokens]


def test_nothing_was_played() -> None:
    task = Task(env="toy/made-v0", seed=0)
    for groups in ([], [Group(task, [])], [Group(task, [Episode(task)])]):
        batch = TokenBatch.pack(groups)
        assert not batch.mask_BL.any()
        assert list(batch.split(10)) == []
        assert batch.spread(torch.zeros(batch.episodes, 0)).shape == batch.turn_BL.shape


def test_groups_are_visited_in_order() -> None:
    seen: list[list[int]] = []
    map_groups(torch.tensor([4, 1, 4]), lambda index: seen.append(index.tolist()))
    assert seen == [[1], [0, 2]]
