"""Retrieval: bm25 in process, servers that answer and servers that do not, vectors."""

from __future__ import annotations

import asyncio
import json
import math
import mmap
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import turnrl
from turnrl.agents.baselines import ExpertAgent
from turnrl.agents.episode import StopReason
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.errors import UserError

pytest.importorskip("bm25s", reason="needs the extra: pip install 'turnrl[search]'")

from turnrl.envs.search.library import open_library
from turnrl.envs.search.retrieve import Bm25Index, Tokens
from turnrl.envs.search.retriever import Retriever, RetrieverError, best
from turnrl.envs.search.settings import Bm25, Http, SearchSettings
from turnrl.envs.search.store import Corpus, Passage, write_corpus
from turnrl.foundation.cache import fill_once

ID = "search/qa-v0"
PASSAGES = [
    Passage("a", "Velmar", "A town on the river. A town with a market."),
    Passage("b", "Upper Velmar", "A town above the town."),
    Passage("c", "Cats and dogs", "Dogs bark at running cats."),
    Passage("d", "cats and dogs", "Dogs bark at running cats."),
    Passage("e", "Blank", ""),
]


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path) -> Path:
    """A cache of its own."""
    return cache


@pytest.fixture(scope="module")
def corpus(home: Path) -> Corpus:
    return Corpus(fill_once(home / "corpus", lambda folder: write_corpus(folder, PASSAGES)))


# -- passages and words ----------------------------------------------------------------------------


def test_passages_are_found_by_title_then_by_id(corpus: Corpus) -> None:
    assert list(corpus) == PASSAGES
    assert corpus.find("velmar") == [0]
    assert corpus.find("  CATS and  dogs ") == [2, 3]
    assert corpus.find("d") == [3]
    assert corpus.find("nothing") == corpus.find("") == []


def test_scores_are_lucenes_bm25_and_ties_keep_their_order(corpus: Corpus) -> None:
    index = Bm25Index(corpus, Bm25(k1=0.9, b=0.4))
    assert [passage.id for passage in index.search("a running cat?", 5)] == ["c", "d"]
    assert [passage.id for passage in index.search("UPPER velmar", 1)] == ["b"]
    tokens = Tokens()
    documents = [Counter(tokens.stems(tokens.words(f"{p.title}\n{p.text}"))) for p in PASSAGES]
    mean = sum(map(Counter.total, documents)) / len(documents)

    def score(document: Counter[str], word: str) -> float:
        holding = sum(word in other for other in documents)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        return (
            idf
            * document[word]
            / (document[word] + 0.9 * (1 - 0.4 + 0.4 * document.total() / mean))
        )

    wanted = [score(d, "town") + score(d, "velmar") for d in documents]
    got = index._bm25.get_scores_from_ids(index._bm25.get_tokens_ids(["town", "velmar"]))
    assert np.allclose(got, wanted)


@pytest.mark.parametrize("query", ["", "the of and", "?!", "zzz", "\ud800", "(a OR b) AND *"])
def test_a_query_that_says_nothing_finds_nothing(corpus: Corpus, query: str) -> None:
    assert Bm25Index(corpus, Bm25()).search(query, 3) == []


def test_the_best_places() -> None:
    scores = np.array([0, 2, 3, 2, 0, 2], dtype=np.float32)
    assert best(scores, 3) == [2, 1, 3]
    assert best(scores, 9) == [2, 1, 3, 5]
    assert best(np.zeros(3, dtype=np.float32), 2) == []


OPEN = """
import sys
from pathlib import Path
from turnrl.envs.search.settings import Bm25
from turnrl.envs.search.retrieve import Bm25Index
from turnrl.envs.search.store import Corpus
index = Bm25Index(Corpus(Path(sys.argv[1])), Bm25())
maps = Path("/proc/self/maps")
mapped = not maps.exists() or str(index.folder) in maps.read_text()
print(index.folder, index.search("velmar", 1)[0].id, mapped)
"""


