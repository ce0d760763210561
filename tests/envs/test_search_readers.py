"""search/qa-v0 over files: the formats, what is malformed, splits, and who may find what."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import turnrl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.envs.search.library import open_library
from turnrl.envs.search.readers import Malformed, passage_of, read_passages, read_questions
from turnrl.envs.search.settings import SearchSettings
from turnrl.envs.search.store import Passage
from turnrl.foundation.errors import UserError

from ..logged import logged

pytest.importorskip("bm25s", reason="needs the extra: pip install 'turnrl[search]'")

HOTPOT: dict[str, Any] = {
    "_id": "a",
    "question": "Who wrote the book that won?",
    "answer": "Ada",
    "type": "bridge",
    "level": "easy",
    "supporting_facts": [["Prize", 0], ["Book", 1], ["Prize", 1]],
    "context": [
        ["Prize", ["It was won.", " By a book."]],
        ["Other", ["No."]],
        ["Book", ["A book.", " By Ada."]],
    ],
}
COLUMNS = HOTPOT | {
    "supporting_facts": {"title": ["Prize", "Book", "Prize"], "sent_id": [0, 1, 1]},
    "context": {
        "title": ["Prize", "Other", "Book"],
        "sentences": [c[1] for c in HOTPOT["context"]],
    },
}
FLASHRAG = {"question": HOTPOT["question"], "golden_answers": ["Ada"], "metadata": COLUMNS}
FLASHRAG_2WIKI = FLASHRAG | {
    "metadata": {
        "type": "compositional",
        "supporting_facts": COLUMNS["supporting_facts"],
        "context": {
            "title": ["Prize", "Other", "Book"],
            "content": [c[1] for c in HOTPOT["context"]],
        },
    }
}
MUSIQUE: dict[str, Any] = {
    "id": "3hop__1",
    "question": "When was it?",
    "answer": "1871",
    "answer_aliases": ["in 1871"],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Town", "paragraph_text": "First part.", "is_supporting": True},
        {"idx": 1, "title": "Town", "paragraph_text": "Second part.", "is_supporting": False},
        {"idx": 2, "title": "Man", "paragraph_text": "Born in 1871.", "is_supporting": True},
    ],
    "question_decomposition": [
        {"id": 1, "question": "q", "answer": "a", "paragraph_support_idx": 2},
        {"id": 2, "question": "q", "answer": "a", "paragraph_support_idx": 0},
    ],
}


def written(path: Path, records: list[Any], *, lines: bool = True) -> Path:
    path.write_text(
        "\n".join(json.dumps(record) for record in records) if lines else json.dumps(records)
    )
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "search"))


# -- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [HOTPOT, COLUMNS, FLASHRAG, FLASHRAG_2WIKI])
@pytest.mark.parametrize("lines", [True, False])
def test_hotpot_2wiki_and_flashrag_with_context(
    tmp_path: Path, record: dict[str, Any], lines: bool
) -> None:
    [item] = read_questions(written(tmp_path / "q.json", [record], lines=lines))
    assert (item.question.text, item.question.answers, item.question.hops) == (
        HOTPOT["question"],
        ("Ada",),
        2,
    )
    assert [support.title for support in item.question.supports] == ["Prize", "Book"]
    assert [passage.text for passage in item.passages] == [
        "It was won. By a book.",
        "No.",
        "A book. By Ada.",
    ]
    assert [s.is_(p) for s in item.question.supports for p in item.passages] == [
        True,
        *[False] * 4,
        True,
    ]


def test_musique_follows_its_steps(tmp_path: Path) -> None:
    unanswerable = MUSIQUE | {"answerable": False}
    [item] = read_questions(written(tmp_path / "q.jsonl", [unanswerable, MUSIQUE]))
    assert item.question.answers == ("1871", "in 1871")
    assert [support.title for support in item.question.supports] == ["Man", "Town"]
    assert [item.question.supports[1].is_(passage) for passage in item.passages] == [
        True,
        False,
        False,
    ]
    [plain] = read_questions(
        written(tmp_path / "p.jsonl", [{k: v for k, v in MUSIQUE.items() if "_decomp" not in k}])
    )
    assert [support.title for support in plain.question.supports] == ["Town", "Man"]


@pytest.mark.parametrize("columns", [False, True])
def test_musique_inside_metadata_and_in_columns(tmp_path: Path, columns: bool) -> None:
    paragraphs = MUSIQUE["paragraphs"]
    if columns:
        paragraphs = {key: [paragraph[key] for paragraph in paragraphs] for key in paragraphs[0]}
    metadata = {
        "paragraphs": paragraphs,
        "question_decomposition": MUSIQUE["question_decomposition"],
    }
    record = {"question": MUSIQUE["question"], "golden_answers": ["1871"], "metadata": metadata}
    [plain] = read_questions(written(tmp_path / "p.jsonl", [MUSIQUE]))
    [item] = read_questions(written(tmp_path / "q.jsonl", [record]))
    assert item.passages == plain.passages
    assert item.question.supports == plain.question.supports


COMPOSED, SPELT = (
    "Café Beyoncé, José Núñez",
    unicodedata.normalize("NFD", "Café Beyoncé, José Núñez"),
)


@pytest.mark.parametrize(("file", "said"), [(COMPOSED, SPELT), (SPELT, COMPOSED)])
def test_a_letter_spelt_as_two_characters_is_the_same_letter(
    tmp_path: Path, file: str, said: str
) -> None:
    """Composed or decomposed, in corpus, question, supports, query and answer."""
    assert SPELT != COMPOSED
    corpus = [{"id": "1", "title": file, "text": f"{file} was founded."}]
    corpus += [{"id": f"p{n}", "title": f"Page {n}", "text": "Nothing."} for n in range(9)]
    facts = {"context": [[said, ["x"]]], "supporting_facts": [[said, 0]]}
    rows = [{"question": f"Who founded {said}, {n}?", "answer": file, **facts} for n in range(80)]
    data, pages = written(tmp_path / "q.jsonl", rows), written(tmp_path / "c.jsonl", corpus)
    env = turnrl.make("search/qa-v0", data=str(data), corpus=str(pages))
    env.reset(options={"task": env.tasks("train")[0]})
    found, *_, info = env.step(f"search[{said}]")
    assert found.startswith("Doc 1")
    assert info["milestones"] == ["support 1"]
    assert env.step(f"read[{said.upper()}]")[4]["valid_action"]
    *_, info = env.step(f"answer[{said}]")
    assert info["success"]


@pytest.mark.parametrize(
    "answers", [{"answer": ["Ada", "Ada L."]}, {"golden_answers": ["Ada", " Ada L. ", "Ada"]}]
)
def test_nq_style(tmp_path: Path, answers: dict[str, Any]) -> None:
    [item] = read_questions(
        written(tmp_path / "q.jsonl", [{"question": " who  was it ", **answers}])
    )
    assert (item.question.text, item.question.answers) == ("who was it", ("Ada", "Ada L."))
    assert item.question.supports == ()
    assert item.passages == ()


def test_corpora(tmp_path: Path) -> None:
    records = [
        {"id": 7, "contents": '"A title"\nSome text.\nMore.'},
        {"contents": "Alone"},
        {"_id": "x", "title": "T", "text": " t "},
    ]
    passages = [
        Passage("7", "A title", "Some text.\nMore."),
        Passage("1", "Alone", ""),
        Passage("x", "T", "t"),
    ]
    assert list(read_passages(written(tmp_path / "c.jsonl", records))) == passages
    (tmp_path / "bom.jsonl").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "c.jsonl").read_bytes() + b"\n\n"
    )
    assert list(read_passages(tmp_path / "bom.jsonl")) == passages


# -- malformed -------------------------------------------------------------------------------------


GOOD = json.dumps({"question": "q", "answer": "a"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{GOOD}\n{{oops", "line 2: no JSON: Expecting property name"),
        (f"{GOOD}\n\n[1]", "line 3: a record is an object with keys, this one is list"),
        ('{"text": "x"}', "line 1: the text 'question' is missing; there is 'text'"),
        ('{"question": "  "}', "line 1: the question is blank"),
        (
            '{"question": "q"}',
            "needs 'golden_answers' or 'answer', a text or a list; it has 'question'",
        ),
        ('{"question": "q", "answer": [3]}', "has no answer that is a text"),
        ('{"question": "q", "answer": " "}', "has no answer that is a text"),
        (f"[{GOOD}, 3]", "record 2: a record is an object"),
        ('[{"question":\n 3,,}]', "line 2: no JSON"),
        ("[" * 100_000, "nesting is too long"),
        (f'{{"question": "q", "n": {"1" * 5000}}}', "a number or a nesting is too long"),
        (
            json.dumps(HOTPOT | {"context": "x"}),
            "'context' is not a list of [title, sentences] pairs",
        ),
        (
            json.dumps(HOTPOT | {"context": [["t", [3]]]}),
            "'context' holds sentences that are not texts",
        ),
        (
            json.dumps(COLUMNS | {"context": {"title": ["t"]}}),
            "needs the lists 'title' and 'sentences' of one length",
        ),
        (json.dumps(MUSIQUE | {"paragraphs": {}}), "'paragraphs' is not a list"),
        (
            json.dumps(MUSIQUE | {"paragraphs": [{"title": "t"}]}),
            "the text 'paragraph_text' is missing",
        ),
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
    ],
)
def test_what_is_malformed_is_one_sentence_with_its_place(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        list(read_questions(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_malformed_passage_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"c.jsonl, line 2: a passage needs the texts 'contents', or 'title' and 'text'",
    ):
        list(read_passages(written(tmp_path / "c.jsonl", [{"contents": "a"}, {"body": "b"}])))
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        list(read_passages(tmp_path))
    with pytest.raises(Malformed, match="the id"):
        passage_of({"id": [], "contents": "x"}, "0")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [*HOTPOT, *MUSIQUE, "golden_answers", "metadata", "contents", "title", "text"]
)
VALUES = JSON | st.sampled_from([*HOTPOT.values(), *COLUMNS.values(), *MUSIQUE.values()])


def complaint(read: Callable[[Path], Iterator[Any]], path: Path) -> str:
    try:
        list(read(path))
    except UserError as error:
        return str(error)
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(JSON | st.dictionaries(KEYS, VALUES, max_size=7), max_size=3), st.booleans())
def test_any_json_is_read_or_refused(tmp_path: Path, records: list[Any], lines: bool) -> None:
    path = written(tmp_path / "any.json", records, lines=lines)
    for read in (read_questions, read_passages):
        assert "\n" not in complaint(read, path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.json").write_bytes(content)
    assert "\n" not in complaint(read_questions, tmp_path / "any.json")


# -- as a world ------------------------------------------------------------------------------------


def questions(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"Question number {n}?", "answer": f"answer {n}", **more} for n in range(count)
    ]


def texts(env: turnrl.TextEnv, split: str) -> set[str]:
    return {
        env.reset(options={"task": task})[0].removeprefix("Question: ") for task in env.tasks(split)
    }


def test_a_file_is_cut_by_its_words(tmp_path: Path) -> None:
    context = {"context": HOTPOT["context"], "supporting_facts": HOTPOT["supporting_facts"]}
    data = written(tmp_path / "all.jsonl", [*questions(200, **context), *questions(3)])
    env = turnrl.make("search/qa-v0", data=str(data), hops=2)
    parts = {split: texts(env, split) for split in ("train", "valid", "test")}
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 200
    assert 10 <= len(parts["test"]) <= 32
    assert 10 <= len(parts["valid"]) <= 32
    again = turnrl.make(
        "search/qa-v0", data=str(written(tmp_path / "less.jsonl", questions(200, **context)[100:]))
    )
    assert texts(again, "test") <= parts["test"]


def test_a_folder_has_splits_of_its_own_and_keeps_a_question_once(tmp_path: Path) -> None:
    written(
        tmp_path / "train.jsonl",
        [*questions(60, **HOTPOT_CONTEXT), {"question": "A test question", "answer": "x"}],
    )
    written(tmp_path / "test.json", [{"question": "A test  question", "answer": "x"}], lines=False)
    env = turnrl.make("search/qa-v0", data=str(tmp_path))
    with logged("of the 62 questions of .*, 1 were asked before, word for word"):
        assert texts(env, "test") == {"A test question"}
    assert len(texts(env, "train")) + len(texts(env, "valid")) == 60
    written(tmp_path / "dev.jsonl", [{"question": "valid", "answer": "x"}])
    env = turnrl.make("search/qa-v0", data=str(tmp_path))
    assert texts(env, "valid") == {"valid"}
    assert len(texts(env, "train")) == 60


def test_questions_that_differ_by_a_sign_or_a_capital_are_two(tmp_path: Path) -> None:
    twins = [
        {"question": question, "answer": "x"}
        for question in ("What is C?", "What is C++?", "What is The Who?", "What is who?")
    ]
    data = written(tmp_path / "all.jsonl", [*questions(60, **HOTPOT_CONTEXT), *twins])
    env = turnrl.make("search/qa-v0", data=str(data))
    parts = [texts(env, split) for split in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 64
    assert {twin["question"] for twin in twins} <= set.union(*parts)


def test_a_bad_row_among_many_is_left_out_and_said_and_two_in_a_hundred_are_not(
    tmp_path: Path,
) -> None:
    good = questions(150)
    path = written(tmp_path / "q.jsonl", [*good[:70], {"question": "no answer"}, *good[70:]])
    with logged(
        r"1 of 151 rows cannot be read and is left out; the first: .*line 71: a question",
    ):
        assert len(list(read_questions(path))) == 150
    written(path, [*good, {"question": "no answer"}, 3])
    with pytest.raises(
        UserError, match=r"line 151: a question needs .* \(2 of 152 rows cannot be read\)"
    ):
        list(read_questions(path))


HOTPOT_CONTEXT = {"context": HOTPOT["context"], "supporting_facts": HOTPOT["supporting_facts"]}


def test_the_expert_wins_with_and_without_a_known_chain(tmp_path: Path) -> None:
    corpus = written(
        tmp_path / "corpus.jsonl",
        [{"id": str(n), "contents": f'"Page {n}"\nNothing.'} for n in range(9)],
    )
    for number, record in enumerate(
        (HOTPOT, MUSIQUE, {"question": "who", "answer": "[B.] \\ Jr."})
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for split in ("train", "valid", "test"):
            written(
                folder / f"{split}.jsonl", [record | {"question": f"{record['question']} {split}"}]
            )
        more = {"corpus": str(corpus)} if number == 2 else {}
        env = turnrl.make("search/qa-v0", data=str(folder), extras=("progress",), **more)
        env.reset(options={"task": env.tasks("test")[0]})
        info: Any = {"success": False}
        actions: list[str] = []
        while (action := env.expert_action()) is not None:
            actions.append(action)
            *_, info = env.step(action)
        assert info["success"], actions
        assert info["progress"] == 1
        assert len(info["milestones"]) == 1 + (2 if number < 2 else 0)
        assert actions[0] == ("search[Prize]", "search[Man]", "search[who test]")[number]


def test_a_passage_with_the_title_of_a_support_is_enough_in_another_corpus(tmp_path: Path) -> None:
    data = written(tmp_path / "all.jsonl", questions(60, **HOTPOT_CONTEXT))
    corpus = written(
        tmp_path / "c.jsonl", [{"id": "9", "title": "prize", "text": "Something else."}]
    )
    env = turnrl.make("search/qa-v0", data=str(data), corpus=str(corpus))
    env.reset(options={"task": env.tasks("test")[0]})
    text, *_, info = env.step("read[PRIZE]")
    assert text == "prize\nSomething else."
    assert info["milestones"] == ["support 1"]
    assert env.step("read[9]")[0] == text
    assert not env.step("read[Book]")[4]["valid_action"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"data": "{tmp}/none.jsonl"}, "data: there is no "),
        ({"corpus": "{tmp}/q.jsonl"}, "corpus=... needs data=..."),
        ({"data": "{tmp}/q.jsonl"}, "bring no passages: give corpus=FILE"),
        ({"data": "{tmp}/q.jsonl", "pages": 400}, "pages belongs to the generated encyclopedia"),
        ({"data": "{tmp}/one.jsonl"}, "no question of "),
        ({"data": "{tmp}"}, "has no train.json or train.jsonl"),
        ({"data": "{tmp}/both"}, "has both valid.jsonl and validation.json: keep one of them"),
        ({"data": "{tmp}/q.jsonl", "corpus": "{tmp}/empty.jsonl"}, "the corpus holds no passage"),
        ({"data": "{tmp}/ok.jsonl", "hops": 7}, "the split 'train' has no question with hops=7"),
        ({"retrievr": "bm25"}, "unknown key 'retrievr'; did you mean 'retriever'?"),
        ({"retriever": {"name": "bm25", "k2": 1}}, "unknown key 'retriever.bm25.k2'"),
        ({"topk": 0}, "topk: Input should be greater than or equal to 1"),
        ({"pages": 3}, "pages: Input should be greater than or equal to 300"),
        ({"reward": "bleu"}, "reward: Input should be 'em' or 'f1'"),
        (
            {"retriever": "google"},
            "retriever: Input tag 'google' found using 'name' does not match",
        ),
        (
            {"retriever": {"name": "http", "url": "http://x/"}},
            "the retriever 'http' needs data=...",
        ),
        ({"retriever": {"name": "http"}}, "retriever.http.url: Field required"),
        (
            {"retriever": {"name": "http", "url": "localhost:8000"}},
            "retriever.http.url: String should match pattern",
        ),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, params: dict[str, Any], words: str) -> None:
    written(tmp_path / "q.jsonl", questions(60))
    written(tmp_path / "ok.jsonl", questions(60, **HOTPOT_CONTEXT))
    written(tmp_path / "one.jsonl", questions(1))
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "both").mkdir()
    for name in ("train.jsonl", "valid.jsonl", "validation.json"):
        written(tmp_path / "both" / name, questions(1))
    filled = {
        k: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for k, v in params.items()
    }
    with pytest.raises(UserError) as caught:
        turnrl.make("search/qa-v0", **filled).tasks("train")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_read_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    data = written(tmp_path / "all.jsonl", questions(60, **HOTPOT_CONTEXT))
    params = SearchSettings(data=str(data))
    assert open_library(params) is open_library(params)
    before = open_library(params)
    written(data, questions(90, **HOTPOT_CONTEXT))
    assert open_library(params) is not before
