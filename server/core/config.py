"""The settings of a server. The command line fills them in, from options or the environment."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from server.core.caller import invisible_character
from server.core.claims import MAX_LEEWAY, ClaimRules
from server.core.webhooks import DEFAULT_PORTS, WebhookRules

DEFAULT_DATA_DIR = Path("modelregistry-data")
DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_HTTP_LISTEN = "127.0.0.1:8080"
# In place of an address: no HTTP, no metrics.
NOWHERE = "none"
# What can be sent to an OpenTelemetry collector.
TRACES = "traces"
METRICS = "metrics"
DEFAULT_MAX_MESSAGE_BYTES = 4 * 2**20
DEFAULT_READ_MAX_LAG_SECONDS = 1.0
DEFAULT_DISK_RESERVE = 64 * 2**20
# For how long events are kept, unless the operator says otherwise.
EVENT_RETENTION_DAYS = 90
# Longer than clients and most load balancers keep a connection: what ends it should not be the server, since a request
# that is then on its way has an unknown end.
DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS = 75

# How old the keys of an issuer get before they are loaded again, and how old they may get if they cannot be: a key that
# the issuer has withdrawn goes on for so long.
JWKS_REFRESH_SECONDS = 300
DEFAULT_JWKS_MAX_AGE_SECONDS = 24 * 60 * 60

# The options for the claims of an issuer's tokens, by the rule that each one sets.
_CLAIM_OPTIONS = {
    "subject": "--subject-claim",
    "audience": "--audience-claim",
    "scopes": "--scope-claim",
    "scope_prefix": "--scope-prefix",
    "default_scopes": "--default-scope",
    "groups": "--groups-claim",
}


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


class FileQuota(NamedTuple):
    """How many bytes of model files may count for each principal, and for each folder; 0 is any number."""

    of_principal: int = 0
    of_folder: int = 0


NO_QUOTA = FileQuota()


class ConfigError(Exception):
    """Settings that contradict each other, or that point at nothing; the text says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one server. Raises ConfigError if they contradict each other."""

    listen: str = DEFAULT_LISTEN
    http_listen: str = DEFAULT_HTTP_LISTEN
    metrics_listen: str = NOWHERE
    data_dir: Path = DEFAULT_DATA_DIR
    database_url: str | None = None
    # A standby of that database, for some reads, and for how many seconds it may lag behind.
    read_database_url: str | None = None
    read_max_lag_seconds: float = DEFAULT_READ_MAX_LAG_SECONDS
    files_url: str | None = None
    admins: frozenset[str] = field(default_factory=frozenset)
    jwks_file: Path | None = None
    jwks_url: str | None = None
    jwks_max_age_seconds: int = DEFAULT_JWKS_MAX_AGE_SECONDS
    issuer: str | None = None
    # A token must name one of them.
    audiences: frozenset[str] = frozenset()
    # Where the issuer's tokens say what.
    claims: ClaimRules = field(default_factory=ClaimRules)
    local_keys: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    # What is held beside an SQLite database for changes that must not wait for room on a full disk.
    disk_reserve: int = DEFAULT_DISK_RESERVE
    limits: Limits = field(default_factory=Limits)
    http_idle_timeout_seconds: int = DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS
    file_quota: FileQuota = NO_QUOTA
    # The networks of proxies whose X-Forwarded-For is true.
    trusted_proxies: frozenset[str] = field(default_factory=frozenset)
    # Under which secrets are stored; None means a file in the data folder, which is made when it is needed first.
    secrets_key_file: Path | None = None
    # Networks of addresses that are not public and that webhooks may go to.
    webhook_allow: frozenset[str] = field(default_factory=frozenset)
    webhook_allow_http: bool = False
    webhook_ports: frozenset[int] = frozenset(DEFAULT_PORTS)
    # Whether the server describes its services (server reflection).
    reflection: bool = True
    threads: int = 4
    # Of TRACES and METRICS.
    otlp: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        exposed = self.exposed
        if self.read_database_url is not None and self.database_url is None:
            raise ConfigError(
                "--read-database-url is a standby of the database of --database-url, which is needed, too"
            )
        if self.serves_metrics:
            # Metrics are no secrets, so they may be read from other machines.
            host_of(self.metrics_listen)
        for principal in self.admins:
            if not principal.startswith(("user:", "group:")):
                raise ConfigError(f"an administrator is user:NAME or group:NAME, not {principal!r}")
            if (invisible := invisible_character(principal)) is not None:
                raise ConfigError(
                    f"no token names an administrator with U+{ord(invisible):04X} in it, as {principal!a} has"
                )
        if self.jwks_file and self.jwks_url:
            raise ConfigError("give --jwks-file or --jwks-url, not both")
        if self.uses_local_keys:
            if self.issuer or self.audiences:
                raise ConfigError("--issuer and --audience need --jwks-file or --jwks-url")
            usual = ClaimRules()
            if given := [
                flag for rule, flag in _CLAIM_OPTIONS.items() if getattr(self.claims, rule) != getattr(usual, rule)
            ]:
                raise ConfigError(
                    f"{', '.join(given)} without --jwks-file or --jwks-url: the server knows its own tokens"
                )
            if not self.local_keys and exposed:
                elsewhere = host_of(next(iter(exposed.values())))
                raise ConfigError(
                    f"{elsewhere} is not a loopback address, and a server that signs its own tokens listens"
                    " elsewhere only with --local-keys; better, name an issuer: --jwks-url, --issuer and --audience"
                )
        else:
            if self.local_keys:
                raise ConfigError("--local-keys and --jwks-file or --jwks-url exclude each other")
            if not (self.issuer and self.audiences):
                raise ConfigError("--jwks-file and --jwks-url need --issuer and --audience")
            if not all(self.audiences):
                raise ConfigError(
                    "--audience must not be empty: that a token is meant for this server is always checked"
                )
        self._check_claims()
        _ = self.proxy_networks, self.webhooks
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("--tls-cert and --tls-key need each other")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key")

    def _check_claims(self) -> None:
        claims = self.claims
        names = {
            "subject": claims.subject,
            "audience": [claims.audience],
            "scopes": claims.scopes,
            "groups": claims.groups,
        }
        for rule, given in names.items():
            if wrong := [name for name in given if not name or name != name.strip()]:
                raise ConfigError(
                    f"{_CLAIM_OPTIONS[rule]} is the name of a claim or a path like realm_access.roles, not {wrong[0]!r}"
                )
        if any(map(str.isspace, claims.scope_prefix)):
            raise ConfigError(
                f"--scope-prefix is the beginning of a scope, which has no blanks, not {claims.scope_prefix!r}"
            )
        if not 0 <= claims.leeway <= MAX_LEEWAY:
            raise ConfigError(f"--leeway is 0 to {MAX_LEEWAY} seconds, not {claims.leeway}")

    @property
    def proxy_networks(self) -> frozenset[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The networks of `trusted_proxies`. Raises ConfigError."""
        return frozenset(_network("--trusted-proxy", text) for text in self.trusted_proxies)

    @property
    def webhooks(self) -> WebhookRules:
        """Where webhooks may go. Raises ConfigError."""
        if wrong := [port for port in self.webhook_ports if not 0 < port < 2**16]:
            raise ConfigError(f"--webhook-ports are ports from 1 to 65535, not {wrong[0]}")
        return WebhookRules(
            allow_http=self.webhook_allow_http,
            ports=self.webhook_ports,
            networks=frozenset(_network("--webhook-allow", text) for text in self.webhook_allow),
        )

    @property
    def exposed(self) -> dict[str, str]:
        """The addresses that other machines can reach with calls, by their options. Raises ConfigError."""
        addresses = {"--listen": self.listen} | ({"--http-listen": self.http_listen} if self.serves_http else {})
        return {option: address for option, address in addresses.items() if not is_loopback(host_of(address))}

    @property
    def serves_http(self) -> bool:
        """Whether the server speaks HTTP beside gRPC."""
        return self.http_listen != NOWHERE

    @property
    def serves_metrics(self) -> bool:
        """Whether Prometheus can ask for numbers."""
        return self.metrics_listen != NOWHERE

    @property
    def uses_local_keys(self) -> bool:
        """Whether no issuer is configured, so that the server trusts its own key pair."""
        return not (self.jwks_file or self.jwks_url)


def host_of(address: str) -> str:
    """Return the host of HOST:PORT, without the brackets of an IPv6 address. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ConfigError(f"an address is HOST:PORT, such as {DEFAULT_LISTEN}, not {address!r}")
    return host.removeprefix("[").removesuffix("]")


def _network(option: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{option} is an address or a network like 10.0.0.0/8: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
