"""Time search worlds: building 100,000 passages, queries, and 64 episodes at once.

    python benchmarks/search.py
    python benchmarks/search.py --pages 3000 --json

Everything is built from nothing in a temporary cache. Queries are titles of pages and whole
questions. Episodes are played by the expert: searching, reading, answering; the pool has as many
slots as episodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import turnrl
from turnrl.envs import Task
from turnrl.envs.pool.pool import EnvPool
from turnrl.envs.search.library import open_library
from turnrl.envs.search.retrieve import open_retriever
from turnrl.envs.search.retriever import Retriever
from turnrl.envs.search.settings import SearchSettings


def build(pages: int) -> tuple[Retriever, dict[str, float]]:
    """Build the world and its index, and measure how long they take in seconds."""
    params = SearchSettings(pages=pages)
    start = time.perf_counter()
    library = open_library(params)
    made = time.perf_counter()
    retriever = open_retriever(params, library.corpus)
    ended = time.perf_counter()
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "turnrl" / "search"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return retriever, {
        "generate_s": made - start,
        "index_s": ended - made,
        "build_s": ended - start,
        "disk_mb": size / 2**20,
    }


def query(retriever: Retriever, queries: list[str]) -> dict[str, float]:
    """Measure the milliseconds per query, passages read included."""
    for text in queries[:20]:
        retriever.search(text, 3)
    spent = []
    for text in queries:
        start = time.perf_counter()
        retriever.search(text, 3)
        spent.append(1000 * (time.perf_counter() - start))
    cuts = statistics.quantiles(spent, n=20)
    return {"n": len(spent), "p50_ms": cuts[9], "p95_ms": cuts[18]}


async def episode(pool: EnvPool, task: Task) -> int:
    """Play the expert's game, and return its steps."""
    async with pool.episode(task) as session:
        await session.reset()
        steps, over = 0, False
        while not over:
            action = await session.expert_action()
            assert action is not None
            _, _, over, _, info = await session.step(action)
            steps += 1
        assert info["success"]
        return steps


async def play(backend: Any, workers: int, tasks: list[Task], slots: int) -> dict[str, float]:
    """Play all tasks through a pool, `slots` at once."""
    async with EnvPool(backend=backend, workers=workers, slots=slots) as pool:
        await asyncio.gather(*[episode(pool, task) for task in tasks[:slots]])
        start = time.perf_counter()
        steps = sum(await asyncio.gather(*[episode(pool, task) for task in tasks]))
        return {
            "workers": workers,
            "steps": steps,
            "steps_per_second": steps / (time.perf_counter() - start),
        }


def measure(pages: int, episodes: int, rounds: int) -> dict[str, Any]:
    """Measure building, queries and episodes, in this order."""
    retriever, result = build(pages)
    env = turnrl.make("search/qa-v0", pages=pages)
    tasks = list(env.tasks("train")[: episodes * rounds])
    library = open_library(SearchSettings(pages=pages))
    assert library.corpus is not None
    rows = random.Random(0).sample(range(len(library.corpus)), min(1000, len(library.corpus)))
    questions = [library.question("test", number) for number in library.numbers("test", None)]
    found: dict[str, Any] = dict(result)
    found["titles"] = query(retriever, [library.corpus[row].title for row in rows])
    found["questions"] = query(
        retriever, [question.text for question in questions if question is not None]
    )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    for backend, workers in (("thread", 16), ("process", cores)):
        found[backend] = asyncio.run(play(backend, workers, tasks, episodes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=100_000, help="passages of the corpus")
    parser.add_argument("--episodes", type=int, default=64, help="concurrent episodes")
    parser.add_argument("--rounds", type=int, default=8, help="episodes played per slot")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in place of the table"
    )
    args = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        found = measure(args.pages, args.episodes, args.rounds)
    load = f"load {before:.1f} to {os.getloadavg()[0]:.1f}"
    where = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {load}"
    )
    if args.json:
        json.dump(
            {"on": where, "pages": args.pages, "episodes": args.episodes, **found}, sys.stdout
        )
        print()
        return
    print(f"{args.pages} passages, {where}")
    print(
        f"build     {found['build_s']:.1f} s: pages {found['generate_s']:.1f}, index"
        f" {found['index_s']:.1f}"
    )
    print(f"disk      {found['disk_mb']:.0f} MiB")
    for kind in ("titles", "questions"):
        row = found[kind]
        print(f"{kind:10}p50 {row['p50_ms']:.2f} ms, p95 {row['p95_ms']:.2f} ms (n {row['n']})")
    for kind in ("thread", "process"):
        row = found[kind]
        speed = f"{row['steps_per_second']:.0f} steps/s"
        print(f"{kind:10}{speed}, {args.episodes} episodes at once, {row['workers']} workers")


if __name__ == "__main__":
    main()
