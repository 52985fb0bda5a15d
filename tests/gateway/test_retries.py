"""Whether a request whose end is unknown may be sent again: where that does no more, it is never advised against."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.gateway.harness import DEADLINE_SECONDS, Gateway, gateway

KEY = "8a0c96e7-8d08-4f54-8d62-fec9561f2d8a"
MODEL = "/api/v2/models/ri.models.main.model.some"
CREATE = ("POST", "/api/v2/models")
PROMOTE = ("POST", f"{MODEL}/promoteVersion?preview=true")
CHECK = ("POST", f"{MODEL}/checkPromotion?preview=true")
BATCH = ("POST", "/api/v2/batchPromoteVersions")
ROLL_BACK = ("POST", f"{MODEL}/rollbackBranch")
SET_POLICY = ("PUT", f"{MODEL}/branchPolicy")
LOST, NAME_OF_LOST = grpc.StatusCode.CANCELLED, "Cancelled"


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with gateway(monkeypatch) as running:
        yield running


def headers_of(running: Gateway) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {running.token()}"}


def advice(running: Gateway, route: tuple[str, str], body: Any = None, **headers: str) -> tuple[str, str | None]:
    """The error of a request whose answer was lost, and what is said of sending it again."""
    connection = http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(*route, json.dumps(body or {}), {**headers_of(running), **sent})
    response = connection.getresponse()
    name = json.loads(response.read())["errorName"]
    connection.close()
    assert response.getheader("Retry-After") is None
    return name, response.getheader("QoS-Retry-Hint")


@pytest.mark.parametrize("route", [CREATE, PROMOTE, BATCH, ROLL_BACK, SET_POLICY], ids=lambda route: route[1])
def test_a_change_is_not_to_be_sent_again(running: Gateway, route: tuple[str, str]) -> None:
    running.backend.failure = LOST

    assert advice(running, route) == (NAME_OF_LOST, "do-not-retry")


@pytest.mark.parametrize("route", [CREATE, PROMOTE, BATCH, ROLL_BACK], ids=lambda route: route[1])
def test_a_change_with_an_id_may_be_wherever_that_stands(running: Gateway, route: tuple[str, str]) -> None:
    running.backend.failure = LOST

    assert advice(running, route, Idempotency_Key=f'"{KEY}"') == (NAME_OF_LOST, None)
    assert advice(running, route, {"requestId": KEY}) == (NAME_OF_LOST, None)


@pytest.mark.parametrize("route", [CHECK, ("GET", MODEL), ("HEAD", MODEL)], ids=lambda route: f"{route[0]} {route[1]}")
def test_a_question_may_always_be_asked_again(running: Gateway, route: tuple[str, str]) -> None:
    running.backend.failure = LOST
    connection = http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)

    connection.request(*route, b"{}" if route == CHECK else None, {"Content-Type": "application/json"})
    response = connection.getresponse()

    assert (response.status, response.getheader("QoS-Retry-Hint")) == (503, None)
    connection.close()


def test_what_was_not_executed_because_its_token_was_not_good_may_be_sent_again(running: Gateway) -> None:
    running.backend.failure = LOST
    connection = http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)

    # That it is not good, the chain has to say.
    forged = {"Authorization": f"Bearer {running.token('new', is_known=False)}x"}
    connection.request(*CREATE, b"{}", {**headers_of(running), **forged})
    response = connection.getresponse()

    assert (response.status in {429, 503}, response.getheader("QoS-Retry-Hint")) == (True, None)
    connection.close()


def test_a_key_where_there_is_no_id_makes_nothing_safe(running: Gateway) -> None:
    running.backend.failure = LOST

    assert advice(running, SET_POLICY, Idempotency_Key=KEY) == (NAME_OF_LOST, "do-not-retry")


def test_the_id_reaches_the_server_in_the_request_and_not_beside_it(running: Gateway) -> None:
    connection = http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)
    connection.request(*CREATE, b"{}", {**headers_of(running), "Idempotency-Key": KEY})
    assert connection.getresponse().status == 200
    connection.close()

    asked = running.backend.asked.get(timeout=DEADLINE_SECONDS)

    assert "idempotency-key" not in asked.metadata
