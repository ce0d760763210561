"""Artifact: what a world attaches to a turn beside its words, such as a screenshot or a diff::

    Outcome("The page has loaded.", artifacts={"screen": Artifact("image/png", png)})

It comes with the info of the step, is carried through the pool, and stays with the turn of the
episode; files of episodes leave it out unless they are asked for it. A name is one that a file may
have, and a turn carries at most `MOST` artifacts of `LARGEST` bytes together.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

MOST = 16
LARGEST = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes with their media type, such as 'image/png' or 'text/x-diff'."""

    media_type: str
    data: bytes

    def to_json(self) -> dict[str, str]:
        """Write the artifact as JSON data, which `from_json` reads again."""
        return {"media_type": self.media_type, "base64": base64.b64encode(self.data).decode()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Artifact:
        """Read an artifact from the JSON data that `to_json` wrote."""
        return cls(data["media_type"], base64.b64decode(data["base64"], validate=True))
