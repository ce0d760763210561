"""Find what in a run directory is not as the run wrote it, so that a report says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ....foundation.errors import UserError
from ....foundation.manifest import digest, read_manifest, unsealed
from ..folder import LAST, RunFolder


def damage(run: RunFolder) -> Iterator[str]:
    """Yield a sentence for each file that is missing or not what the run wrote.

    Files of checkpoints are not looked at.
    """
    try:
        unsealed(run.recipe.read_text("utf-8", errors="replace"), run.recipe)
        files = read_manifest(run.path)
        last = read_manifest(run.checkpoint(LAST))
    except UserError as error:
        yield str(error)
        return
    if files is not None:  # the run has ended
        for name, wanted in files["files"].items():
            path = run.path / name
            if not path.is_file():
                yield f"{name} is missing"
            elif digest(path) != wanted:
                yield (
                    f"{name} is damaged, it is not what the run wrote: what is shown of it may be"
                    " wrong"
                )
        return
    metrics, mark = run.metrics, (last or {}).get("metrics")
    if mark and metrics.is_file():
        with metrics.open("rb") as file:
            found = hashlib.sha256(file.read(mark["size"])).hexdigest()
        if found != mark["sha256"]:
            yield (
                f"{metrics.name} is damaged, it is not what the run wrote: what is shown of it may"
                " be wrong"
            )
