"""What deploy/envoy/envoy.yaml keeps from the servers: each bound, with a smaller figure where its own takes long."""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import DownloadModelFilesRequest, UploadModelFilesRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.rpc import transfers
from server.rpc.event_watch import WatchLimits
from tests.interop.envoy import ENVOY, FILE, PLAIN, Change, Configuration, Proxy, envoy, from_another_address, shorten
from tests.processes import DEADLINE_SECONDS, Server, until
from tests.rpc.harness import User, path_of
from tests.rpc.watching import watching

OTHER_ADDRESS = "127.0.0.2"
CALLS = 5
HALF_OPEN = 64
AN_HOUR = 3600
# As HTTP/2 has them: a client's greeting with empty settings, and the head of a request whose rest is to come.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HUNDRED_STREAMS = bytes([0, 3, 0, 0, 0, 100])  # of a server's settings: so many at a time
HALF_A_HEAD = bytes([0, 0, 1, 1, 0, 0, 0, 0, 1]) + b"\x83"

Proxied = Callable[..., Proxy]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("envoy") / "server") as server:
        yield server


@pytest.fixture
def proxied(server: Server, tmp_path: Path) -> Iterator[Proxied]:
    """Starts Envoy in front of the server, which is both replicas, with a change of the file."""
    with ExitStack() as stack:

        def start(change: Change | None = None) -> Proxy:
            return stack.enter_context(envoy(tmp_path, [grpc_of(server)] * 2, [http_of(server)] * 2, change))

        yield start


def grpc_of(server: Server) -> tuple[str, int]:
    host, _, port = server.address.rpartition(":")
    return host, int(port)


def http_of(server: Server) -> tuple[str, int]:
    url = urlsplit(server.url)
    assert url.hostname
    assert url.port
    return url.hostname, url.port


@contextmanager
def user_at(target: str, server: Server) -> Iterator[User]:
    """An administrator with a connection of its own."""
    with grpc.insecure_channel(target, PLAIN) as channel:
        yield server.user(channel)


class Request:
    """A request of one HTTP connection, from an address of loopback."""

    def __init__(self, to: tuple[str, int], method: str, path: str, body: str | None = None, **options: Any) -> None:
        headers = options.pop("headers", {})
        connection = HTTPConnection(*to, timeout=DEADLINE_SECONDS, **options)
        connection.request(method, path, body, headers)
        answer: HTTPResponse = connection.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        connection.close()

    def error(self) -> tuple[int, str]:
        """The status and the name of the error, in the form of every failure of HTTP."""
        envelope = json.loads(self.body)
        keys = {"errorCode", "errorName", "errorInstanceId", "errorDescription", "parameters"}
        assert envelope.keys() == keys
        uuid.UUID(envelope["errorInstanceId"])
        assert self.headers["Content-Type"] == "application/json"
        return self.status, envelope["errorName"]


def test_envoy_takes_the_file_as_it_is_and_warns_of_nothing() -> None:
    command = [ENVOY, "--mode", "validate", "--log-level", "warn", "--config-path", FILE]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"'{FILE}' OK" in result.stdout


def test_an_address_that_calls_too_often_is_refused_and_others_are_served(server: Server, proxied: Proxied) -> None:
    proxy = proxied(lambda config: config.limit_calls(CALLS))
    with ExitStack() as stack:
        here = stack.enter_context(user_at(proxy.target, server))
        there = stack.enter_context(from_another_address(proxy.grpc, OTHER_ADDRESS))
        other = stack.enter_context(user_at(there, server))
        # It does not help to claim another address, or to connect anew.
        claiming = User(here.channel, (*here.metadata, ("x-forwarded-for", "192.0.2.1")))
        again = stack.enter_context(user_at(proxy.target, server))
        for _ in range(CALLS):
            here("ListModels")
        refused = {caller.failure("ListModels").code for caller in (here, claiming, again)}
        assert refused == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        other("ListModels")


