"""What the server tells of its work: numbers for Prometheus and OpenTelemetry, and traces. Off unless configured."""
