"""Use a finished run whose files are cut, emptied or changed in one byte, one at a time.

Is damage ever silent?

    python benchmarks/damage.py

`turnrl train --resume`, `turnrl eval RUN` and `turnrl report RUN` are each run on a copy of the run
with one damaged file. Right is: the same answer as without the damage (the file was not needed, or
was made anew), or one sentence that names the file, with exit code 2, or for a report the page of
what is left and a warning that names the file. Wrong is a traceback, or another answer without a
word: the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from toy_runs import WORLD, Child, cleared, different, facts, small_recipe, trained
from turnrl.cli import main as command_line

DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "cut to half": lambda data, at: data[: len(data) // 2],
    "emptied": lambda data, at: b"",
    "one bit flipped": lambda data, at: (
        data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
    ),
}
USES = ("resume", "eval", "report")


def use(home: Path, how: str) -> tuple[int, str, Any]:
    """Use the run in `home`: return the exit code, what was printed, and what the use gave."""
    folder, recipe = home / "run", home / "recipe.yaml"
    arguments = {
        "resume": ["train", str(recipe), "--run", str(folder), "--resume"],
        "eval": ["eval", str(folder), "--import", str(WORLD), "--json"],
        "report": ["report", str(folder)],
    }[how]

    def work() -> int:
        return command_line.run(arguments)

    child = Child.start(home, work)
    child.wait()
    assert child.code is not None
    said = child.said()
    if child.code:
        return child.code, said, None
    if how == "resume":
        return 0, said, facts(folder)
    if how == "eval":
        answer = json.loads(said[said.index("{\n") :])
        return 0, said, {key: value for key, value in answer.items() if "second" not in key}
    page = (folder / "report.html").read_text("utf-8")
    return 0, said, re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", page)


def verdict(name: str, code: int, said: str, given: Any, wanted: Any) -> str:
    """Say what a damage led to; 'WRONG' and why where it must not."""
    plain_name = Path(name).name
    if "Traceback" in said or code not in (0, 2):
        return f"WRONG: exit {code}: {said[-300:]}"
    if code == 2:
        return (
            "named, exit 2"
            if plain_name in said
            else f"WRONG: exit 2 without the name: {said[-300:]}"
        )
    if isinstance(given, dict) and name.startswith("checkpoints/"):
        # Weights that the resume does not need stay damaged, and are named when somebody wants to
        # play them.
        given, wanted = (
            {key: value for key, value in each.items() if key != Path(name).parts[1]}
            for each in (given, wanted)
        )
    if given == wanted:
        return "as if undamaged"
    if plain_name in said:
        return "named, with what is left"
    return (
        "WRONG: another answer:"
        f" {', '.join(different(given, wanted)) if isinstance(given, dict) else 'the page'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the files that are damaged, drawn at random"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, wrong = random.Random(options.seed), 0
    counts: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="turnrl-damage-") as temporary:
        home, kept = Path(temporary, "home"), Path(temporary, "kept")
        data = small_recipe("thread")
        child = Child.start(cleared(home), partial(trained, home / "run", data, False))
        child.wait()
        assert child.code == 0, child.said()
        (home / "recipe.yaml").write_text(yaml.safe_dump(data), "utf-8")
        shutil.copytree(home, kept)
        wanted = {}
        for how in USES:
            shutil.rmtree(home)
            shutil.copytree(kept, home)
            code, said, wanted[how] = use(home, how)
            assert code == 0, said
        files = sorted(
            str(path.relative_to(kept / "run"))
            for path in (kept / "run").rglob("*")
            if path.is_file()
        )
        for name in files:
            for what, damage in DAMAGES.items():
                for how in USES:
                    if rng.random() >= options.share:
                        continue
                    shutil.rmtree(home)
                    shutil.copytree(kept, home)
                    file = home / "run" / name
                    content = file.read_bytes()
                    file.write_bytes(damage(content, rng.randrange(len(content))))
                    found = verdict(name, *use(home, how), wanted[how])
                    if found.startswith("WRONG"):
                        wrong += 1
                        print(f"{name} {what}, {how}: {found}", file=sys.stderr)
                    counts[what, how, found.partition(":")[0]] += 1
    results = sorted({result for _, _, result in counts})
    print(f"| damage | use | {' | '.join(results)} |\n|---|---|{'---|' * len(results)}")
    for what in DAMAGES:
        for how in USES:
            print(
                f"| {what} | {how} |"
                f" {' | '.join(str(counts[what, how, result]) for result in results)} |"
            )
    print(f"\n{len(files)} files, {sum(counts.values())} uses")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
