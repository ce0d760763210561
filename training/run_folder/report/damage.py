"""Find what in a run directory is not as the run wrote it, so that a report says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ....foundation.errors import UserError
from ....foundation.manifest import digest, read_manifest, unsealed


def damage(folder: Path) -> Iterator[str]:
    """Yield one sentence for each file beside the checkpoints that is missing or not what the run
    wrote.
    """
    try:
        unsealed(
            (folder / "recipe.yaml").read_text("utf-8", errors="replace"), folder / "recipe.yaml"
        )
        files = read_manifest(folder)
        last = read_manifest(folder / "checkpoints" / "last")
    except UserError as error:
        yield str(error)
        return
    if files is not None:  # the run has ended
        for name, wanted in files["files"].items():
            path = folder / name
            if not path.is_file():
                yield f"{name} is missing"
            elif digest(path) != wanted:
                yield (
                    f"{name} is damaged, it is not what the run wrote: what is shown of it may be"
                    " wrong"
                )
        return
    metrics, mark = folder / "metrics.jsonl", (last or {}).get("metrics")
    if mark and metrics.is_file():
        with metrics.open("rb") as file:
            found = hashlib.sha256(file.read(mark["size"])).hexdigest()
        if found != mark["sha256"]:
            yield (
                f"{metrics.name} is damaged, it is not what the run wrote: what is shown of it may"
                " be wrong"
            )
