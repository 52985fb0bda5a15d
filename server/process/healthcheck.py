"""Asks the server on this machine for its health: `python -m server.process.healthcheck` exits with 0 if it serves.

It reads what the server reads, MODELREGISTRY_LISTEN and MODELREGISTRY_TLS_CERT; and where clients must show a
certificate, MODELREGISTRY_CLIENT_CERT and MODELREGISTRY_CLIENT_KEY.
"""

import os
import sys
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.core.config import DEFAULT_LISTEN

DEADLINE_SECONDS = 4.0


def main() -> int:
    """Return the exit code."""
    try:
        with _channel() as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
    except (grpc.RpcError, OSError, ValueError) as error:
        print(f"error: {error.details() if isinstance(error, grpc.Call) else error}", file=sys.stderr)  # noqa: T201
        return 1
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


def _channel() -> grpc.Channel:
    listen = os.environ.get("MODELREGISTRY_LISTEN", DEFAULT_LISTEN)
    # Either means IPv4 and, if the machine has it, IPv6.
    address = listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "127.0.0.1:")
    direct = ("grpc.enable_http_proxy", 0)
    cert, client_key, client_cert = (
        _read(f"MODELREGISTRY_{name}") for name in ("TLS_CERT", "CLIENT_KEY", "CLIENT_CERT")
    )
    if cert is None:
        return grpc.insecure_channel(address, [direct])
    # The certificate names the host as others call it; here that very certificate is what we trust.
    names = x509.load_pem_x509_certificate(cert).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    override = [("grpc.ssl_target_name_override", name) for name in names.get_values_for_type(x509.DNSName)[:1]]
    return grpc.secure_channel(
        address, grpc.ssl_channel_credentials(cert, client_key, client_cert), [direct, *override]
    )


def _read(variable: str) -> bytes | None:
    file = os.environ.get(variable)
    return Path(file).read_bytes() if file else None


if __name__ == "__main__":
    sys.exit(main())
