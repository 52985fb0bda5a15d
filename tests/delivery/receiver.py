"""A receiver of webhooks on loopback, which verifies what comes with the public packages."""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook

DEADLINE_SECONDS = 60


class Received(NamedTuple):
    """A request: its path, its headers by their names in lower case, and its body."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def event(self, secret: str) -> dict[str, Any]:
        """The data of the CloudEvent, whose signature must be one with this secret. Raises WebhookVerificationError."""
        Webhook(secret).verify(self.body, dict(self.headers))
        cloud_event = from_structured_event(HTTPMessage(dict(self.headers), self.body), JSONFormat())
        assert self.headers["content-type"] == "application/cloudevents+json"
        data = cloud_event.get_data()
        assert isinstance(data, dict)
        assert (cloud_event.get_id(), cloud_event.get_type()) == (data["id"], data["type"]) == (self.id, data["type"])
        return data


class Answer(NamedTuple):
    status: int = 204
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Receiver:
    """Answers with what `answer` says of a request, 204 by default, once that returns."""

    def __init__(
        self, answer: Callable[[Received], Answer] = lambda _: Answer(), tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self._received: queue.SimpleQueue[Received] = queue.SimpleQueue()
        # How many connections there have been.
        self.connections = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            # Connections are kept, as most receivers keep theirs.
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received = Received(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
                receiver._received.put(received)
                answer = receiver.answer(received)
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next(self) -> Received:
        """The next request, which must come."""
        return self._received.get(timeout=DEADLINE_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether no request came that was not taken."""
        return self._received.empty()
