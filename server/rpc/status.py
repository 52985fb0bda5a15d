"""RegistryError → google.rpc.Status, the one place where errors take their form on the wire."""

from __future__ import annotations

import re

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from server.core.errors import FieldViolation, RegistryError

DOMAIN = "modelregistry"

# A status travels in the trailers, in base64: what clients accept of trailers is 8 KiB in all.
MAX_STATUS_BYTES = 4096
MAX_VIOLATIONS = 20
_MAX_MESSAGE_BYTES = 600
_MAX_VALUE_BYTES = 300


def to_status(error: RegistryError, request_id: str) -> status_pb2.Status:
    """Return the error in its form on the wire, with as many field violations as fit under MAX_STATUS_BYTES."""
    shown = min(len(error.violations), MAX_VIOLATIONS)
    while True:
        status = _status(error, request_id, shown)
        if shown == 0 or status.ByteSize() < MAX_STATUS_BYTES:
            return status
        shown -= 1


def abort(context: grpc.ServicerContext, error: RegistryError, request_id: str) -> None:
    """End the call with the error."""
    context.abort_with_status(rpc_status.to_status(to_status(error, request_id)))


def set_status(context: grpc.ServicerContext, error: RegistryError, request_id: str) -> None:
    """Let the error be what the call ends with, once it is ended."""
    status = rpc_status.to_status(to_status(error, request_id))
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(status.trailing_metadata)


def grpc_code(error: RegistryError) -> str:
    """Return the name of the error's gRPC code, such as `NOT_FOUND`."""
    return str(code_pb2.Code.Name(error.code))


def message_of(error: RegistryError) -> str:
    """Return one sentence for people, of a bounded length whatever was asked."""
    return _cut(f"{error.name}: {error}", _MAX_MESSAGE_BYTES)


def reason(name: str) -> str:
    """Return an error's name as an ErrorInfo reason: `ModelNotFound` → `MODEL_NOT_FOUND`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def _status(error: RegistryError, request_id: str, shown: int) -> status_pb2.Status:
    metadata = {key: _cut(value, _MAX_VALUE_BYTES) for key, value in error.parameters.items()}
    metadata |= {"errorName": error.name, "errorInstanceId": error.instance_id}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason(error.name), domain=DOMAIN, metadata=metadata)]
    if error.violations:
        details.append(_bad_request(error.violations, shown))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    return status_pb2.Status(
        code=error.code,
        message=message_of(error),
        details=[_packed(detail) for detail in details],
    )


def _bad_request(violations: tuple[FieldViolation, ...], shown: int) -> error_details_pb2.BadRequest:
    listed = [
        error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, _MAX_VALUE_BYTES), description=_cut(violation.description, _MAX_VALUE_BYTES)
        )
        for violation in violations[:shown]
    ]
    if more := len(violations) - shown:
        listed.append(error_details_pb2.BadRequest.FieldViolation(description=f"and {more} more"))
    return error_details_pb2.BadRequest(field_violations=listed)


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed


def _cut(text: str, most: int) -> str:
    """Cut text to at most `most` bytes of UTF-8."""
    encoded = text.encode("utf-8", errors="replace")
    return text if len(encoded) <= most else encoded[: most - 3].decode("utf-8", errors="ignore") + "…"
