"""Whether OpenTelemetry's own variables want traces and metrics to be sent; all else in them its SDK reads itself."""

from __future__ import annotations

from collections.abc import Mapping

from server.core.config import METRICS, TRACES, ConfigError

_PROTOCOL = "http/protobuf"


def otlp_signals(variables: Mapping[str, str]) -> frozenset[str]:
    """Return which of `traces` and `metrics` are to be sent: those with an endpoint.

    Raises ConfigError if they are to be sent in a way that is not ours.
    """
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return frozenset()
    return frozenset(signal for signal in (TRACES, METRICS) if _is_wanted(signal, variables))


def _is_wanted(signal: str, variables: Mapping[str, str]) -> bool:
    def value(name: str) -> str:
        """The signal's own variable, or else that of all."""
        own = variables.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}")
        return own or variables.get(f"OTEL_EXPORTER_OTLP_{name}") or ""

    exporter = variables.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    if not value("ENDPOINT") or exporter == "none":
        return False
    if exporter != "otlp":
        raise ConfigError(f"OTEL_{signal.upper()}_EXPORTER must be otlp or none, not {exporter!r}")
    if (protocol := value("PROTOCOL") or _PROTOCOL) != _PROTOCOL:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be {_PROTOCOL}, not {protocol!r}")
    return True
