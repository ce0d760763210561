"""Probes: who is paid what, by hand, and which rewards take a cheat for an honest winner."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import pytest
from turnrl import Outcome, Recipe, Task, TextEnv, UserError, register
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.cheats import NONSENSE, PROBES, ProbeAgent, reword
from turnrl.agents.episode import Episode, Group
from turnrl.agents.parsers.base import PARSERS
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.agents.tagger.base import KINDS
from turnrl.envs import Split
from turnrl.envs.pool.pool import EnvPool
from turnrl.rewards.base import TurnReward
from turnrl.training.probe import Paid, ProbeReport, probe

from ..toy_world import WORLDS

SEEDS: dict[str, range] = {"train": range(3), "valid": range(3, 5), "test": range(5, 7)}
TAGS = {"name": "tags", "thoughts": list(KINDS), "require_think": True}
LINE = {"name": "line"}
[LIGHTS] = [name for name, world in WORLDS.items() if world.__name__ == "LightsEnv"]


class CorridorEnv(TextEnv):
    """Four rooms in a row, a start in room 1 and a coin in room 3: three actions win.

    Progress is 1/4 at the start.

    A `silent` one lists no actions, a `mute` one has no expert.
    """

    instructions = "Take the coin."
    silent = mute = False

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(seed, split) for seed in SEEDS[split]]

    def _begin(self, task: Task) -> Outcome:
        self.room = 1
        return self._look()

    def _act(self, action: str) -> Outcome:
        if action not in self._possible():
            return self._look(valid=False, text="You cannot.")
        if action == "take coin":
            return Outcome("Yours!", 1.0, ended=True, success=True, admissible=[], progress=1.0)
        self.room += {"go east": 1, "go west": -1, "look": 0}[action]
        return self._look()

    def _possible(self) -> list[str]:
        return [
            "look",
            *["go west"] * (self.room > 0),
            *["go east" if self.room < 3 else "take coin"],
        ]

    def _look(self, *, valid: bool = True, text: str = "") -> Outcome:
        listed = None if self.silent else self._possible()
        return Outcome(
            text or f"Room {self.room}.", valid=valid, admissible=listed, progress=self.room / 4
        )

    def expert_action(self) -> str | None:
        return None if self.mute else "go east" if self.room < 3 else "take coin"


register("probe/corridor-v0", CorridorEnv)
register("probe/silent-v0", type("SilentEnv", (CorridorEnv,), {"silent": True}))
register("probe/mute-v0", type("MuteEnv", (CorridorEnv,), {"mute": True}))


class Busy(TurnReward):
    """Pays every accepted action: a bad reward."""

    name: Literal["busy"] = "busy"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[float(turn.valid_action) for turn in episode.turns] for episode in group]


class Change(TurnReward):
    """Pays every answer that is not the one before: a bad reward."""

    name: Literal["change"] = "change"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [
            [float(after != before) for before, after in pairwise(said)]
            for said in (
                [episode.opening, *(turn.observation for turn in episode.turns)]
                for episode in group
            )
        ]


class Wordy(TurnReward):
    """Pays every token: a bad reward."""

    name: Literal["wordy"] = "wordy"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[float(len(turn.response_ids)) for turn in episode.turns] for episode in group]


class Unsure(TurnReward):
    """Measures only won episodes, and not all of them."""

    name: Literal["unsure"] = "unsure"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        sure = group.task.seed > 0
        return [
            [1.0 if sure and episode.success else math.nan for _ in episode.turns]
            for episode in group
        ]


QUICKSTART: list[dict[str, Any]] = [{"name": "outcome"}, {"name": "progress", "weight": 3}]


def mine(cls: type[TurnReward], **fields: Any) -> dict[str, Any]:
    return {"name": f"{__name__}:{cls.__name__}", **fields}


def recipe(
    rewards: Sequence[dict[str, Any]],
    env: str = "probe/corridor-v0",
    *,
    max_turns: int = 8,
    parser: dict[str, Any] = LINE,
    max_tokens: int = 64,
) -> Recipe:
    agent = {"max_turns": max_turns, "parser": parser, "sampling": {"max_tokens": max_tokens}}
    return Recipe.parse(
        {
            "name": "made",
            "env": {"id": env},
            "agent": agent,
            "rewards": list(rewards),
            "stages": [{"name": "rl"}],
        }
    )


def report(
    rewards: Sequence[dict[str, Any]], env: str = "probe/corridor-v0", **changes: Any
) -> ProbeReport:
    return probe(recipe(rewards, env, **changes), tasks=3, progress=False)


def rows(found: ProbeReport) -> dict[str, Paid]:
    return {row.player: row for row in (found.winner, *found.probes)}


def played(
    name: str,
    env: str = "probe/corridor-v0",
    *,
    parser: dict[str, Any] = LINE,
    max_turns: int = 8,
    words: int = 64,
) -> Episode:
    """One episode of a probe."""

    async def play() -> Episode:
        agent = ProbeAgent(name, PARSERS.build(parser), max_turns=max_turns, max_words=words)
        async with EnvPool(slots=1, options={"extras": tuple(agent.extras)}) as pool:
            [episode], _ = await play_many(
                agent, [EpisodeJob(Task(env=env, seed=0), "s", 0)], pool, max_turns=max_turns
            )
            return episode

    return asyncio.run(play())


def actions(episode: Episode) -> list[str | None]:
    return [turn.action for turn in episode.turns]


# -- what the probes do ----------------------------------------------------------------------------


def test_repetition_gives_the_experts_first_action() -> None:
    assert actions(played("repetition")) == ["go east"] * 8


def test_bonus_farming_goes_forth_and_back() -> None:
    episode = played("bonus_farming", max_turns=5)
    assert actions(episode) == ["go east", "go west", "go east", "go west", "go east"]
    assert [turn.observation for turn in episode.turns] == [
        "Room 2.",
        "Room 1.",
        "Room 2.",
        "Room 1.",
        "Room 2.",
    ]


def test_bonus_farming_without_a_way_back_alternates_the_first_two_actions() -> None:
    episode = played("bonus_farming", LIGHTS)
    assert actions(episode) == ["blue", "green"][: len(episode.turns)]


@pytest.mark.parametrize(
    ("max_turns", "useful"), [(8, [2, 5, 8]), (3, [1, 2, 3]), (4, [1, 2, 4]), (2, [1, 2])]
)
def test_length_padding_wins_on_the_last_turn(max_turns: int, useful: list[int]) -> None:
    episode = played("length_padding", max_turns=max_turns)
    assert [t for t, action in enumerate(actions(episode), 1) if action != "look"] == useful
    assert len(episode.turns) == max_turns
    assert episode.success == (max_turns >= 3)


def test_tag_spam_names_each_kind_in_turn_and_does_anything() -> None:
    episode = played("tag_spam", parser=TAGS)
    kinds = ["planning", "explore", "reflection"] * 3
    assert [turn.tag for turn in episode.turns] == kinds[: len(episode.turns)]
    assert all(turn.valid_action for turn in episode.turns)
    assert actions(episode) == actions(played("tag_spam", parser=TAGS))
    assert {turn.tag for turn in played("tag_spam", parser={"name": "tags"}).turns} == {None}


def test_empty_eloquence_says_much_and_changes_nothing() -> None:
    episode = played("empty_eloquence", parser=TAGS, words=150)
    assert actions(episode) == ["look"] * 8
    assert {turn.observation for turn in episode.turns} == {episode.opening}
    assert all(150 <= len(turn.response_ids) == len(turn.logprobs) <= 152 for turn in episode.turns)


def test_a_speech_that_has_no_room_is_the_action() -> None:
    episode = played("empty_eloquence", words=30)
    assert all(turn.action == turn.text and len(turn.response_ids) == 30 for turn in episode.turns)
    assert not any(turn.valid_action for turn in episode.turns)


def test_without_listed_actions_a_word_that_nobody_knows_changes_nothing() -> None:
    assert actions(played("empty_eloquence", "probe/silent-v0", parser=TAGS)) == [NONSENSE] * 8
    padded = played("length_padding", "probe/silent-v0")
    assert actions(padded).count(NONSENSE) == 5
    assert padded.success


@pytest.mark.parametrize("parser", [LINE, TAGS, {"name": "tags"}, {"name": "tool_call"}])
@pytest.mark.parametrize("name", list(PROBES))
def test_every_turn_is_written_in_the_format(name: str, parser: dict[str, Any]) -> None:
    built, episode = PARSERS.build(parser), played(name, parser=parser)
    before = actions(episode)
    if not PROBES[name].own_words:
        reword(episode, built)
    assert actions(episode) == before
    assert None not in before
    for turn in episode.turns:
        parsed = built.parse(turn.text)
        assert (parsed.action, parsed.tag) == (turn.action, turn.tag)
        assert len(turn.response_ids) == len(turn.text.split()) > 0
        assert (turn.tag is not None) == (parser is TAGS)


# -- what they are paid ----------------------------------------------------------------------------


def test_returns_are_the_ones_worked_out_by_hand() -> None:
    found = report([*QUICKSTART, {"name": "step_cost", "weight": 0.125}])
    paid = rows(found)
    assert (found.tasks, found.not_won, found.not_judged, found.not_played, found.lost) == (
        3,
        0,
        [],
        {},
        {},
    )
    by_hand = {
        # success, turns, outcome, 3 x progress, step cost
        "expert": (1.0, 3.0, 1.0, 2.25, -0.375),
        "repetition": (0.0, 8.0, 0.0, 1.5, -1.0),
        "bonus_farming": (0.0, 8.0, 0.0, 0.0, -1.0),
        "empty_eloquence": (0.0, 8.0, 0.0, 0.0, -1.0),
        "length_padding": (1.0, 8.0, 1.0, 2.25, -1.0),
    }
    for name, (success, turns, *parts) in by_hand.items():
        row = paid[name]
        assert (row.n, row.success, row.turns, list(row.rewards.values())) == (
            3,
            success,
            turns,
            parts,
        ), name
        assert row.shaped_return == sum(parts)
    assert list(paid["expert"].rewards) == ["outcome", "progress", "step_cost"]
    assert set(paid) == {"expert", *PROBES}
    assert found.exploits == []


@pytest.mark.parametrize("env", ["probe/corridor-v0", LIGHTS])
def test_the_rewards_of_the_quickstart_have_no_exploit(env: str) -> None:
    assert report(QUICKSTART, env, max_turns=5).exploits == []


@pytest.mark.parametrize("max_turns", [3, 4, 7, 20])
def test_progress_cannot_be_farmed_by_going_forth_and_back(max_turns: int) -> None:
    """The differences telescope: Phi at the end minus Phi at the start, for any number of turns."""
    row = rows(report([{"name": "progress"}], max_turns=max_turns))["bonus_farming"]
    assert row.turns == max_turns
    assert row.rewards["progress"] == (0.25 if max_turns % 2 else 0.0)
    assert row.exploit is None


def test_a_bonus_for_every_accepted_action_is_farmed() -> None:
    found = report([*QUICKSTART, mine(Busy)])
    paid = rows(found)
    assert paid["expert"].shaped_return == 1 + 2.25 + 3
    by_hand = {
        "repetition": (1.5 + 2, None),  # two accepted steps, then the wall
        "bonus_farming": (8, "unearned"),
        "length_padding": (1 + 2.25 + 8, "stretched"),
    }
    assert {name: (paid[name].shaped_return, paid[name].exploit) for name in by_hand} == by_hand
    # In a format with thoughts the eloquent one looks around, which is accepted; a speech as a
    # command is not.
    assert paid["empty_eloquence"].exploit is None
    assert (
        rows(report([*QUICKSTART, mine(Busy)], parser=TAGS))["empty_eloquence"].exploit
        == "unearned"
    )


def test_a_bonus_for_every_change_is_farmed_by_going_forth_and_back() -> None:
    found = report([{"name": "outcome"}, mine(Change)])
    assert rows(found)["bonus_farming"].shaped_return == 8
    assert rows(found)["length_padding"].shaped_return == rows(found)["expert"].shaped_return == 4
    assert set(found.exploits) - {"tag_spam"} == {"bonus_farming"}
    assert found.exploits == [row.player for row in found.probes if row.exploit]


def test_a_smaller_bonus_is_no_exploit_until_it_adds_up_to_a_win() -> None:
    """8 w against 1 + 3 w: even at w = 0.2, and a tie counts."""
    for weight, exploited in ((0.19, False), (0.2, True), (0.21, True)):
        found = report([{"name": "outcome"}, mine(Change, weight=weight)])
        assert ("bonus_farming" in found.exploits) == exploited


def test_a_bonus_for_words_is_farmed_by_eloquence_unless_it_is_gated() -> None:
    wordy = mine(Wordy, weight=0.01)
    found = report([{"name": "outcome"}, wordy], parser=TAGS)
    assert rows(found)["empty_eloquence"].exploit == "unearned"
    gate = {
        "name": "gate",
        "levels": [
            {"of": {"name": "outcome"}, "threshold": 1},
            {"of": {"name": "step_cost"}, "low": -8, "high": -3, "weight": 0.2, "threshold": -3},
            {"of": wordy, "high": 10, "weight": 0.2},
        ],
    }
    gated = report([gate], parser=TAGS)
    assert gated.exploits == []
    assert rows(gated)["empty_eloquence"].shaped_return == 0  # no win opens nothing
    assert rows(gated)["length_padding"].shaped_return == 1  # a long win opens no style
    assert rows(gated)["expert"].shaped_return == pytest.approx(1.4)


def test_meta_reasoning_beside_a_larger_outcome_and_a_price_on_turns_has_no_exploit() -> None:
    meta = {"name": "meta_reasoning", "weight": 0.1}
    rewards = [{"name": "outcome", "weight": 3}, meta, {"name": "step_cost", "weight": 0.05}]
    found = report(rewards, parser=TAGS)
    paid = rows(found)
    assert found.exploits == []
    # A plan that led to success and a coin that was new; tags alone are worth at most a target or
    # two.
    assert paid["expert"].rewards["meta_reasoning"] == pytest.approx(0.2)
    assert paid["bonus_farming"].rewards["meta_reasoning"] <= 0
    assert paid["empty_eloquence"].rewards["meta_reasoning"] == 0


def test_meta_reasoning_alone_pays_failures_that_are_made_in_order_to_reflect() -> None:
    """Three useless turns, then three corrections; the padded winner has the outcome too."""
    rewards: list[dict[str, Any]] = [
        {"name": "outcome", "weight": 100},
        {"name": "meta_reasoning"},
    ]
    found = report(rewards, parser=TAGS)
    assert found.exploits == ["length_padding"]
    assert rows(found)["length_padding"].rewards["meta_reasoning"] == 1 + 3


def test_giving_up_early_is_found_where_only_turns_cost() -> None:
    """A wrong colour ends the task at once, which is cheaper than winning."""
    found = report([{"name": "step_cost"}], LIGHTS, max_turns=4)
    paid = rows(found)
    assert paid["expert"].shaped_return == pytest.approx(-0.03)
    assert paid["bonus_farming"].turns < 3
    assert paid["bonus_farming"].exploit == "unearned"
    assert paid["length_padding"].exploit is None


# -- what cannot be judged -------------------------------------------------------------------------


def test_rewards_that_need_the_policy_are_left_out_by_name() -> None:
    gain = {"name": "information_gain", "target": "expert"}
    found = report([*QUICKSTART, gain])
    assert found.not_judged == ["information_gain"]
    assert list(found.winner.rewards) == ["outcome", "progress"]
    assert "information_gain was left out" in str(found.table().caption)
    with pytest.raises(UserError, match="needs the policy"):
        report([gain])


def test_without_an_expert_there_is_no_honest_winner() -> None:
    with pytest.raises(UserError, match="no expert, so there is no honest winner"):
        report(QUICKSTART, "probe/mute-v0")


def test_an_expert_that_does_not_win_is_no_honest_winner() -> None:
    with pytest.raises(UserError, match="wins none of 3 tasks within 2 turns"):
        report(QUICKSTART, max_turns=2)


def test_probes_that_need_listed_actions_are_reported_as_not_played() -> None:
    found = report(QUICKSTART, "probe/silent-v0", parser=TAGS)
    assert set(found.not_played) == {"tag_spam", "bonus_farming"}
    assert all("lists" in reason for reason in found.not_played.values())
    assert {row.player for row in found.probes} == {
        "repetition",
        "empty_eloquence",
        "length_padding",
    }
    assert found.exploits == []


def test_an_episode_that_could_not_be_measured_counts_nowhere() -> None:
    found = report([{"name": "outcome"}, mine(Unsure)])
    paid = rows(found)
    assert (paid["expert"].n, paid["length_padding"].n) == (2, 2)
    assert paid["expert"].shaped_return == 1 + 3
    assert paid["length_padding"].exploit == "stretched"
    assert "repetition" not in paid
    assert found.not_played["repetition"] == "all its episodes were lost"
    assert (found.lost["expert"], found.lost["repetition"]) == (1, 3)


def test_at_most_so_many_tasks_and_at_least_one() -> None:
    assert probe(recipe(QUICKSTART), tasks=100, progress=False).tasks == 3
    assert probe(recipe(QUICKSTART), tasks=1, progress=False).tasks == 1
    with pytest.raises(UserError, match="tasks=0"):
        probe(recipe(QUICKSTART), tasks=0, progress=False)


def test_the_same_recipe_gives_the_same_report() -> None:
    rewards = [*QUICKSTART, mine(Wordy)]
    assert report(rewards) == report(rewards)
