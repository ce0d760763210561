"""Hostile actions and responses: nothing raises, and nothing takes long.

    python benchmarks/hostile.py --count 10000

Every world gets damaged commands, control characters, random code points, nothing and megabytes
(those of the checker's rule ``hostile``), and every parser reads the same texts with the tags and
calls of its format cut open. Prints how many strings there were, how many of them raised, and the
longest that one took in milliseconds.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import turnrl
from turnrl.agents.parsers.base import PARSERS
from turnrl.envs.check.play import WORDS, hostile

WORLDS: dict[str, dict[str, Any]] = {
    "textworld/coin-v0": {},
    "textworld/quest-v0": {},
    "textworld/treasure-v0": {},
    "textworld/simple-v0": {},
    "textworld/cooking-v0": {},
    "household/place-v0": {},
    "household/clean-v0": {},
    "household/heat-v0": {},
    "household/cool-v0": {},
    "household/light-v0": {},
    "household/two-v0": {},
    "search/qa-v0": {"pages": 300},
    "shopping/webshop-v0": {"products": 300},
    "shopping/assistant-v0": {"products": 300},
    "scienceworld/task-v0": {"task": "melt"},
}
PIECES = (
    "<action>",
    "</action>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "act", ',
    '"arguments": {',
    "}}",
    "[TOOL_CALLS]",
    "<function=act>",
    "```json",
    "<planning>",
    "</planning>",
    "Action:",
    "\\",
    "'",
    '"',
)
"""What responses are made of, cut open."""
FIELDS: dict[str, dict[str, Any]] = {"verbs": {"verbs": ["go", "look", "examine", "take"]}}
"""What a parser cannot be made without."""


def main() -> None:
    """Try the chosen worlds and all parsers, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=10_000, help="strings for each world and each parser"
    )
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| | strings | raised | longest, ms |\n|---|---|---|---|")
    for id in args.worlds:
        print(row(id, *played(id, args.count, args.seed)), flush=True)
    for name in PARSERS.names():
        print(row(f"parser {name}", *read(name, args.count, args.seed)), flush=True)


def row(name: str, count: int, raised: int, longest: float) -> str:
    """Write a line of the table."""
    return f"| {name} | {count:,} | {raised} | {1000 * longest:.0f} |"


def tried(call: Callable[[str], Any], texts: Iterable[str]) -> tuple[int, int, float]:
    """Count texts, and those that raised; return the longest time in seconds too."""
    count, raised, longest = 0, 0, 0.0
    for text in texts:
        started = time.perf_counter()
        try:
            call(text)
        except Exception:
            raised += 1
        longest, count = max(longest, time.perf_counter() - started), count + 1
    return count, raised, longest


def played(id: str, count: int, seed: int) -> tuple[int, int, float]:
    """Try hostile actions in one world; a new episode begins where one ends."""
    env = turnrl.make(id, **WORLDS.get(id, {}))
    task, rng = env.tasks("train")[0], random.Random(seed)
    _, info = env.reset(options={"task": task})
    commands = [*(info["admissible_actions"] or [])[:20], *WORDS]
    ended = False

    def texts() -> Iterator[str]:
        for text in hostile(rng, commands, count):
            if ended:  # outside the clock: a reset is no action
                env.reset(options={"task": task})
            yield text

    def act(text: str) -> None:
        nonlocal ended
        ended = True
        observation, _, terminated, truncated, _ = env.step(text)
        assert isinstance(observation, str)
        ended = terminated or truncated

    found = tried(act, texts())
    env.close()
    return found


def read(name: str, count: int, seed: int) -> tuple[int, int, float]:
    """Try hostile responses with one parser."""
    rng, parser = random.Random(seed), PARSERS.build({"name": name} | FIELDS.get(name, {}))

    def broken() -> str:
        return "".join(rng.choices((*PIECES, *WORDS, " ", "\n"), k=rng.randrange(1, 12)))

    texts = (
        text if n % 2 else broken() for n, text in enumerate(hostile(rng, [*WORDS, *PIECES], count))
    )
    return tried(parser.parse, texts)


if __name__ == "__main__":
    main()
