"""RunFolder: where a run leaves what::

    recipe.yaml                     the recipe as it is; comments say what changed on the way
    metrics.jsonl                   one flat JSON object per training step or evaluation
    episodes/rl-000010.jsonl.gz     one Episode per line; test-rl-000080.jsonl.gz: the test's
    checkpoints/{LABEL,best,last}   Hugging Face folders that can be played: of each stage, of the
                                    best evaluation, and the one to go on from
    result.json                     the last table
    manifest.json                   SHA-256 of the files beside the checkpoints, at the end
    report.html                     what `turnrl report` makes of it

No other file knows these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import UserError

BEST, LAST = "best", "last"
RECIPE = "recipe.yaml"
_EPISODES = ".jsonl.gz"


class RunFolder:
    """The files and folders of a run, there or not.

    Args:
        path: of its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.metrics = path / RECIPE, path / "metrics.jsonl"
        self.result, self.report = path / "result.json", path / "report.html"
        self.episodes, self.checkpoints = path / "episodes", path / "checkpoints"
        self.lock = path / ".lock"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, path: Path) -> RunFolder:
        """Return the run that a path means, its folder or one of its checkpoints.

        Raises UserError if it is neither.
        """
        run, around = cls(path), cls(path.absolute().parent.parent)
        if not run.recipe.is_file() and path.absolute().parent == around.checkpoints:
            run = around
        if not run.recipe.is_file():
            what = f"holds no {RECIPE}" if run.path.is_dir() else "there is no such folder"
            raise UserError(f"'{run}' is not the folder of a run: {what}")
        return run

    def make(self) -> None:
        """Make the folder and those in it."""
        for part in (self.episodes, self.checkpoints):
            part.mkdir(parents=True, exist_ok=True)

    @property
    def begun(self) -> bool:
        """Tell whether a run began here."""
        return self.recipe.exists() or self.checkpoints.exists()

    @property
    def empty(self) -> bool:
        """Tell whether nothing of a run was saved here yet."""
        parts = (self.episodes, self.checkpoints)
        return not self.metrics.exists() and not any(any(part.iterdir()) for part in parts)

    @property
    def written(self) -> list[Path]:
        """List the files of a run that has ended, without its checkpoints and its report."""
        return [self.recipe, self.metrics, self.result, *self.episodes.glob(f"*{_EPISODES}")]

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a checkpoint: of a stage by its label, `BEST` or `LAST`."""
        return self.checkpoints / name

    def episodes_of(self, name: str, step: int) -> Path:
        """Return the file with the episodes of a step.

        Args:
            name: label of a stage; ``test-LABEL`` for its test.
        """
        return self.episodes / f"{name}-{step:06d}{_EPISODES}"

    def kept_episodes(self) -> Iterator[tuple[str, int, Path]]:
        """Yield (name, step, file) of all episodes that are there, by step."""
        found = []
        for path in self.episodes.glob(f"*-*{_EPISODES}"):
            name, _, step = path.name.removesuffix(_EPISODES).rpartition("-")
            if step.isdecimal():
                found.append((name, int(step), path))
        yield from sorted(found, key=lambda each: each[1])
