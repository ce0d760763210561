r"""A retriever behind HTTP, as Search-R1's servers answer::

    POST url  {"queries": ["words"], "topk": 3, "return_scores": true}
    {"result": [[{"document": {"id": "7", "contents": "\"Title\"\ntext"}, "score": 12.3}, ...]]}

Servers that leave the scores out, ``{"result": [[document, ...]]}``, are understood too, and
documents with a title and a text of their own. Nothing is tried twice here: whoever plays decides
what becomes of a lost episode.

Source: the request and both answers are those of PeterGriffinJin/Search-R1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...foundation.errors import UserError
from .readers import Malformed, passage_of
from .retriever import RetrieverError
from .settings import Http
from .store import Passage

if TYPE_CHECKING:
    import httpx2


class HttpRetriever:
    """Asks a server. One pool of connections serves all threads.

    Raises UserError if httpx2 is not installed.
    """

    def __init__(self, settings: Http) -> None:
        try:
            import httpx2
        except ImportError:
            raise UserError(
                "search/qa: the retriever 'http' needs the package httpx2: pip install"
                " 'turnrl[endpoint]'"
            ) from None
        self._url = settings.url
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx2.Client(timeout=settings.timeout, limits=limits)

    def search(self, query: str, k: int) -> list[Passage]:
        """Ask the server for passages, and return k at most, in its order.

        Raises RetrieverError for anything but an answer.
        """
        import httpx2

        # httpx2's own JSON is UTF-8, which cannot carry half a surrogate pair.
        body = json.dumps({"queries": [query], "topk": k, "return_scores": True}).encode()
        try:
            response = self._client.post(
                self._url, content=body, headers={"Content-Type": "application/json"}
            )
        except httpx2.TimeoutException:
            raise RetrieverError(f"{self._url} did not answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RetrieverError(
                f"{self._url} cannot be asked: {error or type(error).__name__}"
            ) from None
        if response.status_code != 200:
            raise RetrieverError(f"{self._url} answered with status {response.status_code}")
        return self._read(response)[:k]

    def _read(self, response: httpx2.Response) -> list[Passage]:
        try:
            [found] = response.json()["result"]
            return [passage_of(_document(item), str(n)) for n, item in enumerate(found)]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problem = (
                error
                if isinstance(error, Malformed)
                else "it needs 'result', one list of documents per query"
            )
            raise RetrieverError(
                f"{self._url} answered something else than passages: {problem}"
            ) from None


def _document(item: Any) -> Mapping[str, Any]:
    """Return the document of an item with a score, or the item itself."""
    document = item.get("document", item) if isinstance(item, Mapping) else item
    if not isinstance(document, Mapping):
        raise Malformed(f"a document is an object with keys, this one is {type(document).__name__}")
    return document
