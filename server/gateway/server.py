"""Runs the HTTP application beside the gRPC server, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Sequence

import grpc.aio
import uvicorn
import uvloop

from server.gateway.app import build_app
from server.gateway.protocol import BoundedProtocol
from server.gateway.routes import Route
from server.rpc.health import Health

_CHANNEL_OPTIONS = (
    # The server bounds what it answers; what it has stored must not look like a failure.
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


class HttpServer:
    """Serves routes on a socket, with calls of the gRPC server at `target`."""

    def __init__(
        self,
        listener: socket.socket,
        routes: Sequence[Route],
        target: str,
        health: Health,
        *,
        max_body_bytes: int,
        idle_timeout_seconds: int,
        tls: ssl.SSLContext | None,
    ):
        self._listener = listener
        self._routes = routes
        self._target = target
        self._health = health
        self._max_body_bytes = max_body_bytes
        self._idle_timeout_seconds = idle_timeout_seconds
        self._tls = tls
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._started = threading.Event()
        self._uvicorn: uvicorn.Server | None = None

    def start(self) -> None:
        """Take requests; returns when they are taken."""
        self._thread.start()
        self._started.wait()
        if not self._thread.is_alive():
            raise RuntimeError("the HTTP server did not start; the log says why")

    def stop(self, grace_seconds: float) -> None:
        """Take no more requests, and finish those that run, within the time given."""
        if self._uvicorn is None:
            return
        self._uvicorn.config.timeout_graceful_shutdown = max(1, int(grace_seconds))
        self._uvicorn.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        finally:
            self._started.set()

    async def _serve(self) -> None:
        async with grpc.aio.insecure_channel(self._target, _CHANNEL_OPTIONS) as channel:
            self._uvicorn = _Server(self._config(channel), self._started)
            await self._uvicorn.serve([self._listener])

    def _config(self, channel: grpc.aio.Channel) -> uvicorn.Config:
        tls = self._tls
        return uvicorn.Config(
            build_app(self._routes, channel, self._health, self._max_body_bytes),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=self._idle_timeout_seconds,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )


class _Server(uvicorn.Server):
    """Tells when it takes requests."""

    def __init__(self, config: uvicorn.Config, took_up: threading.Event):
        super().__init__(config)
        self._took_up = took_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        self._took_up.set()
