"""GET /healthz and /readyz tell over HTTP what the gRPC health service tells, to anybody and at any time."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.rpc.chain import PROBE_THREADS
from tests.conftest import NewDatabase
from tests.e2e.database_proxy import DatabaseProxy
from tests.gateway.harness import DEADLINE_SECONDS, gateway
from tests.gateway.registry import Registry
from tests.gateway.test_refusals import Answer, ask
from tests.processes import Server, until

HEAD_WITHOUT_BODY = (
    b"POST /api/v2/models HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n%s\r\n"
)
SERVING, NOT_SERVING = {"status": "SERVING"}, {"status": "NOT_SERVING"}
each_probe = pytest.mark.parametrize("path", ["/healthz", "/readyz"])


def asked(server: Server, path: str, method: str = "GET") -> tuple[int, Any]:
    answer = ask(server, method, path, Authorization="", Content_Type="")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, json.loads(answer.content) if method == "GET" else answer.content


@each_probe
def test_a_server_that_serves_says_so_to_anybody(registry: Registry, path: str) -> None:
    assert asked(registry.server, path) == (200, SERVING)
    assert asked(registry.server, path, "HEAD") == (200, b"")
    assert asked(registry.server, f"{path}?verbose=1") == (200, SERVING)


@each_probe
def test_nothing_else_can_be_asked_of_a_probe(registry: Registry, path: str) -> None:
    post: Answer = ask(registry.server, "POST", path, "{}", Authorization="")

    assert (post.status, post.error["errorName"]) == (405, "MethodNotAllowed")
    assert post.headers["allow"] == "GET, HEAD, OPTIONS"


def test_without_its_database_a_server_is_alive_and_not_ready(new_database: NewDatabase, tmp_path: Path) -> None:
    url = new_database("postgresql", migrated=True)
    with DatabaseProxy(url) as proxy, Server(tmp_path / "cwd", "--database-url", proxy.url) as server:
        assert asked(server, "/readyz") == (200, SERVING)
        proxy.close()
        until(lambda: asked(server, "/readyz") == (503, NOT_SERVING))
        assert asked(server, "/readyz", "HEAD") == (503, b"")
        assert asked(server, "/healthz") == (200, SERVING)


@each_probe
def test_a_probe_waits_for_no_other_request(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    with gateway(monkeypatch, max_in_flight=1) as running:
        running.backend.may_answer.clear()
        with running.connect() as uploading, running.connect() as waiting:
            uploading.sendall(HEAD_WITHOUT_BODY % running.bearer())
            for _ in range(20):
                waiting.sendall(b"GET /api/v2/models/ri.models.main.model.a HTTP/1.1\r\nHost: a\r\n\r\n")
            running.backend.asked.get(timeout=DEADLINE_SECONDS)
            with closing(http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)) as probing:
                probing.request("GET", path)
                answer = probing.getresponse()
                assert (answer.status, json.loads(answer.read())) == (200, SERVING)
            running.backend.may_answer.set()


def test_a_server_that_ends_is_alive_and_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch) as running:
        running.health.close()
        for path, expected in {"/healthz": (200, SERVING), "/readyz": (503, NOT_SERVING)}.items():
            with closing(http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)) as probing:
                probing.request("GET", path)
                answer = probing.getresponse()
                assert (answer.status, json.loads(answer.read())) == expected


@each_probe
def test_probes_are_answered_while_strangers_hold_the_threads_for_health(registry: Registry, path: str) -> None:
    """With calls of gRPC whose messages never come."""
    with grpc.insecure_channel(registry.server.address) as channel:
        check = channel.stream_unary("/grpc.health.v1.Health/Check")
        never = threading.Event()
        held = [check.future(iter(never.wait, True)) for _ in range(2 * PROBE_THREADS)]
        try:
            assert asked(registry.server, path) == (200, SERVING)
        finally:
            never.set()
            for call in held:
                call.cancel()
