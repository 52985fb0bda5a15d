"""The credentials of a call, judged before anything else of the call is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from server.auth.disabled import DisabledPrincipals
from server.auth.tokens import TokenVerifier
from server.core.caller import Caller
from server.core.errors import (
    ApiUsageDenied,
    InvalidCredentials,
    KeysUnavailable,
    MissingCredentials,
    PrincipalDisabled,
    RegistryError,
)
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
    """Judges the `authorization` of calls, whether its user may call, and whether the token is meant for the RPC.

    `disabled` are the principals that may not; what has been judged before is judged by what it is now.
    """

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier
        self.disabled = DisabledPrincipals()

    def from_cache(self, rpc: str, authorization: str | None) -> Authentication | None:
        """Judge a call of an RPC, `/package.Service/Method`; None if the token is not known yet: ask `verified`.

        It neither waits nor logs, and verifies no signature. Errors: MissingCredentials, InvalidCredentials for what is
        no token at all, PrincipalDisabled and ApiUsageDenied.
        """
        if authorization is None:
            return Authentication(None, MissingCredentials())
        try:
            caller = self._verifier.cached(authorization)
        except InvalidCredentials as error:
            return Authentication(None, error)
        return None if caller is None else self.of_caller(caller, rpc)

    def verified(self, rpc: str, authorization: str | None) -> Authentication:
        """Judge a call of an RPC. It may wait for the issuer's keys, and logs why a token is refused.

        Errors: MissingCredentials, InvalidCredentials, KeysUnavailable, PrincipalDisabled and ApiUsageDenied.
        """
        if authorization is None:
            return Authentication(None, MissingCredentials())
        try:
            return self.of_caller(self._verifier.verify(authorization), rpc)
        except (InvalidCredentials, KeysUnavailable) as error:
            return Authentication(None, error)

    def expiry(self, authorization: str) -> float:
        """Return when a token that was judged expires, in seconds since the epoch.

        Raises InvalidCredentials if it has expired since, and KeysUnavailable.
        """
        return self._verifier.expiry(authorization)

    def require_enabled(self, caller: Caller) -> None:
        """Return if a caller that was judged before may go on. Raises PrincipalDisabled."""
        if self.disabled.has_user(caller):
            raise PrincipalDisabled(principal=caller.user)

    def withdrawn(self, caller: Caller) -> PrincipalDisabled | None:
        """Return what ends a call that is under way: a principal by which it was let in has been disabled since."""
        principal = self.disabled.first_of(caller)
        return None if principal is None else PrincipalDisabled(principal=principal)

    def acting_for(self, user: str) -> Caller:
        """Return the caller that a user is who has no token at hand: without groups, and without scopes."""
        return self._verifier.caller_of((user,), frozenset())

    def of_caller(self, caller: Caller, rpc: str) -> Authentication:
        """Judge a call of an RPC by a caller whose token is good. Errors: PrincipalDisabled and ApiUsageDenied."""
        try:
            self.require_enabled(caller)
        except PrincipalDisabled as error:
            return Authentication(caller, error)
        enabled = self.disabled.enabled_principals(caller)
        if enabled != caller.principals:
            caller = self._verifier.caller_of(enabled, caller.scopes)
        scope = RPC_SCOPES[rpc]
        return Authentication(caller, None if scope in caller.scopes else ApiUsageDenied(missing_scope=scope))
