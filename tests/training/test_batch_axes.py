"""What lies beside the tokens is cut by its axes, noted by turns, and stored whole."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.agents.models.forward import Scores
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.training.batch import AXES, TokenBatch

from .builders import NAN, batch_of, random_groups, scores
from .test_update import played

SEEDS = st.integers(0, 10**6)


def full(seed: int, merge: bool = True) -> TokenBatch:
    """A batch with every optional field, a signal of every axis, and scores with hidden states."""
    groups = random_groups(seed, gaps=0.2)
    noise = torch.Generator().manual_seed(seed)
    versions = random.Random(seed)
    for group in groups:
        for episode in group:
            for turn in episode.turns:
                turn.version = versions.randint(0, 3)
    batch = TokenBatch.pack(groups, merge=merge, version=3, temperature=0.7)
    b, length, e, t = *batch.turn_BL.shape, batch.episodes, batch.max_turns
    sizes = {"BL": (b, length), "B": (b,), "E": (e,), "ET": (e, t), "G": (len(groups),), "P": (5,)}
    made = {axes: torch.rand(*sizes[axes], generator=noise) for axes in AXES}
    own = Scores(
        {"logprobs": -made["BL"], "peak": made["BL"]}, made["BL"][:, :, None].repeat(1, 1, 3)
    )
    return replace(
        batch.with_scores(old=own),
        values_BL=made["BL"],
        bootstrap_E=made["E"],
        signals={f"made_{axes}": values for axes, values in made.items()},
    )


def tensors(batch: TokenBatch) -> dict[str, Tensor]:
    """Every tensor by a name that ends in its axes."""
    found = {f.name: getattr(batch, f.name) for f in fields(batch)}
    found = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    for who, one in batch.scores.items():
        found |= {f"{who} {kind} BL": value for kind, value in one.of.items()}
        if one.hidden_BLD is not None:
            found[f"{who} hidden BL"] = one.hidden_BLD
    return found | batch.signals | {"off_policy_BL": batch.off_policy_BL}


@settings(max_examples=25)
@given(seed=SEEDS, merge=st.booleans(), data=st.data())
def test_select_cuts_each_tensor_by_its_axes(seed: int, merge: bool, data: st.DataObject) -> None:
    batch = full(seed, merge)
    count = len(batch.lengths_B)
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=2 * count))
    part = batch.select(rows)
    width = max((int(batch.lengths_B[b]) for b in rows), default=0)
    whole, cut = tensors(batch), tensors(part)
    assert cut.keys() == whole.keys()
    for name, value in whole.items():
        axes = name.replace(" ", "_").rpartition("_")[2]
        if axes == "BL":
            assert cut[name].equal(value[rows, :width]), name
        elif axes == "B":
            assert cut[name].equal(value[rows]), name
        else:
            assert cut[name] is value, name
    assert (part.temperature, part.version, part.stops) == (0.7, 3, batch.stops)


@settings(max_examples=25)
@given(seed=SEEDS, merge=st.booleans(), budget=st.integers(1, 200))
def test_a_split_puts_every_number_into_one_part(seed: int, merge: bool, budget: int) -> None:
    batch = full(seed, merge)
    cuts = list(batch.split(budget))
    parts = [batch.select(rows) for rows in cuts]
    for name in ("made_BL", "made_B"):
        for rows, part in zip(cuts, parts, strict=True):
            for b, row in enumerate(rows.tolist()):
                n = int(batch.lengths_B[row])
                ours, theirs = part.signals[name][b], batch.signals[name][row]
                assert ours.equal(theirs) if name == "made_B" else ours[:n].equal(theirs[:n])
    sampled = sum(int(part.mask_BL.sum()) for part in parts)
    assert sampled == int(batch.mask_BL.sum())
    off = sum(int(part.off_policy_BL.sum()) for part in parts)
    assert off == int(batch.off_policy_BL.sum())


@pytest.mark.parametrize("name", ["returns", "made_LB", "made_D", "_BLD", "P2"])
def test_a_signal_says_its_axes(name: str) -> None:
    batch = replace(batch_of([[0, 1], [0]]), signals={name: torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=f"'{name}' does not end in its axes: BL, B, E, ET, G, P"):
        batch.select([0])


# What turns note.


@settings(max_examples=25)
@given(seed=SEEDS, merge=st.booleans())
def test_what_a_turn_notes_is_found_at_its_tokens(seed: int, merge: bool) -> None:
    """However its context was rewritten, and NaN where a turn notes nothing of the name."""
    rng = random.Random(seed)
    groups = random_groups(seed, gaps=0.2)
    episodes = [episode for group in groups for episode in group]
    for episode in episodes:
        for turn in episode.turns:
            turn.signals |= {n: rng.uniform(-1, 1) for n in ("doubt", "x_B") if rng.random() < 0.5}
    episodes[0].turns[0].signals |= {"doubt": 1, "x_B": 0.25}
    batch = TokenBatch.pack(groups, merge=merge)
    assert batch.signals.keys() == {"doubt_ET", "x_B_ET"}
    for name in ("doubt", "x_B"):
        noted_ET = batch.signals[f"{name}_ET"]
        assert noted_ET.shape == (batch.episodes, batch.max_turns)
        assert noted_ET.dtype is torch.float64
        for e, episode in enumerate(episodes):
            expected = [turn.signals.get(name, NAN) for turn in episode.turns]
            found = noted_ET[e, : len(expected)].tolist()
            assert found == pytest.approx(expected, nan_ok=True)
            assert noted_ET[e, len(expected) :].isnan().all()
        for rows in batch.split(40):
            part = batch.select(rows)
            at_BL = part.spread(part.signals[f"{name}_ET"])
            for b, c in part.mask_BL.nonzero().tolist():
                turn = episodes[int(part.episode_B[b])].turns[int(part.turn_BL[b, c])]
                assert float(at_BL[b, c]) == pytest.approx(turn.signals.get(name, NAN), nan_ok=True)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
def test_played_turns_keep_their_notes(context: str, merge: bool) -> None:
    groups = copy.deepcopy(played(context))
    turns = [turn for group in groups for episode in group for turn in episode.turns]
    for number, turn in enumerate(turns):
        turn.signals["number"] = number
    batch = TokenBatch.pack(groups, merge=merge)
    found_N = batch.spread(batch.signals["number_ET"])[batch.mask_BL]
    assert found_N.tolist() == [n for n, turn in enumerate(turns) for _ in turn.response_ids]
    assert not TokenBatch.pack(played(context), merge=merge).signals


def test_a_note_is_a_number() -> None:
    task = Task(env="toy/made-v0", seed=0)
    turn = Turn([1], False, [2], [-0.1], signals={"mood": "good"})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="the signal 'mood' of a turn is 'good': expected a number"):
        TokenBatch.pack([Group(task, [Episode(task, turns=[turn])])])


# Versions.


def of_versions(versions: list[int], now: int | None = None) -> TokenBatch:
    task = Task(env="toy/made-v0", seed=0)
    turns = [Turn([1], t > 0, [2, 3], [-0.1, -0.2], version=v) for t, v in enumerate(versions)]
    turns.append(Turn([1], True, [2], [-0.1], version=99, trained=False))
    return TokenBatch.pack([Group(task, [Episode(task, turns=turns)])], version=now)


def test_each_token_has_the_version_of_the_weights_that_sampled_it() -> None:
    batch = of_versions([4, 5])
    assert batch.versions_BL.tolist() == [[-1, 4, 4, -1, 5, 5, -1, -1]]
    assert batch.version == 5, "what is context only was not sampled for this"
    assert of_versions([]).version == 0


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (None, [0, 1, 1, 0, 0, 0, 0, 0]),
        (4, [0, 0, 0, 0, 0, 0, 0, 0]),
        (5, [0, 1, 1, 0, 0, 0, 0, 0]),
        (6, [0, 1, 1, 0, 1, 1, 0, 0]),
    ],
)
def test_off_policy_is_what_older_weights_sampled(now: int | None, expected: list[int]) -> None:
    batch = of_versions([4, 5], now)
    assert batch.off_policy_BL.long().tolist() == [expected]
    assert batch.off_policy_BL.dtype is torch.bool


def test_a_part_without_new_tokens_is_as_old_as_it_was() -> None:
    """The newest version of a part says nothing: the newest of the batch does."""
    task = Task(env="toy/made-v0", seed=0)
    turns = [Turn([1], False, [2], [-0.1], version=v) for v in (1, 2)]
    batch = TokenBatch.pack([Group(task, [Episode(task, turns=turns)])])
    assert batch.select([0]).off_policy_BL.tolist() == [[False, True]]
    assert batch.select([1]).off_policy_BL.tolist() == [[False, False]]


# Moved and stored.


def test_to_moves_everything() -> None:
    moved = full(3).to("meta")
    places = {value.device.type for value in tensors(moved).values()}
    assert places == {"meta"}
    assert moved.device.type == "meta"


def assert_same(one: TokenBatch, other: TokenBatch) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype is theirs[name].dtype, name
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)
    rest = [(b.temperature, b.version, b.stops) for b in (one, other)]
    assert rest[0] == rest[1]
    assert all(isinstance(stop, StopReason) for stop in other.stops)


@settings(max_examples=15)
@given(seed=SEEDS, merge=st.booleans())
def test_a_stored_batch_is_the_batch(seed: int, merge: bool) -> None:
    """Through safetensors and JSON, with tensors that share memory and some that lie aslant."""
    batch = full(seed, merge)
    batch = batch.with_scores(
        ref=batch.scores["engine"], teacher=scores(batch.tokens_BL.T.float().contiguous().T)
    )
    batch = replace(
        batch, signals=batch.signals | {"a/b_E": batch.success_E, "n_B": batch.lengths_B}
    )
    state = batch.state_dict()
    blob = save(state["tensors"], metadata={"rest": json.dumps(state["rest"])})
    rest = json.loads(json.dumps(state["rest"]))
    assert_same(batch, TokenBatch.from_state_dict({"tensors": load(blob), "rest": rest}))
    texts = TokenBatch.of_texts([[1], [1]], [[2], [3, 4]], [(0, 1)])
    assert_same(texts, TokenBatch.from_state_dict(texts.state_dict()))


def test_what_is_stored_shares_nothing_with_the_batch() -> None:
    batch = full(1)
    state = batch.state_dict()
    for value in state["tensors"].values():
        value.zero_()
    assert batch.lengths_B.any()
    assert batch.signals["made_E"].any()


def test_a_stored_batch_of_another_kind_is_refused() -> None:
    state = full(1).state_dict()
    for name in ("tokens_BL", "scores/engine/logprobs"):
        fewer = {n: t for n, t in state["tensors"].items() if n != name}
        with pytest.raises(UserError, match=rf"has \(none\) and lacks .*\({name}\)"):
            TokenBatch.from_state_dict(state | {"tensors": fewer})
    for name in ("ref_logprobs_BL", "signals_BL"):
        more = state["tensors"] | {name: torch.zeros(2)}
        with pytest.raises(UserError, match=rf"no batch has \({name}\) and lacks .*\(none\)"):
            TokenBatch.from_state_dict(state | {"tensors": more})
