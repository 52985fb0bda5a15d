"""One log line a call: which RPC, how it ended, how long it took, and who called."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from server.auth.access import is_open
from server.caller import Caller
from server.errors import RegistryError
from server.rpc.status import grpc_code, message_of

log = logging.getLogger("modelregistry.calls")

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass
class CallRecord:
    """What is known of a call, filled in on its way through the layers."""

    request_id: str
    caller: Caller | None = None
    error: RegistryError | None = None
    # By the client, its deadline, or a bound of ours: nobody was told what came of it.
    cancelled: bool = False


@contextlib.contextmanager
def observed(method: str, context: grpc.ServicerContext) -> Iterator[CallRecord]:
    """Log the call when it has ended; a probe that went well is not worth a line."""
    record = CallRecord(_request_id(context))
    start = time.perf_counter()
    try:
        yield record
    finally:
        record.cancelled |= record.error is None and not context.is_active()
        if record.error is not None or not is_open(method):
            _log(method, record, time.perf_counter() - start)


def _request_id(context: grpc.ServicerContext) -> str:
    """Return the caller's `x-request-id`, so that its logs and ours can be joined; one of our own if it sent none."""
    for key, value in context.invocation_metadata():
        if key == "x-request-id" and _REQUEST_ID.fullmatch(str(value)):
            return str(value)
    return str(uuid.uuid4())


def _log(method: str, record: CallRecord, seconds: float) -> None:
    fields = {
        "method": method,
        "code": "CANCELLED" if record.cancelled else grpc_code(record.error) if record.error else "OK",
        "milliseconds": round(seconds * 1000, 1),
        "user": record.caller.user if record.caller else None,
        "request_id": record.request_id,
    }
    if record.error:
        fields |= {"error_instance_id": record.error.instance_id, "error": message_of(record.error)}
    log.info("call", extra={"fields": fields})
