"""Kill and interrupt runs, at random and at each file operation, and resume them.

    python benchmarks/kills.py --kills 100 --signals 30 --operations all

A run with worker processes, both stages and evaluations is killed at random moments (SIGKILL of its
process group, or of its workers too), up to three times, and resumed each time. Another one gets
SIGINT or SIGTERM, and is resumed: it must end by itself with that exit code and leave nothing
beside its files. A third one is killed before operations on files in its folder; where a file was
just opened for writing, half of what is written is lost too. Each is compared with the run that
nothing happened to, bit by bit: weights, optimiser, metrics, episodes, names of all files. The exit
status is 1 if one differs, or if a process or a file is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from toy_runs import Child, cleared, different, facts, kill_all, left_behind, small_recipe, trained

OPERATIONS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "shutil.rmtree",
}
CHAIN = 3
"""Kills of one run, at most."""


@dataclass
class Tally:
    """Counts of what happened to the runs."""

    kills: int = 0
    resumes: int = 0
    hit: Counter[str] = field(default_factory=Counter)
    debris: Counter[str] = field(default_factory=Counter)
    """What lay about after kills, and was gone after the resume."""
    faults: list[str] = field(default_factory=list)


@dataclass
class Operations:
    """Counts operations on files below a folder, as Python reports them before it does them."""

    folder: str
    seen: list[str] = field(default_factory=list)
    at: int = -1
    """Kill this process before that one."""
    opened: tuple[str, bool] | None = None
    """The file that the last operation opened for writing, and whether it is appended to."""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an operation, as an audit hook of Python; end the process before the chosen one."""
        if (
            event not in OPERATIONS
            or not arguments
            or not isinstance(arguments[0], str | os.PathLike)
        ):
            return
        path = os.fspath(arguments[0])
        if not isinstance(path, str) or not os.path.abspath(path).startswith(self.folder):
            return
        flags = arguments[2] if event == "open" else 0
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
        if len(self.seen) == self.at:
            self.at = -1  # what follows is an operation too
            if self.opened is not None:
                halve(*self.opened)
            kill_all(os.getpid(), tree=True)
        name = re.sub(r"\.\d+\.(new|old)", r".PID.\1", os.path.relpath(path, self.folder))
        self.seen.append(f"{event}{' for writing' if writes else ''} {name}")
        self.opened = (path, bool(flags & os.O_APPEND)) if writes else None


