"""Commands that run a server, prepare one, or show what it does."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from google.protobuf import json_format

from modelregistry.v1.model_service_pb2 import CreateModelRequest, CreateModelVersionRequest, PromoteVersionRequest
from modelregistry_client import Registry, RegistryError
from server.cli.connection import fail_call, open_registry
from server.cli.options import (
    DATA_DIR,
    TARGET,
    Audience,
    AudienceClaim,
    CaCert,
    ClientCert,
    ClientKey,
    DatabaseUrl,
    DatabaseUrlFile,
    DataDir,
    DefaultScope,
    DiskReserve,
    FilesUrl,
    GroupsClaim,
    HttpIdleTimeout,
    Issuer,
    JwksFile,
    JwksMaxAge,
    JwksUrl,
    Keepalive,
    Leeway,
    MaxConnectionAge,
    MaxConnections,
    MaxFileBytesOfFolder,
    MaxFileBytesOfPrincipal,
    MaxMessageBytes,
    MaxStreams,
    MinPing,
    ReadDatabaseUrl,
    ReadDatabaseUrlFile,
    ReadMaxLag,
    ReceiveTimeout,
    ScopeClaim,
    ScopePrefix,
    SecretsKeyFile,
    SubjectClaim,
    Target,
    Tls,
    Token,
    TrustedProxy,
    WebhookAllow,
    WebhookAllowHttp,
    WebhookPorts,
    database_url_of,
    known_scopes,
    option,
    otlp_signals,
    ports_of,
)
from server.cli.output import fail, require_unix, say, show
from server.codec.json_form import from_json, loads
from server.core.claims import AUDIENCE_CLAIM, LEEWAY, ClaimRules
from server.core.config import (
    DEFAULT_DISK_RESERVE,
    DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS,
    DEFAULT_HTTP_LISTEN,
    DEFAULT_JWKS_MAX_AGE_SECONDS,
    DEFAULT_LISTEN,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_READ_MAX_LAG_SECONDS,
    NO_QUOTA,
    NOWHERE,
    ConfigError,
    FileQuota,
    Limits,
    Settings,
)
from server.core.logs import configure_logs
from server.core.nonblocking_output import write_at_once
from server.core.permissions import SCOPES
from server.core.webhooks import DEFAULT_PORTS

if TYPE_CHECKING:
    from server.process.ports import Ports

FOLDER = "ri.modelregistry.main.folder.example"

_TTL = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_TTL_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


Listen = Annotated[str, option("--listen", "Where to listen for gRPC.", metavar="HOST:PORT")]
HttpListen = Annotated[
    str,
    option("--http-listen", f"Where to listen for HTTP; `{NOWHERE}` for nowhere.", metavar="HOST:PORT"),
]
MetricsListen = Annotated[
    str,
    option(
        "--metrics-listen",
        f"Where Prometheus can ask for /metrics, without credentials; `{NOWHERE}` for nowhere.",
        metavar="HOST:PORT",
    ),
]
Admin = Annotated[
    list[str] | None,
    option("--admin", "A principal that may do everything, like user:jane; may be repeated.", metavar="PRINCIPAL"),
]
Admins = Annotated[str | None, option("--admins", "More such principals, separated by commas.", metavar="PRINCIPAL,…")]
AllowLocalKeys = Annotated[
    bool, option("--local-keys", "Trust the server's own key pair even where others can reach the server.")
]
TlsCert = Annotated[Path | None, option("--tls-cert", "The server's certificate chain, in PEM.", metavar="FILE")]
TlsKey = Annotated[Path | None, option("--tls-key", "The server's private key, in PEM.", metavar="FILE")]
TlsClientCa = Annotated[
    Path | None,
    option("--tls-client-ca", "Require client certificates of these authorities (mTLS).", metavar="FILE"),
]
NoReflection = Annotated[
    bool,
    option("--no-reflection", "Do not describe the services to clients; `modelregistry protos` does it for grpcurl."),
]
Workers = Annotated[
    int | None,
    option(
        "--workers",
        "Processes that share the ports; by default one for each processor.",
        min=1,
        max=1024,
        metavar="N",
    ),
]


def serve(
    listen: Listen = DEFAULT_LISTEN,
    http_listen: HttpListen = DEFAULT_HTTP_LISTEN,
    metrics_listen: MetricsListen = NOWHERE,
    database_url: DatabaseUrl = None,
    database_url_file: DatabaseUrlFile = None,
    read_database_url: ReadDatabaseUrl = None,
    read_database_url_file: ReadDatabaseUrlFile = None,
    read_max_lag: ReadMaxLag = DEFAULT_READ_MAX_LAG_SECONDS,
    data_dir: DataDir = DATA_DIR,
    files_url: FilesUrl = None,
    admin: Admin = None,
    admins: Admins = None,
    jwks_file: JwksFile = None,
    jwks_url: JwksUrl = None,
    jwks_max_age: JwksMaxAge = DEFAULT_JWKS_MAX_AGE_SECONDS,
    issuer: Issuer = None,
    audience: Audience = None,
    audience_claim: AudienceClaim = AUDIENCE_CLAIM,
    subject_claim: SubjectClaim = None,
    scope_claim: ScopeClaim = None,
    scope_prefix: ScopePrefix = "",
    default_scope: DefaultScope = None,
    groups_claim: GroupsClaim = None,
    leeway: Leeway = LEEWAY,
    local_keys: AllowLocalKeys = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    max_message_bytes: MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    disk_reserve: DiskReserve = DEFAULT_DISK_RESERVE,
    max_file_bytes_of_principal: MaxFileBytesOfPrincipal = NO_QUOTA.of_principal,
    max_file_bytes_of_folder: MaxFileBytesOfFolder = NO_QUOTA.of_folder,
    max_connection_age: MaxConnectionAge = int(Limits.max_connection_age),
    max_connections: MaxConnections = Limits.max_connections,
    max_streams: MaxStreams = Limits.max_streams,
    receive_timeout: ReceiveTimeout = int(Limits.receive_timeout),
    keepalive: Keepalive = int(Limits.keepalive),
    min_ping: MinPing = int(Limits.min_ping),
    http_idle_timeout: HttpIdleTimeout = DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS,
    trusted_proxy: TrustedProxy = None,
    secrets_key_file: SecretsKeyFile = None,
    webhook_allow: WebhookAllow = None,
    webhook_allow_http: WebhookAllowHttp = False,
    webhook_ports: WebhookPorts = ",".join(map(str, DEFAULT_PORTS)),
    no_reflection: NoReflection = False,
    workers: Workers = None,
) -> None:
    """Serve the model registry.

    Without options: on loopback, with an embedded database and a key pair of its own in ./modelregistry-data.

    [bold]modelregistry serve[/bold]

    [bold]modelregistry serve --listen 0.0.0.0:50051 --database-url postgresql://registry@db/registry
    --jwks-url https://id.example.com/jwks.json --issuer https://id.example.com --audience modelregistry[/bold]
    """
    require_unix("serve")
    configure_logs()
    try:
        settings = Settings(
            listen=listen,
            http_listen=http_listen,
            metrics_listen=metrics_listen,
            data_dir=data_dir,
            database_url=database_url_of(database_url, database_url_file),
            read_database_url=database_url_of(read_database_url, read_database_url_file, "--read-database-url"),
            read_max_lag_seconds=read_max_lag,
            files_url=files_url,
            admins=frozenset([*(admin or ()), *filter(None, map(str.strip, (admins or "").split(",")))]),
            jwks_file=jwks_file,
            jwks_url=jwks_url,
            jwks_max_age_seconds=jwks_max_age,
            issuer=issuer,
            audiences=frozenset(audience or ()),
            claims=ClaimRules(
                subject=tuple(subject_claim or ClaimRules.subject),
                audience=audience_claim,
                scopes=tuple(scope_claim or ClaimRules.scopes),
                scope_prefix=scope_prefix,
                default_scopes=frozenset(known_scopes("--default-scope", default_scope)),
                groups=tuple(groups_claim or ClaimRules.groups),
                leeway=leeway,
            ),
            local_keys=local_keys,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            max_message_bytes=max_message_bytes,
            disk_reserve=disk_reserve,
            file_quota=FileQuota(max_file_bytes_of_principal, max_file_bytes_of_folder),
            limits=Limits(
                max_connection_age=max_connection_age,
                max_connections=max_connections,
                max_streams=max_streams,
                receive_timeout=receive_timeout,
                keepalive=keepalive,
                min_ping=min_ping,
            ),
            http_idle_timeout_seconds=http_idle_timeout,
            trusted_proxies=frozenset(trusted_proxy or ()),
            secrets_key_file=secrets_key_file,
            webhook_allow=frozenset(webhook_allow or ()),
            webhook_allow_http=webhook_allow_http,
            webhook_ports=ports_of(webhook_ports),
            reflection=not no_reflection,
            otlp=otlp_signals(os.environ),
        )
        from server.process import ports
        from server.process.resources import default_workers
        from server.process.serve import run_server

        bound = ports.bind(settings)
        run_server(settings, bound, workers or default_workers(), lambda: _announce(bound, settings))
    except ConfigError as error:
        fail(str(error))


def token(
    data_dir: DataDir = DATA_DIR,
    subject: Annotated[str, option("--subject", "The caller that the token proves: user:SUBJECT.")] = "admin",
    scope: Annotated[
        list[str] | None,
        option("--scope", f"What it may be used for, {' or '.join(SCOPES)}; may be repeated; by default both."),
    ] = None,
    group: Annotated[list[str] | None, option("--group", "A group of the subject; may be repeated.")] = None,
    ttl: Annotated[str, option("--ttl", "How long it is good for: 90s, 15m, 1h, 7d.")] = "1h",
) -> None:
    """Print a token that the server with this data folder trusts.

    [bold]export MODELREGISTRY_TOKEN=$(modelregistry token)[/bold]

    [bold]modelregistry token --subject jane --group ml --scope api:models-read --ttl 15m[/bold]
    """
    from server.auth.local_keys import LocalKeys

    scopes = known_scopes("--scope", scope)
    try:
        print(LocalKeys.open(data_dir).mint(subject, scopes or SCOPES, group or (), _duration(ttl)))
    except (ValueError, OSError) as error:
        fail(str(error))


def demo(
    prepare: Annotated[
        bool,
        option(
            "--prepare",
            "Create the two models and the version on the server at --target, and print the request that promotes it,"
            " for grpcurl.",
        ),
    ] = False,
    target: Target = TARGET,
    token: Token = None,
    tls: Tls = False,
    ca_cert: CaCert = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
) -> None:
    """Create two models, register a version in one and promote it into the other, on a throw-away server.

    [bold]modelregistry demo[/bold]
    """
    try:
        if prepare:
            with open_registry(target, token, tls, ca_cert, client_cert, client_key) as registry:
                request = _prepare(registry)
            print(json_format.MessageToJson(request, indent=None, preserving_proto_field_name=True))
        else:
            require_unix("demo")
            with _throw_away_server() as registry:
                request = _prepare(registry)
                promoted = registry.models.PromoteVersion(request)
                say(f"promoted it as version {promoted.version_number} of branch {promoted.branch}:")
                show(promoted)
    except RegistryError as error:
        fail_call(error)
    except ConfigError as error:
        fail(str(error))


def _duration(text: str) -> timedelta:
    match = _TTL.fullmatch(text)
    if not match:
        raise ValueError(f"--ttl: {text!r} is not a duration such as 90s, 15m, 1h or 7d")
    return timedelta(**{_TTL_UNITS[match[2]]: int(match[1])})


def _announce(bound: Ports, settings: Settings) -> None:
    lines = [f"listening on {bound.grpc_address}"]
    if bound.http_address is not None:
        lines.append(f"listening on {'https' if settings.tls_cert else 'http'}://{bound.http_address}")
    if bound.metrics_address is not None:
        lines.append(f"metrics on http://{bound.metrics_address}/metrics")
    # Which certificate a client would show is not ours to know.
    if settings.uses_local_keys and not settings.tls_client_ca:
        example = _promotion_to_paste(bound.grpc_address, settings)
        lines.append(f"try a promotion, in another terminal:\n\n  {example}\n")
    # The reader of the output can be gone, or have stalled, or never have been there.
    with contextlib.suppress(OSError, AttributeError):
        write_at_once(sys.stdout, "".join(f"{line}\n" for line in lines).encode())


def _promotion_to_paste(address: str, settings: Settings) -> str:
    """Return a shell line that prepares an example and promotes it with grpcurl, wherever it is pasted."""
    command = shlex.quote(shutil.which("modelregistry") or str(Path(sys.argv[0]).absolute()))
    data_dir = shlex.quote(str(settings.data_dir.absolute()))
    if settings.tls_cert:
        ca_cert = shlex.quote(str(settings.tls_cert.absolute()))
        tls, client_tls = f"-cacert {ca_cert}", f" --ca-cert {ca_cert}"
    else:
        tls, client_tls = "-plaintext", ""
    return (
        f'TOKEN="$({command} token --data-dir {data_dir})" && grpcurl {tls} -H "Authorization: Bearer $TOKEN"'
        f' -d "$({command} demo --prepare --target {address} --token "$TOKEN"{client_tls})"'
        f" {address} modelregistry.v1.ModelService/PromoteVersion"
    )


@contextlib.contextmanager
def _throw_away_server() -> Iterator[Registry]:
    """Serve from a temporary folder, to an administrator."""
    from server.auth.local_keys import LocalKeys
    from server.process import app, ports, serve

    with tempfile.TemporaryDirectory(prefix="modelregistry-demo-") as folder:
        settings = Settings(listen="127.0.0.1:0", http_listen=NOWHERE, data_dir=Path(folder), disk_reserve=0)
        bound = ports.bind(settings)
        application = app.build(settings, bound)
        serve.start(application)
        try:
            say(f"a server with an empty database listens on {bound.grpc_address}")
            token = LocalKeys.open(Path(folder)).mint("admin", SCOPES)
            with open_registry(bound.grpc_address, token) as registry:
                yield registry
        finally:
            serve.stop_and_close(application)


def _prepare(registry: Registry) -> PromoteVersionRequest:
    """Create two models, and a version in the first; return the request that promotes it into the second."""
    example = uuid.uuid4().hex[:8]
    models = []
    for stage in ("staging", "production"):
        request = CreateModelRequest(name=f"example-{example}-{stage}", parent_folder_rid=FOLDER)
        models.append(registry.models.CreateModel(request))
        say(f"created model {request.name}: {models[-1].rid}")
    source, target = models
    described = resources.files("server.cli").joinpath("example_version.json").read_bytes()
    creation = from_json(loads(described), CreateModelVersionRequest)
    creation.model_rid = source.rid
    version = registry.models.CreateModelVersion(creation)
    say(f"registered a version of it: {version.rid}")
    return PromoteVersionRequest(model_rid=target.rid, source_model_version_rid=version.rid, preview=True)
