"""Routes of coin-collector games: which split a seed belongs to, known without making its game.

Two seeds often share a route, the directions from the start to the coin, so ranges of seeds do not
keep a held-out problem out of training. Here a route belongs to one split, by a hash of its
directions, and a split takes only seeds whose route is its own. TextWorld draws the route first,
from a generator of its own, and `route_of` draws it again, in some microseconds:

    >>> route_of(length=5, seed=7)
    ('south', 'east', 'north', 'north')
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

from numpy.random import RandomState

from ..task import Split, seeds_of

DIRECTIONS = ("north", "south", "east", "west")
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
_RING = ("north", "east", "south", "west")
COMPASS: tuple[dict[str, str], ...] = (
    *({_RING[i]: _RING[(i + by) % 4] for i in range(4)} for by in (1, 2, 3)),
    *({_RING[i]: _RING[(by - i) % 4] for i in range(4)} for by in range(4)),
)
"""The turns and mirrors of a map, other than leaving it alone, as renamings of its directions."""
SHARES: tuple[tuple[Split, int], ...] = (("valid", 15), ("train", 60), ("test", 25))
"""Percent of routes per split, in the order in which the hash is cut."""
HELD_OUT: tuple[Split, ...] = ("valid", "test")
SEEDS_PER_TASK = 64
"""Seeds among which a training task finds one whose route is for training."""
ROUND = 16
"""Consecutive training tasks that differ in the shape of their route, if there are that many
shapes.
"""


def route_of(length: int, seed: int) -> tuple[str, ...]:
    """Draw the directions from the start to the coin, `length` - 1 of them, in a seed's game."""
    rng = RandomState(RandomState(seed).randint(65635))
    route: list[str] = []
    for _ in range(length - 1):
        free = [d for d in DIRECTIONS if not route or d != BACK[route[-1]]]
        route.append(free[rng.choice(len(free))])
    return tuple(route)


def images(route: Sequence[str]) -> list[tuple[str, ...]]:
    """List a route under the turns and mirrors of a map, itself included.

    Some are equal for straight routes.
    """
    return [tuple(route), *(tuple(renaming[d] for d in route) for renaming in COMPASS)]


def shape_of(route: Sequence[str]) -> tuple[str, ...]:
    """Return what the images of a route share: the first of them by the alphabet."""
    return min(images(route))


def split_of_route(route: Sequence[str]) -> Split:
    """Tell which split owns a route: fixed for all time, the same on every machine.

    A route and its images under turns and mirrors belong together, so that training which shows
    games turned or mirrored never shows a held-out route.
    """
    shape = " ".join(shape_of(route))
    percent = int.from_bytes(hashlib.sha256(shape.encode()).digest()[:8], "big") % 100
    for split, share in SHARES:
        percent -= share
        if percent < 0:
            return split
    raise AssertionError("shares sum to 100")


def count_routes(length: int) -> int:
    """Count the routes with this many rooms."""
    return 1 if length == 1 else 4 * 3 ** (length - 2)


@lru_cache(maxsize=64)
def routes_in(length: int, split: Split, limit: int) -> int:
    """Count the routes that a split owns, no further than `limit`."""
    owned = (route for route in _all_routes(length) if split_of_route(route) == split)
    return sum(1 for _ in itertools.islice(owned, limit))


def _all_routes(length: int) -> Iterator[tuple[str, ...]]:
    stack: list[tuple[str, ...]] = [()]
    while stack:
        route = stack.pop()
        if len(route) == length - 1:
            yield route
        else:
            stack.extend(
                (*route, d) for d in reversed(DIRECTIONS) if not route or d != BACK[route[-1]]
            )


@lru_cache(maxsize=64)
def held_out_seeds(length: int, split: Split, limit: int) -> tuple[int, ...]:
    """Find seeds of 'valid' or 'test', one for each of its routes, at most `limit`."""
    wanted = routes_in(length, split, limit)
    seeds: dict[tuple[str, ...], int] = {}
    for seed in itertools.count(seeds_of(split, 0).start):
        if len(seeds) == wanted:
            return tuple(seeds.values())
        route = route_of(length, seed)
        if route not in seeds and split_of_route(route) == split:
            seeds[route] = seed
    raise AssertionError("unreachable")


@lru_cache(maxsize=65536)
def train_seed(length: int, index: int) -> int:
    """Find the seed of the training task with this index. Every length has routes for training.

    Tasks of a round of 16 have different shapes, so that a few demonstrations show as much as they
    can.
    """
    before = range(index - index % ROUND, index)
    taken = {shape_of(route_of(length, train_seed(length, i))) for i in before}
    fallback = None
    for seed in range(index * SEEDS_PER_TASK, (index + 1) * SEEDS_PER_TASK):
        route = route_of(length, seed)
        if split_of_route(route) != "train":
            continue
        if shape_of(route) not in taken:
            return seed
        fallback = seed if fallback is None else fallback
    if fallback is None:
        raise AssertionError("unreachable")
    return fallback


class TrainSeeds(Sequence[int]):
    """The training seeds, found when asked for."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        """Find the seed at an index, or the list of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return train_seed(self.length, index % self.size)


def table(lengths: Sequence[int] = range(3, 13)) -> str:
    """Write routes and held-out tasks per level as a Markdown table."""
    rows = ["| level | routes | valid tasks | test tasks |", "|---|---|---|---|"]
    for length in lengths:
        valid, test = (len(held_out_seeds(length, split, 200)) for split in HELD_OUT)
        rows.append(f"| {length} | {count_routes(length)} | {valid} | {test} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
