"""An OpenTelemetry collector that keeps what it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What was sent so far, in the order of arrival."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of a trace."""
        found = (
            span
            for request in tuple(self.traces)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )
        return [span for span in found if span.trace_id.hex() == trace_id]

    def numbers(self, name: str) -> list[Metric]:
        """Each report of a metric."""
        found = (
            metric
            for request in tuple(self.metrics)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
        return [metric for metric in found if metric.name == name]

    def resources(self) -> list[dict[str, str]]:
        """What senders call themselves."""
        sent = [each.resource for request in tuple(self.traces) for each in request.resource_spans]
        sent += [each.resource for request in tuple(self.metrics) for each in request.resource_metrics]
        return [attributes(resource.attributes) for resource in sent]


def attributes(given: object) -> dict[str, str]:
    """Attributes as text by their key."""
    pairs: list[KeyValue] = list(given)  # type: ignore[call-overload]
    return {pair.key: pair.value.string_value for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.headers["Content-Type"] == "application/x-protobuf"
            if self.path == "/v1/traces":
                collector.traces.append(ExportTraceServiceRequest.FromString(body))
            else:
                assert self.path == "/v1/metrics"
                collector.metrics.append(ExportMetricsServiceRequest.FromString(body))
            collector.headers.append(dict(self.headers))
            collector.bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            server.shutdown()