def test_the_index_is_mapped_and_built_once(home: Path, corpus: Corpus) -> None:
    index = Bm25Index(corpus, Bm25())
    assert all(isinstance(index._bm25.scores[key], np.memmap) for key in ("data", "indices"))
    assert isinstance(corpus._lines._bytes, mmap.mmap)
    changed = {path: path.stat().st_mtime_ns for path in index.folder.iterdir()}
    command = [sys.executable, "-c", OPEN, str(home / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [str(index.folder), "a", "True"], done.stderr
    assert changed == {path: path.stat().st_mtime_ns for path in index.folder.iterdir()}
    assert Bm25Index(corpus, Bm25(k1=1.5)).folder != index.folder


def test_one_index_serves_many_threads() -> None:
    env = turnrl.make(ID, pages=300)
    env.prepare(env.tasks("test"), progress=False)
    index: Retriever = env._retriever  # type: ignore[attr-defined]
    other = turnrl.make(ID, pages=300, topk=5)
    other.prepare([], progress=False)
    assert other._retriever is index  # type: ignore[attr-defined]
    queries = [passage.title for passage in open_library(SearchSettings(pages=300)).corpus or []]
    wanted = [index.search(query, 3) for query in queries]
    wrong: list[str] = []

    def ask() -> None:
        wrong.extend(
            q for q, passages in zip(queries, wanted, strict=True) if index.search(q, 3) != passages
        )

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_titles_are_found_where_names_are_alike() -> None:
    library = open_library(SearchSettings())
    assert library.corpus is not None
    index = Bm25Index(library.corpus, Bm25())
    rows = range(0, len(library.corpus), 10)
    found = [library.corpus[row] in index.search(library.corpus[row].title, 3) for row in rows]
    assert sum(found) / len(found) > 0.95


def test_a_corpus_without_a_passage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no passage"):
        write_corpus(tmp_path, [])


# -- servers ---------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Search-R1's protocol, and what can go wrong with it."""

    daemon_threads = True
    mode = "scores"
    retriever: Retriever
    asked: list[Any]

    def reply(self, request: Any) -> tuple[int, bytes]:
        self.asked.append(request)
        documents = [
            [
                {"id": p.id, "contents": f'"{p.title}"\n{p.text}'}
                for p in self.retriever.search(query, request["topk"])
            ]
            for query in request["queries"]
        ]
        answers: dict[str, Any] = {
            "scores": {
                "result": [[{"document": d, "score": 1.0} for d in found] for found in documents]
            },
            "plain": {"result": documents},
            "titles": {"result": [[{"title": "T", "text": "t"}] * 9]},
            "empty": {"result": [[]]},
            "two": {"result": [[], []]},
            "none": {"result": None},
            "list": [],
            "word": "no",
            "strings": {"result": [["a", "b"]]},
            "half": {"result": [[{"document": {"id": 1}}]]},
        }
        if self.mode == "slow":
            time.sleep(3)
        if self.mode == "broken":
            return 500, b'{"result": [[]]}'
        return 200, (
            b"{"
            if self.mode == "cut"
            else json.dumps(answers.get(self.mode, answers["scores"])).encode()
        )


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.path == "/retrieve"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, body = self.server.reply(request)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def data(home: Path) -> dict[str, str]:
    """Questions and passages of a generated world as files that anybody could have brought."""
    library = open_library(SearchSettings(pages=300))
    assert library.corpus is not None
    records: list[dict[str, Any]] = []
    for number in library.numbers("test", None):
        question = library.question("test", number)
        assert question is not None
        context = [
            [s.title, [library.corpus[library.corpus.find(s.title)[0]].text]]
            for s in question.supports
        ]
        facts = [[support.title, 0] for support in question.supports]
        records.append({"question": question.text, "answer": question.answers[0]})
        records[-1] |= {"context": context, "supporting_facts": facts}
    corpus = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in library.corpus]
    for name, rows in (("questions", records), ("corpus", corpus)):
        (home / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {"data": str(home / "questions.jsonl"), "corpus": str(home / "corpus.jsonl")}


@pytest.fixture
def server(data: dict[str, str]) -> Iterator[Server]:
    pytest.importorskip("httpx2", reason="needs the extra: pip install 'turnrl[endpoint]'")
    corpus = open_library(SearchSettings.of(data, "it")).corpus
    assert corpus is not None
    server = Server(("127.0.0.1", 0), Handler)
    server.retriever, server.asked = Bm25Index(corpus, Bm25()), []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def http(server: Server, **more: Any) -> dict[str, Any]:
    return {"name": "http", "url": f"http://127.0.0.1:{server.server_address[1]}/retrieve", **more}


@pytest.mark.parametrize("mode", ["scores", "plain"])
def test_a_server_is_as_good_as_the_index(server: Server, data: dict[str, str], mode: str) -> None:
    server.mode = mode
    far, near = turnrl.make(ID, data=data["data"], retriever=http(server)), turnrl.make(ID, **data)
    for task, same in zip(far.tasks("test")[:5], near.tasks("test")[:5], strict=True):
        assert far.reset(options={"task": task}) == near.reset(options={"task": same})
        over = False
        while not over:
            action = near.expert_action()
            assert action is not None
            mine = far.step(action)
            assert mine == near.step(action)
            over = mine[2]
        assert mine[4]["success"]
    assert server.asked[0] == {
        "queries": [server.asked[0]["queries"][0]],
        "topk": 3,
        "return_scores": True,
    }


def test_of_a_corpus_elsewhere_only_what_was_listed_can_be_read(
    server: Server, data: dict[str, str]
) -> None:
    env = turnrl.make(ID, data=data["data"], retriever=http(server), topk=1, observation_chars=200)
    env.reset(options={"task": env.tasks("test")[0]})
    support = env._question.supports[0]  # type: ignore[attr-defined]
    *_, info = env.step(f"read[{support.title}]")
    assert not info["valid_action"]
    assert env.step(f"search[{support.title}]")[4]["milestones"] == ["support 1"]
    assert env.step(f"read[{support.title.upper()}]")[4]["valid_action"]


def test_no_more_than_k_are_taken_and_none_is_an_answer(server: Server) -> None:
    from turnrl.envs.search.http import HttpRetriever

    retriever = HttpRetriever(Http.model_validate(http(server)))
    server.mode = "titles"
    assert retriever.search("x", 2) == [Passage("0", "T", "t"), Passage("1", "T", "t")]
    server.mode = "empty"
    assert retriever.search("\ud800 x", 2) == []


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("broken", "answered with status 500"),
        ("slow", "did not answer in time"),
        ("cut", "answered something else than passages"),
        ("two", "one list of documents per query"),
        ("none", "one list of documents per query"),
        ("list", "one list of documents per query"),
        ("word", "one list of documents per query"),
        ("strings", "a document is an object with keys, this one is str"),
        ("half", "a passage needs the texts 'contents'"),
        ("gone", "cannot be asked"),
    ],
)
def test_a_server_that_fails_loses_the_episode(
    server: Server, data: dict[str, str], mode: str, words: str
) -> None:
    server.mode = mode
    settings = http(server, timeout=0.5)
    if mode == "gone":
        settings["url"] = "http://127.0.0.1:1/retrieve"
    env = turnrl.make(ID, data=data["data"], retriever=settings)
    task = env.tasks("test")[0]
    env.reset(options={"task": task})
    with pytest.raises(RetrieverError, match=words):
        env.step("search[anything]")
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step("answer[guess]")

    async def played() -> Any:
        async with EnvPool(slots=1) as pool:
            return await play_many(
                ExpertAgent(), [EpisodeJob(task, "s", 0)], pool, max_turns=9, retries=0
            )

    [episode], stats = asyncio.run(played())
    assert episode.stop is StopReason.ENV_ERROR
    assert stats.lost == {"env_error": 1}
    assert words in (episode.error or "")


