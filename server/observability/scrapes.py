"""The HTTP server for Prometheus, in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler

PATH = "/metrics"
# How often numbers are brought up to date: any process may be asked for those of all.
SAMPLE_SECONDS = 0.25
CLIENT_SECONDS = 10.0

log = logging.getLogger(__name__)


class MetricsServer:
    """Serves what a registry has; `sample` is called often, to bring it up to date.

    The socket may be one that other processes listen on, too.
    """

    def __init__(self, listener: socket.socket, registry: CollectorRegistry, sample: Callable[[], None]):
        self._server = _Server(listener, registry, self._sample)
        self._bring_up_to_date = sample
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(SAMPLE_SECONDS,), name="metrics", daemon=True
        )

    def start(self) -> None:
        """Take requests."""
        self._sample()
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._sample()
        self._server.server_close()

    def _sample(self) -> None:
        """Bring the numbers up to date, unless that fails: the next time it may work, and the server goes on."""
        try:
            self._bring_up_to_date()
        except Exception:
            log.warning("the metrics cannot be brought up to date", exc_info=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: CollectorRegistry, sample: Callable[[], None]):
        handler = type("Handler", (_Handler,), {"registry": registry, "sample": staticmethod(sample)})
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        # Of several processes that are woken by a client, one gets it; the others must not wait for the next.
        listener.setblocking(False)
        self.socket = listener
        self._sample = sample

    def service_actions(self) -> None:
        """Sample, each time the server has looked for requests."""
        self._sample()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log it: most often a client went away, but nothing else may go unseen."""
        log.warning("a request for metrics failed", exc_info=True)


class _Handler(MetricsHandler):
    sample: Callable[[], None]
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:  # noqa: N802 - named by http.server
        """Answer with the numbers, and nowhere else."""
        if urlsplit(self.path).path != PATH:
            self.send_error(404)
            return
        self.sample()
        super().do_GET()
