"""Options of the commands. Each is also an environment variable, MODELREGISTRY_ and its name in capitals."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from server.cli.output import fail
from server.core.claims import MAX_LEEWAY
from server.core.config import (
    DEFAULT_DATA_DIR,
    DEFAULT_LISTEN,
    JWKS_REFRESH_SECONDS,
    METRICS,
    TRACES,
    ConfigError,
)
from server.core.permissions import SCOPES

DATA_DIR = DEFAULT_DATA_DIR
TARGET = DEFAULT_LISTEN

# In a URL of a database.
_PASSWORD = re.compile(r"//[^:/]*:[^@]+@|[?&]password=")

log = logging.getLogger(__name__)

# The one protocol of OTLP that traces and metrics are sent in.
OTLP_PROTOCOL = "http/protobuf"


def option(flag: str, help_text: str, **settings: Any) -> Any:
    """Return an option that is also an environment variable: `--data-dir` is MODELREGISTRY_DATA_DIR too."""
    name = flag.partition("/")[0].removeprefix("--").upper().replace("-", "_")
    settings.setdefault("envvar", f"MODELREGISTRY_{name}")
    return typer.Option(flag, help=help_text, **settings)


def url_option(flag: str, help_text: str) -> Any:
    """Return an option for a URL, which often comes from a file with a line end, or in the quotes of another file."""
    return option(flag, help_text, metavar="URL", callback=_unwrapped)


def database_url_of(url: str | None, in_file: str | None, flag: str = "--database-url") -> str | None:
    """Return the URL that an option like --database-url or the file of --database-url-file gives; None if neither does.

    A password that others can read is warned of. Raises ConfigError if both are given.
    """
    if url is not None and in_file is not None:
        raise ConfigError(f"give {flag} or {flag}-file, not both")
    if url is not None and _PASSWORD.search(url) and any(url in word for word in sys.argv):
        log.warning(
            "the password in %s can be read by all users of this machine, who see its processes: put the URL into a"
            " file for %s-file, or the password into one that PGPASSFILE names",
            flag,
            flag,
        )
    return url if in_file is None else in_file


def _url_in(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return _unwrapped(Path(file).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise typer.BadParameter(f"{file} cannot be read: {reason}") from None


def _unwrapped(url: str | None) -> str | None:
    if url is None:
        return None
    url = url.strip()
    if len(url) > 1 and url[0] == url[-1] and url[0] in "'\"":
        url = url[1:-1].strip()
    if not url:
        # And not taken for one that is absent: then a server would go on with a database of its own.
        raise typer.BadParameter("is empty")
    return url


# Where the data is.
DataDir = Annotated[
    Path,
    option("--data-dir", "Where the server keeps its own key pair and, by default, its database.", metavar="DIR"),
]
DatabaseUrl = Annotated[
    str | None,
    url_option(
        "--database-url",
        "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; by default a file in the data folder.",
    ),
]
# What the commands get is the URL in it.
DatabaseUrlFile = Annotated[
    str | None,
    option(
        "--database-url-file",
        "A file with what would else be given to --database-url, such as a mounted secret.",
        metavar="FILE",
        callback=_url_in,
    ),
]
ReadDatabaseUrl = Annotated[
    str | None,
    url_option(
        "--read-database-url",
        "A standby of a PostgreSQL --database-url, which GetModelVersion and GetBranch are read from while it is new"
        " enough.",
    ),
]
ReadDatabaseUrlFile = Annotated[
    str | None,
    option(
        "--read-database-url-file",
        "A file with what would else be given to --read-database-url.",
        metavar="FILE",
        callback=_url_in,
    ),
]
ReadMaxLag = Annotated[
    float,
    option(
        "--read-max-lag",
        "For how long what is read there may be out of date, revoked roles too; what its caller has changed at the same"
        " process is always there.",
        min=0.1,
        max=60,
        metavar="SECONDS",
    ),
]
FilesUrl = Annotated[
    str | None,
    url_option(
        "--files-url",
        "Where model files are kept: s3://BUCKET/FOLDER, or any URL that fsspec knows; by default a folder in the data"
        " folder.",
    ),
]

EventRetention = Annotated[
    int,
    option(
        "--event-retention",
        "For how many days events are kept, by which callers learn what happened; records of promotions stay.",
        min=1,
        max=36_500,
        metavar="DAYS",
    ),
]

# The server to call, and how.
Target = Annotated[str, option("--target", "The server to call.", metavar="HOST:PORT")]
Token = Annotated[str | None, option("--token", "The bearer token to call it with, a JWT.", metavar="JWT")]
Tls = Annotated[bool, option("--tls", "Use TLS, trusting the usual certificate authorities.")]
CaCert = Annotated[
    Path | None, option("--ca-cert", "Use TLS, trusting the authorities in this PEM file.", metavar="FILE")
]
ClientCert = Annotated[
    Path | None, option("--client-cert", "The certificate to show to the server, in PEM.", metavar="FILE")
]
ClientKey = Annotated[Path | None, option("--client-key", "The private key of --client-cert, in PEM.", metavar="FILE")]
Output = Annotated[Literal["json", "table"], option("--output", "json for programs, table for people.")]

# What several requests have.
ModelRid = Annotated[str, typer.Argument(help="The RID of the model.")]
VersionRid = Annotated[str, typer.Argument(help="The RID of the version.")]
Branch = Annotated[str | None, option("--branch", "The branch; `master` by default.", metavar="NAME")]
RequestId = Annotated[
    str | None,
    option("--request-id", "Makes the call safe to repeat: the same request is carried out once.", metavar="UUID"),
]
ExpectedHead = Annotated[
    str | None,
    option("--expected-head", "The version that the branch's head must be, or nothing is done.", metavar="RID"),
]
Reason = Annotated[str | None, option("--reason", "Why; it stays in the record of the promotion.", metavar="TEXT")]
RequiredReason = Annotated[str, option("--reason", "Why; it stays on record.", metavar="TEXT")]
PageSize = Annotated[int, option("--page-size", "How many to print at most, 1 to 1000; 0 means 100.")]
OldestFirst = Annotated[bool, option("--oldest-first", "In the order in which a reader that goes on misses nothing.")]
PageToken = Annotated[str | None, option("--page-token", "The nextPageToken of the page before.", metavar="TOKEN")]

# Whose tokens `serve` trusts, and where these say what.
JwksFile = Annotated[Path | None, option("--jwks-file", "The keys of the tokens' issuer.", metavar="FILE")]
JwksUrl = Annotated[str | None, url_option("--jwks-url", "Where the keys of the tokens' issuer are.")]
JwksMaxAge = Annotated[
    int,
    option(
        "--jwks-max-age",
        "For how long keys let callers in that cannot be loaded again, since the issuer or the file is out of reach.",
        min=2 * JWKS_REFRESH_SECONDS,
        max=30 * 24 * 60 * 60,
        metavar="SECONDS",
    ),
]
Issuer = Annotated[str | None, option("--issuer", "The `iss` that tokens must have.", metavar="ISS")]
Audience = Annotated[
    list[str] | None,
    option("--audience", "The `aud` that tokens must have; may be repeated, then one of these.", metavar="AUD"),
]
AudienceClaim = Annotated[
    str,
    option("--audience-claim", "Where tokens that have no `aud` name their audience.", metavar="CLAIM"),
]
SubjectClaim = Annotated[
    list[str] | None,
    option(
        "--subject-claim",
        "Where tokens name the caller, by default `sub`; may be repeated, then the first that is present counts.",
        metavar="CLAIM",
    ),
]
ScopeClaim = Annotated[
    list[str] | None,
    option(
        "--scope-claim",
        "Where tokens have their scopes, by default `scope` and `scp`; may be repeated, then the first that is present"
        " counts.",
        metavar="CLAIM",
    ),
]
ScopePrefix = Annotated[
    str,
    option("--scope-prefix", "Only scopes that begin with it count, and without it.", metavar="PREFIX"),
]
DefaultScope = Annotated[
    list[str] | None,
    option(
        "--default-scope",
        f"What a token without any claim of scopes may be used for, {' or '.join(SCOPES)}; may be repeated; by default"
        " nothing.",
        metavar="SCOPE",
    ),
]
GroupsClaim = Annotated[
    list[str] | None,
    option(
        "--groups-claim",
        "Where tokens have the caller's groups, by default `groups`; may be repeated, then all count.",
        metavar="CLAIM",
    ),
]
Leeway = Annotated[
    int,
    option("--leeway", f"How far the issuer's clock may be off; at most {MAX_LEEWAY}.", metavar="SECONDS"),
]


# What clients of `serve` may use up before a call of theirs is served.
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
DiskReserve = Annotated[
    int,
    option(
        "--disk-reserve",
        "How much room to hold beside an SQLite database, so that on a full disk roles can be revoked, principals"
        " disabled and branches rolled back; twice as much stays free of model files. 0 for neither.",
        min=0,
        max=2**40,
        metavar="BYTES",
    ),
]
MaxFileBytesOfPrincipal = Annotated[
    int,
    option(
        "--max-file-bytes-of-principal",
        "How many bytes of model files may count for each caller that uploads; 0 is any number.",
        min=0,
        max=2**62,
        metavar="BYTES",
    ),
]
MaxFileBytesOfFolder = Annotated[
    int,
    option(
        "--max-file-bytes-of-folder",
        "How many bytes of model files may count for each folder of models; 0 is any number.",
        min=0,
        max=2**62,
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


SecretsKeyFile = Annotated[
    Path | None,
    option(
        "--secrets-key-file",
        "Keys under which secrets of webhooks are stored, the newest first: 32 bytes in Base64 on each line, the same"
        " for all servers of one database. By default a file in the data folder, made when it is needed.",
        metavar="FILE",
    ),
]
WebhookAllow = Annotated[
    list[str] | None,
    option(
        "--webhook-allow",
        "A network of addresses that are not public, to which webhooks may go nevertheless; may be repeated.",
        metavar="CIDR",
    ),
]
WebhookAllowHttp = Annotated[bool, option("--webhook-allow-http", "Let webhooks go to URLs without TLS, too.")]
WebhookPorts = Annotated[
    str, option("--webhook-ports", "The ports that webhooks may go to, separated by commas.", metavar="PORT,…")
]


def ports_of(text: str) -> frozenset[int]:
    """Return the ports that are listed. Raises ConfigError."""
    ports = [port.strip() for port in text.split(",")]
    if not all(port.isascii() and port.isdigit() for port in ports):
        raise ConfigError(f"--webhook-ports is a list like 443,8443, not {text!r}")
    return frozenset(map(int, ports))


def known_scopes(flag: str, scopes: Sequence[str] | None) -> Sequence[str]:
    """Return the scopes that an option gives. Fails if one of them is no RPC's."""
    if unknown := set(scopes or ()) - set(SCOPES):
        fail(f"{flag}: {', '.join(sorted(unknown))} is not one of {', '.join(SCOPES)}")
    return scopes or ()


def otlp_signals(variables: Mapping[str, str]) -> frozenset[str]:
    """Return which of `traces` and `metrics` OpenTelemetry's own variables want: those with an endpoint.

    All else in these variables its SDK reads itself. Raises ConfigError for an exporter or a protocol that is not
    supported.
    """
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return frozenset()
    return frozenset(signal for signal in (TRACES, METRICS) if _is_wanted(signal, variables))


def _is_wanted(signal: str, variables: Mapping[str, str]) -> bool:
    def value(name: str) -> str:
        """The signal's own variable, or else that of all."""
        own = variables.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}")
        return own or variables.get(f"OTEL_EXPORTER_OTLP_{name}") or ""

    exporter = variables.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    if not value("ENDPOINT") or exporter == "none":
        return False
    if exporter != "otlp":
        raise ConfigError(f"OTEL_{signal.upper()}_EXPORTER must be otlp or none, not {exporter!r}")
    if (protocol := value("PROTOCOL") or OTLP_PROTOCOL) != OTLP_PROTOCOL:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be {OTLP_PROTOCOL}, not {protocol!r}")
    return True
