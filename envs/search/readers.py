"""Questions and passages from files. A format is recognised by its keys, a record at a time:

=================  =================================================================================
HotpotQA, 2Wiki    ``question, answer, context: [[title, [sentence, ...]], ...]`` and
                   ``supporting_facts: [[title, n]]``
MuSiQue            ``question, answer, answer_aliases`` and
                   ``paragraphs: [{title, paragraph_text, is_supporting}, ...]``
NQ, FlashRAG       ``question``, and ``golden_answers`` or ``answer``: a text or a list; FlashRAG's
                   ``metadata`` may hold the keys of HotpotQA, 2Wiki or MuSiQue
passages           ``id, contents: "title" and text on the next line`` or ``id, title, text``
=================  =================================================================================

Lists of pairs or of objects may also be written as columns, as copies of these data sets are:
``{title: [...], sentences: [...]}``, or ``content`` in place of ``sentences``. A file is JSON (one
list) or JSON lines. What is wrong with a record is said with its place; one in a hundred may be bad
and is left out (`turnrl.envs.rows`). Texts are read in Unicode's composed form.

Source: the published files of these data sets and of their copies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ...foundation.errors import UserError
from ..rows import BadRows
from ..sanitise import composed
from .store import Passage, Question, Support

T = TypeVar("T")
_SENTENCES = ("sentences", "content")
"""What the column of a page's sentences is called."""


