"""Who may send a request is settled before its body is read."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

from server.auth.credentials import VERIFIERS, Credentials, joined
from server.core.caller import Caller
from server.gateway.connections import Slot
from server.gateway.limits import HttpLimits, Quota
from server.gateway.proxies import FORWARDED_FOR, TrustedProxies


class Admission:
    """Judges the credentials of requests as the gRPC server does, as far as that takes no waiting."""

    def __init__(self, credentials: Credentials, proxies: TrustedProxies, limits: HttpLimits):
        self._credentials = credentials
        self._proxies = proxies
        self._unverified = Quota(limits.max_unverified)
        self._verifiers = ThreadPoolExecutor(VERIFIERS, thread_name_prefix="http-verifiers")

    def caller(self, rpc: str, request: Request) -> Caller | None:
        """Return who calls an RPC; None if that takes a look at the token, or if the gRPC server will refuse it.

        A good caller's connection is authenticated. Raises Overloaded if there are too many of these.
        """
        verdict = self._credentials.from_cache(rpc, authorization_of(request))
        if verdict is None or verdict.error is not None:
            return None
        _slot_of(request).authenticate()
        return verdict.caller

    async def look(self, rpc: str, request: Request) -> Caller | None:
        """Return who calls an RPC with a token that is not known yet; None if the gRPC server will refuse it.

        Raises Overloaded if too many tokens are looked at, or if no more connections can be authenticated.
        """
        authorization = authorization_of(request)
        if self._credentials.from_cache(rpc, authorization) is not None:
            return None
        slot = _slot_of(request)
        slot.require_room()
        client = request.scope["client"][0]
        group = self._proxies.group_of_client(client, request.headers.getlist(FORWARDED_FOR))
        with self._unverified.one(group), slot.held():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._verifiers, self._credentials.verified, rpc, authorization)
        return self.caller(rpc, request)


def authorization_of(request: Request) -> str | None:
    """Return the credentials in a request's headers."""
    return joined(request.headers.getlist("authorization"))


def _slot_of(request: Request) -> Slot:
    slot: Slot = request.state.slot
    return slot
