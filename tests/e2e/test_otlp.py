"""A server whose calls are traced, and a collector."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.collector import Collector, attributes, collecting
from tests.processes import Server, failure, run, until
from tests.rpc.harness import User

WORKERS = 2
SPAN_ID = "00f067aa0ba902b7"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=of-ours"}
    with Server(tmp_path_factory.mktemp("otlp") / "server", "--workers", str(WORKERS), **variables, **FAST) as server:
        yield server


def traced(server: Server, channel: grpc.Channel, trace_id: str) -> User:
    user = server.user(channel)
    return User(channel, (*user.metadata, ("traceparent", f"00-{trace_id}-{SPAN_ID}-01")))


def call_of(collector: Collector, trace_id: str) -> Span:
    """The span of the only call of a trace, once it has arrived."""

    def calls() -> list[Span]:
        return [span for span in collector.spans(trace_id) if span.kind == Span.SPAN_KIND_SERVER]

    until(lambda: len(calls()) == 1)
    return calls()[0]


def test_a_trace_goes_from_the_caller_through_the_call_to_the_sql(server: Server, collector: Collector) -> None:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        version = admin.create_version(admin.create_model("a-secret-name"))
        target = admin.create_model("another-secret-name")
        trace_id = uuid.uuid4().hex
        traced(server, channel, trace_id).promote(version, target)

    call = call_of(collector, trace_id)
    assert call.name == "modelregistry.v1.ModelService/PromoteVersion"
    assert call.parent_span_id.hex() == SPAN_ID
    assert attributes(call.attributes)["rpc.response.status_code"] == "OK"
    below = [span for span in collector.spans(trace_id) if span.parent_span_id == call.span_id]
    assert {span.kind for span in below} == {Span.SPAN_KIND_CLIENT}
    assert {"BEGIN", "SELECT", "INSERT", "COMMIT"} <= {span.name for span in below}
    assert all(
        call.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= call.end_time_unix_nano
        for span in below
    )


def test_a_trace_comes_in_over_http_too_and_the_log_names_it(server: Server, collector: Collector) -> None:
    trace_id = uuid.uuid4().hex
    request = urllib.request.Request(
        f"{server.url}/api/v2/models",
        data=json.dumps({"name": trace_id, "parentFolderRid": "ri.compass.main.folder.sample"}).encode(),
        headers={
            "Authorization": f"Bearer {server.token()}",
            "Content-Type": "application/json",
            "traceparent": f"00-{trace_id}-{SPAN_ID}-01",
        },
    )
    with urllib.request.urlopen(request, timeout=180) as answer:
        assert answer.status == 200

    assert call_of(collector, trace_id).parent_span_id.hex() == SPAN_ID
    assert server.logged(trace_id=trace_id)["method"].endswith("/CreateModel")


def test_numbers_are_sent_with_a_name_for_each_process(server: Server, collector: Collector) -> None:
    def codes() -> set[str]:
        durations = collector.numbers("rpc.server.call.duration")
        points = [point for metric in durations for point in metric.histogram.data_points]
        return {attributes(point.attributes)["rpc.response.status_code"] for point in points}

    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        admin("ListModels")
        admin.failure("GetModel", model_rid="ri.models.main.model.none")

    until(lambda: codes() == {"OK", "NOT_FOUND"})
    until(lambda: bool(collector.numbers("db.client.connection.count")))
    [use] = {point.as_int for point in collector.numbers("db.client.connection.max")[-1].sum.data_points}
    assert use > 1
    until(lambda: len({each["service.instance.id"] for each in collector.resources()}) == WORKERS)
    assert {each["service.name"] for each in collector.resources()} == {"modelregistry"}


def test_the_collector_is_told_no_secrets(server: Server, collector: Collector) -> None:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        admin.create_model("one-more-secret-name")
        trace_id = uuid.uuid4().hex
        traced(server, channel, trace_id)("ListModels")
    call_of(collector, trace_id)

    told = b"\n".join(collector.bodies)
    token = dict(admin.metadata)["authorization"]
    assert b"INSERT INTO models" in told
    secrets = ["secret-name", token.split(".")[2], "user:admin", "of-ours"]
    assert [secret for secret in secrets if secret.encode() in told] == []
    assert collector.headers[0]["api-key"] == "of-ours"


def test_what_is_left_is_sent_at_the_end(tmp_path: Path) -> None:
    trace_id = uuid.uuid4().hex
    slow = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
    with collecting() as collector:
        with Server(tmp_path / "server", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **slow) as server:
            with grpc.insecure_channel(server.address) as channel:
                traced(server, channel, trace_id)("ListModels")
            assert collector.bodies == []

        assert call_of(collector, trace_id).name.endswith("/ListModels")
        assert collector.numbers("rpc.server.call.duration")


def test_a_collector_that_is_away_keeps_neither_calls_nor_the_end_waiting(tmp_path: Path) -> None:
    with Server(tmp_path / "server", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **FAST) as server:
        with grpc.insecure_channel(server.address) as channel:
            admin = server.user(channel)
            for number in range(3):
                admin.create_model(f"model {number}")
        until(lambda: any(line["logger"].startswith("opentelemetry.") for line in server.log()))
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 8


def test_a_protocol_that_is_not_spoken_is_refused(tmp_path: Path) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    said = failure(run("serve", cwd=tmp_path, **variables))
    assert said == "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, not 'grpc'"
