"""Server-Sent Events, as https://html.spec.whatwg.org has them: a stream of events for clients that ask for that.

Each has its type, its cursor as its id, and its JSON. A bookmark is an id alone, which clients keep and tell to nobody.
The end of a stream has a reason, as an event of the type `end`: the envelope of the failure that it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from server.codec.json_form import dumps
from server.core.errors import InvalidArgument
from server.gateway.admission import Authenticator
from server.gateway.calls import AnswerStream, RpcFailed, StreamStub, timeout_of
from server.gateway.disconnects import unless_gone
from server.gateway.errors import failure, refusal
from server.gateway.requests import request_of
from server.gateway.routes import Route

MEDIA_TYPE = "text/event-stream"
# With what a client that has lost its stream says where to go on.
LAST_EVENT_ID = "last-event-id"


def accepts_events(headers: Headers) -> bool:
    """Whether a client asks for Server-Sent Events, among other things or alone."""
    accepted = ",".join(headers.getlist("accept")).split(",")
    return any(each.partition(";")[0].strip().lower() == MEDIA_TYPE for each in accepted)


class StreamHandler:
    """Answers the requests of one route with the stream of its RPC, whose messages have an event and a cursor."""

    def __init__(self, route: Route, channel: grpc.aio.Channel, authenticator: Authenticator):
        self._route = route
        self._stub = StreamStub(channel, route)
        self._authenticator = authenticator

    async def __call__(self, request: Request, request_id: str) -> Response:
        """Return the stream, once it has begun. Raises RpcFailed and RegistryError, if it does not."""
        rpc, authenticator = self._route.rpc, self._authenticator
        request.state.is_repeatable = True
        caller = authenticator.known_caller(rpc, request) or await authenticator.verified_caller(rpc, request)
        try:
            seconds = timeout_of(request.headers) if "grpc-timeout" in request.headers else None
            query = request.scope["query_string"].decode("ascii")
            message: Any = request_of(self._route, request.path_params, query, b"")
        except InvalidArgument:
            # As of each request: credentials come before its shape.
            if caller is None:
                await self._stub.check_credentials(request.headers, request_id)
            raise
        if last := request.headers.get(LAST_EVENT_ID):
            # It is newer than what the client began with.
            message.after_cursor = last
        answers = self._stub.call(message, request.headers, request_id, seconds)
        try:
            first = await unless_gone(request, answers.next())
        except BaseException:
            answers.cancel()
            raise
        # Whoever is between must not keep it back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_parts(answers, first, request_id), media_type=MEDIA_TYPE, headers=headers)


async def _parts(answers: AnswerStream, first: Any, request_id: str) -> AsyncIterator[bytes]:
    try:
        yield _part_of(first)
        while True:
            yield _part_of(await answers.next())
    except (asyncio.CancelledError, ClientDisconnect):
        raise
    except RpcFailed as error:
        yield _end(failure(error.status, error.route, is_repeatable=True).body)
    except Exception as error:
        yield _end(refusal(request_id, error, MEDIA_TYPE, is_repeatable=True).body)
    finally:
        answers.cancel()


def _part_of(answer: Any) -> bytes:
    """Return events, or a bookmark, as they are sent. No JSON and no cursor has a line break in it."""
    if not answer.events:
        return f": bookmark\nid: {answer.cursor}\n\n".encode()
    parts = (f"id: {event.cursor}\nevent: {event.type}\ndata: {dumps(event)}\n\n" for event in answer.events)
    return "".join(parts).encode()


def _end(body: dict[str, object]) -> bytes:
    return f"event: end\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode()
