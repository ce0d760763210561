"""Rewards made of other rewards: gate, discount, clip, delta."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.foundation.plugins import Need
from turnrl.rewards.base import REWARDS, TurnReward
from turnrl.rewards.clip import Clip
from turnrl.rewards.delta import Delta
from turnrl.rewards.gate import Gate

TASK = Task(env="toy/made-v0", seed=3)
NAN = math.nan


class Given(TurnReward):
    """The number that a test wrote into the turn; it counts how often it was asked."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.SCORER})
    name: Literal["given"] = "given"
    key: str = "q"
    asked: ClassVar[list[tuple[str, LanguageAgent | None]]] = []
    _calls: int = PrivateAttr(0)

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        self.asked.append((self.key, scorer))
        self._calls += 1
        return [[turn.rewards[self.key] for turn in episode.turns] for episode in group]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self._calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._calls = state["calls"]


def of(key: str = "q", **fields: Any) -> dict[str, Any]:
    return {"name": f"{__name__}:Given", "key": key} | fields


def level(
    key: str, threshold: float | None = None, weight: float = 1.0, **fields: Any
) -> dict[str, Any]:
    return {"of": of(key), "threshold": threshold, "weight": weight} | fields


def turn(reason: str | None = None, **numbers: float) -> Turn:
    made = Turn(prompt_ids=[1], extends=False, response_ids=[2], logprobs=[-0.1], rewards=numbers)
    made.valid_action, made.invalid_reason = reason is None, reason
    return made


def episode(*turns: Turn, **fields: Any) -> Episode:
    return Episode(TASK, turns=list(turns), **({"stop": StopReason.LOST} | fields))


def path(*values: float) -> Episode:
    return episode(*(turn(q=value) for value in values))


def build(name: str, **fields: Any) -> TurnReward:
    return REWARDS.build({"name": name, **fields})


def rewards(reward: TurnReward, *episodes: Episode, scorer: Any = None) -> list[list[float]]:
    return asyncio.run(reward(Group(TASK, list(episodes)), scorer))


def approx(rows: list[list[float]]) -> list[Any]:
    return [pytest.approx(row, nan_ok=True) for row in rows]


# -- gate ------------------------------------------------------------------------------------------

SHOP = [level("f", 1.0, 0.0), level("c", 1.0), level("p", 0.5, 0.5), level("e", weight=0.2)]
"""R = g_f * [r_c + 1[r_c >= 1] * (0.5 * r_p + 1[r_p >= 0.5] * 0.2 * r_e)]"""


def paid(levels: list[dict[str, Any]], **numbers: float) -> float:
    """What a gate pays for one episode of two turns; its numbers are halved between them."""
    halves: dict[str, Any] = {key: value / 2 for key, value in numbers.items()}
    [[first, last]] = rewards(Gate(levels=levels), episode(turn(**halves), turn(**halves)))
    assert first == 0
    return last


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1, 1.0, 0.8, 0.5), 1.5),
        ((1, 1.0, 0.4, 0.5), 1.2),
        ((1, 0.9, 1.0, 1.0), 0.9),
        ((0, 1.0, 0.8, 0.5), 0.0),
        ((1, 1.0, 0.5, 1.0), 1.45),
        ((1, 0.0, 1.0, 1.0), 0.0),
    ],
)
def test_gate_in_numbers(numbers: tuple[float, ...], expected: float) -> None:
    assert paid(SHOP, **dict(zip("fcpe", numbers, strict=True))) == pytest.approx(expected)


def test_gate_pays_shares_between_the_bounds() -> None:
    levels = [level("c", 3.0, low=1.0, high=3.0, weight=2.0), level("e")]
    values = [
        paid(levels, c=c, e=e) for c, e in ((0, 1), (1, 1), (2, 1), (3, 0.25), (7, -5), (7, 5))
    ]
    assert values == pytest.approx([0, 0, 1, 2.25, 2, 3])


def test_gate_over_penalties_and_costs() -> None:
    """Format is fine at 0, and a cost of turns becomes a share between its bounds."""
    levels = [
        {"of": {"name": "format"}, "threshold": 0, "weight": 0},
        {"of": {"name": "outcome"}, "threshold": 1},
        {"of": {"name": "step_cost"}, "low": -5, "high": -1, "weight": 0.2},
    ]
    won = {"stop": StopReason.WON, "success": True}
    group = [
        episode(turn(), **won),
        episode(turn(), turn(), turn(), **won),
        episode(*(turn() for _ in range(9)), **won),
        episode(turn("unparsable"), turn(), **won),
        episode(turn("unparsable"), turn("unparsable"), turn(), **won),
        episode(turn()),
        episode(),
    ]
    last = [row[-1:] for row in rewards(build("gate", levels=levels), *group)]
    assert last == approx([[1.2], [1.1], [1.0], [0.0], [0.0], [0.0], []])


