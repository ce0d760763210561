"""Dense retrieval: passages and queries as vectors of a transformer encoder, compared exactly with
numpy.

    env = turnrl.make("search/qa-v0", retriever={"name": "dense", "model":
    "path/of/all-MiniLM-L6-v2"})

The encoder is any that transformers loads with `AutoModel`: its last hidden states are averaged
over the tokens of the text (or the first is taken) and scaled to length 1. Passages are encoded
once and kept as float16; how long that takes depends on the encoder, and on a CPU it is minutes for
thousands of passages.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...foundation.cache import cache_dir, fill_once
from ...foundation.errors import UserError
from .retriever import RetrieverError, best
from .settings import Dense
from .store import Corpus, Passage

BATCH = 64
LONGEST = 256
"""Tokens of a text that are read."""
_ROWS = 65_536
"""Passages that are compared at once: what is widened to float32 in memory."""

Vectors = np.ndarray[Any, np.dtype[Any]]


class DenseIndex:
    """Cosine similarity. Only passages with a positive one are found; equal ones are ordered as in
    the corpus.

    Args:
        corpus: what is searched.
        settings: the encoder and how it is used.

    Raises UserError if the encoder cannot be loaded.
    """

    def __init__(self, corpus: Corpus, settings: Dense) -> None:
        self._corpus, self._settings = corpus, settings
        self._encoder = SentenceEncoder(settings)
        key = hashlib.sha256(
            f"{settings!r} {self._encoder.digest()} {corpus.digest}".encode()
        ).hexdigest()[:24]
        self.folder = fill_once(cache_dir("search", "dense", key), self._index)
        self._vectors: Vectors = np.load(self.folder / "vectors.npy", mmap_mode="r")

    def search(self, query: str, k: int) -> list[Passage]:
        """Find the k most similar passages, the most similar first.

        Raises RetrieverError if the encoder fails.
        """
        try:
            [vector] = self._encoder.encode([self._settings.query_prefix + query])
        except RuntimeError as error:  # a device that is full or gone
            raise RetrieverError(f"the encoder failed: {error}") from error
        blocks = range(0, len(self._vectors), _ROWS)
        scores = np.concatenate(
            [self._vectors[row : row + _ROWS].astype(np.float32) @ vector for row in blocks]
        )
        return [self._corpus[row] for row in best(scores, k)]

    def _index(self, folder: Path) -> None:
        prefix = self._settings.passage_prefix
        vectors = []
        for row in range(0, len(self._corpus), BATCH):
            passages = [self._corpus[n] for n in range(row, min(row + BATCH, len(self._corpus)))]
            texts = [f"{prefix}{passage.title}\n{passage.text}" for passage in passages]
            vectors.append(self._encoder.encode(texts).astype(np.float16))
        np.save(folder / "vectors.npy", np.concatenate(vectors))


class SentenceEncoder:
    """Texts to vectors of length 1. One thread at a time."""

    def __init__(self, settings: Dense) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._settings, self._lock = settings, threading.Lock()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=False)
            self._model = (
                AutoModel.from_pretrained(settings.model, trust_remote_code=False)
                .eval()
                .to(settings.device)
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"search/qa: cannot load the encoder '{settings.model}': {reason}"
            ) from None

    def digest(self) -> str:
        """Compute a digest of the encoder's weights: a folder may be written to again."""
        digest = hashlib.sha256()
        for name, tensor in self._model.state_dict().items():
            digest.update(
                name.encode() + tensor.cpu().contiguous().view(-1).float().numpy().tobytes()
            )
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Turn every text into a row of float32, of length 1."""
        import torch

        # Half a surrogate pair is no text to a tokenizer.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        with self._lock, torch.inference_mode():
            batch = self._tokenizer(
                clean, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            batch = batch.to(self._settings.device)
            hidden = self._model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (
                hidden[:, 0]
                if self._settings.pooling == "cls"
                else (hidden * mask).sum(1) / mask.sum(1)
            )
            scaled: Vectors = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return scaled
