"""Library: the questions and passages of some parameters, made or read once and kept on disk::

    library = open_library(SearchSettings(pages=3000))
    library.question("test", 0)
    library.corpus[0]

What comes from files is converted into one form whatever its format, under a key of the files'
contents, so that workers neither parse nor hold it.

With a folder of files, train.*, valid.* (or dev.*) and test.* are the splits. A split without a
file is a tenth of the training file; a single file is cut the same way into eight tenths and two of
one. Which tenth a question belongs to is a function of its words alone. A question that is asked in
several places, to the letter, stays in the first of test, valid, train; how many are left out is
said.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from ...foundation.cache import cache_dir, fill_once
from ...foundation.errors import UserError
from .. import rows, sanitise
from ..task import SPLITS, Split
from . import names, prose, readers, score, store, world
from .readers import read_passages, read_questions
from .score import normalise
from .settings import SearchSettings
from .store import Corpus, Lines, Passage, Question, write_corpus

logger = logging.getLogger(__name__)

_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev"),
    "test": ("test",),
}
_TENTHS: dict[Split, int] = {"test": 0, "valid": 1}
_open: dict[Path, Library] = {}
_opening = threading.Lock()


class Library:
    """The contents of a folder that `open_library` made."""

    def __init__(self, folder: Path) -> None:
        self.corpus = Corpus(folder) if (folder / "passages.jsonl").exists() else None
        """None where the passages are somewhere else, behind a server."""
        self._questions = {split: Lines(folder / f"{split}.jsonl") for split in SPLITS}
        self._hops = {split: np.load(folder / f"{split}-hops.npy") for split in SPLITS}

    def question(self, split: Split, number: int) -> Question | None:
        """Read the question of that number; None beyond the last."""
        lines = self._questions[split]
        return Question.load(lines[number]) if number < len(lines) else None

    def numbers(self, split: Split, hops: int | None) -> list[int]:
        """List the numbers of a split's questions; with `hops`, of those that take that many."""
        known = self._hops[split]
        chosen = np.arange(len(known)) if hops is None else np.flatnonzero(known == hops)
        return [int(number) for number in chosen]


def open_library(settings: SearchSettings) -> Library:
    """Open the library of these parameters, shared by all who ask in this process.

    Raises UserError for files that are missing or malformed, and for questions without any
    passages.
    """
    with _opening:  # Many instances begin at once; one of them reads.
        folder = _folder(settings)
        library = _open.get(folder)
        if library is None:
            library = _open[folder] = Library(folder)
        return library


def _folder(settings: SearchSettings) -> Path:
    if settings.data is None:
        key = f"{settings.pages}-{settings.world}-{_code()}"
        return fill_once(
            cache_dir("search", "generated", key), lambda folder: _generate(folder, settings)
        )
    sources = _sources(Path(settings.data))
    corpus = Path(settings.corpus) if settings.corpus is not None else None
    remote = settings.retriever.name == "http"
    files = [*sources.values(), *([corpus] if corpus else [])]
    parts = [
        f"{split}={_digest(path)}" for split, path in zip([*sources, "corpus"], files, strict=False)
    ]
    key = hashlib.sha256(" ".join([_code(), str(remote), *parts]).encode()).hexdigest()[:24]
    return fill_once(
        cache_dir("search", "read", key), lambda folder: _convert(folder, sources, corpus, remote)
    )


def _generate(folder: Path, settings: SearchSettings) -> None:
    made = world.Encyclopedia(settings.pages, settings.world)
    write_corpus(folder, made.passages())
    for split in SPLITS:
        _write(folder, split, made.questions[split])


def _write(folder: Path, split: Split, questions: Iterable[Question]) -> None:
    hops: list[int] = []

    def lines() -> Iterator[bytes]:
        for question in questions:
            hops.append(question.hops or 0)
            yield question.dump()

    Lines.write(folder / f"{split}.jsonl", lines())
    np.save(folder / f"{split}-hops.npy", np.array(hops, dtype=np.int32))


# -- files -----------------------------------------------------------------------------------------


def _sources(data: Path) -> dict[Split | None, Path]:
    """Map every split to its file; None stands for a file of questions for all splits."""
    if data.is_file():
        return {None: data}
    found: dict[Split | None, Path] = {}
    for split, stems in _FILES.items():
        files = [
            path
            for path in sorted(data.iterdir())
            if path.stem in stems and path.suffix in (".json", ".jsonl")
        ]
        if len(files) > 1:
            raise UserError(
                f"search/qa: {data} has both {files[0].name} and {files[1].name}: keep one of them"
            )
        if files:
            found[split] = files[0]
    if "train" not in found:
        raise UserError(
            f"search/qa: {data} has no train.json or train.jsonl; data=... may also be a single"
            " file"
        )
    return found


def _convert(
    folder: Path, sources: Mapping[Split | None, Path], corpus: Path | None, remote: bool
) -> None:
    # Supports are found by title where the passages are not those that came with the questions.
    own = corpus is None and not remote
    asked: dict[Split, list[Question]] = {split: [] for split in SPLITS}
    passages: dict[str, Passage] = {}
    for home, path in sources.items():
        for item in read_questions(path):
            split = home if home in _TENTHS else _tenth(item.question, sources)
            assert split is not None
            asked[split].append(item.question if own else _by_title(item.question))
            if own:
                passages.update((passage.id, passage) for passage in item.passages)
    seen: set[str] = set()
    where = ", ".join(str(path) for path in sources.values())
    for split in ("test", "valid", "train"):
        questions = [question for question in asked[split] if _new(question, seen)]
        if not questions:
            raise UserError(f"search/qa: no question of {where} is left for the split '{split}'")
        _write(folder, split, questions)
    total = sum(map(len, asked.values()))
    if total > len(seen):
        logger.warning(
            "search/qa: of the %d questions of %s, %d were asked before, word for word, and are"
            " left out",
            *(total, where, total - len(seen)),
        )
    if corpus is not None and not remote:
        write_corpus(folder, read_passages(corpus))
    elif own and passages:
        write_corpus(folder, passages.values())
    elif own:
        raise UserError(
            "search/qa: these questions bring no passages: give corpus=FILE, or retriever={name:"
            " http, url: ...}"
        )


def _new(question: Question, seen: set[str]) -> bool:
    if question.text in seen:
        return False
    seen.add(question.text)
    return True


def _tenth(question: Question, sources: Mapping[Split | None, Path]) -> Split:
    """Choose the split of a question from a file that serves several."""
    tenth = (
        hashlib.sha256(normalise(question.text).encode("utf-8", "surrogatepass")).digest()[0]
        * 10
        // 256
    )
    for split, place in _TENTHS.items():
        if tenth == place and split not in sources:
            return split
    return "train"


def _by_title(question: Question) -> Question:
    supports = tuple(dict.fromkeys(store.Support(support.title) for support in question.supports))
    return Question(question.text, question.answers, supports, question.hops)


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _code() -> str:
    """Compute a key of the code that makes what is kept: a changed sentence is a new world."""
    files = [
        __file__,
        *(
            str(module.__file__)
            for module in (names, prose, readers, rows, sanitise, score, store, world)
        ),
    ]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:12]
