"""Calls for the requests of the gateway: in this process, and those of streams of its gRPC server, over a socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import status_pb2
from starlette.datastructures import Headers

from server.auth.credentials import joined
from server.core.errors import FieldViolation, Internal, InvalidArgument, Overloaded, RegistryError
from server.core.freshness import POSITION
from server.gateway.errors import Cancelled, DeadlineExceeded, RequestHeadersTooLarge, ServiceUnavailable
from server.gateway.routes import Route
from server.rpc.in_process import InProcessServer, Metadata, Outcome

# A call that has not been answered by then is given up, unless its client says otherwise.
DEADLINE_SECONDS = 60.0
# More than any client waits; gRPC counts nanoseconds in 64 bits.
MAX_DEADLINE_SECONDS = 24 * 3600.0

# Below what a server of gRPC takes as metadata, as `rpc.server` has it: requests and streams have the same bound.
MAX_FORWARDED_BYTES = 15 * 2**10

# No message of ours can be parsed from these bytes, so a call with them ends behind the checks of credentials and
# scope, and changes nothing.
_UNPARSEABLE = b"\xff"

_FORWARDED = ("authorization", "traceparent", "tracestate", POSITION)
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_UNPRINTABLE = re.compile(r"[^ -~]")

# Failures without ErrorInfo, by their codes.
_PLAIN: Mapping[grpc.StatusCode, type[RegistryError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
}


class RpcFailed(Exception):
    """The server answered the request of a route with this status, which has ErrorInfo."""

    def __init__(self, status: status_pb2.Status, route: Route):
        self.status = status
        self.route = route


class UnaryStub:
    """Calls the RPC of one route, in this process."""

    def __init__(self, server: InProcessServer, route: Route):
        self._server = server
        self._route = route

    async def call(
        self, request: Message, headers: Headers, request_id: str, seconds: float, client: str
    ) -> tuple[Message, dict[str, str]]:
        """Return the answer to a request, for which there are so many seconds, and the headers that go with it.

        It is a request of the client at this address; cancelled, it is given up. Raises RpcFailed with what the chain
        says, and a RegistryError where it says nothing.
        """
        return await self._call(request.SerializeToString(), headers, request_id, seconds, client)

    async def check_credentials(self, headers: Headers, request_id: str) -> None:
        """Return if the caller may use the route at all, whatever is asked. Raises as `call` does."""
        await _unless_refused(self._call(_UNPARSEABLE, headers, request_id, DEADLINE_SECONDS, ""))

    async def _call(
        self, request: bytes, headers: Headers, request_id: str, seconds: float, client: str
    ) -> tuple[Message, dict[str, str]]:
        metadata = _metadata(headers, request_id)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Outcome] = loop.create_future()

        def end(outcome: Outcome) -> None:
            with suppress(RuntimeError):  # The loop has ended, and so has all that waited.
                loop.call_soon_threadsafe(_set, ended, outcome)

        call = self._server.begin(self._route.rpc, request, metadata, client, seconds, end)
        timer = loop.call_later(seconds, call.end, grpc.StatusCode.DEADLINE_EXCEEDED)
        try:
            outcome = await ended
        finally:
            timer.cancel()
            call.cancel()
        if outcome.code is not grpc.StatusCode.OK:
            raise _failed(outcome.code, outcome.trailing_metadata, self._route)
        return outcome.answer, {key: str(value) for key, value in outcome.trailing_metadata if key == POSITION}


class StreamStub:
    """Calls the RPC of one route that is answered with a stream, over a connection to the gRPC server."""

    def __init__(self, channel: grpc.aio.Channel, route: Route):
        self._call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(route.rpc)
        self._route = route

    def call(self, request: Message, headers: Headers, request_id: str, seconds: float | None) -> AnswerStream:
        """Return the answers to a request, which last for so many seconds; None means for as long as they come.

        Raises RequestHeadersTooLarge.
        """
        return self._answers(request.SerializeToString(), headers, request_id, seconds)

    async def check_credentials(self, headers: Headers, request_id: str) -> None:
        """Return if the caller may use the route at all. Raises what `AnswerStream.next` raises."""
        try:
            await _unless_refused(self._answers(_UNPARSEABLE, headers, request_id, DEADLINE_SECONDS).next())
        except Cancelled:
            raise Overloaded from None  # By gRPC, where too many calls wait to be looked at; nothing was executed.

    def _answers(self, request: bytes, headers: Headers, request_id: str, seconds: float | None) -> AnswerStream:
        return AnswerStream(self._call(request, metadata=_metadata(headers, request_id), timeout=seconds), self._route)


class AnswerStream:
    """The answers of a call, one by one; the server sends no more of them than are asked for."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[bytes, bytes], route: Route):
        self._call = call
        self._route = route

    async def next(self) -> Message:
        """Return the next one. Raises what `UnaryStub.call` raises; the end of a stream is a failure, too."""
        try:
            answer: Any = await self._call.read()
        except grpc.aio.AioRpcError as error:
            metadata: Any = error.trailing_metadata() or ()
            raise _failed(error.code(), metadata, self._route) from error
        if answer is grpc.aio.EOF:
            raise ServiceUnavailable
        return self._route.response_type.FromString(answer)

    def cancel(self) -> None:
        """End it, unless it has ended."""
        self._call.cancel()


async def _unless_refused(answer: Awaitable[object]) -> None:
    """Return if a call with unparseable bytes failed for nothing but them. Raises what it failed with otherwise."""
    try:
        await answer
    except RpcFailed as error:
        if grpc.StatusCode.INVALID_ARGUMENT.value[0] != error.status.code:
            raise


def _set(ended: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not ended.done():
        ended.set_result(outcome)


def _metadata(headers: Headers, request_id: str) -> Metadata:
    """Return what of a request goes with its call. Raises RequestHeadersTooLarge."""
    # Metadata is printable ASCII; of a credential with anything else, the chain shall say that it is invalid.
    sent = ((key, joined(headers.getlist(key))) for key in _FORWARDED)
    metadata = [(key, _UNPRINTABLE.sub("?", value)) for key, value in sent if value is not None]
    if sum(len(key) + len(value) for key, value in metadata) > MAX_FORWARDED_BYTES:
        raise RequestHeadersTooLarge
    return (*metadata, ("x-request-id", request_id))


def _failed(code: grpc.StatusCode, metadata: Metadata, route: Route) -> Exception:
    """Return what a call has failed with."""
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            return RpcFailed(status_pb2.Status.FromString(value), route)
    return _PLAIN.get(code, Internal)()


def timeout_of(headers: Headers) -> float:
    """Return the `Grpc-Timeout` of a request in seconds, or the default. Raises InvalidArgument if it is malformed."""
    sent = headers.get("grpc-timeout")
    if sent is None:
        return DEADLINE_SECONDS
    if not (match := _TIMEOUT.fullmatch(sent)):
        sentence = f"must be a number of at most 8 digits and a unit, like 500m or 10S, not {sent[:100]!r}"
        raise InvalidArgument(violations=(FieldViolation("Grpc-Timeout", sentence),))
    return min(int(match[1]) * _TIMEOUT_UNITS[match[2]], MAX_DEADLINE_SECONDS)