def test_gate_as_a_tree() -> None:
    """What a level holds is gated by it side by side; the next level does not depend on it."""
    branches = [
        level("style", 0.5, 0.1, levels=[level("wit", weight=0.01)]),
        level("tone", weight=0.001),
    ]
    levels = [level("c", 1.0, levels=branches), level("e", weight=10.0)]
    best = {"c": 1.0, "style": 1.0, "wit": 1.0, "tone": 1.0, "e": 1.0}
    assert paid(levels, **best) == pytest.approx(11.111)
    assert paid(levels, **best | {"style": 0.0}) == pytest.approx(11.001)
    assert paid(levels, **best | {"tone": 0.0}) == pytest.approx(11.11)
    assert paid(levels, **best | {"c": 0.5}) == pytest.approx(0.5)


def test_gate_thresholds_are_inclusive_up_to_rounding() -> None:
    tenths = episode(*(turn(c=0.1, e=0.1) for _ in range(10)))
    assert sum([0.1] * 10) < 1.0
    [row] = rewards(build("gate", levels=[level("c", 1.0), level("e")]), tenths)
    assert row[-1] == pytest.approx(2.0)
    assert paid([level("c", 0.5), level("e")], c=0.5, e=1.0) == pytest.approx(1.5)
    assert paid([level("c", 0.5), level("e")], c=0.4999, e=1.0) == pytest.approx(0.4999)


def test_gate_with_numbers_that_could_not_be_measured() -> None:
    assert math.isnan(paid(SHOP, f=1, c=1, p=1, e=NAN))
    assert math.isnan(paid(SHOP, f=1, c=NAN, p=1, e=1))
    assert math.isnan(paid(SHOP, f=NAN, c=1, p=1, e=1)), "a pure gate counts too"
    assert paid(SHOP, f=1, c=1, p=0.4, e=NAN) == pytest.approx(1.2)
    assert paid(SHOP, f=0, c=NAN, p=NAN, e=NAN) == 0


def test_gate_asks_only_where_a_level_is_open() -> None:
    Given.asked.clear()
    agent = object()
    closed, open_ = turn(f=0, c=1, p=0, e=1), turn(f=1, c=1, p=0, e=1)
    assert rewards(build("gate", levels=SHOP), episode(closed), episode(open_), scorer=agent) == [
        [0],
        [1],
    ]
    assert Given.asked == [("f", agent), ("c", agent), ("p", agent)]


def test_gate_levels_ignore_the_inner_weight() -> None:
    assert paid([{"of": of("c", weight=7.0)}], c=1.0) == 1.0


def test_gate_mistakes_are_one_sentence() -> None:
    for levels, message in (
        ([level("f"), level("c")], "Given' gates others and needs a threshold"),
        ([level("c", levels=[level("e")])], "needs a threshold"),
        ([level("c", low=1.0)], "low must be smaller than high"),
        ([level("c", weight=-1.0)], r"levels\.0\.weight.*greater than or equal to 0"),
        (
            [level("c", 1.0, levels=[{"of": of(), "wieght": 1}])],
            r"unknown key 'levels\.0\.levels\.0\.wieght'",
        ),
        ([level("c", 1.0), {"of": {"name": "outcom"}}], "did you mean 'outcome'"),
        ([], "levels"),
    ):
        with pytest.raises(UserError, match=message) as error:
            build("gate", levels=levels)
        assert "\n" not in str(error.value)


number = st.floats(-2, 3)
share = st.floats(0, 1)


@given(
    wrong=st.floats(-2, 1 - 1e-6),
    style=st.tuples(number, number),
    right=st.tuples(number, number),
    shop=st.data(),
)
def test_no_style_makes_up_for_a_wrong_outcome(
    wrong: float, style: tuple[float, float], right: tuple[float, float], shop: st.DataObject
) -> None:
    """Both well formed: the wrong episode is paid less, whatever its style."""
    weights, taus = shop.draw(st.tuples(share, share)), shop.draw(share)
    tree = shop.draw(st.booleans())
    deep = [level("p", taus, weights[0]), level("e", taus, weights[1])]
    levels = [level("f", 1.0, 0.0)]
    levels += [level("c", 1.0, levels=deep)] if tree else [level("c", 1.0), *deep]
    below = paid(levels, f=1, c=wrong, p=style[0], e=style[1])
    assert below < paid(levels, f=1, c=1, p=right[0], e=right[1])


any_number = st.one_of(number, st.sampled_from([NAN, math.inf, -math.inf]))


@given(
    c=st.floats(-2, 0.99),
    first=st.tuples(any_number, any_number),
    second=st.tuples(any_number, any_number),
)
def test_a_closed_gate_hides_all_that_comes_after(
    c: float, first: tuple[float, float], second: tuple[float, float]
) -> None:
    one, other = (paid(SHOP, f=1, c=c, p=p, e=e) for p, e in (first, second))
    assert one == other == pytest.approx(min(max(c, 0), 1))
    assert paid(SHOP, f=0.99, c=first[0], p=first[1], e=c) == 0


# -- discount --------------------------------------------------------------------------------------


