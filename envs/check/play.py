"""Play for the rules of `check_env`: fresh instances, seeded actions, replays elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

from ...foundation.checking import Skip
from ...foundation.processes import Child, python
from ..core import EXTRAS, TextEnv
from ..task import Task
from .limits import limit_calls

Step = tuple[str, float, bool, bool, Mapping[str, Any]]
WORDS = (
    "look",
    "help",
    "inventory",
    "go north",
    "go east",
    "examine room",
    "wait",
    "1",
    "yes",
    "xyzzy",
)
_LONGEST = 30


@dataclass
class Play:
    """The plays of the rules: fresh instances, sampled tasks, one list of actions per task."""

    factory: Callable[..., TextEnv]
    id: str
    params: Mapping[str, Any]
    imports: Sequence[str]
    seed: int
    folder: Path | None = None
    step_timeout: float = 30.0
    reset_timeout: float = 120.0
    tasks: list[Task] = field(default_factory=list)
    record: dict[Task, list[str]] = field(default_factory=dict)
    watched: dict[Task, list[Step]] = field(default_factory=dict)
    """What was seen while the actions were chosen, with the expert asked before every step."""
    refused: list[str] = field(default_factory=list)
    """Listed actions that were not accepted."""
    listed: int = 0
    """How many listed actions were tried."""
    hung: list[str] = field(default_factory=list)
    """What did not answer in time."""
    _episodes: dict[Task, list[Step]] = field(default_factory=dict)
    _elsewhere: list[dict[str, list[str]]] | None = None

    def make(self, **options: Any) -> TextEnv:
        """Make a fresh instance with everything in its info, whose calls are limited in time.

        Raises Skip once an instance hung: every rule would wait for it again.
        """
        if self.hung:
            raise Skip(f"the world hangs: {self.hung[0]}")
        env = self.factory(**{"extras": EXTRAS, **options})
        return limit_calls(env, self.step_timeout, self.reset_timeout, self.hung.append)

    def actions(self, task: Task) -> list[str]:
        """Choose the actions that are tried in a task, up to the end of its episode.

        They are a seeded mix of the expert's, listed and plain ones, the same for every rule.
        """
        if task not in self.record:
            self._choose(task)
        return self.record[task]

    def _choose(self, task: Task) -> None:
        env = self.make()
        rng = random.Random(f"{self.seed} {task.id}")
        observation, info = env.reset(options={"task": task})
        seen: list[Step] = [(observation, 0.0, False, False, dict(info))]
        actions: list[str] = []
        while len(actions) < _LONGEST and not (seen[-1][2] or seen[-1][3]):
            listed = seen[-1][4].get("admissible_actions")
            expert = env.expert_action()
            draw = rng.random()
            action = rng.choice(WORDS)
            if expert is not None and draw < 0.5:
                action = expert
            elif listed and draw < 0.9:
                action = rng.choice(listed)
            seen.append(env.step(action))
            actions.append(action)
            if listed and action in listed:
                self.listed += 1
                if not seen[-1][4].get("valid_action"):
                    self.refused.append(f"{task.id}: '{action}' is listed but not accepted")
        env.close()
        self.record[task], self.watched[task] = actions, seen

    def replay(self, task: Task, actions: Sequence[str], env: TextEnv | None = None) -> list[Step]:
        """Reset an instance to a task, take actions in it, and return every step.

        The instance is `env`, or a fresh one; the reset counts as a step.
        """
        player = env or self.make()
        observation, info = player.reset(options={"task": task})
        seen: list[Step] = [(observation, 0.0, False, False, dict(info))]
        for action in actions:
            if seen[-1][2] or seen[-1][3]:
                break
            seen.append(player.step(action))
        if env is None:
            player.close()
        return seen

    def wander(self, task: Task, env: TextEnv, rng: random.Random, *, by_expert: bool) -> Step:
        """Play an episode of the expert's, or of random listed actions; return its last step."""
        observation, info = env.reset(options={"task": task})
        step: Step = (observation, 0.0, False, False, info)
        for _ in range(_LONGEST):
            action = env.expert_action() if by_expert else None
            step = env.step(
                action
                if action is not None
                else rng.choice(step[4].get("admissible_actions") or WORDS)
            )
            if step[2] or step[3]:
                break
        return step

    def expert_way(self, task: Task, env: TextEnv) -> str | None:
        """Play an episode of the expert's and return all that is said and done in it, as one text.

        It is cut at some length. None without an expert.
        """
        observation, _ = env.reset(options={"task": task})
        action, said = env.expert_action(), [observation]
        if action is None:
            return None
        while action is not None and len(said) < 2 * _LONGEST:
            observation, _, terminated, truncated, _ = env.step(action)
            said += [action, observation]
            action = None if terminated or truncated else env.expert_action()
        return "\0".join(said)

    def episodes(self) -> dict[Task, list[Step]]:
        """Replay every sampled task on a fresh instance, once for all rules."""
        for task in self.tasks or self.record:
            if task not in self._episodes:
                self._episodes[task] = self.replay(task, self.actions(task))
        return self._episodes

    def digests(self) -> dict[str, list[str]]:
        """Compute the digests of every sampled task by its id, one per turn, the reset's first."""
        return {task.id: [digest(step) for step in seen] for task, seen in self.episodes().items()}

    def elsewhere(self) -> list[dict[str, list[str]]]:
        """Compute `digests` in fresh processes with the hash seeds 1, 1 and 2.

        Raises Skip where that is impossible.
        """
        if not self.id:
            raise Skip(
                "a factory cannot be called in another process: register the world and pass its id"
                " and imports=[...]"
            )
        if self._elsewhere is None:
            self._elsewhere = _replay_elsewhere(self)
        return self._elsewhere


