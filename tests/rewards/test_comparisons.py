"""Rewards that compare episodes, or mix rules with a judge."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import pytest
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.episode import Episode, Group
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.foundation.plugins import Need
from turnrl.rewards.base import REWARDS, TurnReward
from turnrl.rewards.pairwise import reference_of, verdict_of

from ..agents.fake_server import Reply, Server, direct, says, script, serving  # noqa: F401
from ..logged import logged
from .test_judge import NAN, TASK, episode, pay, same, turn, verdict


class Told(TurnReward):
    """Pays what is written in the observations."""

    name: Literal["told"] = "told"
    steps: ClassVar[list[int]] = []

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[float(turn.observation) for turn in episode.turns] for episode in group]

    def needs(self) -> frozenset[Need]:
        return frozenset({Need.PROGRESS})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps)}

    def load_state_dict(self, state: Any) -> None:
        self.steps[:] = state["steps"]


TOLD = {"name": f"{__name__}:Told"}


# -- pairwise --------------------------------------------------------------------------------------


def pairwise(**fields: Any) -> TurnReward:
    return REWARDS.build({"name": "pairwise", **fields})


def comparing(server: Server) -> TurnReward:
    return pairwise(endpoint={"url": server.url, "model": "m"})


def sides(body: dict[str, Any]) -> tuple[float, float]:
    """The number in the observation of each side."""
    first, second = re.findall(r"<observation>(.*?)</observation>", body["messages"][1]["content"])
    return float(first), float(second)


def names(letter: Callable[[float, float], str]) -> Callable[[dict[str, Any]], Reply]:
    return lambda body: says(json.dumps({"winner": letter(*sides(body)), "reason": "so"}))


def numbered(*values: float) -> list[Episode]:
    return [
        episode(turn("x"), turn("y", str(value))) if value < 0 else episode(turn("y", str(value)))
        for value in values
    ]


def test_wins_must_be_in_every_order() -> None:
    assert verdict_of([True, True]) == 1
    assert verdict_of([True, False]) == verdict_of([False, False]) == -1
    assert math.isnan(verdict_of([False, None]))


@pytest.mark.parametrize("by_judge", [False, True])
def test_better_than_the_reference(by_judge: bool) -> None:
    values = [3.0, 1.0, 2.0, 1.0, 0.0]
    with serving(names(lambda a, b: "A" if a > b else "B" if b > a else "A")) as server:
        reward = comparing(server) if by_judge else pairwise(by=TOLD)
        made = numbered(*values)
        paid = [row[-1] for row in pay(reward, *made)]
        assert paid == [row[-1] for row in pay(reward, *made)]
    reference = reference_of(Group(TASK, made), 5)
    assert paid == [
        0 if i == reference else 1 if v > values[reference] else -1 for i, v in enumerate(values)
    ]


def test_a_judge_that_prefers_a_position_never_pays() -> None:
    for place in "AB":
        with serving(script(*[says(f"**{place}**")] * 4)) as server:
            assert sorted(row[-1] for row in pay(comparing(server), *numbered(1, 2, 3))) == [
                -1,
                -1,
                0,
            ]
        assert len(server.requests) == 4


def test_both_sides_are_asked_about() -> None:
    with serving(names(lambda a, b: "A" if a > b else "B")) as server:
        pay(comparing(server), *numbered(1, 2))
    assert sorted(sides(body) for body in server.requests) == [(1, 2), (2, 1)]


def test_a_missing_verdict_is_not_a_number() -> None:
    made = numbered(5, 6, 7)
    reference = reference_of(Group(TASK, made), 3)
    lost = (reference + 1) % 3

    def answer(body: dict[str, Any]) -> Reply:
        first, second = sides(body)
        return says("Both!") if first == lost + 5 else says("A" if first > second else "B")

    with serving(answer) as server:
        reward = comparing(server)
        with logged("unparsable"):
            paid = [row[-1] for row in pay(reward, *made)]
        assert reward.failures == {"unparsable": 1}
    other = 3 - reference - lost
    assert math.isnan(paid[lost])
    assert paid[reference] == 0
    assert paid[other] == (1 if other > reference else -1)


def test_what_was_not_measured_is_never_the_reference() -> None:
    for measured in ([1.0], [1.0, 2.0], [2.0, 1.0, 3.0]):
        paid = [row[-1] for row in pay(pairwise(by=TOLD), *numbered(NAN, *measured, NAN))]
        assert math.isnan(paid[0])
        assert math.isnan(paid[-1])
        assert paid[1:-1].count(0) == 1
    assert same(pay(pairwise(by=TOLD), *numbered(NAN)), [[NAN]])


def test_small_groups() -> None:
    assert pay(pairwise(by=TOLD), *numbered(4)) == [[0]]
    assert pay(pairwise(by=TOLD), episode(), *numbered(4)) == [[], [0]]
    assert pay(pairwise(by=TOLD), episode(), episode()) == [[], []]
    assert pay(pairwise(by=TOLD)) == []
    played = [episode(turn("x", "0"), turn("y", value)) for value in "11"]
    assert sorted(pay(pairwise(by=TOLD), *played)) == [[0, -1], [0, 0]]


def test_the_reference_depends_on_task_and_content_alone() -> None:
    def drawn(seed: int, values: list[float]) -> int:
        made = numbered(*values)
        made[0].seconds = float(seed)
        return reference_of(Group(Task(env="toy/made-v0", seed=seed), made), len(values))

    values = [1.0, 2.0, 3.0, 4.0]
    assert drawn(1, values) == drawn(1, values)
    assert {drawn(seed, values) for seed in range(60)} == {0, 1, 2, 3}
    assert {drawn(1, [*values[:3], float(last)]) for last in range(60)} == {0, 1, 2, 3}


def test_exactly_one_comparator() -> None:
    for fields in ({}, {"by": TOLD, "endpoint": {"url": "http://a", "model": "m"}}):
        with pytest.raises(
            UserError, match=r"rewards 'pairwise': it needs exactly one of by .* and endpoint"
        ):
            pairwise(**fields)
    assert pairwise(by=TOLD).needs() == {"progress"}


# -- process_composite -----------------------------------------------------------------------------


def composite(**fields: Any) -> TurnReward:
    return REWARDS.build({"name": "process_composite", **fields})


def crafted() -> Episode:
    return episode(
        turn("good"),
        turn(None, valid_action=False, invalid_reason="unparsable"),
        turn("bad", valid_action=False, invalid_reason="rejected"),
        turn("poor"),
    )


def test_the_structured_score_but_for_a_constant() -> None:
    """0.1 format + 0.3 type + 0.6 arguments is 1, 0, 0.1 and 0.4 on these turns."""

    def answer(body: dict[str, Any]) -> Reply:
        last = re.findall(r"<action>(\w+)</action>", body["messages"][1]["content"])[-1]
        return verdict({"good": 10, "poor": 0}[last])

    with serving(answer) as server:
        reward = composite(judge={"rubric": "x", "endpoint": {"url": server.url, "model": "m"}})
        (paid,) = pay(reward, crafted())
    assert [value + 0.4 for value in paid] == pytest.approx([1.0, 0.0, 0.1, 0.4])
    assert len(server.requests) == 2


def test_rules_alone_are_summed_per_turn() -> None:
    assert pay(composite(), crafted(), episode()) == [[0, -0.4, -0.3, 0], []]
    rule = [{"of": TOLD, "weight": 2}, {"of": {"name": "step_cost", "weight": 9}, "weight": 0.5}]
    assert pay(composite(rule=rule), episode(turn("a", "1"), turn("b", "-3"))) == [[1.5, -6.5]]


def test_the_judge_is_asked_where_every_rule_pays_enough() -> None:
    rule = [
        {"of": TOLD, "least": 2},
        {"of": {"name": "format"}, "least": 0},
        {"of": {"name": "step_cost"}},
    ]
    with serving(lambda body: verdict(5)) as server:
        fields = {"rubric": "x", "endpoint": {"url": server.url, "model": "m"}}
        reward = composite(rule=rule, judge=fields, judge_weight=4)
        paid = pay(
            reward,
            episode(turn("a", "2"), turn("b", "1"), turn("c", "3", invalid_reason="unparsable")),
        )
    assert paid == [[2 - 1 + 2, 1 - 1, 3 - 1 - 1]]
    assert len(server.requests) == 1


def test_a_part_that_was_not_measured_is_not_a_number() -> None:
    assert same(
        pay(composite(rule=[{"of": TOLD}]), episode(turn("a", "nan"), turn("b", "1"))), [[NAN, 1]]
    )
    with serving(lambda body: says("Hm.")) as server:
        reward = composite(judge={"rubric": "x", "endpoint": {"url": server.url, "model": "m"}})
        with logged("unparsable"):
            assert same(pay(reward, crafted()), [[NAN, -0.4, -0.3, NAN]])
        assert reward.failures == {"unparsable": 2}


def test_rules_keep_their_needs_and_their_memory() -> None:
    reward = composite(rule=[{"of": {"name": "format"}}, {"of": TOLD}])
    assert reward.needs() == {"progress"}
    Told.steps[:] = [7]
    saved = reward.state_dict()
    Told.steps.clear()
    reward.load_state_dict(saved)
    assert Told.steps == [7]


def test_the_judge_of_a_composite_scores_turns() -> None:
    fields = {"rubric": "x", "endpoint": {"url": "http://a", "model": "m"}}
    for wrong in ({"per": "episode", **fields}, {"name": "outcome", "per": "turn"}):
        with pytest.raises(UserError):
            composite(judge=wrong)
    with pytest.raises(UserError, match="with per: turn"):
        composite(judge={"per": "episode", **fields})
    with pytest.raises(UserError, match="unknown key 'rubrik'; did you mean 'rubric'"):
        composite(judge={"rubrik": "x", **fields})
    with pytest.raises(UserError):
        composite(rule=[])
