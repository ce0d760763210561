"""turnrl/mixed-v0: several environments as one, in shares::

    env = turnrl.make("turnrl/mixed-v0", parts=[
        {"id": "textworld/coin-v0", "level": 5, "weight": 3},
        {"id": "textworld/quest-v0", "rooms": 2},
    ])
    env.tasks("train")[:4]          # three coin tasks and a quest task

Tasks stay those of their environment, so pools play them and evaluations count them by family as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..foundation.errors import UserError
from .core import Outcome, TextEnv
from .registry import make
from .settings import EnvSettings
from .task import LazyTasks, Split, Task


class Part(BaseModel):
    """One environment of a mix; further keys are its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(description="registered id of the environment")
    weight: float = Field(
        1, gt=0, allow_inf_nan=False, description="share of the tasks, beside the other weights"
    )


class MixedSettings(EnvSettings):
    """The environments that are mixed; their parameters stand in Tasks whole."""

    parts: list[Part] = Field(
        [],
        validate_default=True,
        description=(
            "the environments that are mixed, each as {id: a registered id, weight: its share,"
            " ...its parameters}"
        ),
    )

    @field_validator("parts")
    @classmethod
    def _some(cls, parts: list[Part]) -> list[Part]:
        if not parts:
            example = "[{id: textworld/coin-v0, level: 5, weight: 3}, {id: textworld/quest-v0}]"
            raise ValueError(f"needs the environments that it mixes, e.g. parts='{example}'")
        return parts


class MixedEnv(TextEnv):
    """Tasks of several environments, in proportion to their weights.

    The first n tasks of a split have those proportions for every n, as nearly as whole tasks can; a
    split ends where one of its parts has no more. Symmetries are those that all parts share.

    Raises UserError for parts that are none, alike, or not makeable.
    """

    Settings = MixedSettings
    settings: MixedSettings

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        name, parts = self._name(), self.settings.parts
        self._weights = [part.weight for part in parts]
        self.parts = [make(p.id, extras=self.extras, **(p.model_extra or {})) for p in parts]
        if any(isinstance(part, MixedEnv) for part in self.parts):
            raise UserError(f"{name}: a mix cannot be part of a mix; list its parts")
        self._families = [part.tasks("train")[0].family for part in self.parts]
        if len(set(self._families)) < len(self.parts):
            raise UserError(f"{name}: a part is listed twice; give it more weight instead")
        self.instructions = "\n\n".join(dict.fromkeys(part.instructions for part in self.parts))
        self.in_process = all(part.in_process for part in self.parts)
        first, *others = self.parts
        self.symmetries = tuple(
            s for s in first.symmetries if all(s in other.symmetries for other in others)
        )
        lows, highs = zip(*(part.reward_range for part in self.parts), strict=True)
        self.reward_range = min(lows), max(highs)
        self._part = first

    def whole_params(self) -> dict[str, Any]:
        """Return every parameter of every part, defaults included."""
        pairs = zip(self.settings.parts, self.parts, strict=True)
        parts = [{"id": p.id, "weight": p.weight, **world.whole_params()} for p, world in pairs]
        return {"parts": parts}

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Let each part make what its tasks need."""
        for part in self.parts:
            mine = [task for task in tasks if self._owner(task) is part]
            if mine:
                part.prepare(mine, workers=workers, progress=progress)

    @property
    def codes(self) -> Sequence[str]:
        """List the codes of all parts, each once."""
        return tuple(dict.fromkeys(code for part in self.parts for code in part.codes))

    def expert_action(self) -> str | None:
        """Ask the expert of the part being played for its next action."""
        return self._part.expert_action()

    def close(self) -> None:
        """Close all parts of the mix."""
        for part in self.parts:
            part.close()

    def own(self, task: Task) -> Task:
        """Return the task if one of the parts plays it. Raises UserError for another one."""
        return self._owner(task).own(task)

    def _owner(self, task: Task) -> TextEnv:
        owners = [i for i, part in enumerate(self.parts) if part.id == task.env]
        if len(owners) > 1:
            owners = [i for i in owners if self._families[i] == task.family]
        if not owners:
            raise UserError(
                f"task '{task.id}' belongs to no part of this mix: play it with"
                " turnrl.make_for(task)"
            )
        return self.parts[owners[0]]

    def _tasks(self, split: Split) -> Sequence[Task]:
        return Interleaved([part.tasks(split) for part in self.parts], self._weights)

    def _begin(self, task: Task) -> Outcome:
        part = self._part = self._owner(task)
        self.instructions, self.tools, self.grammar = part.instructions, part.tools, part.grammar
        part.reset(options={"task": task})
        return part.last_outcome

    def _act(self, action: str) -> Outcome:
        self._part.step(action)
        return self._part.last_outcome


class Interleaved(LazyTasks):
    """Tasks of several sequences in proportion to weights, until one of them is exhausted."""

    def __init__(self, sources: Sequence[Sequence[Task]], weights: Sequence[float]) -> None:
        self._sources = sources
        self._picks = list(_picks([len(source) for source in sources], weights))

    def __len__(self) -> int:
        return len(self._picks)

    def _at(self, index: int) -> Task:
        source, place = self._picks[index]
        return self._sources[source][place]


def _picks(lengths: Sequence[int], weights: Sequence[float]) -> Iterator[tuple[int, int]]:
    taken = [0] * len(lengths)
    while True:
        # Whoever is furthest behind its share comes next (of equals the first), so that every
        # beginning of the list has the proportions of the whole.
        source = min(range(len(lengths)), key=lambda i: (taken[i] + 1) / weights[i])
        if taken[source] == lengths[source]:
            return
        yield source, taken[source]
        taken[source] += 1