def digest(step: Step) -> str:
    """Compute a fingerprint of all that a step returned."""
    return hashlib.sha256(
        json.dumps(step, sort_keys=True, default=repr).encode("utf-8", "replace")
    ).hexdigest()[:16]


def same(task: Task, one: Sequence[Step], two: Sequence[Step], when: str) -> None:
    """Compare two plays of a task; raise AssertionError at the first turn that differs."""
    for turn, (a, b) in enumerate(zip(one, two, strict=False)):
        assert digest(a) == digest(b), (
            f"{task.id}: turn {turn} differs {when}: {a[0][:80]!r} and {b[0][:80]!r}"
        )
    assert len(one) == len(two), f"{task.id}: {len(one) - 1} and {len(two) - 1} turns {when}"


def _replay_elsewhere(play: Play) -> list[dict[str, list[str]]]:
    order = {
        "id": play.id,
        "params": dict(play.params),
        "imports": list(play.imports),
        "episodes": [[task.model_dump(), play.actions(task)] for task in play.tasks],
    }
    command = python("from turnrl.envs.check.check import replay_main; replay_main()")
    with ExitStack() as ends:
        children = []
        for seed in ("1", "1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            children.append(Child(command, stdin=PIPE, stdout=PIPE, environment=environment))
            ends.callback(children[-1].end)
        answers = [child.finish(json.dumps(order).encode()) for child in children]
    for ended in answers:
        if ended.code == 3:
            raise Skip(
                f"not known in another process: name its module in imports=[...] ({ended.words})"
            )
        assert ended.code == 0, f"the replay in another process failed: {ended.words[-500:]}"
    return [json.loads(ended.output.splitlines()[-1]) for ended in answers]


def hostile(rng: random.Random, commands: Sequence[str], count: int) -> Iterator[str]:
    """Yield nasty actions: random code points, damaged commands, nothing, a megabyte."""
    noise = "".join(chr(_code(rng)) for _ in range(100_000))
    poisons = ("\n", "\\", "\x00", "\x1b", "\r", ". ", ";", " then ", "\u2028", "\ufeff", "\x7f")
    for index in range(count):
        if index % 1000 == 0:
            yield rng.choice(("a", "\n", "é", "go ", "\\")) * 1_000_000
            continue
        start, size = rng.randrange(len(noise)), rng.choice((0, 1, 2, 8, 40, 300, 1500))
        junk, poison, command = (
            noise[start : start + size],
            rng.choice(poisons),
            rng.choice(commands),
        )
        at = rng.randrange(len(command) + 1)
        damaged = command[:at] + poison + command[at:]
        yield rng.choice((junk, junk + poison, damaged, poison + command, command + poison + junk))


def _code(rng: random.Random) -> int:
    code = rng.randrange(rng.choice((0x20, 0x80, 0x250, 0x3000, 0x110000)))
    return code if not 0xD800 <= code <= 0xDFFF else 0x20
