"""A Gymnasium space of unicode text; `gymnasium.spaces.Text` knows only given characters."""

from __future__ import annotations

from typing import Any

import gymnasium


class UnicodeText(gymnasium.Space[str]):
    """Any string of at most `max_length` characters.

    `AsyncVectorEnv` with its default shared memory refuses this space (with `spaces.Text` it would
    silently return other text); pass ``shared_memory=False`` there, or use `turnrl.envs.pool.pool`.
    """

    def __init__(self, max_length: int = 65536, seed: int | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)
        self.max_length = max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw eight random lower-case letters."""
        return "".join(chr(code) for code in self.np_random.integers(97, 123, size=8))

    def contains(self, x: Any) -> bool:
        """Tell whether something is a string within the length limit."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Tell whether text can be flattened: it has no fixed-size array form."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash(("UnicodeText", self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"
