"""Metrics for Prometheus and OpenTelemetry, and traces; off unless configured. It sees calls as the chain does."""
