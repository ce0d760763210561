"""Wide selections see all groups and have tasks played again; rewards learn after a step."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, PrivateAttr
from turnrl import Recipe, check_plugin
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.episode import Episode, Group, episodes_of
from turnrl.envs import Task
from turnrl.foundation.errors import PluginError
from turnrl.rewards.base import TurnReward
from turnrl.training.run import train
from turnrl.training.selection.base import SELECTIONS, Replay, Selection
from turnrl.training.walk import Trainer

from ..toy_world import recipe, records
from .test_selection import LOST, MIXED, WON, gathered, group_of, play_from
from .test_trainer import session_of

HERE = "tests.training.test_replay"


class Retry(Selection):
    """Plays each group that lost throughout once more with a hint; keeps the better one."""

    name: Literal["retry"] = "retry"
    hint: str = Field("Try harder.", description="what the player is told")

    async def choose(
        self, groups: Sequence[Group], returns: Sequence[Sequence[float]], replay: Replay
    ) -> Sequence[Group]:
        lost = [i for i, group in enumerate(groups) if not any(e.success for e in group)]
        again, paid = await replay([groups[i].task for i in lost], [self.hint] * len(lost))
        kept = list(groups)
        for i, group, values in zip(lost, again, paid, strict=True):
            if max(values, default=0.0) > max(returns[i], default=0.0):
                kept[i] = group
        return kept


class Widest(Selection):
    """Keeps the groups of the step whose returns differ most, whatever their number."""

    name: Literal["widest"] = "widest"
    most: int = Field(2, ge=1, description="groups that are kept, at most")

    async def choose(
        self, groups: Sequence[Group], returns: Sequence[Sequence[float]], replay: Replay
    ) -> Sequence[Group]:
        spread = [statistics.pvariance(values) for values in returns]
        order = sorted(range(len(groups)), key=lambda i: (-spread[i], i))[: self.most]
        return [groups[i] for i in sorted(order)]


def again_as(answers: Mapping[int, list[float]], heard: list[tuple[int, str]]) -> Any:
    """Play tasks again with these returns by seed; remembers what was asked for."""

    async def again(tasks: Sequence[Task], hints: Sequence[str]) -> Any:
        heard.extend(zip((task.seed for task in tasks), hints, strict=True))
        groups = [group_of(answers[task.seed], seed=task.seed) for task in tasks]
        episodes = [episode for group in groups for episode in group]
        won = sum(episode.success for episode in episodes)
        return groups, {"episodes": float(len(episodes)), "success": won / len(episodes)}

    return again


def test_each_group_that_lost_throughout_is_played_once_more_with_a_hint() -> None:
    played = [group_of(returns, seed=i) for i, returns in enumerate([MIXED, LOST, WON, LOST])]
    heard: list[tuple[int, str]] = []
    play, asked = play_from(played)
    again = again_as({1: [0.0, 1.0], 3: LOST}, heard)
    found = gathered(play, [Retry()], 4, again)
    assert heard == [(1, "Try harder."), (3, "Try harder.")]
    assert asked == [4], "what is kept fills the batch"
    assert [group.task.seed for group in found.groups] == [0, 1, 2, 3]
    assert [e.success for e in found.groups[1]] == [False, True]
    assert found.groups[3] is played[3]
    # What was played for the first time is told apart from what was played again.
    assert found.metrics == {
        "episodes": 8.0,
        "success": 3 / 8,
        "stop/won": 3.0,
        "selection/kept": 4.0,
        "selection/played": 4.0,
        "selection/replayed": 2.0,
        "replay/episodes": 4.0,
        "replay/success": 1 / 4,
    }


def test_a_selection_chooses_across_the_groups_of_a_step() -> None:
    returns = [[1.0, 0.0], [1.0, 0.9], [0.4, 0.0], [1.0, 1.0]]
    play, asked = play_from([group_of(values, seed=i) for i, values in enumerate(returns)])
    found = gathered(play, [Widest(most=2)], 4)
    assert [group.task.seed for group in found.groups] == [0, 2]
    assert asked == [4]
    assert found.metrics["selection/kept"] == 2
    assert "selection/replayed" not in found.metrics


def test_wide_and_simple_hooks_act_one_after_the_other_over_rounds() -> None:
    rounds = [LOST, MIXED, LOST, MIXED, MIXED]
    play, asked = play_from([group_of(values, seed=i) for i, values in enumerate(rounds)])
    again = again_as({0: [1.0, 0.0], 2: LOST}, [])
    simple = SELECTIONS.build({"name": "zero_variance", "refill": 1})
    found = gathered(play, [Retry(), simple], 3, again)
    assert [group.task.seed for group in found.groups] == [0, 1, 3]
    assert asked == [3, 1]
    assert found.metrics["selection/replayed"] == 2


@pytest.mark.parametrize("selection", [Retry(), Widest()], ids=lambda each: each.name)
def test_wide_selections_are_checked_like_simple_ones(selection: Selection) -> None:
    report = check_plugin("selection", selection)
    if selection.name == "retry":
        assert any("played again" in result.detail for result in report.results)


class Wrong(Selection):
    """Answers what cannot be learnt from."""

    name: Literal["wrong"] = "wrong"
    how: str = "none"

    async def choose(
        self, groups: Sequence[Group], returns: Sequence[Sequence[float]], replay: Replay
    ) -> Any:
        if self.how == "hints":
            return (await replay([groups[0].task], ["one", "two"]))[0]
        stranger = group_of(WON)
        return {"none": None, "twice": [*groups, groups[0]], "stranger": [stranger]}[self.how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("none", "answered None: expected a list of Group"),
        ("twice", "answered an episode twice"),
        ("stranger", "answered an episode that was not played"),
        ("hints", "raised ValueError: 2 hints for 1 tasks"),
    ],
)
def test_an_answer_that_cannot_be_learnt_from_is_told(how: str, said: str) -> None:
    play, _ = play_from([group_of(MIXED)])
    with pytest.raises(PluginError, match=f"selection 'wrong' {said}"):
        gathered(play, [Wrong(how=how)], 1, again_as({0: WON}, []))


def test_a_selection_needs_a_hook() -> None:
    class Neither(Selection):
        name: Literal["neither"] = "neither"

    with pytest.raises(TypeError, match="has neither '__call__' nor 'choose'"):
        Neither()


# In whole steps.


class Always(Selection):
    """Has every task played again, and learns from what was played again."""

    name: Literal["always"] = "always"

    async def choose(
        self, groups: Sequence[Group], returns: Sequence[Sequence[float]], replay: Replay
    ) -> Sequence[Group]:
        first, _ = await replay([group.task for group in groups])
        again, _ = await replay([group.task for group in groups], ["Say red blue."] * len(groups))
        KEPT.extend(episodes_of([*groups, *first, *again]))
        return again


KEPT: list[Episode] = []


def test_what_is_played_again_is_paid_packed_and_seen_with_its_hint(tmp_path: Path) -> None:
    rl = {"selection": [{"name": f"{HERE}:Always"}], "symmetries": 2, "tasks_per_step": 2}
    KEPT.clear()
    with session_of(tmp_path, recipe(rl=rl)) as session:
        stage: Any = session.recipe.stages[1]
        trainer = Trainer(session, stage, 1)
        metrics = asyncio.run(trainer.step(0))
        assert trainer.source.drawn == 2, "the curriculum drew the tasks once"
        said = [session.tokenizer.decode(e.prompt(0)) for e in KEPT]
    assert len({episode.id for episode in KEPT}) == len(KEPT) == 3 * 8
    ids = [f"000000:{group:04d}:{member:03d}" for group in range(2, 6) for member in range(4)]
    assert [episode.id for episode in KEPT[8:]] == ids
    for number, (episode, prompt) in enumerate(zip(KEPT, said, strict=True)):
        hinted = number >= 16
        assert episode.hint == ("Say red blue." if hinted else "")
        seen = "Say blue red." if episode.renaming else "Say red blue."
        assert (seen in prompt) == hinted
        assert "Say" not in episode.opening
        assert all("outcome" in turn.rewards for turn in episode.turns)
        assert Episode.from_json(episode.to_json()).hint == episode.hint
    assert metrics["episodes"] == 8
    assert metrics["replay/episodes"] == 16
    assert metrics["selection/replayed"] == 4
    tokens = sum(episode.response_tokens for episode in KEPT[16:])
    assert metrics["tokens/trained"] == tokens


# Rewards that learn.


class Novel(TurnReward):
    """Pays a response that was rare in the steps before, and counts them after each step."""

    name: Literal["novel"] = "novel"
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[1 / (1 + self._seen.get(turn.text, 0)) for turn in e.turns] for e in group]

    def update(self, groups: Sequence[Group]) -> Mapping[str, float]:
        for episode in episodes_of(groups):
            for turn in episode.turns:
                self._seen[turn.text] = self._seen.get(turn.text, 0) + 1
        return {"known": float(len(self._seen))}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen.clear()
        self._seen.update(state["seen"])


def steps(folder: Path, count: int, reward: dict[str, Any], **options: Any) -> list[Any]:
    data = recipe(rl={"steps": count, "tasks_per_step": 2}, rewards=[{"name": "outcome"}, reward])
    train(Recipe.parse(data), run_dir=folder, progress=False, **options)
    return [line for line in records(folder) if line["stage"] == "rl"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_reward_has_learnt_pays_the_next_step_and_outlives_a_resume(
    tmp_path: Path, wrapped: bool
) -> None:
    novel = {"name": f"{HERE}:Novel"}
    reward = {"name": "clip", "of": novel} if wrapped else novel
    whole = steps(tmp_path / "whole", 4, reward)
    steps(tmp_path / "half", 2, reward)
    assert steps(tmp_path / "half", 4, reward, resume=True) == whole
    key = "clip/novel/known" if wrapped else "novel/known"
    known = [line[key] for line in whole]
    assert known == sorted(known)
    assert known[0] > 0
    if not wrapped:
        paid = [line["reward/novel"] / line["turns"] for line in whole]
        assert paid[0] == pytest.approx(1.0), "nothing was seen before"
        assert paid[1] < paid[0]
