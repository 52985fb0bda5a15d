"""Reads the bodies of requests, within limits: of one body, of all that are in flight, and of those of one caller."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

from starlette.requests import Request

from server.core.errors import RequestTooLarge
from server.gateway.errors import UnsupportedMediaType
from server.gateway.limits import SHARE, HttpLimits, Quota

_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*("utf-8"|utf-8)\s*)?', re.IGNORECASE)


class Bodies:
    """Hands out bodies; one belongs to its request until that has been answered."""

    def __init__(self, limits: HttpLimits):
        self._max_body_bytes = limits.max_body_bytes
        self._requests = Quota(limits.max_in_flight)
        # One body can always be as large as any may be.
        share = max(limits.max_bytes_in_flight // SHARE, limits.max_body_bytes)
        self._bytes = Quota(max(limits.max_bytes_in_flight, share), share)

    @contextlib.asynccontextmanager
    async def read(self, request: Request, principal: str) -> AsyncIterator[bytes]:
        """Read a body of JSON from a caller.

        Raises UnsupportedMediaType, RequestTooLarge and Overloaded; a body that is not read is left to the connection.
        """
        _require_json(request)
        if int(request.headers.get("content-length", 0)) > self._max_body_bytes:
            raise RequestTooLarge
        chunks, size = [], 0
        with self._requests.one(principal):
            try:
                async for chunk in request.stream():
                    if size + len(chunk) > self._max_body_bytes:
                        raise RequestTooLarge
                    self._bytes.take(principal, len(chunk))
                    chunks.append(chunk)
                    size += len(chunk)
                yield b"".join(chunks)
            finally:
                self._bytes.give_back(principal, size)


def _require_json(request: Request) -> None:
    content_type = ", ".join(request.headers.getlist("content-type"))
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if not _JSON.fullmatch(content_type.strip()) or encoding.lower() != "identity":
        raise UnsupportedMediaType(content_type=content_type, content_encoding=encoding)
