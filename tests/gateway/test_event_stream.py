"""Server-Sent Events: what WatchEvents tells, over HTTP."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import WatchEventsResponse
from modelregistry.v1.model_pb2 import Model
from server.codec.json_form import from_json
from tests.gateway.harness import gateway
from tests.gateway.registry import Registry
from tests.gateway.test_gone_clients import RESET
from tests.processes import DEADLINE_SECONDS, Server, until

PATH = "/api/v2/events"
CREATED = "modelregistry.version.created.v1"
RPC = "/modelregistry.v1.EventService/WatchEvents"
WATCH = b"GET /api/v2/events HTTP/1.1\r\nHost: some\r\nAccept: text/event-stream\r\n%s\r\n"


@dataclass
class Told:
    """What a client was sent between two blank lines."""

    id: str = ""
    event: str = ""
    data: str = ""

    @property
    def is_bookmark(self) -> bool:
        return bool(self.id) and not self.event and not self.data


class Stream:
    """A stream, as a client reads it by the rules of Server-Sent Events."""

    def __init__(self, answer: HTTPResponse):
        self.answer = answer

    def next(self) -> Told:
        """What comes next; the end of the connection is an error."""
        told = Told()
        while line := self.answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(":")
            if line == b"\n":
                return told
            if name:
                setattr(told, name, value.removeprefix(" "))
        raise EOFError

    def bookmark(self) -> str:
        told = self.next()
        assert told.is_bookmark, told
        return told.id

    def event(self) -> tuple[Told, Event]:
        """The next event, past bookmarks."""
        while (told := self.next()).is_bookmark:
            pass
        return told, from_json(json.loads(told.data), Event)


@contextmanager
def streaming(
    server: Server, token: str | None = None, headers: dict[str, str] | None = None, **query: Any
) -> Iterator[Stream]:
    """Ask for a stream, as an administrator if no token is given."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=DEADLINE_SECONDS)
    try:
        sent = {"Authorization": f"Bearer {token or server.token()}", "Accept": "text/event-stream"} | (headers or {})
        connection.request("GET", f"{PATH}?{urlencode(query, doseq=True)}", headers=sent)
        yield Stream(connection.getresponse())
    finally:
        connection.close()


@pytest.fixture
def model(registry: Registry) -> Model:
    return registry.admin.create_model(f"watched {uuid.uuid4()}")


