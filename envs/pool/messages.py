"""The messages between a pool and its workers: length-prefixed pickles over a socket pair.

A request is (what, the episode's id, its argument), a `Reply` is a status and a value: what the
world answered, or a `Fault` in place of what it raised.
"""

from __future__ import annotations

import pickle
import struct
import traceback
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from ...foundation.errors import kind_of, told
from ..core import TurnInfo

Status = Literal["ok", "user", "error", "timeout", "startup"]
Reply = tuple[Status, Any]
Started = tuple[str, list[dict[str, Any]] | None, str, TurnInfo]
Stepped = tuple[str, float, bool, bool, TurnInfo]

_HEADER = struct.Struct("<Q")


class Fault(NamedTuple):
    """A failure: the value of a reply whose status is 'error', 'timeout' or 'startup'."""

    kind: str
    """What equal faults share: no message, no task."""
    sentence: str
    trace: str = ""
    """The traceback, if there is one."""

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        """Make the fault of a world that raised."""
        return cls(kind_of(error), told(error), "".join(traceback.format_exception(error)))


CLOSED = Fault("closed", "the pool was closed")
"""The fault of a request that was under way when its pool ended."""


def pack(message: Any) -> bytes:
    """Write one message as bytes, its length in front."""
    data = pickle.dumps(message, protocol=5)
    return _HEADER.pack(len(data)) + data


class Inbox:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield the messages that are completed by these bytes, in order."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            end = start + _HEADER.size + _HEADER.unpack_from(self._buffer, start)[0]
            if end > len(self._buffer):
                break
            message = pickle.loads(bytes(self._buffer[start + _HEADER.size : end]))
            start = end
            yield message
        del self._buffer[:start]
