"""What clients of gRPC may use up of a worker before a call of theirs is served."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of connections, and of what comes in over them; times are in seconds."""

    # Clients that balance their calls ask for the addresses of replicas anew when a connection ends, so each ends now
    # and then, if only when its calls do: otherwise a new replica would get no work from them.
    max_connection_age: float = 300
    # Of each worker.
    max_connections: int = 4096
    # Of each connection; clients let more calls wait, or open further connections. Where calls are begun and given up
    # faster than one thread can take them, so many of each connection wait for it, and others' behind them.
    max_streams: int = 250
    # For a message, from when the credentials were found good: 4 MiB at 4 Mbit/s.
    receive_timeout: float = 10
    # A client that went away without a word is noticed after this and 20 seconds more.
    keepalive: float = 60
    # gRPC's own 5 minutes are longer than many a load balancer remembers a connection.
    min_ping: float = 10
