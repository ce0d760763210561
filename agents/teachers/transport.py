"""BoundedClient: an HTTP client whose replies end at a limit, for the library that asks servers.

That library reads a reply to its end, whatever its size, and believes how it is packed. This client
is the transport that it is given, so that no reply can fill the memory.
"""

from __future__ import annotations

import ssl
import zlib
from functools import cache
from typing import Any

import httpx2

TROUBLE = "trouble"
"""Extension of a response that says why its content is not whole; empty if it is."""


class BoundedClient(httpx2.AsyncClient):
    """Reads at most `largest` bytes of each reply, as they are sent and as they unpack.

    Slots and timeouts are left to those who ask, over whole attempts: httpx2 limits each read
    and each write.

    Args:
        socket: path of the Unix socket that is connected to, whatever the address says.
    """

    def __init__(self, largest: int, socket: str | None = None) -> None:
        limits = httpx2.Limits(max_connections=None)
        # A transport of one's own is asked for a socket alone: it would leave out the proxies.
        own = None if socket is None else httpx2.AsyncHTTPTransport(uds=socket, limits=limits)
        super().__init__(
            timeout=None,
            limits=limits,
            verify=_certificates(),
            transport=own,
            # Packed replies are unpacked up to the limit, but none are asked for.
            headers={"Accept-Encoding": "identity"},
        )
        self.largest = largest

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; return a response that is read and unpacked, up to the limit."""
        response = await super().send(request, stream=True, **options)
        raw = bytearray()
        try:
            async for chunk in response.aiter_raw():
                raw += chunk
                if len(raw) > self.largest:
                    break
        finally:
            await response.aclose()
        headers = response.headers.copy()
        packed = headers.pop("Content-Encoding", "").strip().lower()
        data, trouble = bytes(raw), ""
        if packed in ("gzip", "x-gzip", "deflate"):
            data, trouble = _unpack(data, self.largest)
        elif packed not in ("", "identity"):
            data, trouble = b"", f"packed as '{packed[:40]}', which was not asked for"
        if len(raw) > self.largest or len(data) > self.largest:
            data, trouble = data[: self.largest], f"more than {self.largest:,} bytes"
        return httpx2.Response(
            response.status_code,
            headers=headers,
            content=data,
            request=request,
            extensions=response.extensions | {TROUBLE: trouble},
        )


def _unpack(data: bytes, limit: int) -> tuple[bytes, str]:
    """Unpack at most one byte more than `limit`, so that a small reply cannot become gigabytes."""
    for window in (47, -15):  # gzip or zlib, by the header; deflate without one
        try:
            return zlib.decompressobj(window).decompress(data, limit + 1), ""
        except zlib.error:
            continue
    return b"", "its packing is damaged"


@cache
def _certificates() -> ssl.SSLContext:
    """Read the certificates once: they take far longer to load than a client takes to make."""
    return httpx2.create_ssl_context()
