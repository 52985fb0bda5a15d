"""What a call shows of its caller, judged before anything else of the call is taken in."""

from __future__ import annotations

from server.auth.access import PERMISSIONS
from server.auth.tokens import TokenVerifier
from server.caller import Caller
from server.errors import ApiUsageDenied, MissingCredentials


class Credentials:
    """Judges the `authorization` of calls, and whether the token is meant for the RPC."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    def at_once(self, rpc: str, authorization: str | None) -> Caller | None:
        """Return who calls an RPC, `/package.Service/Method`, if that can be told without waiting; None if it cannot.

        It neither waits nor logs, and verifies no signature: what is None, `verified` tells, and takes its time.

        Raises MissingCredentials, InvalidCredentials for what is no token at all, and ApiUsageDenied.
        """
        if authorization is None:
            raise MissingCredentials
        caller = self._verifier.remembered(authorization)
        return None if caller is None else _with_scope(caller, rpc)

    def verified(self, rpc: str, authorization: str | None) -> Caller:
        """Return who calls an RPC. It may wait for the issuer's keys, and logs why a token is refused.

        Raises MissingCredentials, InvalidCredentials and ApiUsageDenied.
        """
        if authorization is None:
            raise MissingCredentials
        return _with_scope(self._verifier.verify(authorization), rpc)


def _with_scope(caller: Caller, rpc: str) -> Caller:
    scope = PERMISSIONS[rpc].scope
    if scope not in caller.scopes:
        raise ApiUsageDenied(missing_scope=scope)
    return caller
