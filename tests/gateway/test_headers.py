"""What the headers of a request say of it arrives at the server: whose it is, for how long, in which trace."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from server.gateway.calls import DEADLINE_SECONDS
from tests.gateway.harness import Asked, Gateway, gateway

ROUTES = {
    "GET": ("/api/v2/models/ri.models.main.model.some", None),
    "POST": ("/api/v2/models", b'{"name": "some"}'),
}
each_method = pytest.mark.parametrize("method", ROUTES)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with gateway(monkeypatch) as running:
        yield running


def asked(running: Gateway, method: str, headers: dict[str, str]) -> Asked:
    """Send a request of a caller whom the gateway knows, and return what the call brought along."""
    path, body = ROUTES[method]
    authorization = {"Authorization": f"Bearer {running.token()}"}
    connection = http.client.HTTPConnection(*running.address, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json", **authorization, **headers})
    assert connection.getresponse().status == 200
    connection.close()
    return running.backend.asked.get(timeout=60)


@each_method
def test_credentials_trace_and_request_id_arrive_as_they_were_sent(running: Gateway, method: str) -> None:
    sent = {
        "Authorization": f"Bearer {running.token()}",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        "X-Request-Id": "night-shift-7",
    }

    metadata = asked(running, method, sent).metadata

    assert {key: metadata[key.lower()] for key in sent} == sent


@each_method
def test_what_was_not_sent_is_not_invented_but_a_request_id_is(running: Gateway, method: str) -> None:
    metadata = asked(running, method, {}).metadata

    assert metadata.keys() & {"traceparent", "tracestate"} == set()
    assert metadata["x-request-id"]


@each_method
def test_no_other_header_arrives(running: Gateway, method: str) -> None:
    metadata = asked(running, method, {"Cookie": "a=b", "X-Forwarded-For": "10.0.0.1", "grpc-status": "0"}).metadata

    assert metadata.keys() & {"cookie", "x-forwarded-for", "grpc-status", "content-length"} == set()


@each_method
@pytest.mark.parametrize(
    ("sent", "seconds"), [("1H", 3600), ("2M", 120), ("20S", 20), ("15000m", 15), ("30000000u", 30), (None, 60)]
)
def test_the_time_that_the_client_gives_is_the_calls_deadline(
    running: Gateway, method: str, sent: str | None, seconds: float
) -> None:
    assert DEADLINE_SECONDS == 60

    left = asked(running, method, {"Grpc-Timeout": sent} if sent else {}).seconds_left

    assert seconds - 5 < left <= seconds
