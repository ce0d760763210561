"""Retriever: from a query to passages. The one hook is `search`::

    class Newest:
        def search(self, query, k):  # -> the best k passages or fewer, the best first
            return [...]

Where passages are in this process they are found by words (`Bm25Index`) or by vectors
(`turnrl.envs.search.dense`); else a server is asked (`turnrl.envs.search.http`). Indexes are built
once per corpus and setting, kept on disk and mapped into memory. What all of them share is in
`turnrl.envs.search.retriever`.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ...foundation.cache import cache_dir, fill_once
from .retriever import Retriever, best
from .settings import Bm25, SearchSettings
from .store import Corpus, Passage

_WORD = re.compile(r"\w+")
_retrievers: dict[Any, Retriever] = {}
_opening = threading.Lock()


def open_retriever(settings: SearchSettings, corpus: Corpus | None) -> Retriever:
    """Open the retriever of these settings, shared by all who ask in this process.

    Its index is built if it is missing.

    Raises UserError for a package or a model that is not there.
    """
    wanted = settings.retriever
    key = wanted, corpus.digest if corpus is not None else None
    with _opening:
        found = _retrievers.get(key)
        if found is None:
            found = _retrievers[key] = _make(wanted, corpus)
        return found


def _make(settings: Any, corpus: Corpus | None) -> Retriever:
    if settings.name == "http":
        from .http import HttpRetriever

        return HttpRetriever(settings)
    assert corpus is not None
    if settings.name == "dense":
        from .dense import DenseIndex

        return DenseIndex(corpus, settings)
    return Bm25Index(corpus, settings)


class Tokens:
    """Cuts text into stems, without the commonest words. A text of nothing else has none."""

    def __init__(self) -> None:
        from bm25s.stopwords import STOPWORDS_EN

        self._stopwords = frozenset(STOPWORDS_EN)
        self._local = threading.local()

    def words(self, text: str) -> list[str]:
        """Split a text into the words that are stemmed, the commonest left out."""
        return [word for word in _WORD.findall(text.casefold()) if word not in self._stopwords]

    def stems(self, words: list[str]) -> list[str]:
        """Return one stem per word."""
        import Stemmer

        # A stemmer keeps a state of its own: one per thread.
        stemmer = getattr(self._local, "stemmer", None)
        if stemmer is None:
            stemmer = self._local.stemmer = Stemmer.Stemmer("english")
        stems: list[str] = stemmer.stemWords(words)
        return stems


class Bm25Index:
    """Okapi BM25 in the form of Lucene over titles and texts, by bm25s.

    Equal scores are ordered as in the corpus; passages without a word of the query are not found.

    Args:
        corpus: what is searched.
        settings: k1 and b.

    Source: the code of bm25s (Lù, arXiv 2407.03618), eager scores in a sparse matrix.
    """

    def __init__(self, corpus: Corpus, settings: Bm25) -> None:
        import bm25s

        self._corpus, self._tokens = corpus, Tokens()
        name = f"{corpus.digest[:24]}-{settings.k1:g}-{settings.b:g}-{bm25s.__version__}"
        self.folder = fill_once(
            cache_dir("search", "bm25", name), lambda folder: self._index(folder, settings)
        )
        self._bm25 = bm25s.BM25.load(self.folder, mmap=True)

    def search(self, query: str, k: int) -> list[Passage]:
        """Find the best k passages or fewer, the best first."""
        stems = self._tokens.stems(self._tokens.words(query))
        ids = self._bm25.get_tokens_ids(list(dict.fromkeys(stems)))
        if not ids:
            return []
        return [self._corpus[row] for row in best(self._bm25.get_scores_from_ids(ids), k)]

    def _index(self, folder: Path, settings: Bm25) -> None:
        """Write the index of the corpus into a folder.

        Stems are numbered as they appear, so that the files do not depend on the order of a set.
        """
        import bm25s

        word_ids: dict[str, int] = {}
        rows = []
        for passage in self._corpus:
            words = self._tokens.words(f"{passage.title}\n{passage.text}")
            rows.append(
                np.array(
                    [word_ids.setdefault(word, len(word_ids)) for word in words], dtype=np.int32
                )
            )
        vocabulary: dict[str, int] = {}
        stem_of = [
            vocabulary.setdefault(stem, len(vocabulary))
            for stem in self._tokens.stems(list(word_ids))
        ]
        stems = np.array(stem_of or [0], dtype=np.int32)
        index = bm25s.BM25(
            method="lucene", k1=settings.k1, b=settings.b, backend="numpy", csc_backend="numpy"
        )
        ids = [stems[row].tolist() for row in rows]
        index.index((ids, vocabulary or {"": 0}), show_progress=False, create_empty_token=False)
        index.save(folder, show_progress=False)
