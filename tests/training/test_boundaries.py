"""Wrong answers of others' plug-ins are one sentence with the plug-in's name, for every slot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from turnrl import Recipe, Task, UserError
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.context.base import Context, History
from turnrl.agents.episode import Episode, Group
from turnrl.agents.models.forward import Scores
from turnrl.agents.parsers.base import Parsed, Parser
from turnrl.agents.tagger.base import Tagged, Tagger
from turnrl.foundation.errors import PluginError, RunFailed
from turnrl.rewards.base import TurnReward
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import Advantages, Credit
from turnrl.training.curriculum.base import Curriculum
from turnrl.training.losses.base import PolicyLoss
from turnrl.training.modifiers.base import Modifier
from turnrl.training.objective import LossOutput
from turnrl.training.regularizers.base import Regularizer
from turnrl.training.reward_table import RewardTable
from turnrl.training.run import train
from turnrl.training.selection.base import Selection

from ..logged import listening
from ..toy_world import recipe


def odd(how: str, right: Any) -> Any:
    """What a plug-in answers that goes wrong in this way."""
    if how == "raise":
        raise KeyError("room 7")
    return {"none": None, "text": "one", "number": 1.0, "empty": [], "wrong": object()}.get(
        how, right
    )


class Odd(TurnReward):
    name: Literal["odd"] = "odd"
    how: str

    async def __call__(self, group: Group, scorer: LanguageAgent | None = None) -> Any:
        rows: list[Any] = [[1.0] * len(episode.turns) for episode in group]
        if self.how == "short":
            return rows[1:]
        if self.how == "long row":
            return [[*row, 0.0] for row in rows]
        if self.how == "short row":
            return [row[1:] for row in rows]
        if self.how in ("none in a row", "text in a row", "list in a row", "complex in a row"):
            value = {"none": None, "text": "1", "list": [1.0], "complex": 1j}[self.how.split()[0]]
            return [[value] * len(row) for row in rows]
        if self.how == "rows of none":
            return [None for _ in rows]
        if self.how == "arrays":
            return [np.ones(len(row), dtype=np.float32) for row in rows]
        if self.how == "tensors":
            return [[torch.tensor(1.0)] * len(row) for row in rows]
        if self.how == "integers":
            return [tuple([True] * len(row)) for row in rows]
        if self.how in ("nan", "inf", "-inf"):
            return [[float(self.how)] * len(row) for row in rows[:1]] + rows[1:]
        return odd(self.how, rows)


class Sync(TurnReward):
    name: Literal["sync"] = "sync"

    def __call__(self, group: Group, scorer: LanguageAgent | None = None) -> Any:
        return [[1.0] * len(episode.turns) for episode in group]


class OddCredit(Credit):
    name: Literal["odd"] = "odd"
    how: str

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Any:
        right_ET = torch.randn(batch.episodes, batch.max_turns)
        if self.how == "tensor":
            return right_ET
        if self.how == "targets":
            return Advantages(right_ET, critic_targets_BL=right_ET[:, 0])
        shapes = {
            "narrow": right_ET[:, :-1],
            "flat": right_ET[:, 0],
            "fewer": right_ET[1:],
            "bools": right_ET > 0,
        }
        if self.how in shapes:
            return Advantages(shapes[self.how])
        return odd(self.how, Advantages(right_ET))


class ForgotLevel(Credit):
    """Means tokens and says turns, as the default is."""

    name: Literal["forgot"] = "forgot"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        return Advantages(torch.zeros(batch.tokens_BL.shape))


class OddModifier(Modifier):
    name: Literal["odd"] = "odd"
    how: str

    def __call__(self, advantages_BL: Tensor, batch: TokenBatch) -> Any:
        return advantages_BL[:, 1:] if self.how == "narrow" else odd(self.how, advantages_BL)


class OddSelection(Selection):
    name: Literal["odd"] = "odd"
    how: str

    def __call__(self, group: Group, returns: Sequence[float]) -> Any:
        if self.how == "stranger":
            return Group(group.task, [Episode(group.task)])
        return odd("text" if self.how == "none" else self.how, group)


class OddCurriculum(Curriculum):
    name: Literal["odd"] = "odd"
    how: str

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> Any:
        if self.how == "fewer":
            return list(tasks[: count - 1])
        if self.how == "ids":
            return [task.id for task in tasks[:count]]
        return (
            list(tasks[:count])
            if self.how.startswith("turns")
            else odd(self.how, list(tasks[:count]))
        )

    def max_turns(self, limit: int, progress: float) -> Any:
        return {"turns 0": 0, "turns none": None, "turns text": "two", "turns more": limit + 1}.get(
            self.how, limit
        )


class OddLoss(PolicyLoss):
    name: Literal["odd"] = "odd"
    skips_zero: ClassVar[bool] = False
    how: str

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> Any:
        if self.how == "scalar":
            return LossOutput(scores.logprobs_BL.sum())
        return odd(self.how, LossOutput(-scores.logprobs_BL))


class Abstract(PolicyLoss):
    name: Literal["abstract"] = "abstract"


class OddTerm(Regularizer):
    name: Literal["odd"] = "odd"
    how: str

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> Any:
        return (
            LossOutput(scores.logprobs_BL.mean(1))
            if self.how == "flat"
            else odd(self.how, LossOutput(-scores.logprobs_BL))
        )


class OddParser(Parser):
    name: Literal["odd"] = "odd"
    how: str

    @property
    def expects(self) -> str:
        return "Anything."

    def parse(self, text: str) -> Any:
        return Parsed(7) if self.how == "number in it" else odd(self.how, Parsed("red"))  # type: ignore[arg-type]

    def render(self, action: str, thought: str | None = None, tag: str | None = None) -> Any:
        return (
            odd(self.how.removeprefix("render "), action)
            if self.how.startswith("render")
            else action
        )


class OddContext(Context):
    name: Literal["odd"] = "odd"
    how: str

    def messages(self, history: History) -> Any:
        if self.how == "no content":
            return [{"role": "user"}]
        return odd(self.how, [{"role": "user", "content": history.observations[-1]}])


class OddTagger(Tagger):
    name: Literal["odd"] = "odd"
    how: str

    async def __call__(self, episode: Episode, instructions: str = "") -> Any:
        if self.how == "fewer":
            return [Tagged("monitor", "Well.")] * (len(episode.turns) - 1)
        return odd("text" if self.how == "none" else self.how, None)


def failing(folder: Path, changes: dict[str, Any]) -> str:
    """The sentence in which a run of two steps ends, or '' if it ends well."""
    data = recipe(**{"rl": {"steps": 2, "group_size": 3}} | changes)
    data["stages"] = data["stages"] if "sft" in changes else data["stages"][1:]
    try:
        train(Recipe.parse(data), run_dir=folder, progress=False)
    except (UserError, RunFailed) as error:
        return str(error)
    return ""


def stage(**fields: Any) -> dict[str, Any]:
    return {"rl": {"steps": 2, "group_size": 3, **fields}}


def plug(cls: type, how: str) -> dict[str, str]:
    return {"name": f"{__name__}:{cls.__name__}", "how": how}


SAID = {
    "none": "answered None",
    "text": "answered ",
    "number": "answered ",
    "empty": "answered ",
    "wrong": "answered ",
}
RAISED = "raised KeyError: 'room 7' ("
REWARDS = {
    "raise": RAISED,
    "none": "gave no list of rows",
    "text": "gave no list of rows",
    "number": "gave no list of rows",
    "empty": "gave 0 rows: expected one row for each of 3 episodes",
    "short": "gave 2 rows",
    "short row": "expected one per turn",
    "long row": "expected one per turn",
    "rows of none": "gave no list of number",
    "none in a row": "a number is None, not a number",
    "text in a row": "a number is str",
    "list in a row": "is list",
    "complex in a row": "is complex",
}


@pytest.mark.parametrize("how", REWARDS)
def test_a_reward_that_goes_wrong_is_named(tmp_path: Path, how: str) -> None:
    why = failing(tmp_path / "run", {"rewards": [{"name": "outcome"}, plug(Odd, how)]})
    assert "reward 'odd'" in why
    assert REWARDS[how] in why
    assert "zip()" not in why
    if how == "raise":
        assert f"{Path(__file__).name}:" in why, "the place in the plug-in's own file"
        assert "taught nothing" in why, "its groups were left out, and there were no others"


def test_a_reward_that_is_not_async_is_named(tmp_path: Path) -> None:
    why = failing(tmp_path / "run", {"rewards": [{"name": f"{__name__}:Sync"}]})
    assert "reward 'sync' is not async" in why


@pytest.mark.parametrize("how", ["right", "arrays", "tensors", "integers", "nan", "inf", "-inf"])
def test_numbers_of_any_kind_are_numbers_and_what_is_not_finite_is_unmeasured(
    tmp_path: Path, how: str
) -> None:
    lines: list[dict[str, Any]] = []
    data = recipe(rewards=[{"name": "outcome"}, plug(Odd, how)], rl={"steps": 2, "group_size": 3})
    data["stages"] = data["stages"][1:]
    with listening() as said:
        train(Recipe.parse(data), run_dir=tmp_path / "run", progress=False, on_record=lines.append)
    lost = [line.get("lost/reward_odd", 0) for line in lines if line["stage"] == "rl"]
    assert lost == ([4, 4] if how in ("nan", "inf", "-inf") else [0, 0])
    assert sum("reward 'odd' could not be measured" in each for each in said) == (lost[0] > 0)


def test_an_inner_reward_is_named(tmp_path: Path) -> None:
    for outer in ("clip", "delta", "discount", "winrate", "pairwise"):
        key = "by" if outer in ("pairwise", "winrate") else "of"
        why = failing(tmp_path / outer, {"rewards": [{"name": outer, key: plug(Odd, "short")}]})
        assert "reward 'odd' gave 2 rows" in why


TURNS = ("turns 0", "turns none", "turns text", "turns more")
PLUGINS: list[tuple[str, str, type, tuple[str, ...]]] = [
    (
        "credit",
        "credit 'odd'",
        OddCredit,
        ("narrow", "flat", "fewer", "bools", "tensor", "targets"),
    ),
    ("loss", "loss 'odd'", OddLoss, ("scalar",)),
    ("curriculum", "curriculum 'odd'", OddCurriculum, ("fewer", "ids", *TURNS)),
    ("modifiers", "modifier 'odd'", OddModifier, ("narrow",)),
    ("selection", "selection 'odd'", OddSelection, ("stranger",)),
    ("regularizers", "regularizer 'odd'", OddTerm, ("flat",)),
]
CASES = [
    (key, what, cls, how)
    for key, what, cls, more in PLUGINS
    for how in ("raise", "none", "text", "number", "wrong", *more)
]


@pytest.mark.parametrize(
    ("key", "what", "cls", "how"), CASES, ids=lambda value: str(value).split(".")[-1]
)
def test_a_plug_in_of_a_stage_that_goes_wrong_is_named(
    tmp_path: Path, key: str, what: str, cls: type, how: str
) -> None:
    value: Any = plug(cls, how) if key in ("credit", "loss", "curriculum") else [plug(cls, how)]
    why = failing(tmp_path / "run", stage(**{key: value}))
    assert why.startswith(f"{what} ")
    assert (RAISED if how == "raise" else "expected") in why or (
        key == "curriculum" and "raised" in why
    )


def test_a_credit_that_forgot_its_level_is_told(tmp_path: Path) -> None:
    why = failing(tmp_path / "run", stage(credit={"name": f"{__name__}:ForgotLevel"}))
    assert "credit 'forgot' answered a tensor [" in why
    assert "[E, T]: one number per turn of each episode" in why


@pytest.mark.parametrize("how", ["raise", "none", "text", "number in it", "wrong"])
@pytest.mark.parametrize(
    ("key", "what", "cls"),
    [("parser", "parser 'odd'", OddParser), ("context", "context 'odd'", OddContext)],
)
def test_a_plug_in_of_the_agent_that_goes_wrong_is_named(
    tmp_path: Path, key: str, what: str, cls: type, how: str
) -> None:
    agent = {"max_turns": 2, "system": False, "sampling": {"max_tokens": 3}}
    how = "no content" if (key, how) == ("context", "number in it") else how
    why = failing(tmp_path / "run", {"agent": agent | {key: plug(cls, how)}})
    assert why.startswith(f"{what} ")


@pytest.mark.parametrize("how", ["render raise", "render none", "render wrong"])
def test_a_parser_that_cannot_write_is_named(tmp_path: Path, how: str) -> None:
    agent = {
        "max_turns": 2,
        "system": False,
        "sampling": {"max_tokens": 3},
        "parser": plug(OddParser, how),
    }
    assert failing(tmp_path / "run", {"agent": agent}).startswith("parser 'odd' ")


class Forgetful(Curriculum):
    name: Literal["forgetful"] = "forgetful"
    how: str

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        return list(tasks[:count])

    def state_dict(self) -> Any:
        return {
            "set": {"seen": {1, 2}},
            "object": {"a": [object()]},
            "numpy": {"a": np.float32(1)},
        }.get(self.how, odd(self.how, {"a": [1, "b", None, {"c": torch.ones(2)}]}))


@pytest.mark.parametrize("how", ["raise", "none", "text", "set", "object", "numpy", "right"])
def test_a_memory_that_no_checkpoint_could_give_back_is_told_at_once(
    tmp_path: Path, how: str
) -> None:
    why = failing(tmp_path / "run", stage(curriculum=plug(Forgetful, how)))
    assert why.startswith("plug-in 'forgetful' ") if how != "right" else not why


@pytest.mark.parametrize("how", ["raise", "none", "fewer", "wrong"])
def test_a_tagger_that_goes_wrong_is_named(tmp_path: Path, how: str) -> None:
    kinds = ["planning", "explore", "reflection", "monitor"]
    parser = {"name": "tags", "thoughts": kinds, "require_think": True}
    agent = {"max_turns": 2, "system": False, "sampling": {"max_tokens": 30}, "parser": parser}
    why = failing(tmp_path / "run", {"agent": agent, "sft": {"tagger": plug(OddTagger, how)}})
    assert why.startswith("tagger 'odd' ")


def test_a_plug_in_that_cannot_be_made_is_named() -> None:
    with pytest.raises(
        PluginError, match=r"training\.losses '.*:Abstract', when it was made, raised TypeError"
    ):
        Recipe.parse(recipe(rl={"loss": {"name": f"{__name__}:Abstract"}}))
