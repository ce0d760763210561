"""check_env: does a text environment keep what training relies on? One line in a test::

    from turnrl import check_env

    def test_my_world():
        check_env("guess/number-v0", imports=["my_package.worlds"])  # lists what is broken

``imports`` names the modules or ``.py`` files that register the world, so that it can be replayed
in fresh processes. Each rule is a function in `turnrl.envs.check.rules`; adding one there is all it
takes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...foundation.checking import CheckReport, CheckResult, OnRule, tell_nobody
from ...foundation.errors import UserError
from ..core import TextEnv
from ..registry import import_worlds, make
from ..task import SPLITS, Task
from .play import Play
from .rules import RULES

__all__ = ["CheckReport", "CheckResult", "check_env"]


def check_env(
    id_or_factory: str | Callable[..., TextEnv],
    *,
    params: Mapping[str, Any] | None = None,
    tasks: int = 3,
    seed: int = 0,
    report: bool = False,
    imports: Sequence[str] = (),
    step_timeout: float = 30.0,
    reset_timeout: float = 120.0,
    on_rule: OnRule = tell_nobody,
) -> CheckReport:
    """Try every rule of the contract on some tasks of an environment.

    Args:
        id_or_factory: a registered id, or a callable that makes an instance and takes ``extras``,
            ``max_turns`` and `params` as keywords. With a callable the rules about other processes
            are skipped.
        params: parameters of the family.
        tasks: how many tasks are played, taken from the three splits in turn.
        seed: of everything random here: which tasks, which actions.
        report: True to get the report whatever it says.
        imports: modules or ``.py`` files that register the world.
        step_timeout: seconds after which a step is a finding.
        reset_timeout: seconds after which a reset is one.
        on_rule: called with the name of a rule before it is tried, and with its result afterwards.

    Returns:
        the report; nothing is raised if `report` is set.

    Raises:
        AssertionError: listing all rules that do not hold, unless `report` is set.
        UserError: for an unknown id, a missing extra or a bad parameter.
    """
    if not isinstance(id_or_factory, str) and not callable(id_or_factory):
        raise UserError(
            f"check_env takes the id of a world or a callable, not a {type(id_or_factory).__name__}"
        )
    imports = [os.path.abspath(name) if name.endswith(".py") else name for name in imports]
    import_worlds(*imports)
    fixed = dict(params or {})
    if isinstance(id_or_factory, str):
        id, factory = id_or_factory, partial(make, id_or_factory, **fixed)
    else:
        id, factory = "", partial(id_or_factory, **fixed)
    factory().close()
    name = id or getattr(id_or_factory, "__name__", "environment")
    with _elsewhere() as folder:
        play = Play(factory, id, fixed, imports, seed, folder, step_timeout, reset_timeout)

        def sample(name: str, result: CheckResult | None) -> None:
            if name == "tasks" and result is not None and result.ok:
                play.tasks = _sample(play, tasks)

        found = RULES.run(play, name, on_rule, sample)
    if found.failures and not report:
        raise AssertionError(str(found))
    return found


@contextmanager
def _elsewhere() -> Iterator[Path]:
    """Work in an empty folder until the context ends.

    Worlds that write files must not do so in the caller's, and the rule 'files' looks at this one.
    """
    home = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="turnrl-check-") as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(home)


def _sample(play: Play, count: int) -> list[Task]:
    env = play.make()
    rng = random.Random(play.seed)
    pools = {split: list(env.tasks(split)) for split in SPLITS}
    picked: list[Task] = []
    while len(picked) < count and any(pools.values()):
        pool = pools[SPLITS[len(picked) % 3]] or max(pools.values(), key=len)
        picked.append(pool.pop(rng.randrange(len(pool))))
    env.close()
    return picked


def replay_main() -> None:
    """Replay what stdin says in this fresh process, and print the digests as the last line.

    Exit code 3: unknown world.
    """
    order = json.load(sys.stdin)
    try:
        import_worlds(*order["imports"])
        play = Play(
            lambda **o: make(order["id"], **{**order["params"], **o}),
            order["id"],
            order["params"],
            [],
            0,
        )
        play.make().close()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from None
    for task, actions in order["episodes"]:
        play.record[Task.model_validate(task)] = actions
    print("\n" + json.dumps(play.digests()), flush=True)
