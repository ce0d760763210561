"""TurnReward: one number per turn of each episode, for a group of finished episodes::

    class Moved(TurnReward):
        name: Literal["moved"] = "moved"

        async def __call__(self, group, scorer=None):
            return [
                [float(turn.observation != seen) for turn, seen in zip(e.turns, e.states())]
                for e in group
            ]

Rewards stay named and unweighted until credit is assigned; the recipe's weight is applied there and
both are logged. Penalties are negative numbers of unit size, so that a weight is always a positive
price. A number that could not be measured (a judge did not answer) is NaN: the trainer leaves that
episode out and counts it, it is never worth 0. The same holds for infinity, and for the episodes of
a group over which the reward raised.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Episode, Group
from ..envs.answers import real
from ..envs.faults import Faults
from ..foundation.errors import PluginError, RunFailed, UserError, kind_of, told
from ..foundation.plugins import Plugin, Slot


class TurnReward(Plugin):
    """Base of the slot ``rewards``.

    ``requires`` may name PROGRESS, ADMISSIBLE_ACTIONS, EXPERT and SCORER of `Need`.
    """

    compares: ClassVar[bool] = False
    """What it pays an episode depends on the others of its group alone: a group of one always gets
    the same.
    """
    weight: float = Field(1.0, description="price of one unit of this reward in the return")

    @property
    def failures(self) -> Counter[str]:
        """Count the numbers that this reward could not measure, by reason; empty with no count."""
        return Counter()

    @abstractmethod
    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay the episodes of a group: one number per turn of each, in order."""

    def update(self, groups: Sequence[Group]) -> Mapping[str, float]:
        """Take in the groups that a step learnt from, to learn from them too; by default nothing.

        What it has learnt belongs into `state_dict`, so that a resumed run pays alike.

        Returns:
            Numbers for the metrics, which begin with its name.
        """
        return {}


def on_last_turn(values: Sequence[float], group: Group) -> list[list[float]]:
    """Pay one number per episode on its last turn, and 0 on the others."""
    return [
        [0.0] * (len(episode.turns) - 1) + [value] * bool(episode.turns)
        for value, episode in zip(values, group, strict=True)
    ]


async def ask(reward: TurnReward, group: Group, scorer: LanguageAgent | None) -> list[list[float]]:
    """Ask a reward for its numbers, one per turn of each episode.

    Raises PluginError for another shape or type, and whatever the reward raises.
    """
    answer: Any = reward(group, scorer)
    if not inspect.isawaitable(answer):
        raise PluginError(f"reward '{reward.name}' is not async: write 'async def __call__'")
    rows = _listed(await answer)
    if rows is None or len(rows) != len(group):
        what = f"{len(rows)} rows" if rows is not None else "no list of rows"
        raise PluginError(
            f"reward '{reward.name}' gave {what}: expected one row for each of {len(group)}"
            " episodes"
        )
    return [_row(reward, row, episode) for row, episode in zip(rows, group, strict=True)]


async def pay(
    reward: TurnReward, group: Group, scorer: LanguageAgent | None, faults: Faults
) -> list[list[float]]:
    """Ask a reward for its numbers; where it raises, the group is NaN and `faults` notes its name.

    Raises PluginError for another shape or type, and the UserError of a reward.
    """
    name, where = reward.name, group.task.id
    try:
        rows = await ask(reward, group, scorer)
    except (UserError, RunFailed):
        raise
    except Exception as error:
        said = (
            f"reward '{name}' raised {told(error)} over {where}: the episodes of that group are"
            " left out"
        )
        faults.note(f"reward '{name}': {kind_of(error)}", said, len(group))
        return [[math.nan] * len(episode.turns) for episode in group]
    rows = [[value if math.isfinite(value) else math.nan for value in row] for row in rows]
    missing = sum(any(map(math.isnan, row)) for row in rows)
    if missing:
        reasons = ", ".join(f"{count} {reason}" for reason, count in reward.failures.items())
        said = (
            f"reward '{name}' could not be measured in an episode of"
            f" {where}{f' ({reasons})' if reasons else ''}"
        )
        faults.note(f"reward '{name}': unmeasured", f"{said}: it is left out", missing)
    return rows


def _row(reward: TurnReward, row: Any, episode: Episode) -> list[float]:
    listed, count = _listed(row), len(episode.turns)
    if listed is None or len(listed) != count:
        what = f"{len(listed)} numbers" if listed is not None else "no list of numbers"
        raise PluginError(
            f"reward '{reward.name}' gave {what} for an episode of {count} turns: expected one per"
            " turn"
        )
    try:
        return [real(value, "a number") for value in listed]
    except (TypeError, ValueError, OverflowError) as error:
        raise PluginError(
            f"reward '{reward.name}': {error}; NaN says that a turn could not be measured"
        ) from error


def _listed(value: Any) -> list[Any] | None:
    """Return the entries of a list, tuple, array or tensor; None for anything else."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return list(value) if is_list or getattr(value, "shape", ()) != () else None


async def inner_sums(reward: TurnReward, group: Group, scorer: LanguageAgent | None) -> list[float]:
    """Ask another reward what it pays over each whole episode, unweighted."""
    return [sum(row) for row in await ask(reward, group, scorer)]


REWARDS: Slot[TurnReward] = Slot("turnrl.rewards", TurnReward, "Rewards")
