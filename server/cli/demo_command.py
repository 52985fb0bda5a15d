"""The example of the promotion endpoint's own documentation, played against a real server."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format

from modelregistry.v1.model_service_pb2 import CreateModelRequest, CreateModelVersionRequest, PromoteVersionRequest
from modelregistry_client import Registry, RegistryError
from server.cli.connection import fail_call, open_registry
from server.cli.options import TARGET, CaCert, ClientCert, ClientKey, Target, Tls, Token, option
from server.cli.output import fail, say, show
from server.cli.unix import require_unix
from server.codec.json_form import from_json, loads
from server.core.config import NOWHERE, ConfigError, Settings
from server.core.permissions import SCOPES

FOLDER = "ri.modelregistry.main.folder.example"


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


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)


@contextlib.contextmanager
def _throw_away_server() -> Iterator[Registry]:
    """Serve from a temporary folder, to an administrator."""
    from server.auth.local_keys import LocalKeys
    from server.process import app, ports, serve

    with tempfile.TemporaryDirectory(prefix="modelregistry-demo-") as folder:
        settings = Settings(listen="127.0.0.1:0", http_listen=NOWHERE, data_dir=Path(folder))
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
