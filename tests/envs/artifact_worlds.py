"""Worlds that attach artifacts. For ``imports``, like toy_envs."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from turnrl.envs import Artifact, EnvSettings, Outcome, Task, TextEnv, register
from turnrl.envs.artifacts import LARGEST, MOST

SCREEN = Artifact("image/png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
WRONG: dict[str, tuple[Any, str]] = {
    "list": ([SCREEN], "artifacts is list, not a dict of Artifact"),
    "bytes": ({"screen": b"png"}, "an entry of artifacts is no Artifact of bytes"),
    "text": ({"diff": Artifact("text/plain", "+ a")}, "an entry of artifacts is no Artifact"),  # type: ignore[arg-type]
    "path": ({"../screen": SCREEN}, "artifacts has the name '../screen'"),
    "type": ({"screen": Artifact("png", b"")}, "artifacts has the media type 'png'"),
    "many": ({f"screen{n}": SCREEN for n in range(MOST + 1)}, "artifacts: 17 of "),
    "large": (
        {"screen": Artifact("image/png", bytes(LARGEST + 1))},
        "artifacts: 1 of 8,388,609 bytes, more than 16 of 8,388,608 together",
    ),
}


class PainterEnv(TextEnv):
    """Shows a screen after each action, and a diff once something was painted."""

    class Settings(EnvSettings):
        wrong: str = Field("", description="which of the wrong artifacts it attaches")

    settings: Settings
    sizes = {"train": 4, "valid": 2, "test": 2}  # noqa: RUF012
    instructions = "Paint: paint the number that is shown."

    def _begin(self, task: Task) -> Outcome:
        return Outcome(f"Paint {task.seed}.", artifacts={"screen": SCREEN})

    def _act(self, action: str) -> Outcome:
        if self.settings.wrong:
            return Outcome("Painted.", artifacts=WRONG[self.settings.wrong][0])
        done = action == self.expert_action()
        diff = {"change.diff": Artifact("text/x-diff", f"+ {action}".encode())} if done else {}
        artifacts = {"screen": SCREEN, **diff}
        return Outcome("Painted.", float(done), ended=done, success=done, artifacts=artifacts)

    def expert_action(self) -> str:
        assert self.current is not None
        return f"paint {self.current.seed}"


register("toy/painter-v0", PainterEnv)
