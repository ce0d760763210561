"""Time a generated shop: making it, searching it, and 64 episodes in it at once.

    python benchmarks/shopping.py
    python benchmarks/shopping.py --products 50000 --json
    python benchmarks/shopping.py --expert

The shop is made in a temporary cache. Searches are the experts' and are not remembered between
calls. Episodes replay what the expert does, resets included, first in one plain loop, then through
the pool; admissible actions are listed at every step, with ``--progress`` the potential is worked
out too. ``--expert`` counts instead how the expert does on all tasks of all splits, and how often
it has to search for a title.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from typing import Any

import turnrl
from turnrl.envs import Task, TextEnv
from turnrl.envs.pool.pool import EnvPool

WORLDS = ("shopping/webshop-v0", "shopping/assistant-v0")
Play = tuple[Task, list[str]]


def shop(products: int, searches: int) -> dict[str, float]:
    """Measure a shop: seconds to make and to open it, and milliseconds per search.

    Both are measured for the catalogue and for the index.
    """
    from turnrl.envs.shopping.settings import ShopSettings
    from turnrl.envs.shopping.shop import _shops, shop_for

    found: dict[str, float] = {}
    for when in ("make", "open"):
        _shops.clear()
        start = time.perf_counter()
        made = shop_for(ShopSettings(products=products))
        found[f"{when}_catalogue_s"] = time.perf_counter() - start
        start = time.perf_counter()
        index = made.index()
        found[f"{when}_index_s"] = time.perf_counter() - start
    took = []
    for goal in made.goals[:searches]:
        start = time.perf_counter()
        index._search(goal.searches[0])
        took.append(1000 * (time.perf_counter() - start))
    cuts = statistics.quantiles(took, n=20)
    return found | {
        "goals": len(made.goals),
        "searches": len(took),
        "p50_ms": cuts[9],
        "p95_ms": cuts[18],
    }


def plays(env: TextEnv, episodes: int) -> list[Play]:
    """Play the expert in the first training tasks, and return its actions."""
    found = []
    for task in env.tasks("train")[:episodes]:
        env.reset(options={"task": task})
        actions: list[str] = []
        while (action := env.expert_action()) is not None:
            env.step(action)
            actions.append(action)
        found.append((task, actions))
    return found


def loop(env: TextEnv, played: list[Play], rounds: int) -> float:
    """Measure the seconds of one instance that plays all, one after the other."""
    start = time.perf_counter()
    for _ in range(rounds):
        for task, actions in played:
            env.reset(options={"task": task})
            for action in actions:
                env.step(action)
    return time.perf_counter() - start


async def pooled(
    backend: Any, workers: int, extras: list[str], played: list[Play], rounds: int
) -> float:
    """Measure the seconds of all episodes at once, without starting the workers."""

    async def one(pool: EnvPool, task: Task, actions: list[str], rounds: int) -> None:
        async with pool.episode(task) as session:
            for _ in range(rounds):
                await session.reset()
                for action in actions:
                    await session.step(action)

    async with EnvPool(
        backend=backend, workers=workers, slots=len(played), options={"extras": extras}
    ) as pool:
        await asyncio.gather(*[one(pool, task, actions, 1) for task, actions in played])
        start = time.perf_counter()
        await asyncio.gather(*[one(pool, task, actions, rounds) for task, actions in played])
        return time.perf_counter() - start


def experts(products: int) -> None:
    """Print how the expert does on every task, a line per world and size of request."""
    for id, params in ((WORLDS[0], {}), *((WORLDS[1], {"items": items}) for items in (1, 2, 3))):
        env = turnrl.make(id, products=products, extras=(), **params)
        won, turns, titles = 0, list[int](), 0
        for task in (task for split in ("train", "valid", "test") for task in env.tasks(split)):
            env.reset(options={"task": task})
            turns.append(0)
            while (action := env.expert_action()) is not None:
                # Only titles have a dash between spaces.
                titles += action.startswith("search[") and " - " in action
                won += env.step(action)[4]["success"]
                turns[-1] += 1
        tasks = (
            f"{len(turns)} tasks, {won} won, {statistics.mean(turns):.2f} turns, {max(turns)} at"
            " most"
        )
        print(f"{id} {params or ''}: {tasks}, {titles} searches for a title")


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=64, help="concurrent episodes")
    parser.add_argument("--rounds", type=int, default=10, help="times each episode is played")
    parser.add_argument("--workers", type=int, default=2, help="processes of the pool")
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument(
        "--progress", action="store_true", help="work out the potential at every step"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in place of the table"
    )
    parser.add_argument(
        "--expert", action="store_true", help="how the expert does on all tasks, nothing else"
    )
    args = parser.parse_args()
    if args.expert:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            experts(args.products)
        return
    extras = ["admissible_actions", *["progress"] * args.progress]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        costs = shop(args.products, args.searches)
        rows = []
        for id in WORLDS:
            env = turnrl.make(id, products=args.products, extras=extras)
            played = plays(env, args.episodes)
            steps = args.rounds * sum(len(actions) for _, actions in played)
            ways = {"loop": loop(env, played, args.rounds)}
            for backend, workers in (("thread", 16), ("process", args.workers)):
                ways[backend] = asyncio.run(pooled(backend, workers, extras, played, args.rounds))
            rows += [
                {"world": id, "way": way, "steps": steps, "steps_per_second": steps / s}
                for way, s in ways.items()
            ]
    where = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load"
        f" {load:.1f} before"
    )
    if args.json:
        json.dump({"on": where, "shop": costs, "play": rows}, sys.stdout)
        print()
        return
    print(f"{args.products} products, {where}")
    for name, value in costs.items():
        print(f"{name:20}{value:10.3f}")
    for row in rows:
        print(
            f"{row['world']:24}{row['way']:10}{row['steps']:8} steps"
            f" {row['steps_per_second']:10.0f} steps/s"
        )


if __name__ == "__main__":
    main()