def test_discount_in_numbers() -> None:
    won = episode(turn(), turn(), turn(), stop=StopReason.WON, success=True)
    lost = episode(turn(), turn(), stop=StopReason.TURN_LIMIT)
    assert rewards(build("discount", gamma=0.9), won, lost, episode()) == approx(
        [[0.81, 0.9, 1], [0, 0], []]
    )
    assert rewards(build("discount"), won) == approx([[0.990025, 0.995, 1]])


def test_discount_spreads_the_whole_inner_reward() -> None:
    reward = build("discount", of=of(weight=9.0), gamma=0.5)
    assert rewards(reward, path(1, 2, 1), path(-2), path(1, NAN)) == approx(
        [[1, 2, 4], [-2], [NAN, NAN]]
    )


# -- clip and delta --------------------------------------------------------------------------------


def test_clip_and_delta_in_numbers() -> None:
    q = path(0.9, 0.5, 0.7)
    assert rewards(build("clip", of=of()), q, episode()) == approx([[0, -0.1, 0], []])
    assert rewards(build("delta", of=of()), q, path(0.3), episode()) == approx(
        [[0.4, -0.2, 0.7], [0.3], []]
    )
    both = build("delta", of={"name": "clip", "of": of()})
    assert rewards(both, q) == approx([[0.1, -0.1, 0]])
    assert build("clip", of=of()).weight == build("delta", of=of()).weight == 0.02


def test_clip_and_delta_keep_what_could_not_be_measured() -> None:
    assert rewards(build("clip", of=of()), path(NAN, 0.5)) == approx([[NAN, -0.1]])
    assert rewards(build("delta", of=of()), path(0.5, 0.5, NAN)) == approx([[0, NAN, NAN]])


scores = st.lists(st.floats(-3, 3), min_size=1, max_size=12)


@given(scores)
def test_delta_sums_to_the_first_score(values: list[float]) -> None:
    [row] = rewards(Delta(of=of()), path(*values))
    for t, value in enumerate(values):
        assert sum(row[t:]) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "clip", "of": of()},
        {"name": "delta", "of": of()},
        {"name": "delta", "of": {"name": "clip", "of": of()}},
    ],
    ids=["clip", "delta", "delta_of_clip"],
)
def test_repeating_good_turns_pays_nothing(config: dict[str, Any]) -> None:
    reward = REWARDS.build(config)

    @given(values=scores, good=st.floats(0.6, 3), times=st.integers(1, 5))
    def check(values: list[float], good: float, times: int) -> None:
        once, often = rewards(reward, path(good, *values), path(*[good] * (times + 1), *values))
        assert sum(often) == pytest.approx(sum(once), abs=1e-9)

    check()


@given(scores, st.floats(-1, 1))
def test_clip_never_pays(values: list[float], eta: float) -> None:
    [row] = rewards(Clip(of=of(), eta=eta), path(*values))
    assert all(
        (value == 0) == (q >= eta) and value <= 0 for value, q in zip(row, values, strict=True)
    )


# -- all of them -----------------------------------------------------------------------------------

WRAPPERS: dict[str, dict[str, Any]] = {
    "gate": {"levels": [level("q", 1.0), level("r")]},
    "discount": {"of": of()},
    "clip": {"of": of()},
    "delta": {"of": of()},
    "winrate": {"by": of()},
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_needs_and_memory_are_the_inner_ones(name: str) -> None:
    reward, other = build(name, **WRAPPERS[name]), build(name, **WRAPPERS[name])
    assert reward.needs() == {"scorer"}
    rows = rewards(
        reward,
        episode(*(turn(q=1.0, r=0.0) for _ in range(3))),
        episode(),
        episode(turn(q=0.0, r=0.0)),
    )
    assert [len(row) for row in rows] == [3, 0, 1]
    assert rewards(reward) == []
    assert reward.state_dict() != other.state_dict()
    other.load_state_dict(reward.state_dict())
    assert other.state_dict() == reward.state_dict()


@pytest.mark.parametrize("name", ["discount", "winrate"])
def test_default_inner_reward_needs_nothing(name: str) -> None:
    assert build(name).needs() == frozenset()


def test_needs_of_a_gate_are_a_union() -> None:
    levels = [{"of": {"name": "progress"}, "threshold": 1, "levels": [{"of": of()}]}]
    assert build("gate", levels=levels).needs() == {"progress", "scorer"}


@pytest.mark.parametrize("name", ["clip", "delta", "gate"])
def test_an_inner_reward_must_be_named(name: str) -> None:
    with pytest.raises(UserError, match=f"rewards '{name}': (of|levels): Field required"):
        build(name)


def test_inner_mistakes_are_told_as_they_are() -> None:
    with pytest.raises(
        UserError, match="no rewards plug-in is called 'outcom'; did you mean 'outcome'"
    ):
        build("discount", of={"name": "outcom"})
    with pytest.raises(
        UserError, match="rewards 'outcome': unknown key 'failre'; did you mean 'failure'"
    ):
        build("winrate", by={"name": "outcome", "failre": 1})
