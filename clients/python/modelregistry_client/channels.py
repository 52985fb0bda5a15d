"""What a channel to the registry has, whichever library of gRPC opens it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import grpc

# How often to ask whether a connection still is one. The server takes such a question every 10 s.
_KEEPALIVE_MS = 30_000


def channel_options(more: Sequence[tuple[str, Any]], *, wait_for_ready: bool = True) -> list[tuple[str, Any]]:
    """Return the arguments of a channel; more of them can be given, and win."""
    own = {
        "grpc.service_config": _service_config(wait_for_ready),
        "grpc.keepalive_time_ms": _KEEPALIVE_MS,
        "grpc.http2.max_pings_without_data": 0,
        # Pages of large versions are as large as the server's largest message, which is its operator's to say.
        "grpc.max_receive_message_length": -1,
    }
    return list({**own, **dict(more)}.items())


def _service_config(wait_for_ready: bool) -> str:
    text = files("modelregistry.v1").joinpath("service_config.json").read_text("utf-8")
    if wait_for_ready:
        return text
    config = json.loads(text)
    # A server that is not healthy then answers, and says why.
    del config["healthCheckConfig"]
    for method in config["methodConfig"]:
        method["waitForReady"] = False
        if "retryPolicy" in method:
            # The code of calls for which there is no connection, too.
            method["retryPolicy"]["retryableStatusCodes"].remove("UNAVAILABLE")
    return json.dumps(config)


def channel_credentials(root: bytes | None, certificate: bytes | None, key: bytes | None) -> grpc.ChannelCredentials:
    """Return TLS credentials. Raises ValueError if a client's certificate or its key is given alone."""
    if (certificate is None) != (key is None):
        raise ValueError("client_certificate and client_key need each other")
    return grpc.ssl_channel_credentials(root, key, certificate)
