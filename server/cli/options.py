"""Options that commands share. Each is also an environment variable, MODELREGISTRY_ and its name in capitals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from server.core.config import DEFAULT_DATA_DIR, DEFAULT_LISTEN


def option(flag: str, help_text: str, **settings: Any) -> Any:
    """Return an option that is also an environment variable: `--data-dir` is MODELREGISTRY_DATA_DIR too."""
    name = flag.removeprefix("--").upper().replace("-", "_")
    settings.setdefault("envvar", f"MODELREGISTRY_{name}")
    return typer.Option(flag, help=help_text, **settings)


def url_option(flag: str, help_text: str) -> Any:
    """Return an option for a URL, which often comes from a file with a line end, or in the quotes of another file."""
    return option(flag, help_text, metavar="URL", callback=_unwrapped)


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
FilesUrl = Annotated[
    str | None,
    url_option(
        "--files-url",
        "Where model files are kept: s3://BUCKET/FOLDER, or any URL that fsspec knows; by default a folder in the data"
        " folder.",
    ),
]
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
PageSize = Annotated[int, option("--page-size", "How many to print at most, 1 to 1000; 0 means 100.")]
PageToken = Annotated[str | None, option("--page-token", "The nextPageToken of the page before.", metavar="TOKEN")]

DATA_DIR = DEFAULT_DATA_DIR
TARGET = DEFAULT_LISTEN
