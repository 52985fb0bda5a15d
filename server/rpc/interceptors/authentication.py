"""Who calls, and whether the token is meant for this RPC."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from server.auth.access import PERMISSIONS, is_open
from server.auth.tokens import TokenVerifier
from server.caller import Caller
from server.errors import ApiUsageDenied, MissingCredentials
from server.rpc.interceptors.telemetry import CallRecord

_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return who makes the call that this thread is handling."""
    return _caller.get()


def authenticator(method: str, verifier: TokenVerifier) -> Callable[[CallRecord], None]:
    """Return what verifies the credentials of a method's calls, and their scope.

    It raises MissingCredentials, InvalidCredentials and ApiUsageDenied.
    """
    if is_open(method):
        return lambda record: None
    scope = PERMISSIONS[method].scope

    def authenticate(record: CallRecord) -> None:
        if record.authorization is None:
            raise MissingCredentials
        caller = record.caller = verifier.verify(record.authorization)
        if scope not in caller.scopes:
            raise ApiUsageDenied(missing_scope=scope)
        # Each call runs in a context of its own, so this ends with it.
        _caller.set(caller)

    return authenticate
