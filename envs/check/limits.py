"""Time limits for the world that `check_env` tries, so that one that hangs is a finding and not a
silence.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any

from ..core import TextEnv


class Hangs(AssertionError):
    """The world did not answer in time."""


def limit_calls(env: TextEnv, step: float, reset: float, told: Callable[[str], None]) -> TextEnv:
    """Let `reset`, `step` and `expert_action` of an instance raise Hangs after so many seconds.

    Args:
        env: the instance, changed in place.
        step: limit of a step and of asking the expert.
        reset: limit of a reset.
        told: called with the sentence before it is raised.

    Only the main thread can be interrupted; elsewhere there is no limit.
    """
    for name, seconds in (("reset", reset), ("step", step), ("expert_action", step)):
        _limit(env, name, seconds, told)
    return env


def _limit(env: TextEnv, name: str, seconds: float, told: Callable[[str], None]) -> None:
    call = getattr(env, name)

    @wraps(call)
    def limited(*arguments: Any, **keywords: Any) -> Any:
        shown = ", ".join([repr(argument)[:40] for argument in arguments])
        sentence = f"{name}({shown}) did not answer within {seconds:g} seconds"
        with _alarm(seconds, sentence, told):
            return call(*arguments, **keywords)

    setattr(env, name, limited)


@contextmanager
def _alarm(seconds: float, sentence: str, told: Callable[[str], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        told(sentence)
        raise Hangs(sentence)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # Disarmed first: an alarm at the last moment must not meet the handler of before.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
