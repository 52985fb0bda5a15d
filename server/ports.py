"""Where the server is reached: the ports for gRPC and HTTP, with TLS if a certificate is configured."""

from __future__ import annotations

import socket
import ssl

import grpc

from server.config import ConfigError, Settings, host_of

# How many connections may wait until they are taken.
_BACKLOG = 2048


def bind_grpc(server: grpc.Server, settings: Settings) -> str:
    """Bind the gRPC server; return its address, with the port that a 0 became. Raises ConfigError."""
    host, _, _ = settings.listen.rpartition(":")
    try:
        if settings.tls_cert:
            port = server.add_secure_port(settings.listen, _credentials(settings))
        else:
            port = server.add_insecure_port(settings.listen)
    except RuntimeError:
        raise _cannot_listen("--listen", settings.listen) from None
    return f"{host}:{port}"


def bind_http(settings: Settings) -> socket.socket:
    """Return a socket that listens for HTTP. Raises ConfigError."""
    return _listen("--http-listen", settings.http_listen)


def bind_metrics(settings: Settings) -> socket.socket:
    """Return a socket that listens for Prometheus. Raises ConfigError."""
    return _listen("--metrics-listen", settings.metrics_listen)


def _listen(option: str, configured: str) -> socket.socket:
    host, (_, _, port) = host_of(configured), configured.rpartition(":")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        # Unlike gRPC's, such a socket of an IPv6 address would take IPv4, too, depending on the machine.
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=address[0] == "::")
    except OSError:
        raise _cannot_listen(option, configured) from None


def address_of(listener: socket.socket, configured: str) -> str:
    """Return the address of the socket as the settings name it, with the port that a 0 became."""
    host, _, _ = configured.rpartition(":")
    return f"{host}:{listener.getsockname()[1]}"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what TLS takes on the server's side; None without a certificate. Raises ConfigError."""
    if not (settings.tls_cert and settings.tls_key):
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
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


def _cannot_listen(option: str, address: str) -> ConfigError:
    return ConfigError(f"cannot listen on {address}: is it taken, or not an address of this machine? ({option})")
