"""Who may send a request is settled before its body is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from starlette.requests import Request

from server.auth.credentials import Credentials
from server.caller import Caller
from server.errors import Overloaded
from server.gateway.connections import Slot
from server.gateway.limits import HttpLimits, Quota
from server.gateway.proxies import FORWARDED_FOR, TrustedProxies


class Admission:
    """Judges the credentials of requests as the gRPC server does, as far as that takes no waiting."""

    def __init__(self, credentials: Credentials, proxies: TrustedProxies, limits: HttpLimits):
        self._credentials = credentials
        self._proxies = proxies
        self._unverified = Quota(limits.max_unverified)

    def caller(self, rpc: str, request: Request) -> Caller | None:
        """Return who calls an RPC; None if the gRPC server has to be asked, as it was not asked yet, or will refuse.

        A good caller's connection is authenticated. Raises Overloaded if there are too many of these.
        """
        verdict = self._credentials.from_cache(rpc, authorization_of(request))
        if verdict is None or verdict.error is not None:
            return None
        _slot_of(request).authenticate()
        return verdict.caller

    @contextlib.contextmanager
    def asking(self, rpc: str, request: Request) -> Iterator[None]:
        """Ask the gRPC server whose credentials these are: with a call, which it also logs and counts.

        Raises Overloaded if that takes a look at a token and too many are looked at, or if no more connections can be
        authenticated.
        """
        if self._credentials.from_cache(rpc, authorization_of(request)) is not None:
            yield  # The server refuses it at once.
            return
        slot = _slot_of(request)
        slot.require_room()
        client = request.scope["client"][0]
        group = self._proxies.group_of_client(client, request.headers.getlist(FORWARDED_FOR))
        with self._unverified.one(group), slot.held():
            try:
                yield
            finally:
                with contextlib.suppress(Overloaded):
                    self.caller(rpc, request)


def authorization_of(request: Request) -> str | None:
    """Return what a request says for its caller. Of two credentials none is preferred: together they are none."""
    return ", ".join(request.headers.getlist("authorization")) if "authorization" in request.headers else None


def _slot_of(request: Request) -> Slot:
    slot: Slot = request.state.slot
    return slot
