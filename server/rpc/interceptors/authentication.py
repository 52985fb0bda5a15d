"""Who calls, as admission found it; what it refused is raised here, where refusals are logged and answered."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeAlias

import grpc

from server.auth.access import is_open
from server.auth.credentials import Credentials
from server.caller import Caller
from server.rpc.admission import authorization_of, verdict
from server.rpc.interceptors.telemetry import CallRecord

_caller: ContextVar[Caller] = ContextVar("caller")

Authenticate: TypeAlias = Callable[[CallRecord, grpc.ServicerContext], None]


def current_caller() -> Caller:
    """Return who makes the call that this thread is handling."""
    return _caller.get()


def authenticator(method: str, credentials: Credentials) -> Authenticate:
    """Return what notes who makes a call of a method. It raises the error that the call is refused with, if it is."""
    needs_none = is_open(method)

    def authenticate(record: CallRecord, context: grpc.ServicerContext) -> None:
        judged = verdict()
        if judged is None:
            if needs_none:
                return
            judged = credentials.verified(method, authorization_of(context.invocation_metadata()))
        record.caller = judged.caller
        if judged.error is not None:
            raise judged.error
        if judged.caller is not None:
            # Each call runs in a context of its own, so this ends with it.
            _caller.set(judged.caller)

    return authenticate
