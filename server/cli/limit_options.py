"""Options of `serve` that bound what clients may use up before a call of theirs is served."""

from __future__ import annotations

from typing import Annotated

from server.cli.options import option

MaxMessageBytes = Annotated[
    int,
    option(
        "--max-message-bytes",
        "The largest request to take, and the largest list of versions to answer.",
        min=64 * 2**10,
        max=2**30,
        metavar="BYTES",
    ),
]
MaxConnectionAge = Annotated[
    int,
    option(
        "--max-connection-age",
        "When to end a gRPC connection in order, so that clients look for new replicas.",
        min=1,
        max=24 * 60 * 60,
        metavar="SECONDS",
    ),
]
MaxConnections = Annotated[
    int,
    option(
        "--max-connections",
        "How many gRPC connections a worker may have; never more than a quarter of the files that it may open.",
        min=1,
        max=2**20,
        metavar="N",
    ),
]
MaxStreams = Annotated[
    int,
    option(
        "--max-streams",
        "How many calls at a time a gRPC connection may have; more wait at the client.",
        min=1,
        max=2**20,
        metavar="N",
    ),
]
ReceiveTimeout = Annotated[
    int,
    option(
        "--receive-timeout",
        "How long the message of a gRPC call may take to arrive.",
        min=1,
        max=60 * 60,
        metavar="SECONDS",
    ),
]
Keepalive = Annotated[
    int,
    option(
        "--keepalive",
        "When to ask over a silent gRPC connection whether the client is still there.",
        min=1,
        max=24 * 60 * 60,
        metavar="SECONDS",
    ),
]
MinPing = Annotated[
    int,
    option(
        "--min-ping",
        "How often a gRPC client may ask whether the server is still there; one that asks more often is hung up on.",
        min=1,
        max=24 * 60 * 60,
        metavar="SECONDS",
    ),
]
HttpIdleTimeout = Annotated[
    int,
    option(
        "--http-idle-timeout",
        "When to end an HTTP connection without requests; longer than the load balancer's own.",
        min=1,
        max=24 * 60 * 60,
        metavar="SECONDS",
    ),
]
TrustedProxy = Annotated[
    list[str] | None,
    option(
        "--trusted-proxy",
        "A proxy, or a network of them, whose X-Forwarded-For names the clients of HTTP; may be repeated.",
        metavar="CIDR",
    ),
]
