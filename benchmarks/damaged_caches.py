"""Play from caches whose files are halved, emptied or changed by a bit, one at a time.

Is what a cache keeps ever played damaged?

    python benchmarks/damaged_caches.py --families coin household

For every file and damage a copy of the cache is damaged, and one episode is played in a process of
its own. What is right: the same episode, with a warning that something was made anew; or one
sentence with exit code 2. Anything else is a fault: another episode, a traceback, a process that is
killed or ends by itself. Prints a table; the exit status is 1 where there are faults.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

FAMILIES = {
    "coin": ("textworld/coin-v0", {"level": 4}),
    "cooking": ("textworld/cooking-v0", {}),
    "household": ("household/place-v0", {}),
    "search": ("search/qa-v0", {"pages": 300}),
    "webshop": ("shopping/webshop-v0", {"products": 100}),
    "scienceworld": ("scienceworld/task-v0", {}),
}
"""Name -> world and parameters that make little."""
PLAY = """
import hashlib, json, random, sys
import turnrl
from turnrl.foundation.logs import shown_on_stderr
id, params = json.loads(sys.argv[1])
try:
    with shown_on_stderr():
        env = turnrl.make(id, extras=("admissible_actions",), **params)
        said, rng = hashlib.sha256(), random.Random(0)
        text, info = env.reset(options={"task": env.tasks("test")[0]})
        for turn in range(8):
            said.update(json.dumps([text, info["admissible_actions"]]).encode())
            action = rng.choice(info["admissible_actions"] or ["look"])
            text, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                break
        env.close()
except turnrl.UserError as error:
    print(f"turnrl: {error}", file=sys.stderr)
    sys.exit(2)
print(said.hexdigest())
"""
ANEW = "made anew"
RIGHT = ("the same", ANEW, "one sentence")


def halve(held: bytearray) -> bytearray:
    """Return the first half of a file's bytes."""
    return held[: len(held) // 2]


def flip(held: bytearray) -> bytearray:
    """Flip one bit in the middle of a file's bytes."""
    if held:
        held[len(held) // 2] ^= 4
    return held


DAMAGE: dict[str, Callable[[bytearray], bytearray]] = {
    "halved": halve,
    "emptied": lambda held: bytearray(),
    "one bit": flip,
}


def play(family: str, cache: Path, seconds: float) -> tuple[int, str, str]:
    """Play an episode from a cache; return exit code, digest of the episode and stderr.

    The exit code is negative for a signal.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", PLAY, json.dumps(FAMILIES[family])],
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 0, "", f"no end after {seconds:g} s"
    return done.returncode, done.stdout.strip(), done.stderr


def outcome(played: tuple[int, str, str], reference: str) -> str:
    """Name what an episode ended in: one of `RIGHT`, or what is wrong."""
    code, digest, words = played
    if code == 0 and digest == reference:
        return ANEW if ANEW in words else "the same"
    if code == 2 and words.startswith("turnrl: ") and words.count("\n") == 1:
        return "one sentence"
    if code == 0:
        return "another episode" if digest else words
    return (
        f"signal {-code}"
        if code < 0
        else f"exit {code}: {words.strip().splitlines()[-1][:60] if words else ''}"
    )


def kind(file: Path) -> str:
    """Name a kind of files: a file's name without its numbers and digests."""
    return (
        f"*{file.suffix}"
        if file.suffix and any(letter.isdigit() for letter in file.stem)
        else file.name
    )


def damaged(family: str, seconds: float) -> Iterator[tuple[str, str, str]]:
    """Yield (kind of file, damage, outcome) for every file of a family's cache."""
    with tempfile.TemporaryDirectory(prefix="damaged-") as folder:
        whole, copy = Path(folder, "whole"), Path(folder, "copy")
        code, reference, words = play(family, whole, seconds)
        if code or not reference:
            sys.exit(f"{family} cannot be played: {words.strip()[-300:]}")
        files = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file())
        for file in files:
            for name, change in DAMAGE.items():
                shutil.copytree(whole, copy)
                if (copy / file).stat().st_size:
                    (copy / file).write_bytes(change(bytearray((copy / file).read_bytes())))
                    first = outcome(play(family, copy, seconds), reference)
                    again = (
                        outcome(play(family, copy, seconds), reference)
                        if first == ANEW
                        else "the same"
                    )
                    yield kind(file), name, first if again == "the same" else f"and then {again}"
                shutil.rmtree(copy)


def main() -> int:
    """Play from the chosen families' caches with every damage, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--families", nargs="+", choices=sorted(FAMILIES), default=list(FAMILIES), metavar="NAME"
    )
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="longest that one episode may take"
    )
    args = parser.parse_args()
    print("| family | file | " + " | ".join(DAMAGE) + " |")
    print("|---|---|" + "---|" * len(DAMAGE))
    total: Counter[str] = Counter()
    for family in args.families:
        rows: dict[str, dict[str, Counter[str]]] = {}
        for file, damage, found in damaged(family, args.seconds):
            rows.setdefault(file, {name: Counter() for name in DAMAGE})[damage][found] += 1
            total[found] += 1
        for file, cells in sorted(rows.items()):
            told = (
                ", ".join(f"{found} {count}" for found, count in sorted(cell.items()))
                for cell in cells.values()
            )
            print(f"| {family} | {file} | {' | '.join(told)} |", flush=True)
    print("\n" + ", ".join(f"{found}: {count}" for found, count in sorted(total.items())))
    return int(any(found not in RIGHT for found in total))


if __name__ == "__main__":
    sys.exit(main())
