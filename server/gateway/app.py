"""The HTTP application: requests become calls of the server's RPCs, and answers become JSON.

The RPCs decide. The gateway refuses what it cannot make a call of, and what is beyond its `limits`.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files

import grpc.aio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from server.codec.json_form import dumps
from server.core.errors import ApiFeaturePreviewUsageOnly, InvalidArgument
from server.core.logs import request_id_of
from server.gateway.admission import Authenticator, Bodies
from server.gateway.calls import RpcFailed, UnaryStub, timeout_of
from server.gateway.disconnects import unless_gone
from server.gateway.errors import Cancelled, Failure, MethodNotAllowed, RouteNotFound, failure, refusal
from server.gateway.event_stream import StreamHandler, accepts_events
from server.gateway.idempotency import HEADER, has_id, takes_key
from server.gateway.limits import HttpLimits
from server.gateway.requests import request_of, wants_preview
from server.gateway.routes import Route, stream_of
from server.rpc.health import LIVENESS, NAMES, SERVING, Health
from server.rpc.in_process import InProcessServer

LARGE_BODY_BYTES = 64 * 2**10

# The service of grpc.health.v1 that each path asks for.
PROBES = {"/healthz": LIVENESS, "/readyz": ""}

# Takes a request and its id.
Handler = Callable[[Request, str], Awaitable[Response]]


def build_app(
    routes: Sequence[Route],
    server: InProcessServer,
    streams: grpc.aio.Channel,
    health: Health,
    authenticator: Authenticator,
    limits: HttpLimits,
) -> ASGIApp:
    """Return the application that serves these routes, probes of the health, and its own description.

    Its calls are of RPCs of this process; streams of events are those of its gRPC server, over a channel.
    """
    handlers: dict[str, dict[str, Handler]] = defaultdict(dict)
    handlers["/openapi.json"]["GET"] = _always(files("modelregistry.v1").joinpath("openapi.json").read_bytes())
    for path, service in PROBES.items():
        handlers[path]["GET"] = _probe(health, service)
    bodies = Bodies(limits)
    for route in routes:
        handler: Handler = _RpcHandler(route, server, authenticator, bodies)
        if (stream := stream_of(route)) is not None:
            handler = _by_accept(handler, StreamHandler(stream, streams, authenticator))
        handlers[route.path][route.http_method] = handler
    paths = [StarletteRoute(path, _Resource(methods)) for path, methods in handlers.items()]
    # And not an application of Starlette, whose middleware answers what is raised: a resource has answered that.
    router = Router(paths, redirect_slashes=False, default=_Resource({}))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Its segments are decoded one by one, so that an encoded slash does not divide one.
            scope["path"] = scope["raw_path"].decode("ascii")
        await router(scope, receive, send)

    return app


class _Resource:
    """The handlers of one path, by HTTP method; without any, nothing is served there."""

    def __init__(self, handlers: Mapping[str, Handler]):
        self._handlers = handlers
        self._allowed = ", ".join([*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = request_id_of(request.headers.getlist("x-request-id"))
        request.state.is_repeatable = False
        try:
            response = await self._handle(request, request_id)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # The server ends, and has waited for this request as long as it could.
            what = f"{request.method} {scope['path'][:500]}"
            response = _failed(refusal(request_id, Cancelled(), what, is_repeatable=request.state.is_repeatable))
        except RpcFailed as error:
            response = _failed(failure(error.status, error.route, is_repeatable=request.state.is_repeatable))
        except Exception as error:
            what = f"{request.method} {scope['path'][:500]}"
            response = _failed(refusal(request_id, error, what, is_repeatable=request.state.is_repeatable))
            if isinstance(error, MethodNotAllowed):
                response.headers["Allow"] = error.allowed
        response.headers["X-Request-Id"] = request_id
        await response(scope, receive, send)

    async def _handle(self, request: Request, request_id: str) -> Response:
        if not self._handlers:
            raise RouteNotFound(path=request.scope["path"])
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": self._allowed})
        handler = self._handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise MethodNotAllowed(method=request.method, allowed=self._allowed)
        return await handler(request, request_id)


class _RpcHandler:
    """Answers the requests of one route with calls of its RPC."""

    def __init__(self, route: Route, server: InProcessServer, authenticator: Authenticator, bodies: Bodies):
        self._route = route
        self._stub = UnaryStub(server, route)
        self._authenticator = authenticator
        self._bodies = bodies

    async def __call__(self, request: Request, request_id: str) -> Response:
        rpc, has_body = self._route.rpc, self._route.has_body
        is_repeatable = not self._route.changes_something or bool(self._keys_of(request))
        request.state.is_repeatable = is_repeatable or has_body  # Before a body is read, nothing is executed.
        authenticator = self._authenticator
        caller = authenticator.known_caller(rpc, request) or await authenticator.verified_caller(rpc, request)
        if not has_body:
            request.state.is_repeatable = is_repeatable
            return await self._answer(request, request_id, b"", is_admitted=caller is not None)
        if caller is None:
            # It is refused, logged and counted as a call.
            await self._stub.check_credentials(request.headers, request_id)
        request.state.is_repeatable = is_repeatable
        async with self._bodies.read(request, caller.user if caller else "") as body:
            return await self._answer(request, request_id, body, is_admitted=True)

    async def _answer(self, request: Request, request_id: str, body: bytes, *, is_admitted: bool) -> Response:
        query, keys = request.scope["query_string"].decode("ascii"), self._keys_of(request)
        try:
            seconds = timeout_of(request.headers)
            if len(body) > LARGE_BODY_BYTES:
                # What takes time keeps no other request waiting.
                message = await asyncio.to_thread(request_of, self._route, request.path_params, query, body, keys)
            else:
                message = request_of(self._route, request.path_params, query, body, keys)
        except InvalidArgument:
            # The order of checks is the contract's: credentials come before the shape of the request.
            if not is_admitted:
                await self._stub.check_credentials(request.headers, request_id)
            if self._route.is_in_preview and not wants_preview(query):
                raise ApiFeaturePreviewUsageOnly from None
            raise
        request.state.is_repeatable |= has_id(message)
        # Told by the events of what is changed.
        client = self._authenticator.address_of(request) if self._route.changes_something else ""
        calling = self._stub.call(message, request.headers, request_id, seconds, client)
        answer, told = await unless_gone(request, calling)
        response = _json(200, dumps(answer))
        response.headers.update(told)
        return response

    def _keys_of(self, request: Request) -> list[str]:
        return request.headers.getlist(HEADER) if takes_key(self._route.method.input_type) else []


def _by_accept(handler: Handler, streaming: Handler) -> Handler:
    """Return the handler that streams to clients that accept Server-Sent Events, and answers others with another."""

    async def choose(request: Request, request_id: str) -> Response:
        wants_stream = request.method == "GET" and accepts_events(request.headers)
        return await (streaming if wants_stream else handler)(request, request_id)

    return choose


def _probe(health: Health, service: str) -> Handler:
    """Return the handler that answers 200 while a service is SERVING, and 503 otherwise, without credentials.

    It asks the health itself and not the gRPC server, whose threads for health callers can hold.
    """

    async def handler(request: Request, request_id: str) -> Response:
        status = health.status_of(service)
        return _json(
            200 if status == SERVING else 503, json.dumps({"status": NAMES[status]}), {"Cache-Control": "no-store"}
        )

    return handler


def _always(document: bytes) -> Handler:
    """Return the handler that answers every request with this JSON."""

    async def handler(request: Request, request_id: str) -> Response:
        return _json(200, document)

    return handler


def _json(status_code: int, text: str | bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status_code, headers, media_type="application/json")


def _failed(answer: Failure) -> Response:
    return _json(answer.http_status, json.dumps(answer.body, ensure_ascii=False), answer.headers)
