"""Closing worlds: one that raises loses nothing, one that hangs is left behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from ..foundation.errors import told
from ..foundation.printable import visible
from .core import TextEnv

logger = logging.getLogger(__name__)

LIMIT = 5.0
"""Seconds after which a world that is being closed is left behind."""


def close_here(envs: Sequence[TextEnv]) -> None:
    """Close instances one after the other; what they raise is a warning."""
    for env in envs:
        try:
            env.close()
        except (
            BaseException
        ) as error:  # the fault boundary: what was played is worth more than a clean end
            logger.warning("close() of %s raised %s", _name(env), visible(told(error)))


def close_aside(envs: Sequence[TextEnv]) -> threading.Thread | None:
    """Start to close instances in a daemon thread, and return the thread.

    None if there is nothing left to wait for.
    """
    if not envs:
        return None
    thread = threading.Thread(target=close_here, args=(envs,), daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending and starts no more threads
        close_here(envs)
        return None
    return thread


def close_worlds(envs: Sequence[TextEnv]) -> None:
    """Close instances, and wait `LIMIT` seconds at most.

    Those that are not closed by then are left behind with a warning.
    """
    thread = close_aside(envs)
    if thread is not None:
        thread.join(LIMIT)
        if thread.is_alive():
            logger.warning(
                "close() of %s has not ended after %g s: it is left", _name(envs[-1]), LIMIT
            )


def _name(env: TextEnv) -> str:
    return env.spec.id if env.spec is not None else type(env).__name__
