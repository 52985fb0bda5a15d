"""Who calls, and whether the token is meant for this RPC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import grpc

from server.auth.access import PERMISSIONS, is_open
from server.auth.tokens import TokenVerifier
from server.caller import Caller
from server.errors import ApiUsageDenied, MissingCredentials
from server.rpc.interceptors.telemetry import CallRecord

_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return who makes the call that this thread is handling."""
    return _caller.get()


@contextlib.contextmanager
def authenticated(
    method: str, context: grpc.ServicerContext, verifier: TokenVerifier, record: CallRecord
) -> Iterator[None]:
    """Verify the credentials and the scope.

    Raises MissingCredentials, InvalidCredentials and ApiUsageDenied.
    """
    if is_open(method):
        yield
        return
    caller = record.caller = verifier.verify(_authorization(context))
    scope = PERMISSIONS[method].scope
    if scope not in caller.scopes:
        raise ApiUsageDenied(missing_scope=scope)
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def _authorization(context: grpc.ServicerContext) -> str:
    for key, value in context.invocation_metadata():
        if key == "authorization":
            return str(value)
    raise MissingCredentials
