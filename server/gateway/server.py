"""Runs the HTTP application beside the gRPC server, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Sequence

import grpc.aio
import uvloop

from server.auth.credentials import Credentials
from server.gateway.admission import Authenticator
from server.gateway.app import build_app
from server.gateway.connection import Connection
from server.gateway.connection_table import ConnectionTable
from server.gateway.limits import HttpLimits
from server.gateway.proxies import TrustedProxies
from server.gateway.routes import Route
from server.rpc.health import Health
from server.rpc.in_process import InProcessServer

_STREAM_OPTIONS = (
    # The server bounds what it answers; what it has stored must not look like a failure.
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # All streams are calls over this channel, and a connection may have 250 of them by default: ten connections are
    # enough for as many HTTP connections as there may be.
    ("grpc.service_config", json.dumps({"connectionScaling": {"maxConnectionsPerSubchannel": 10}})),
    ("grpc.use_local_subchannel_pool", 1),
    # How much waits here for a client that does not read. The library would let it be megabytes of each.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_535),
)
# How many connections may wait until they are accepted.
_BACKLOG = 2048


class HttpServer:
    """Serves routes on a socket, with calls of `in_process`, and streams of the gRPC server at `target`."""

    def __init__(
        self,
        listener: socket.socket,
        routes: Sequence[Route],
        in_process: InProcessServer,
        target: str,
        health: Health,
        credentials: Credentials,
        *,
        limits: HttpLimits,
        proxies: TrustedProxies,
        tls: ssl.SSLContext | None,
    ):
        self._listener = listener
        self._routes = routes
        self._in_process = in_process
        self._target = target
        self._health = health
        self._credentials = credentials
        self._limits = limits
        self._proxies = proxies
        self._tls = tls
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._grace_seconds = 0.0

    def start(self) -> None:
        """Take requests; returns when they are taken."""
        self._thread.start()
        self._started.wait()
        if not self._thread.is_alive():
            raise RuntimeError("the HTTP server did not start; the log says why")

    def stop(self, grace_seconds: float) -> None:
        """Take no more requests, and finish those that run, within the time given."""
        if self._loop is None:
            return
        self._grace_seconds = grace_seconds
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        finally:
            self._started.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        limits = self._limits
        table = ConnectionTable(limits)
        async with grpc.aio.insecure_channel(self._target, _STREAM_OPTIONS) as streams:
            authenticator = Authenticator(self._credentials, self._proxies, limits)
            app = build_app(self._routes, self._in_process, streams, self._health, authenticator, limits)
            server = await loop.create_server(
                lambda: Connection(app, table, limits, self._proxies, self._tls),
                sock=self._listener,
                backlog=_BACKLOG,
            )
            self._loop = loop
            self._started.set()
            await self._stopping.wait()
            server.close()
            await table.drain(self._grace_seconds)
