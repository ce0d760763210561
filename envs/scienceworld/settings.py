"""The parameters of scienceworld/task, and the names of its tasks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from scienceworld.constants import ID2TASK

from ...foundation.errors import nearest
from ..settings import EnvSettings

TASKS: tuple[str, ...] = tuple(ID2TASK.values())
"""The 30 task names, in the order of the benchmark's numbers."""
HELD_OUT: tuple[str, ...] = tuple(
    {id.partition("-")[0]: name for id, name in ID2TASK.items()}.values()
)
"""The last task of each of the benchmark's ten groups: what generalisation to unseen tasks is
measured on.
"""
SIMPLIFICATIONS = (
    "easy",
    "teleportAction",
    "openDoors",
    "openContainers",
    "selfWateringFlowerPots",
    "noElectricalAction",
)


def electrical(name: str) -> bool:
    """Tell whether a task needs circuits; 'easy' leaves it the actions for them."""
    return "power-component" in name or "conductivity" in name


class ScienceSettings(EnvSettings):
    """Parameters of scienceworld/task; its Tasks name their own task type and simplification."""

    task: str | list[str] | None = Field(
        None, description="one of the 30 task names, or a list of them (default: all)"
    )
    simplification: str = Field(
        "easy",
        description=(
            "what is made easier: 'easy' (everything), '' (nothing), or some of"
            f" {', '.join(SIMPLIFICATIONS[1:])}, with commas between them"
        ),
    )
    generalisation: Literal["L0", "L1", "L2"] | None = Field(
        None,
        description=(
            "train on the seen task types, and test on seen variations of them (L0), on unseen"
            " variations of them (L1) or on the held-out types (L2) (default: upstream's splits)"
        ),
    )
    heap_mb: int = Field(
        384,
        ge=1,
        description="MiB that the Java process may use for its objects at most; no part of a Task",
    )

    def params(self) -> dict[str, Any]:
        """Return what decides what is played: all but the size of the heap."""
        return self.model_dump(exclude={"heap_mb"})

    @field_validator("task")
    @classmethod
    def _known(cls, task: str | list[str] | None) -> str | list[str] | None:
        names = [task] if isinstance(task, str) else task
        if names is not None and not names:
            raise ValueError("name at least one task, or leave it out for all of them")
        for name in names or []:
            if name not in TASKS:
                raise ValueError(f"no task '{name}'; {nearest(name, list(TASKS))}")
        return (
            task
            if isinstance(task, str) or names is None
            else [name for name in TASKS if name in names]
        )

    @field_validator("simplification")
    @classmethod
    def _possible(cls, text: str) -> str:
        words = [word.strip() for word in text.split(",")] if text.strip() else []
        for word in words:
            if word not in SIMPLIFICATIONS:
                raise ValueError(
                    f"no simplification '{word}'; {nearest(word, list(SIMPLIFICATIONS))}"
                )
        # One spelling for one meaning, as it stands in the id of a Task.
        return ",".join(word for word in SIMPLIFICATIONS if word in words)

    @model_validator(mode="after")
    def _fits(self) -> ScienceSettings:
        wired = [name for name in self.names if electrical(name)]
        if wired and "noElectricalAction" in self.simplification:
            raise ValueError(
                f"noElectricalAction leaves no way to do '{wired[0]}': choose other tasks with"
                " task=[...]"
            )
        if self.generalisation and not self.played(unseen=self.generalisation == "L2"):
            kind = "held-out" if self.generalisation == "L2" else "seen"
            raise ValueError(
                f"generalisation={self.generalisation} needs a {kind} task, and task names none"
            )
        if self.generalisation and not self.played(unseen=False):
            raise ValueError(
                "generalisation needs a seen task to train on, and task names only held-out ones"
            )
        return self

    @property
    def names(self) -> list[str]:
        """List the tasks that are asked for."""
        if self.task is None:
            return list(TASKS)
        return [self.task] if isinstance(self.task, str) else self.task

    def played(self, *, unseen: bool) -> list[str]:
        """List the wanted tasks that are held out (`unseen`), or those seen in training."""
        return [name for name in self.names if (name in HELD_OUT) == unseen]
