"""Reads the bodies of requests, within bounds: of one body, and of all that are in flight."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

from starlette.requests import Request

from server.errors import Overloaded, RequestTooLarge
from server.gateway.errors import UnsupportedMediaType

# How many requests may be in flight, and how many bytes their bodies may have together.
MAX_IN_FLIGHT = 512
MAX_BYTES_IN_FLIGHT = 256 * 2**20

_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*("utf-8"|utf-8)\s*)?', re.IGNORECASE)


class Bodies:
    """Hands out bodies; one belongs to its request until that has been answered."""

    def __init__(self, max_body_bytes: int):
        self._max_body_bytes = max_body_bytes
        self._requests = 0
        self._bytes = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body of JSON.

        Raises UnsupportedMediaType, RequestTooLarge and Overloaded; a body that is not read is left to the protocol.
        """
        _require_json(request)
        if int(request.headers.get("content-length", 0)) > self._max_body_bytes:
            raise RequestTooLarge
        if self._requests == MAX_IN_FLIGHT:
            raise Overloaded
        chunks, size = [], 0
        self._requests += 1
        try:
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                self._bytes += len(chunk)
                if size > self._max_body_bytes:
                    raise RequestTooLarge
                if self._bytes > MAX_BYTES_IN_FLIGHT:
                    raise Overloaded
            yield b"".join(chunks)
        finally:
            self._requests -= 1
            self._bytes -= size


def _require_json(request: Request) -> None:
    content_type = ", ".join(request.headers.getlist("content-type"))
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if not _JSON.fullmatch(content_type.strip()) or encoding.lower() != "identity":
        raise UnsupportedMediaType(content_type=content_type, content_encoding=encoding)