def test_without_httpx_one_sentence(monkeypatch: pytest.MonkeyPatch, data: dict[str, str]) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    env = turnrl.make(
        ID, data=data["data"], retriever={"name": "http", "url": "http://localhost/other"}
    )
    with pytest.raises(UserError, match=r"pip install 'turnrl\[endpoint\]'"):
        env.prepare([], progress=False)


# -- vectors ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder with random weights: texts with equal words in equal places are alike."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted(
        {word for p in PASSAGES for word in f"{p.title} {p.text}".replace(".", " .").split()}
    )
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_find_a_passage_by_its_own_words(
    corpus: Corpus, encoder: str, pooling: str
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from turnrl.envs.search.dense import DenseIndex
    from turnrl.envs.search.settings import Dense

    settings = Dense.model_validate({"name": "dense", "model": encoder, "pooling": pooling})
    index = DenseIndex(corpus, settings)
    for passage in PASSAGES[:3]:
        assert index.search(f"{passage.title}\n{passage.text}", 1) == [passage]
    text = f"{PASSAGES[0].title}\n{PASSAGES[0].text}"
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(encoder)(text, return_tensors="pt")["input_ids"]
        hidden = AutoModel.from_pretrained(encoder).eval()(input_ids=ids).last_hidden_state[0]
    wanted = hidden.mean(0) if pooling == "mean" else hidden[0]
    assert np.allclose(index._vectors[0], wanted / wanted.norm(), atol=2e-3)
    assert isinstance(index._vectors, np.memmap)
    assert DenseIndex(corpus, settings).folder == index.folder
    assert (
        DenseIndex(corpus, settings.model_copy(update={"passage_prefix": "p "})).folder
        != index.folder
    )
    assert len(index.search("\ud800 market", 9)) <= 5


def test_an_encoder_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    env = turnrl.make(ID, pages=300, retriever={"name": "dense", "model": str(tmp_path)})
    with pytest.raises(UserError, match="cannot load the encoder") as caught:
        env.prepare([], progress=False)
    assert "\n" not in str(caught.value)
