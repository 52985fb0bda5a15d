"""The credentials of a call, judged before anything else of the call is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from server.auth.tokens import TokenVerifier
from server.core.caller import Caller
from server.core.errors import ApiUsageDenied, InvalidCredentials, MissingCredentials, RegistryError
from server.core.permissions import RPC_SCOPES

# gRPC and HTTP have so many threads each that verify unknown tokens; no more than 2 of them wait for the issuer's keys.
VERIFIERS = 4


def joined(shown: Sequence[str]) -> str | None:
    """Return the credentials of a call as one value: of two, none is preferred, and together they are invalid."""
    return ", ".join(shown) if shown else None


class Authentication(NamedTuple):
    """The caller, as far as it is known, and the error that refuses the call, if it is refused."""

    caller: Caller | None
    error: RegistryError | None = None


class Credentials:
    """Judges the `authorization` of calls, and whether the token is meant for the RPC."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    def from_cache(self, rpc: str, authorization: str | None) -> Authentication | None:
        """Judge a call of an RPC, `/package.Service/Method`; None if the token is not known yet: ask `verified`.

        It neither waits nor logs, and verifies no signature. Errors: MissingCredentials, InvalidCredentials for what is
        no token at all, and ApiUsageDenied.
        """
        if authorization is None:
            return Authentication(None, MissingCredentials())
        try:
            caller = self._verifier.cached(authorization)
        except InvalidCredentials as error:
            return Authentication(None, error)
        return None if caller is None else _for_rpc(caller, rpc)

    def verified(self, rpc: str, authorization: str | None) -> Authentication:
        """Judge a call of an RPC. It may wait for the issuer's keys, and logs why a token is refused.

        Errors: MissingCredentials, InvalidCredentials and ApiUsageDenied.
        """
        if authorization is None:
            return Authentication(None, MissingCredentials())
        try:
            return _for_rpc(self._verifier.verify(authorization), rpc)
        except InvalidCredentials as error:
            return Authentication(None, error)


def _for_rpc(caller: Caller, rpc: str) -> Authentication:
    scope = RPC_SCOPES[rpc]
    return Authentication(caller, None if scope in caller.scopes else ApiUsageDenied(missing_scope=scope))
