"""Passages on disk: one file, mapped into memory, so that all workers of a machine share one copy::

    folder = fill_once(cache_dir("search", "key"), lambda folder: write_corpus(folder, passages))
    corpus = Corpus(folder)
    corpus[corpus.find("Velmar")[0]].text

A row is read from the file when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...foundation.errors import UserError


@dataclass(frozen=True, slots=True)
class Passage:
    """A page, or a part of one."""

    id: str
    title: str
    text: str


class Lines:
    """The lines of a file of JSON, mapped into memory; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._starts = np.load(path.with_suffix(".npy"), mmap_mode="r")
        with path.open("rb") as file:
            # An empty file cannot be mapped.
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if len(self) else b""

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._bytes[int(self._starts[index]) : int(self._starts[index + 1])]

    @staticmethod
    def write(path: Path, lines: Iterable[bytes]) -> None:
        """Write lines to a file and, beside it, where each line starts."""
        starts = [0]
        with path.open("wb") as file:
            for line in lines:
                starts.append(starts[-1] + file.write(line))
        np.save(path.with_suffix(".npy"), np.array(starts, dtype=np.int64))


class Corpus:
    """Passages by row, and rows by title or id."""

    def __init__(self, folder: Path) -> None:
        self.digest = (folder / "digest").read_text("ascii")
        """Of ids, titles and texts in their order."""
        self._lines = Lines(folder / "passages.jsonl")
        self._hashes = np.load(folder / "names.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, row: int) -> Passage:
        return Passage(*json.loads(self._lines[row]))

    def __iter__(self) -> Iterator[Passage]:
        return (self[row] for row in range(len(self)))

    def find(self, name: str) -> list[int]:
        """Find rows by title (whatever its case and spaces), in order; without any, by id."""
        key = _key(name)
        start, end = (
            int(np.searchsorted(self._hashes, _hash(key), side)) for side in ("left", "right")
        )
        # Two names may have one hash, so the names themselves are compared.
        rows = [int(row) for row in self._rows[start:end]]
        titled = [row for row in rows if _key(self[row].title) == key]
        return titled or [row for row in rows if _key(self[row].id) == key]


def write_corpus(folder: Path, passages: Iterable[Passage]) -> None:
    """Write passages as `Corpus` reads them. Raises UserError if there is none."""
    digest = hashlib.sha256()
    hashes: list[int] = []
    rows: list[int] = []

    def lines() -> Iterator[bytes]:
        for row, passage in enumerate(passages):
            line = json.dumps([passage.id, passage.title, passage.text]).encode() + b"\n"
            digest.update(line)
            names = {_key(passage.title), _key(passage.id)}
            hashes.extend(int(_hash(name)) for name in names)
            rows.extend(row for _ in names)
            yield line

    Lines.write(folder / "passages.jsonl", lines())
    if not rows:
        raise UserError("search/qa: the corpus holds no passage")
    keys, places = np.array(hashes, dtype=np.uint64), np.array(rows, dtype=np.int32)
    # By row among equals, so that the bytes do not depend on the order of a set.
    order = np.lexsort((places, keys))
    np.save(folder / "names.npy", keys[order])
    np.save(folder / "rows.npy", places[order])
    (folder / "digest").write_text(digest.hexdigest(), "ascii")


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def _hash(key: str) -> np.uint64:
    # JSON may hold half a surrogate pair, which is no UTF-8.
    return np.uint64(
        int.from_bytes(
            hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        )
    )


@dataclass(frozen=True, slots=True)
class Support:
    """A passage that a question needs."""

    title: str
    id: str | None = None
    """None: any passage with this title will do, as where questions and corpus come from different
    places.
    """

    def is_(self, passage: Passage) -> bool:
        """Tell whether a passage is the one that is needed."""
        return (
            passage.id == self.id
            if self.id is not None
            else _key(passage.title) == _key(self.title)
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A question, what answers it, and the passages on the way in their order, where they are
    known.
    """

    text: str
    answers: tuple[str, ...]
    supports: tuple[Support, ...] = ()
    hops: int | None = None

    def dump(self) -> bytes:
        """Write the question as a line of JSON."""
        supports = [[support.title, support.id] for support in self.supports]
        return json.dumps([self.text, self.answers, supports, self.hops]).encode() + b"\n"

    @classmethod
    def load(cls, line: bytes) -> Question:
        """Read a question from the line that `dump` wrote."""
        text, answers, supports, hops = json.loads(line)
        return cls(text, tuple(answers), tuple(Support(*support) for support in supports), hops)
