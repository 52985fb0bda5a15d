"""The ports of a server: for gRPC and HTTP, with TLS if a certificate is configured, and for metrics."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import socket
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from server.core.config import ConfigError, Settings, host_of

# How many connections may wait until they are taken.
_BACKLOG = 2048


@dataclass(frozen=True)
class Ports:
    """The ports of a server, and their addresses as the settings name them, with the port that a 0 became."""

    grpc: socket.socket
    grpc_address: str
    http: socket.socket | None
    http_address: str | None
    metrics: socket.socket | None
    metrics_address: str | None

    def close(self) -> None:
        """Close the ports."""
        for each in (self.grpc, self.http, self.metrics):
            if each is not None:
                each.close()


def bind(settings: Settings) -> Ports:
    """Bind the ports of the settings, for this process and those that it forks. Raises ConfigError."""
    with contextlib.ExitStack() as bound:
        grpc_socket = bound.enter_context(_reserve_grpc(settings))
        http = bound.enter_context(_listen("--http-listen", settings.http_listen)) if settings.serves_http else None
        metrics = None
        if settings.serves_metrics:
            metrics = bound.enter_context(_listen("--metrics-listen", settings.metrics_listen))
        bound.pop_all()
    return Ports(
        grpc_socket,
        _address(settings.listen, grpc_socket),
        http,
        _address(settings.http_listen, http) if http else None,
        metrics,
        _address(settings.metrics_listen, metrics) if metrics else None,
    )


def listen_for_grpc(server: grpc.Server, ports: Ports, settings: Settings) -> None:
    """Let the gRPC server listen on its port, beside other processes that do. Raises ConfigError."""
    try:
        if settings.tls_cert:
            server.add_secure_port(ports.grpc_address, _credentials(settings))
        else:
            server.add_insecure_port(ports.grpc_address)
    except RuntimeError:
        raise _cannot_listen("--listen", settings.listen) from None


@dataclass(frozen=True)
class PrivateSocket:
    """A Unix socket over which a process calls its own gRPC server, in a folder that no other user can enter."""

    target: str
    _folder: Path

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def listen_privately(server: grpc.Server) -> PrivateSocket:
    """Let the gRPC server listen for this process itself. Raises ConfigError if there can be no such socket."""
    folder = Path(tempfile.mkdtemp(prefix="modelregistry-"))
    private = PrivateSocket(f"unix:{folder / 'grpc.sock'}", folder)
    try:
        server.add_insecure_port(private.target)
    except RuntimeError as error:
        # The system bounds the path of a socket, to about a hundred bytes.
        private.close()
        raise ConfigError(f"no socket can be made in {folder}: let TMPDIR name a folder with a short path") from error
    return private


def _reserve_grpc(settings: Settings) -> socket.socket:
    """Return a socket that holds the port for gRPC until it is closed, and does not listen.

    Only this process and those that it forks can then listen there, beside each other. Another server, started by
    accident, cannot: each would see half of the calls.
    """
    try:
        family, address = _resolved(settings.listen)
        reserved = socket.socket(family, socket.SOCK_STREAM)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address[0] == "::":
                reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # whatever the machine makes of it
            reserved.bind(address)
            # Not before: another server that sets it, too, could bind the same port.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:
            reserved.close()
            raise
    except OSError:
        raise _cannot_listen("--listen", settings.listen) from None
    return reserved


def _listen(option: str, configured: str) -> socket.socket:
    """Return a socket that listens where an option says."""
    try:
        family, address = _resolved(configured)
        return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=address[0] == "::")
    except OSError:
        raise _cannot_listen(option, configured) from None


def _resolved(configured: str) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address of HOST:PORT, as gRPC understands them. Raises OSError.

    `0.0.0.0` and `[::]` are the same: all addresses of the machine, of IPv4 and of IPv6, if it has both.
    """
    host, (_, _, port) = host_of(configured), configured.rpartition(":")
    family, _, _, _, resolved = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    address = ipaddress.ip_address(str(resolved[0]))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is None and not address.is_unspecified:
        return family, resolved  # With its scope, if it is an address of one link.
    address = mapped or address
    if address.is_unspecified:
        address = ipaddress.ip_address("::" if socket.has_dualstack_ipv6() else "0.0.0.0")  # noqa: S104
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), (str(address), int(port))


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for TLS over HTTP; None without a certificate. Raises ConfigError."""
    if not (settings.tls_cert and settings.tls_key):
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Strict checks, Python's default since 3.13, refuse certificates of clients that gRPC takes.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as error:
        raise ConfigError(f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: {error}") from error
    try:
        if settings.tls_client_ca:
            context.load_verify_locations(settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ConfigError(f"--tls-client-ca {settings.tls_client_ca}: {error}") from error
    return context


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    tls_context(settings)  # Of files that it cannot use gRPC itself would only say that it cannot listen.
    assert settings.tls_cert
    assert settings.tls_key
    client_ca = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _address(configured: str, bound: socket.socket) -> str:
    host, _, _ = configured.rpartition(":")
    return f"{host}:{bound.getsockname()[1]}"


def _cannot_listen(option: str, address: str) -> ConfigError:
    return ConfigError(f"cannot listen on {address}: is it taken, or not an address of this machine? ({option})")