def test_an_address_that_asks_too_often_over_http_is_told_so_as_the_servers_would(proxied: Proxied) -> None:
    proxy = proxied(lambda config: config.limit_calls(CALLS))
    for _ in range(CALLS):
        assert Request(proxy.http, "GET", "/healthz").status == 200
    for claimed in ({}, {"X-Forwarded-For": "192.0.2.1"}):
        refused = Request(proxy.http, "GET", "/healthz", headers=claimed)
        assert refused.error() == (429, "Overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        assert uuid.UUID(refused.headers["X-Request-Id"])
    assert Request(proxy.http, "GET", "/healthz", source_address=(OTHER_ADDRESS, 0)).status == 200


@pytest.mark.parametrize(
    ("of", "deadline"), [("max_stream_duration", None), ("grpc_timeout_header_max", AN_HOUR)], ids=["none", "an hour"]
)
def test_calls_whose_message_never_comes_end_whatever_deadline_they_have(
    server: Server, proxied: Proxied, of: str, deadline: float | None
) -> None:
    def change(config: Configuration) -> None:
        _, _, read, write = config.routes("grpc")
        assert read["max_stream_duration"] is write["max_stream_duration"]
        shorten(read["max_stream_duration"], of)

    proxy = proxied(change)
    ends = threading.Event()

    def nothing() -> Iterator[bytes]:
        ends.wait()
        yield from ()

    with ExitStack() as stack:
        stack.callback(ends.set)
        user = stack.enter_context(user_at(proxy.target, server))
        # They are half-open: each sends its headers, and no message.
        calls = [
            user.channel.stream_unary(path_of(rpc)).future(nothing(), metadata=user.metadata, timeout=deadline)
            for rpc in ("GetBranch", "PromoteVersion")
            for _ in range(HALF_OPEN // 2)
        ]
        ended = {call.exception(DEADLINE_SECONDS).code() for call in calls}
        # A server may also find that one caller has too many of them.
        assert ended <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        # Nothing of them is left at the server.
        until(lambda: reaches(user))


@pytest.mark.parametrize("sent", [b"", GREETING, GREETING + HALF_A_HEAD], ids=["nothing", "a greeting", "half a head"])
def test_connections_that_call_nothing_end(proxied: Proxied, sent: bytes) -> None:
    def change(config: Configuration) -> None:
        shorten(config.http("grpc"), "request_headers_timeout")
        shorten(config.http("grpc")["common_http_protocol_options"], "idle_timeout")

    with socket.create_connection(proxied(change).grpc, timeout=DEADLINE_SECONDS) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert (HUNDRED_STREAMS in received) == bool(sent)


def test_http_requests_that_never_arrive_end(server: Server, proxied: Proxied) -> None:
    def change(config: Configuration) -> None:
        shorten(config.http("http"), "request_headers_timeout", "request_timeout")

    proxy = proxied(change)
    # Without a token, the server would not wait for the body.
    token = b"Authorization: Bearer %s\r\n" % server.token().encode()
    head = b"POST /api/v2/models HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n" + token
    for begun in (b"GET /healthz HTT", head + b"\r\n{"):
        with socket.create_connection(proxy.http, timeout=DEADLINE_SECONDS) as connection:
            connection.sendall(begun)
            received = b"".join(iter(lambda: connection.recv(2**16), b""))
        assert received.startswith(b"HTTP/1.1 408 "), begun
        assert json.loads(received.partition(b"\r\n\r\n")[2])["errorName"] == "RequestTimeout"


def reaches(user: User) -> bool:
    try:
        user("ListModels")
    except grpc.RpcError:
        return False
    return True


def test_connections_beyond_the_limit_are_closed_and_those_within_are_served(server: Server, proxied: Proxied) -> None:
    limit = 3

    def change(config: Configuration) -> None:
        _, connections = config.root["overload_manager"]["resource_monitors"]
        connections["typed_config"]["max_active_downstream_connections"] = limit

    proxy = proxied(change)

    def taken() -> socket.socket | None:
        """A connection, if Envoy greets its client."""
        connection = socket.create_connection(proxy.grpc, timeout=DEADLINE_SECONDS)
        try:
            connection.sendall(GREETING)
            greeted = bool(connection.recv(1))
        except ConnectionError:
            greeted = False
        if not greeted:
            connection.close()
        return connection if greeted else None

    with ExitStack() as stack:
        user = stack.enter_context(user_at(proxy.target, server))
        until(lambda: reaches(user))
        kept: list[socket.socket] = []

        def refused() -> bool:
            connection = taken()
            kept.extend([stack.enter_context(connection)] if connection else [])
            return connection is None

        until(refused)
        assert len(kept) == limit - 1
        user("ListModels")
        kept[0].close()
        until(lambda: not refused())


class SlowUpload:
    """An upload whose parts are sent one by one."""

    def __init__(self, user: User, model: Model) -> None:
        self._parts: queue.SimpleQueue[UploadModelFilesRequest | None] = queue.SimpleQueue()
        call = ModelServiceStub(user.channel).UploadModelFiles
        self._digest = hashlib.sha256()
        self._parts.put(UploadModelFilesRequest(model_rid=model.rid))
        self.call = call.future(iter(self._parts.get, None), metadata=user.metadata)

    def send(self, data: bytes) -> None:
        self._digest.update(data)
        self._parts.put(UploadModelFilesRequest(chunk=data))

    def finish(self) -> str:
        """The id that the server gives the files."""
        self._parts.put(UploadModelFilesRequest(sha256=self._digest.hexdigest()))
        self._parts.put(None)
        return self.call.result(DEADLINE_SECONDS).upload_id

    def give_up(self) -> None:
        self._parts.put(None)


def test_a_slow_transfer_goes_on_when_its_connection_and_every_unary_call_would_have_ended(
    server: Server, proxied: Proxied
) -> None:
    def change(config: Configuration) -> None:
        shorten(config.http("grpc")["common_http_protocol_options"], "max_connection_duration", "idle_timeout")
        shorten(config.routes("grpc")[2]["max_stream_duration"], "max_stream_duration")
        # What is left for streams that run, if anything were to end them.
        config.http("grpc")["drain_timeout"] = "1s"

    proxy = proxied(change)

    def aged() -> int:
        return counted(proxy, "http.grpc.downstream_cx_max_duration_reached")

    with ExitStack() as stack:
        user = stack.enter_context(user_at(proxy.target, server))
        upload = SlowUpload(user, user.create_model("slow transfers"))
        stack.callback(upload.give_up)
        upload.send(b"x" * 2**20)
        for _ in range(2):
            before = aged()
            half_open = user.channel.stream_unary(path_of("GetBranch")).future(iter(queue.SimpleQueue().get, None))
            assert half_open.exception(DEADLINE_SECONDS)
            until(lambda: aged() > before)  # noqa: B023
            upload.send(b"y" * 2**20)
        assert upload.finish()


def test_streams_of_events_go_on_when_their_connection_and_every_unary_call_would_have_ended(
    server: Server, proxied: Proxied
) -> None:
    def change(config: Configuration) -> None:
        for listener in ("grpc", "http"):
            shorten(config.http(listener)["common_http_protocol_options"], "max_connection_duration", "idle_timeout")
            config.http(listener)["drain_timeout"] = "1s"
        _, _, read, write = config.routes("grpc")
        assert read["max_stream_duration"] is write["max_stream_duration"]
        shorten(read["max_stream_duration"], "max_stream_duration")
        shorten(config.http("grpc"), "stream_idle_timeout")
        # Those of all routes over HTTP but that of the stream.
        for route in config.routes("http")[1:]:
            shorten(route, "timeout", "idle_timeout")

    proxy = proxied(change)
    with ExitStack() as stack:
        user = stack.enter_context(user_at(proxy.target, server))
        model = user.create_model("watched through a proxy")
        watch = stack.enter_context(watching(user, model_rid=model.rid))
        watch.bookmark()
        over_http = HTTPConnection(*proxy.http, timeout=DEADLINE_SECONDS)
        stack.callback(over_http.close)
        headers = {"Authorization": f"Bearer {server.token()}", "Accept": "text/event-stream"}
        over_http.request("GET", f"/api/v2/events?modelRid={model.rid}", headers=headers)
        stream = over_http.getresponse()
        assert stream.status == 200
        for _ in range(2):
            # The call takes as long as Envoy lets it.
            half_open = user.channel.stream_unary(path_of("GetBranch")).future(iter(queue.SimpleQueue().get, None))
            assert half_open.exception(DEADLINE_SECONDS)
            for listener in ("grpc", "http"):
                until(lambda: counted(proxy, f"http.{listener}.downstream_cx_max_duration_reached") > 0)  # noqa: B023
            version = user.create_version(model)
            assert watch.next_event().model_version_rid == version.rid
            # It comes at once, and not when some buffer is full.
            told = iter(stream.readline, b"")
            [data] = itertools.islice((line for line in told if line.startswith(b"data:")), 1)
            assert json.loads(data.removeprefix(b"data:"))["modelVersionRid"] == version.rid


def counted(proxy: Proxy, name: str) -> int:
    """What Envoy has counted."""
    host, port = proxy.admin
    told = urlopen(f"http://{host}:{port}/stats?format=json&filter=^{name}$", timeout=DEADLINE_SECONDS)
    return sum(each["value"] for each in json.load(told)["stats"])


def test_a_transfer_that_stands_still_ends(server: Server, proxied: Proxied) -> None:
    def change(config: Configuration) -> None:
        shorten(config.routes("grpc")[0], "idle_timeout")

    with ExitStack() as stack:
        user = stack.enter_context(user_at(proxied(change).target, server))
        upload = SlowUpload(user, user.create_model("transfers that stand still"))
        stack.callback(upload.give_up)
        upload.send(b"x")
        assert upload.call.exception(DEADLINE_SECONDS).code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_download_that_its_client_does_not_read_ends(server: Server, proxied: Proxied) -> None:
    def change(config: Configuration) -> None:
        shorten(config.routes("grpc")[0], "idle_timeout")

    with user_at(proxied(change).target, server) as user:
        # More than waits on the way.
        version = user.create_version_with_files(user.create_model("unread answers"), b"x" * 32 * 2**20)
        wanted = DownloadModelFilesRequest(model_rid=version.model_rid, model_version_rid=version.rid)
        download = ModelServiceStub(user.channel).DownloadModelFiles(wanted, metadata=user.metadata)
        assert next(download).size_bytes == 32 * 2**20
        until(lambda: not download.is_active())
        assert download.code() != grpc.StatusCode.OK


def test_calls_are_refused_at_once_while_memory_is_short(server: Server, proxied: Proxied) -> None:
    def change(config: Configuration) -> None:
        manager = config.root["overload_manager"]
        heap, _ = manager["resource_monitors"]
        heap["typed_config"]["max_heap_size_bytes"] = 2**20
        # Otherwise not even connections are taken.
        [accepting] = manager.pop("loadshed_points")
        assert accepting["name"] == "envoy.load_shed_points.tcp_listener_accept"

    proxy = proxied(change)
    until(lambda: counted(proxy, "overload.envoy.overload_actions.stop_accepting_requests.active") == 1)
    with user_at(proxy.target, server) as user:
        assert user.failure("ListModels").code == grpc.StatusCode.UNAVAILABLE
    assert Request(proxy.http, "GET", "/healthz").error() == (503, "ServiceUnavailable")


def test_what_the_servers_bound_envoy_leaves_to_them() -> None:
    """Their answers are more precise, so Envoy's bounds are the longer ones."""
    files, watch, *_ = Configuration().routes("grpc")
    assert seconds(files["idle_timeout"]) > transfers.IDLE_SECONDS
    assert seconds(files["max_stream_duration"]["max_stream_duration"]) > transfers.TRANSFER_SECONDS
    assert seconds(files["max_stream_duration"]["grpc_timeout_header_max"]) > transfers.TRANSFER_SECONDS
    events, *_ = Configuration().routes("http")
    for stream in (watch, events):
        assert seconds(stream["idle_timeout"]) > 2 * WatchLimits().bookmark_seconds


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


class FaultyReplica(BaseHTTPRequestHandler):
    """Says that it is ready, and loses every answer; knows which address its last POST was said to be from."""

    protocol_version = "HTTP/1.1"
    forwarded_for = ""

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.close_connection = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        FaultyReplica.forwarded_for = self.headers["X-Forwarded-For"]
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def faulty() -> Iterator[tuple[str, int]]:
    """Where a faulty replica is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), FaultyReplica) as replica:
        threading.Thread(target=replica.serve_forever, args=(0.01,), daemon=True).start()
        yield "127.0.0.1", replica.server_port
        replica.shutdown()


def test_a_lost_answer_to_a_post_is_repeated_only_by_a_client_that_knows_it_is_safe(
    server: Server, faulty: tuple[str, int], tmp_path: Path
) -> None:
    with envoy(tmp_path, [grpc_of(server)] * 2, [faulty] * 2) as proxy:
        post = Request(proxy.http, "POST", "/api/v2/models", "{}")
        assert post.error() == (503, "ServiceUnavailable")
        assert post.headers["QoS-Retry-Hint"] == "do-not-retry"
        safe = Request(proxy.http, "POST", "/api/v2/models", "{}", headers={"Idempotency-Key": "a"})
        assert safe.error() == (503, "ServiceUnavailable")
        assert "QoS-Retry-Hint" not in safe.headers
    with envoy(tmp_path, [grpc_of(server)] * 2, [faulty, http_of(server)]) as proxy:
        # What is read is read again, at the other one.
        assert {Request(proxy.http, "GET", "/healthz").status for _ in range(4)} == {200}


def test_the_servers_are_told_last_which_address_a_request_came_from(
    server: Server, faulty: tuple[str, int], tmp_path: Path
) -> None:
    with envoy(tmp_path, [grpc_of(server)] * 2, [faulty] * 2) as proxy:
        claimed = {"X-Forwarded-For": "192.0.2.1"}
        Request(proxy.http, "POST", "/", "{}", headers=claimed, source_address=(OTHER_ADDRESS, 0))
    assert FaultyReplica.forwarded_for == f"192.0.2.1,{OTHER_ADDRESS}"


def test_http_requests_pass_whole_and_keep_their_ids(server: Server, proxied: Proxied) -> None:
    proxy = proxied()
    headers = {"Authorization": f"Bearer {server.token()}", "X-Request-Id": "of-the-client"}
    asked = Request(proxy.http, "GET", "/api/v2/models/ri.models.main.model.none", headers=headers)
    assert asked.error() == (404, "ModelNotFound")
    assert asked.headers["X-Request-Id"] == "of-the-client"
    assert server.logged(request_id="of-the-client")
