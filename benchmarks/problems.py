"""Problems so small that every episode can be listed, each misleading some estimator."""

from __future__ import annotations

import math

from tabular import Move, Play, Problem


def stop_go(*paid: tuple[float, ...]) -> tuple[tuple[Play, ...]]:
    """Make the plays of a problem of going on or stopping, three times at most.

    The rewards are those of the four episodes there can be, one number per turn.
    """
    actions = ((0,), (1, 0), (1, 1, 0), (1, 1, 1))
    play = lambda a, r: tuple(Move(f"turn {t + 1}", a[t], (r[t],)) for t in range(len(a)))
    return (tuple(map(play, actions, paid)),)


def _two_steps(task: str) -> tuple[Play, ...]:
    """Make the plays of a task in which only doing the right thing twice wins."""
    first, second, lost = f"{task} 1", f"{task} 2", f"{task} lost"
    return (
        (Move(first, 0), Move(lost, 0)),
        (Move(first, 1), Move(second, 0)),
        (Move(first, 1), Move(second, 1, (1.0,))),
    )


def _dense(first: int, second: int) -> Play:
    early, middle, late = 0.2 if first else 0.5, 0.6 * second, 0.8 * first
    return (
        Move("start", first, (early,)),
        Move("middle", second, (middle,)),
        Move("end", 0, (late,)),
    )


SPARSE = Problem(
    "sparse",
    "two turns, 1 at the end of two of the four episodes",
    {"start": (0.2, -0.3), "left": (0.5, 0.0), "right": (-0.4, 0.9)},
    (
        (
            (Move("start", 0), Move("left", 0)),
            (Move("start", 0), Move("left", 1, (1.0,))),
            (Move("start", 1), Move("right", 0)),
            (Move("start", 1), Move("right", 1, (1.0,))),
        ),
    ),
)
TOKENS = {
    ("start", 0): 1,
    ("start", 1): 2,
    ("left", 0): 1,
    ("left", 1): 4,
    ("right", 0): 2,
    ("right", 1): 3,
}
WORDS = Problem(
    "words",
    "as `sparse`, but an action is written in one to four tokens, and those that win take the most",
    SPARSE.logits,
    tuple(
        tuple(
            tuple(move._replace(tokens=TOKENS[move.state, move.action]) for move in play)
            for play in plays
        )
        for plays in SPARSE.tasks
    ),
)
DENSE = Problem(
    "dense",
    "three turns, every one pays; what the first choice earns comes partly at once and partly two"
    " turns later",
    {"start": (0.3, -0.3), "middle": (0.4, 0.0), "end": (0.0,)},
    (tuple(_dense(first, second) for first in (0, 1) for second in (0, 1)),),
)
LENGTH = Problem(
    "length",
    "stop or go on, three turns at most; every turn pays, and stopping at the second pays more",
    {"turn 1": (0.0, 0.4), "turn 2": (0.2, 0.0), "turn 3": (0.5, 0.0)},
    stop_go((0.4,), (0.4, 1.6), (0.4, 0.7, 0.2), (0.4, 0.7, 0.2)),
)
RARE = Problem(
    "rare",
    "two tasks with parameters of their own, won with chance 0.64 and 0.04; many groups hold"
    " no win",
    {
        "easy 1": (0.0, math.log(4)),
        "easy 2": (0.0, math.log(4)),
        "easy lost": (0.0,),
        "hard 1": (math.log(4), 0.0),
        "hard 2": (math.log(4), 0.0),
        "hard lost": (0.0,),
    },
    (_two_steps("easy"), _two_steps("hard")),
)
TIES = Problem(
    "ties",
    "stop or go on, three turns at most; whoever stops wins 1, whenever that is",
    {"turn 1": (0.0, 0.4), "turn 2": (0.2, 0.0), "turn 3": (0.5, 0.0)},
    stop_go((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
)
ANCHORS = Problem(
    "anchors",
    "a hall to stay in or to leave, then a door that opens (1) or not; who stays once meets the"
    " hall again, and who leaves it then finds the door open, for 0.6",
    {"hall": (0.3, 0.0), "door": (0.0, 0.5), "open door": (0.0,)},
    (
        (
            (Move("hall", 1), Move("door", 0)),
            (Move("hall", 1), Move("door", 1, (1.0,))),
            (Move("hall", 0), Move("hall", 1), Move("open door", 0, (0.6,))),
            (Move("hall", 0), Move("hall", 0)),
        ),
    ),
)
TWO_REWARDS = Problem(
    "two rewards",
    "query, then answer or search once more; an outcome on the last turn, a process reward of"
    " weight 0.5 before it",
    {"query": (0.0, 0.5), "vague": (0.3, 0.0), "clear": (0.0, 0.2), "answer": (0.0,)},
    (
        (
            (Move("query", 0, (0.0, 0.1), 0), Move("vague", 0, (0.0, 0.0), 1)),
            (
                Move("query", 0, (0.0, 0.1), 0),
                Move("vague", 1, (0.0, 0.5), 0),
                Move("answer", 0, (1.0, 0.0)),
            ),
            (Move("query", 1, (0.0, 0.6), 0), Move("clear", 0, (1.0, 0.0), 1)),
            (
                Move("query", 1, (0.0, 0.6), 0),
                Move("clear", 1, (0.0, 0.3), 0),
                Move("answer", 0, (1.0, 0.0)),
            ),
        ),
    ),
    ("outcome", "process"),
    (1.0, 0.5),
)
PROBLEMS = (SPARSE, WORDS, DENSE, LENGTH, RARE, TIES, ANCHORS, TWO_REWARDS)
