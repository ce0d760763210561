"""InstancePool: the environment instances of one process, and how a request is answered by them.

Both backends of the pool play on one, so they cannot differ in what an episode sees::

    instances = InstancePool()
    instructions, tools, observation, info = instances.reset(1, task)    # 1: the episode's id
    observation, reward, terminated, truncated, info = instances.step(1, "go east")
    instances.release(1)                                  # the instance waits for the next episode
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...foundation.errors import UserError
from .. import answers
from ..closing import close_here
from ..core import TextEnv
from ..registry import env_ids, make_for
from ..task import Task
from .messages import Fault, Reply, Started, Stepped


class InstancePool:
    """The environment instances of one process, each used by one episode at a time, then reused.

    Args:
        options: keyword arguments for `make_for` (``extras``, ``max_turns``).
        idle: how many unused instances are kept; the longest unused are closed first.
        threaded: True where several threads play; worlds that cannot do that are refused with a
            UserError.
        closer: closes instances that are not needed any more; must not raise.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        *,
        idle: int = 64,
        threaded: bool = False,
        closer: Callable[[Sequence[TextEnv]], object] = close_here,
    ) -> None:
        self._closer = closer
        self._options, self._idle_limit, self._threaded = dict(options or {}), idle, threaded
        self._held: dict[int, tuple[str, TextEnv]] = {}
        self._idle: list[tuple[str, TextEnv]] = []
        self._lock = threading.Lock()

    def reset(self, episode_id: int, task: Task) -> Started:
        """Start a task in an episode's instance.

        Raises UserError for an unknown world, else whatever the world raises.
        """
        key = json.dumps([task.env, task.params], sort_keys=True)
        held = self._held.get(episode_id)
        if held is not None and not _plays(*held, key, task):
            self.release(episode_id)
            held = None
        env = held[1] if held is not None else self._take(key, task)
        self._held[episode_id] = (key, env)
        started = env.reset(options={"task": task})
        observation, info = started if _checks(env) else answers.started(started)
        return (
            answers.text(env.instructions, "instructions"),
            answers.tools(env.tools),
            observation,
            info,
        )

    def step(self, episode_id: int, action: str) -> Stepped:
        """Take one action in an episode."""
        env = self._held[episode_id][1]
        stepped = env.step(action)
        return stepped if _checks(env) else answers.stepped(stepped)

    def expert(self, episode_id: int) -> str | None:
        """Ask for the expert's next action in an episode."""
        action = self._held[episode_id][1].expert_action()
        return answers.maybe(answers.text, action, "the expert's action")

    def release(self, episode_id: int) -> None:
        """Let the instance of an episode that is over serve another one."""
        with self._lock:
            held = self._held.pop(episode_id, None)
            if held is None:
                return
            self._idle.append(held)
            surplus = [self._idle.pop(0)[1] for _ in range(len(self._idle) - self._idle_limit)]
        self._closer(surplus)

    def discard(self, episode_id: int) -> None:
        """Forget an instance whose state is unknown; it is not closed, for it may still be busy."""
        self._held.pop(episode_id, None)

    def close(self) -> None:
        """Close all instances of the pool."""
        envs = [env for _, env in [*self._held.values(), *self._idle]]
        self._held.clear()
        self._idle.clear()
        self._closer(envs)

    def _take(self, key: str, task: Task) -> TextEnv:
        with self._lock:
            # Newest first: its files and caches are warm. Best is one that has this very task
            # loaded.
            fits = [
                i for i in range(len(self._idle) - 1, -1, -1) if _plays(*self._idle[i], key, task)
            ]
            if fits:
                same = (index for index in fits if self._idle[index][1].current == task)
                return self._idle.pop(next(same, fits[0]))[1]
        if task.env not in env_ids():
            raise UserError(
                f"no environment '{task.env}' in this pool: "
                "name the module or .py file that registers it in imports=[...]"
            )
        env = make_for(task, **self._options)
        if self._threaded and not env.in_process:
            self._closer([env])
            raise UserError(f"{task.env} cannot run in threads: use EnvPool(backend='process')")
        return env


def _plays(key: str, env: TextEnv, wanted: str, task: Task) -> bool:
    """Tell whether an instance that was made for one key serves a task with another."""
    return key == wanted or (env.any_params and env.id == task.env)


def _checks(env: TextEnv) -> bool:
    """Tell whether the base class itself looks at what this world answers."""
    cls = type(env)
    return all(
        getattr(cls, name) is getattr(TextEnv, name)
        for name in ("reset", "step", "_info", "_settled")
    )


def answer(instances: InstancePool, op: str, episode_id: int, argument: Any) -> Reply:
    """Run one request, 'reset', 'step' or 'expert', and return what the world raises as data."""
    try:
        if op == "step":
            return "ok", instances.step(episode_id, argument)
        if op == "reset":
            return "ok", instances.reset(episode_id, argument)
        return "ok", instances.expert(episode_id)
    except UserError as error:
        instances.discard(episode_id)
        return "user", str(error)
    # The fault boundary: a broken world must not take the pool with it, nor exit for it.
    except BaseException as error:
        instances.discard(episode_id)
        return "error", Fault.of(error)


def leave_copy(pid: int) -> None:
    """End this process unless it has this id: a copy that a world made by a fork must not go on."""
    if os.getpid() != pid:
        os._exit(0)