class Malformed(ValueError):
    """A record is wrong, and how."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """A question and the passages that came with it."""

    question: Question
    passages: tuple[Passage, ...] = ()


def read_questions(path: Path) -> Iterator[SourceItem]:
    """Read the questions of a file in their order.

    Those that say of themselves that they have no answer are left out.

    Raises UserError for a file that cannot be read, no JSON, or too many records that are none of
    the formats.
    """
    yield from (
        item for item in _made_of(path, lambda record, _: _item(record)) if item is not None
    )


def read_passages(path: Path) -> Iterator[Passage]:
    """Read the passages of a file in their order. Raises UserError as `read_questions`."""
    yield from _made_of(path, lambda record, number: passage_of(record, str(number)))


def _made_of(path: Path, make: Callable[[Mapping[str, Any], int], T]) -> Iterator[T]:
    """Make something of each record and its number; leave out bad ones while they are few."""
    bad, number = BadRows("search/qa"), -1
    for number, (where, record) in enumerate(_records(path)):
        try:
            made = make(_mapping(record), number)
        except Malformed as problem:
            bad.add(f"{where}: {problem}")
            continue
        yield made
    bad.settle(number + 1)


def passage_of(record: Mapping[str, Any], number: str) -> Passage:
    """Read a passage from a record of a corpus file or of a retriever.

    `number` is its id if it has none. Raises Malformed.
    """
    id = record.get("id", record.get("_id", number))
    if not isinstance(id, str | int):
        raise Malformed("the id of the passage is neither a text nor a number")
    if isinstance(contents := record.get("contents"), str):
        title, _, text = contents.strip().partition("\n")
        return _passage(str(id), title.strip().strip('"'), text)
    if isinstance(record.get("title"), str) and isinstance(record.get("text"), str):
        return _passage(str(id), record["title"], record["text"])
    raise Malformed(
        f"a passage needs the texts 'contents', or 'title' and 'text'; it has {_keys(record)}"
    )


# -- records ---------------------------------------------------------------------------------------


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) pairs of a file. A file of lines is never in memory as a whole."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            if _first_character(path) == "[":
                yield from (
                    (f"{path}, record {n}", record)
                    for n, record in enumerate(_loads(file.read(), str(path)), 1)
                )
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _loads(line, f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"search/qa: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"search/qa: {path} is not a text in UTF-8") from None


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        while line := file.readline(4096):
            if line.strip():
                return line.strip()[0]
    return ""


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise UserError(
            f"search/qa: {where}{line}: no JSON: {error.msg} at column {error.colno}"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(
            f"search/qa: {where}: no JSON that can be read: a number or a nesting is too long"
        ) from None


# -- questions -------------------------------------------------------------------------------------


def _item(record: Mapping[str, Any]) -> SourceItem | None:
    text = composed(" ".join(_text(record, "question").split()))
    if not text:
        raise Malformed("the question is blank")
    if record.get("answerable") is False:
        return None
    answers = _answers(record)
    metadata = record.get("metadata")
    for source in (record, metadata if isinstance(metadata, Mapping) else {}):
        if "paragraphs" in source:
            return _musique(source, text, answers)
        if "context" in source and "supporting_facts" in source:
            return _hotpot(source, text, answers)
    return SourceItem(Question(text, answers))


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    found = record.get("golden_answers", record.get("answer"))
    given = [found] if isinstance(found, str) else found
    aliases = record.get("answer_aliases", [])
    if not isinstance(given, list) or not isinstance(aliases, list):
        raise Malformed(
            "a question needs 'golden_answers' or 'answer', a text or a list; it has"
            f" {_keys(record)}"
        )
    answers = tuple(
        dict.fromkeys(
            composed(answer.strip()) for answer in [*given, *aliases] if isinstance(answer, str)
        )
    )
    if not any(answers):
        raise Malformed("the question has no answer that is a text")
    return tuple(answer for answer in answers if answer)


def _hotpot(source: Mapping[str, Any], text: str, answers: tuple[str, ...]) -> SourceItem:
    pages = _pairs(source["context"], "context", _SENTENCES)
    passages = tuple(_made(title, _joined(sentences)) for title, sentences in pages)
    facts = _pairs(source["supporting_facts"], "supporting_facts", ("sent_id",))
    wanted = dict.fromkeys(composed(title) for title, _ in facts)
    by_title = {passage.title: passage.id for passage in passages}
    supports = tuple(Support(title, by_title[title]) for title in wanted if title in by_title)
    return SourceItem(Question(text, answers, supports, len(supports) or None), passages)


def _joined(sentences: Any) -> str:
    """Join the sentences of a page.

    Some files keep the space between two sentences, some do not. Raises Malformed.
    """
    if isinstance(sentences, str):
        return sentences
    if not isinstance(sentences, list) or not all(
        isinstance(sentence, str) for sentence in sentences
    ):
        raise Malformed("'context' holds sentences that are not texts")
    return (
        "".join(sentences)
        if sentences[1:] and sentences[1].startswith(" ")
        else " ".join(sentences)
    )


def _pairs(value: Any, name: str, seconds: Sequence[str]) -> list[tuple[str, Any]]:
    """Read (title, something) pairs from a list of pairs, or from two columns.

    The second column has one of the names `seconds`.
    """
    second = seconds[0]
    if isinstance(value, Mapping):
        second = next((key for key in seconds if key in value), second)
        titles, others = value.get("title"), value.get(second)
        if (
            not isinstance(titles, list)
            or not isinstance(others, list)
            or len(titles) != len(others)
        ):
            raise Malformed(f"'{name}' needs the lists 'title' and '{second}' of one length")
        value = [list(pair) for pair in zip(titles, others, strict=True)]
    ok = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in value
    )
    if not ok:
        raise Malformed(f"'{name}' is not a list of [title, {second}] pairs")
    return [(pair[0].strip(), pair[1]) for pair in value]


def _musique(record: Mapping[str, Any], text: str, answers: tuple[str, ...]) -> SourceItem:
    paragraphs = _rows(record["paragraphs"])
    passages = tuple(_made(_text(p, "title"), _text(p, "paragraph_text")) for p in paragraphs)
    supporting = [
        n for n, paragraph in enumerate(paragraphs) if paragraph.get("is_supporting") is True
    ]
    order = _decomposition(record.get("question_decomposition"), len(passages)) or supporting
    chosen = dict.fromkeys(passages[n] for n in order)
    supports = tuple(Support(passage.title, passage.id) for passage in chosen)
    return SourceItem(Question(text, answers, supports, len(supports) or None), passages)


def _rows(paragraphs: Any) -> list[Mapping[str, Any]]:
    """Read a list of objects, or the columns of one. Raises Malformed."""
    if isinstance(paragraphs, Mapping):
        columns = {key: column for key, column in paragraphs.items() if isinstance(column, list)}
        if not columns or len({len(column) for column in columns.values()}) != 1:
            raise Malformed("'paragraphs' is not a list, and its columns are not of one length")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(paragraphs, list):
        raise Malformed("'paragraphs' is not a list")
    return [_mapping(paragraph) for paragraph in paragraphs]


def _decomposition(steps: Any, count: int) -> list[int]:
    """List the places of the supporting paragraphs by steps; empty if they are not told."""
    if not isinstance(steps, list):
        return []
    told = [step.get("paragraph_support_idx") for step in steps if isinstance(step, Mapping)]
    places = [place for place in told if isinstance(place, int) and 0 <= place < count]
    return places if len(places) == len(told) else []


def _made(title: str, text: str) -> Passage:
    """Make a passage whose id comes from what it says, so that copies of it are one."""
    made = _passage("", title, text)
    name = f"{made.title}\n{made.text}".encode("utf-8", "surrogatepass")
    return replace(made, id=hashlib.sha256(name).hexdigest()[:16])


def _passage(id: str, title: str, text: str) -> Passage:
    return Passage(id, composed(title.strip()), composed(text.strip()))


def _mapping(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise Malformed(f"a record is an object with keys, this one is {type(record).__name__}")
    return record


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise Malformed(f"the text '{key}' is missing; there is {_keys(record)}")
    return value


def _keys(record: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(record)[:8])) or "nothing"
