"""Who is told of what, by the settings."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

import server.observability
from server.core.config import METRICS, TRACES, ConfigError, Settings
from server.observability.observers import Observers
from tests.collector import collecting
from tests.processes import until

METHOD = "/modelregistry.v1.ModelService/GetModel"


def test_by_default_there_is_nobody_to_be_told() -> None:
    settings = Settings()
    assert not settings.serves_metrics
    none = Observers(otlp=settings.otlp)
    assert list(none.of_calls) == []
    assert (none.promoted, none.statements_of("sqlite")) == (None, None)


@pytest.mark.parametrize(
    ("otlp", "watches", "counts", "traces"),
    [({TRACES}, 2, True, True), ({METRICS}, 2, True, False), ({TRACES, METRICS}, 3, True, True)],
)
def test_each_that_is_wanted_watches(
    monkeypatch: pytest.MonkeyPatch, otlp: set[str], watches: int, counts: bool, traces: bool
) -> None:
    before = set(threading.enumerate())

    def senders() -> list[threading.Thread]:
        return [each for each in set(threading.enumerate()) - before if each.name.startswith("Otel")]

    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            observers = Observers(listener, otlp=frozenset(otlp))
        assert len([observer_of(METHOD) for observer_of in observers.of_calls]) == watches
        assert (observers.promoted is not None) == counts
        assert (observers.statements_of("sqlite") is not None) == traces
        assert len(senders()) == len(otlp)
        observers.close()
        # They have ended, and say nothing in the middle of another test.
        until(lambda: not senders())
    assert bool(collector.metrics) == (METRICS in otlp)


def test_what_is_not_installed_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    for module in ("otlp", "tracing"):
        monkeypatch.delitem(sys.modules, f"server.observability.{module}", raising=False)
        monkeypatch.delattr(server.observability, module, raising=False)

    with pytest.raises(ConfigError, match=r"pip install 'modelregistry\[otel\]'"):
        Observers(otlp=frozenset({TRACES}))


@pytest.mark.parametrize("address", ["", "9464", "127.0.0.1", "127.0.0.1:http"])
def test_an_address_for_metrics_is_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Settings(metrics_listen=address)


def test_metrics_may_be_read_from_elsewhere_since_they_are_no_secrets() -> None:
    assert Settings(metrics_listen="0.0.0.0:9464").serves_metrics