def test_what_happens_is_told_as_it_is_over_grpc(registry: Registry, model: Model) -> None:
    with streaming(registry.server, modelRid=model.rid, types=[CREATED]) as stream:
        assert stream.answer.status == 200
        assert stream.answer.headers["Content-Type"].startswith("text/event-stream")
        assert stream.answer.headers["X-Request-Id"]
        stream.bookmark()
        version = registry.admin.create_version(model)
        told, event = stream.event()
        assert (told.event, told.id) == (CREATED, event.cursor)
        [listed] = registry.admin("ListEvents", model_rid=model.rid, types=[CREATED]).events
        assert listed.model_version_rid == version.rid
        listed.cursor = event.cursor
        assert event == listed


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/*", ""])
def test_who_does_not_ask_for_a_stream_gets_a_list(registry: Registry, model: Model, accept: str) -> None:
    with streaming(registry.server, headers={"Accept": accept}, modelRid=model.rid, pageSize=1) as stream:
        assert stream.answer.headers["Content-Type"] == "application/json"
        assert len(json.loads(stream.answer.read())["data"]) == 1


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "Text/Event-Stream;q=0.9", "application/json, text/event-stream"]
)
def test_who_asks_for_a_stream_gets_one(registry: Registry, accept: str) -> None:
    with streaming(registry.server, headers={"Accept": accept}) as stream:
        stream.bookmark()


def test_it_goes_on_behind_the_last_event_id_or_else_behind_the_cursor_of_the_query(
    registry: Registry, model: Model
) -> None:
    with streaming(registry.server, modelRid=model.rid) as stream:
        begin = stream.bookmark()
    versions = [registry.admin.create_version(model).rid for _ in range(3)]
    with streaming(registry.server, modelRid=model.rid, afterCursor=begin) as stream:
        first, event = stream.event()
        assert event.model_version_rid == versions[0]
    # As a browser asks that has lost the stream which it began with a cursor.
    last = {"Last-Event-ID": first.id}
    with streaming(registry.server, headers=last, modelRid=model.rid, afterCursor=begin) as stream:
        assert [stream.event()[1].model_version_rid for _ in range(2)] == versions[1:]


@pytest.mark.parametrize(
    ("query", "headers", "status", "name"),
    [
        ({"afterCursor": "x"}, {}, 400, "CursorUnknown"),
        ({}, {"Last-Event-ID": "x"}, 400, "CursorUnknown"),
        ({"pageSize": "1"}, {}, 400, "InvalidArgument"),
        ({"types": "model.created"}, {}, 400, "InvalidArgument"),
        ({"modelRid": "ri.models.main.model.none"}, {}, 404, "ModelNotFound"),
        ({}, {"Authorization": "Bearer x"}, 401, "InvalidCredentials"),
        ({"pageSize": "1"}, {"Authorization": "Bearer x"}, 401, "InvalidCredentials"),
        ({}, {"Grpc-Timeout": "soon"}, 400, "InvalidArgument"),
    ],
)
def test_a_stream_that_cannot_begin_is_refused_as_any_other_request(
    registry: Registry, query: dict[str, str], headers: dict[str, str], status: int, name: str
) -> None:
    with streaming(registry.server, headers=headers, **query) as stream:
        assert (stream.answer.status, json.loads(stream.answer.read())["errorName"]) == (status, name)


def test_a_stream_tells_why_it_ends(registry: Registry, model: Model) -> None:
    name = f"leaver-{uuid.uuid4()}"
    registry.admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_VIEWER)
    with streaming(registry.server, registry.server.token(name)) as stream:
        stream.bookmark()
        registry.admin("DisablePrincipal", principal=f"user:{name}", reason="has left")
        assert stream.next().is_bookmark
        end = stream.next()
        assert (end.event, json.loads(end.data)["errorName"]) == ("end", "PrincipalDisabled")
        with pytest.raises(EOFError):
            stream.next()


@pytest.mark.parametrize("is_silent", [True, False])
def test_the_call_of_a_client_that_hangs_up_is_cancelled(monkeypatch: pytest.MonkeyPatch, is_silent: bool) -> None:
    ended = threading.Event()
    with gateway(monkeypatch) as running:
        running.backend.stream = silent(ended) if is_silent else forever(b"")
        with running.connect() as client:
            client.sendall(WATCH % running.bearer())
            assert client.recv(2**10).startswith(b"HTTP/1.1 200 ")
            # Of one that says that it sends no more, the next bookmark finds out that it is gone.
            client.setsockopt(*RESET)
        assert running.backend.over.get(timeout=DEADLINE_SECONDS) == RPC
        ended.set()


def test_little_waits_for_a_client_that_does_not_read_and_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch, answer_seconds=1) as running, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        client.connect(running.address)
        running.backend.stream = forever(b"x" * 2**16)
        client.sendall(WATCH % running.bearer())
        assert running.backend.over.get(timeout=DEADLINE_SECONDS) == RPC
        # What the kernel keeps, too.
        assert running.backend.sent < 200


def silent(ended: threading.Event) -> Iterator[bytes]:
    """A stream of which nothing more comes than its first message, until it is told to end."""
    yield WatchEventsResponse(cursor="x").SerializeToString()
    ended.wait(DEADLINE_SECONDS)


def forever(cursor: bytes) -> Iterator[bytes]:
    return itertools.repeat(WatchEventsResponse(cursor=cursor.decode()).SerializeToString())


def test_streams_end_before_the_gateway_waits_for_them(tmp_path: Any) -> None:
    with Server(tmp_path / "server") as server, streaming(server) as stream:
        stream.bookmark()
        server.terminate()
        assert stream.next().is_bookmark
        end = stream.next()
        assert (end.event, json.loads(end.data)["errorName"]) == ("end", "ServerStopping")
        until(lambda: server.process.poll() is not None)