def halve(path: str, appended: bool) -> None:
    """Lose half of a file that is being written, or a part of the last line of an appended one."""
    if os.path.isfile(path):
        size = os.path.getsize(path)
        os.truncate(path, max(0, size - 7) if appended else size // 2)


def phase(folder: Path) -> str:
    """Name the phase that a killed run was in."""
    if any(folder.rglob(".*.new")) or any(folder.rglob(".*.old")):
        return "in a save"
    if (folder / "result.json").exists():
        return "at the end"
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text("utf-8", errors="replace").splitlines() if metrics.exists() else []
    stages = (
        re.findall(r'"stage": "(\w+)", "step": \d+, "kind": "(\w+)"', lines[-1]) if lines else []
    )
    if stages:
        return f"{stages[0][0]} (after {stages[0][1]})"
    return (
        "before the first update"
        if (folder / "checkpoints" / "last").is_dir()
        else "before the first checkpoint"
    )


def look(home: Path, tally: Tally) -> None:
    """Note what a killed run left behind."""
    folder = home / "run"
    tally.kills += 1
    tally.hit[phase(folder)] += 1
    for path in (*folder.rglob(".*"), *(home / "tmp").iterdir()):
        kind = re.search(r"\.(new|old|lock)$", path.name)
        tally.debris[f"{kind[1]} in the run" if kind else "folder of a worker"] += 1


def compare(home: Path, wanted: dict[str, Any], what: str, child: Child, tally: Tally) -> None:
    """Note whether a resumed run equals the one that nothing happened to."""
    if child.code != 0:
        tally.faults.append(f"{what}: exit {child.code}: {child.said()[-300:]}")
    elif names := different(facts(home / "run"), wanted):
        tally.faults.append(f"{what}: {', '.join(names)}")
    tally.faults += [f"{what}: left behind: {left}" for left in left_behind(home)]


def reference(home: Path, data: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Make a run that nothing happens to; return what it leaves and how long it takes."""
    started, folder = time.monotonic(), cleared(home) / "run"
    child = Child.start(home, lambda: trained(folder, data, resume=False))
    child.wait()
    if child.code != 0:
        sys.exit(f"the run does not end: {child.said()}")
    return facts(folder), time.monotonic() - started


def random_kills(home: Path, count: int, rng: random.Random, tally: Tally) -> None:
    """Kill runs with worker processes at random moments."""
    data = small_recipe("process")
    wanted, seconds = reference(home, data)
    while tally.kills < count:
        folder, moments = cleared(home) / "run", list[float]()
        while True:
            going_on = (folder / "recipe.yaml").exists()
            child = Child.start(home, partial(trained, folder, data, going_on))
            tally.resumes += going_on
            moment = rng.uniform(0, seconds * (0.4 if going_on else 0.8))
            if child.wait(moment if len(moments) < CHAIN and tally.kills < count else None):
                break
            child.kill(tree=rng.random() < 0.5)
            moments.append(round(moment, 2))
            look(home, tally)
        compare(home, wanted, f"killed after {moments} s", child, tally)


def signals(home: Path, count: int, rng: random.Random, tally: Tally) -> None:
    """Interrupt runs with worker processes at random moments, sometimes twice, and resume them."""
    data = small_recipe("process")
    wanted, seconds = reference(home, data)
    while tally.kills < count:
        folder, signum, times = (
            cleared(home) / "run",
            rng.choice((signal.SIGINT, signal.SIGTERM)),
            rng.choice((1, 1, 2)),
        )
        child = Child.start(home, partial(trained, folder, data, resume=False))
        moment = rng.uniform(0.1, seconds * 0.9)
        if child.wait(moment):
            continue
        for _ in range(times):
            os.kill(child.pid, signum)
            time.sleep(0.01)
        if not child.wait(30.0):
            tally.faults.append(f"signal {signum} after {moment:.2f} s: it does not end")
            child.kill(tree=True)
        tally.kills += 1
        tally.hit[phase(folder) if child.code else "it ended by itself"] += 1
        if child.code not in (0, 128 + signum):
            tally.faults.append(
                f"signal {signum} after {moment:.2f} s: exit {child.code}: {child.said()[-300:]}"
            )
        if hidden := [path.name for path in folder.rglob(".*")]:
            tally.faults.append(
                f"signal {signum} after {moment:.2f} s, {times} times: left {hidden}"
            )
        child = Child.start(home, partial(trained, folder, data, (folder / "recipe.yaml").exists()))
        child.wait()
        tally.resumes += 1
        compare(home, wanted, f"signal {signum} after {moment:.2f} s, {times} times", child, tally)


def operations(home: Path, which: str, rng: random.Random, tally: Tally) -> None:
    """Kill runs before operations on their files, from the second save of reinforcement on."""
    data = small_recipe("thread")
    folder, begun = home / "run", home.parent / "begun"
    wanted, _ = reference(home, data)
    cleared(home)
    # It stops itself after the second step, before it is saved: both saves of that step are still
    # to come.
    Child.start(home, lambda: trained(folder, data, resume=False, until=("rl", 2, "train"))).wait()
    shutil.copytree(folder, begun)

    def resumed(at: int, out: Path | None = None) -> Callable[[], int]:
        def work() -> int:
            hook = Operations(str(folder), at=at)
            sys.addaudithook(hook)
            code = trained(folder, data, resume=True)
            if out is not None:
                out.write_text(json.dumps(hook.seen), "utf-8")
            return code

        return work

    listed = home.parent / "operations.json"
    first = Child.start(home, resumed(-1, listed))
    first.wait()
    compare(home, wanted, "resumed once", first, tally)
    names = json.loads(listed.read_text("utf-8"))
    for at in chosen(names, which):
        shutil.rmtree(folder)
        shutil.copytree(begun, folder)
        killed = Child.start(home, resumed(at))
        killed.wait()
        if killed.code != -9:
            tally.faults.append(f"operation {at}, {names[at]}, did not come: exit {killed.code}")
        look(home, tally)
        child = Child.start(home, resumed(-1))
        child.wait()
        tally.resumes += 1
        compare(home, wanted, f"killed before {names[at]} (operation {at})", child, tally)


def chosen(names: list[str], which: str) -> list[int]:
    """Choose all operations, or one of each kind.

    The same operation on the same file of another checkpoint is of the same kind.
    """
    if which == "all":
        return list(range(len(names)))
    kinds: dict[str, int] = {}
    for at, name in enumerate(names):
        kinds.setdefault(re.sub(r"(sft|rl|best|last)(/|\.|$)|\d+", r"X\2", name), at)
    return list(kinds.values())


def listing(counts: Counter[str]) -> str:
    """Join counts to '3 this, 4 that'."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    parser.add_argument(
        "--signals", type=int, default=30, help="SIGINT and SIGTERM at random moments"
    )
    parser.add_argument("--operations", choices=("all", "kinds", "none"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, rng = time.monotonic(), random.Random(options.seed)
    at_random, by_signal, at_operations = Tally(), Tally(), Tally()
    with tempfile.TemporaryDirectory(prefix="turnrl-kills-") as name:
        home = Path(name, "home")
        if options.kills:
            random_kills(home, options.kills, rng, at_random)
        if options.signals:
            signals(home, options.signals, rng, by_signal)
        if options.operations != "none":
            operations(home, options.operations, rng, at_operations)
    print(
        "| how | stopped | resumes | where | debris until the resume | faults"
        " |\n|---|---|---|---|---|---|"
    )
    rows = {
        "killed at random moments": at_random,
        "interrupted": by_signal,
        "killed before operations": at_operations,
    }
    for what, tally in rows.items():
        where, debris = listing(tally.hit), listing(tally.debris)
        print(
            f"| {what} | {tally.kills} | {tally.resumes} | {where} | {debris} |"
            f" {len(tally.faults)} |"
        )
    print(f"\n{time.monotonic() - started:.0f} s")
    faults = [fault for tally in rows.values() for fault in tally.faults]
    print(*faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
