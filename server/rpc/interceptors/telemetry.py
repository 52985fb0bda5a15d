"""One log line a call: which RPC, how it ended, how long it took, and who called."""

from __future__ import annotations

import logging
import random
import re
import time

import grpc

from server.caller import Caller
from server.errors import RegistryError
from server.rpc.status import grpc_code, message_of

log = logging.getLogger("modelregistry.calls")

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class CallRecord:
    """What is known of a call, filled in on its way through the layers."""

    __slots__ = ("authorization", "caller", "cancelled", "error", "method", "request_id", "start")

    def __init__(self, method: str, context: grpc.ServicerContext):
        self.method = method
        self.start = time.perf_counter()
        self.caller: Caller | None = None
        self.error: RegistryError | None = None
        # By the client, its deadline, or a bound of ours: nobody was told what came of it.
        self.cancelled = False
        self.authorization: str | None = None
        # The caller's `x-request-id`, so that its logs and ours can be joined; one of our own if it sent none.
        self.request_id = ""
        for key, value in context.invocation_metadata():
            if key == "authorization" and self.authorization is None:
                self.authorization = str(value)
            elif key == "x-request-id" and not self.request_id and _REQUEST_ID.fullmatch(str(value)):
                self.request_id = str(value)
        self.request_id = self.request_id or _new_request_id()

    def end(self, context: grpc.ServicerContext, is_probe: bool) -> None:
        """Log the call, which has ended; a probe that went well is not worth a line."""
        self.cancelled = self.cancelled or (self.error is None and not context.is_active())
        if self.error is not None or not is_probe:
            self._log(time.perf_counter() - self.start)

    def _log(self, seconds: float) -> None:
        fields = {
            "method": self.method,
            "code": "CANCELLED" if self.cancelled else grpc_code(self.error) if self.error else "OK",
            "milliseconds": round(seconds * 1000, 1),
            "user": self.caller.user if self.caller else None,
            "request_id": self.request_id,
        }
        if self.error:
            fields |= {"error_instance_id": self.error.instance_id, "error": message_of(self.error)}
        log.info("call", extra={"fields": fields})


def _new_request_id() -> str:
    """Return a UUID. It is no secret, and asking the system for one takes longer."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
