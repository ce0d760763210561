"""The page: everything a run has to show, rendered by the template beside this file."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .... import __version__
from ....foundation.errors import UserError
from ....foundation.files import write_text
from . import samples
from .curves import MEASURED, Section, sections
from .run_files import RunFiles, number

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured success rate; the bar is drawn from `low` to `high` in percent."""

    name: str
    success: float | None
    """None where nothing was measured."""
    low: float
    high: float
    n: int


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the report of a run directory and return its path.

    Args:
        run: the folder of the run, finished or not.
        output: the file to write; in the folder of the run by default. It appears whole or not at
            all.

    Raises:
        UserError: `run` is not a run directory, or `output` cannot be written.
    """
    files = RunFiles.read(run)
    target = output or files.folder.report
    html = render(files)
    if os.path.isdir(target) or not os.path.isdir(target.absolute().parent):
        what = (
            "it is a folder"
            if os.path.isdir(target)
            else f"the folder {target.absolute().parent} does not exist"
        )
        raise UserError(f"cannot write '{target}': {what}")
    write_text(target, html)
    for note in files.notes:
        logger.warning("the report of '%s' is not whole: %s", run, note)
    return target


def render(run: RunFiles) -> str:
    """Write the HTML of a run."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    chosen = samples.choose(run)
    return templates.get_template("page.html.j2").render(
        title=str(run.recipe.get("name", run.folder.path.name)),
        facts=facts(run),
        rows=list(rates(run.result)) or measured(run),
        seconds=_numbers(run.result.get("seconds")),
        stages=[(stage, sections(run.of_stage(stage))) for stage in run.stages],
        samples=chosen,
        has_tokens=any(turn.pieces for sample in chosen for turn in sample.turns),
        recipe=run.recipe_text,
        result=json.dumps(run.result, indent=2) if run.result else "",
        notes=run.notes,
    )


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """List what was trained, on what, how far."""
    found: list[tuple[str, str]] = []
    found += [
        (key, _short(run.recipe[key]))
        for key in ("env", "model", "engine", "seed")
        if key in run.recipe
    ]
    found += [(f"{stage} steps", str(run.of_stage(stage)[-1]["step"])) for stage in run.stages]
    metrics = run.folder.metrics
    if metrics.is_file():
        found.append(
            ("last written", f"{datetime.fromtimestamp(metrics.stat().st_mtime):%Y-%m-%d %H:%M}")
        )
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    python = f"turnrl {__version__}, Python {platform.python_version()}"
    return [*found, ("reported", f"{datetime.now():%Y-%m-%d %H:%M} by {python} on {machine}")]


def rates(result: Mapping[str, Any], path: str = "") -> Iterator[Row]:
    """Yield every success rate with an interval inside the result, at any depth."""
    success = number(result.get("success"))
    low, high, n = (number(result.get(key)) for key in ("low", "high", "n"))
    if low is not None and high is not None and n is not None and (success is not None or not n):
        yield Row(path or "result", success, low, high, int(n))
    for key, value in result.items():
        if isinstance(value, Mapping) and key != "families":
            yield from rates(value, f"{path} {key}".strip())


def measured(run: RunFiles) -> list[Row]:
    """Show the first and last evaluation of each stage and split, of a run without a result."""
    rows: dict[str, Row] = {}
    for record in run.records:
        if record.get("kind") in MEASURED:
            name = f"{record['stage']} {record.get('split', '')}".strip()
            for row in rates({key: record.get(key) for key in ("success", "low", "high", "n")}):
                when = "last" if f"{name}, first" in rows else "first"
                label = f"{name}, {when}"
                rows[label] = Row(
                    f"{label} (step {record['step']})", row.success, row.low, row.high, row.n
                )
    return list(rows.values())


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    head = [str(value[key]) for key in ("id", "name") if key in value]
    rest = [
        f"{k}={v}"
        for k, v in value.items()
        if k not in ("id", "name") and v is not None and v != {}
    ]
    return " ".join(head + rest)


def _numbers(value: Any) -> list[tuple[str, float]]:
    if not isinstance(value, Mapping):
        return []
    return [
        (str(key), seconds) for key, item in value.items() if (seconds := number(item)) is not None
    ]


__all__ = ["Row", "Section", "render", "write_report"]
