"""What a request leaves behind: nothing that waits for the garbage collector, which looks at old objects seldom."""

from __future__ import annotations

import gc
import http.client
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from server.core.errors import ModelNotFound, RegistryError
from server.gateway.calls import RpcFailed
from server.rpc.in_process import InProcessCall
from tests.gateway.harness import DEADLINE_SECONDS, Gateway, gateway
from tests.processes import until

MODEL = "/api/v2/models/ri.models.main.model.some"
KEPT = RegistryError | RpcFailed | InProcessCall | Message


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with gateway(monkeypatch) as running:
        yield running


def left() -> int:
    return sum(isinstance(each, KEPT) for each in gc.get_objects())


def answered(running: Gateway) -> None:
    pass


def refused(running: Gateway) -> None:
    running.backend.refusal = ModelNotFound(model_rid="some")


def failed(running: Gateway) -> None:
    running.backend.failure = grpc.StatusCode.CANCELLED


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("outcome", [answered, refused, failed])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", MODEL, None), ("POST", "/api/v2/models", {"name": "x"}), ("POST", "/api/v2/models", {"bogus": "x"})],
    ids=["a question", "a change", "a bad body"],
)
def test_a_request_leaves_nothing(running: Gateway, outcome: Any, method: str, path: str, body: Any) -> None:
    outcome(running)
    connection = http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {running.token()}"}

    def ask(times: int) -> None:
        for _ in range(times):
            connection.request(method, path, body and json.dumps(body), headers)
            connection.getresponse().read()

    ask(2)
    before = left()
    ask(20)
    connection.close()
    # The loop may not be through with the last one when the client has its answer.
    until(lambda: left() <= before)


@pytest.mark.usefixtures("uncollected")
def test_a_request_whose_time_is_up_or_whose_client_is_gone_leaves_nothing(running: Gateway) -> None:

    def ask(times: int) -> None:
        running.backend.may_answer.clear()
        for number in range(times):
            connection = running.connect()
            timeout = b"Grpc-Timeout: 10m\r\n" if number % 2 else b""
            connection.sendall(b"GET " + MODEL.encode() + b" HTTP/1.1\r\nHost: some\r\n" + timeout + b"\r\n")
            if number % 2:
                assert b"504" in connection.recv(100)
            connection.close()
        running.backend.may_answer.set()

    # The first ones leave what is made once.
    ask(2)
    for _ in range(2):
        running.backend.over.get(timeout=DEADLINE_SECONDS)
    before = left()
    ask(20)
    until(lambda: left() <= before)
