"""What a request has to show before its body is read, and what is read of bodies at once."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

from server.auth.credentials import VERIFIERS, Credentials, joined
from server.core.caller import Caller
from server.core.errors import RequestTooLarge
from server.gateway.connection_table import Slot
from server.gateway.errors import UnsupportedMediaType
from server.gateway.limits import SHARE, HttpLimits, Quota
from server.gateway.proxies import FORWARDED_FOR, TrustedProxies

_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*("utf-8"|utf-8)\s*)?', re.IGNORECASE)


class Authenticator:
    """Authenticates the callers of requests, so that no body is read for others, which the chain refuses and logs."""

    def __init__(self, credentials: Credentials, proxies: TrustedProxies, limits: HttpLimits):
        self._credentials = credentials
        self._proxies = proxies
        self._unverified = Quota(limits.max_unverified)
        self._verifiers = ThreadPoolExecutor(VERIFIERS, thread_name_prefix="http-verifiers")

    def known_caller(self, rpc: str, request: Request) -> Caller | None:
        """Return the caller of an RPC; None if the token is not known yet, or if the call will be refused.

        The connection is then authenticated. Raises Overloaded if too many connections are.
        """
        judged = self._credentials.from_cache(rpc, authorization_of(request))
        if judged is None or judged.error is not None:
            return None
        _slot_of(request).authenticate()
        return judged.caller

    def address_of(self, request: Request) -> str:
        """Return the address that a request came from."""
        return self._proxies.address_of_client(request.scope["client"][0], request.headers.getlist(FORWARDED_FOR))

    async def verified_caller(self, rpc: str, request: Request) -> Caller | None:
        """Return the caller of an RPC with a token that is not known yet; None if the call will be refused.

        Raises Overloaded if too many tokens are being verified, or if no more connections can be authenticated.
        """
        authorization = authorization_of(request)
        if self._credentials.from_cache(rpc, authorization) is not None:
            return None
        slot = _slot_of(request)
        slot.require_room()
        group = self._proxies.group_of_client(request.scope["client"][0], request.headers.getlist(FORWARDED_FOR))
        with self._unverified.one(group), slot.held():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._verifiers, self._credentials.verified, rpc, authorization)
        return self.known_caller(rpc, request)


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


def authorization_of(request: Request) -> str | None:
    """Return the credentials in a request's headers."""
    return joined(request.headers.getlist("authorization"))


def _slot_of(request: Request) -> Slot:
    slot: Slot = request.state.slot
    return slot


def _require_json(request: Request) -> None:
    content_type = ", ".join(request.headers.getlist("content-type"))
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if not _JSON.fullmatch(content_type.strip()) or encoding.lower() != "identity":
        raise UnsupportedMediaType(content_type=content_type, content_encoding=encoding)
