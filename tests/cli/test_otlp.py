"""Whether OpenTelemetry's own variables want anything to be sent."""

from __future__ import annotations

import pytest

from server.cli.options import otlp_signals
from server.core.config import METRICS, TRACES, ConfigError

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("variables", "signals"),
    [
        ({}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, set()),
        ({"OTEL_SERVICE_NAME": "registry", "OTEL_TRACES_EXPORTER": "otlp"}, set()),
        (ENDPOINT, {TRACES, METRICS}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, {TRACES}),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, {METRICS}),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, {TRACES}),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, set()),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, set()),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {TRACES, METRICS}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, set()),
    ],
)
def test_what_has_an_endpoint_is_sent_unless_it_is_switched_off(variables: dict[str, str], signals: set[str]) -> None:
    assert otlp_signals(variables) == signals


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
    ],
)
def test_what_would_be_sent_in_another_way_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value) as refused:
        otlp_signals({**ENDPOINT, variable: value})
    assert variable.replace("TRACES_PROTOCOL", "PROTOCOL") in str(refused.value)
