"""Calls of the server behind the gateway."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import status_pb2
from starlette.datastructures import Headers

from server.auth.credentials import joined
from server.core.errors import FieldViolation, Internal, InvalidArgument, Overloaded, RegistryError, RequestTooLarge
from server.core.freshness import POSITION
from server.core.origin import CLIENT_ADDRESS
from server.gateway.errors import Cancelled, DeadlineExceeded, RequestHeadersTooLarge, ServiceUnavailable
from server.gateway.routes import Route

# A call that has not been answered by then is given up, unless its client says otherwise.
DEADLINE_SECONDS = 60.0
# More than any client waits; gRPC counts nanoseconds in 64 bits.
MAX_DEADLINE_SECONDS = 24 * 3600.0

# What the server takes as metadata, but for what gRPC itself adds.
MAX_FORWARDED_BYTES = 15 * 2**10

# No message of ours can be parsed from these bytes, so a call with them ends behind the checks of credentials and
# scope, and changes nothing.
_UNPARSEABLE = b"\xff"

_FORWARDED = ("authorization", "traceparent", "tracestate", POSITION)
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_UNPRINTABLE = re.compile(r"[^ -~]")

# No request of so many bytes is too large for any server.
SMALL_BYTES = 64 * 2**10

# What gRPC itself says where no handler was asked.
_PLAIN: Mapping[grpc.StatusCode, type[RegistryError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
}


class RpcFailed(Exception):
    """The server answered the request of a route with this status, which has ErrorInfo."""

    def __init__(self, status: status_pb2.Status, route: Route):
        self.status = status
        self.route = route


class RouteStub:
    """Calls the RPC of one route."""

    def __init__(self, channel: grpc.aio.Channel, route: Route):
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(route.rpc)
        self._stream_call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(route.rpc)
        self._route = route

    async def call(
        self, request: Message, headers: Headers, request_id: str, seconds: float, client: str = ""
    ) -> tuple[Message, dict[str, str]]:
        """Return the answer to a request, for which there are so many seconds, and the headers that go with it.

        Raises RpcFailed with what the server says, and a RegistryError where it says nothing.
        """
        answer, told = await self._send(request.SerializeToString(), headers, request_id, seconds, client)
        return self._route.response_type.FromString(answer), told

    def stream(self, request: Message, headers: Headers, request_id: str, seconds: float | None) -> AnswerStream:
        """Return the answers to a request, which last for so many seconds; None means for as long as they come.

        Raises RequestHeadersTooLarge.
        """
        metadata = _metadata(headers, request_id, "")
        call = self._stream_call(request.SerializeToString(), metadata=metadata, timeout=seconds)
        return AnswerStream(call, self._route)

    async def check_credentials(self, headers: Headers, request_id: str) -> None:
        """Return if the caller may use the route at all, whatever is asked. Raises as `call` does."""
        try:
            await self._send(_UNPARSEABLE, headers, request_id, DEADLINE_SECONDS)
        except Cancelled:
            raise Overloaded from None  # By gRPC, where too many calls wait to be looked at; nothing was executed.
        except RpcFailed as error:
            if grpc.StatusCode.INVALID_ARGUMENT.value[0] != error.status.code:
                raise

    async def _send(
        self, request: bytes, headers: Headers, request_id: str, seconds: float, client: str = ""
    ) -> tuple[bytes, dict[str, str]]:
        call = self._call(request, metadata=_metadata(headers, request_id, client), timeout=seconds)
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise _failed(error, self._route, len(request)) from error
        told: Any = await call.trailing_metadata() or ()
        return answer, {key: value for key, value in told if key == POSITION}


class AnswerStream:
    """The answers of a call, one by one; the server sends no more of them than are asked for."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[bytes, bytes], route: Route):
        self._call = call
        self._route = route

    async def next(self) -> Message:
        """Return the next one. Raises what `RouteStub.call` raises; the end of a stream is a failure, too."""
        try:
            answer: Any = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _failed(error, self._route, 0) from error
        if answer is grpc.aio.EOF:
            raise ServiceUnavailable
        return self._route.response_type.FromString(answer)

    def cancel(self) -> None:
        """End it, unless it has ended."""
        self._call.cancel()


def _metadata(headers: Headers, request_id: str, client: str) -> list[tuple[str, str]]:
    """Return what of a request goes with its call. Raises RequestHeadersTooLarge."""
    # gRPC takes printable ASCII alone; of a credential with anything else, the server shall say that it is invalid.
    sent = ((key, joined(headers.getlist(key))) for key in _FORWARDED)
    metadata = [(key, _UNPRINTABLE.sub("?", value)) for key, value in sent if value is not None]
    if sum(len(key) + len(value) for key, value in metadata) > MAX_FORWARDED_BYTES:
        raise RequestHeadersTooLarge
    return [*metadata, ("x-request-id", request_id), (CLIENT_ADDRESS, client)]


def _failed(error: grpc.aio.AioRpcError, route: Route, size: int) -> Exception:
    """Return what a call of so many bytes has failed with."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            return RpcFailed(status_pb2.Status.FromString(value), route)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return RequestTooLarge() if size > SMALL_BYTES else Overloaded()
    return _PLAIN.get(error.code(), Internal)()


def timeout_of(headers: Headers) -> float:
    """Return the `Grpc-Timeout` of a request in seconds, or the default. Raises InvalidArgument if it is malformed."""
    sent = headers.get("grpc-timeout")
    if sent is None:
        return DEADLINE_SECONDS
    if not (match := _TIMEOUT.fullmatch(sent)):
        sentence = f"must be a number of at most 8 digits and a unit, like 500m or 10S, not {sent[:100]!r}"
        raise InvalidArgument(violations=(FieldViolation("Grpc-Timeout", sentence),))
    return min(int(match[1]) * _TIMEOUT_UNITS[match[2]], MAX_DEADLINE_SECONDS)
