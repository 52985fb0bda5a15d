"""The first thing a person does: start the installed command in an empty folder, and paste the line that it prints."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format

from modelregistry.v1.model_pb2 import ModelVersion
from server.codec.json_form import to_json
from tests.processes import Server, environment, run

MODELS = "modelregistry.v1.ModelService"
NO_MODEL = "ri.models.main.model.none"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started without any configuration, but for the port: another server may have the default one."""
    with Server(tmp_path_factory.mktemp("grpcurl") / "empty folder") as server:
        yield server


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=folder, env=environment()
    )


def grpcurl(server: Server, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    credentials = ["-H", f"Authorization: Bearer {token}"] if token else []
    return subprocess.run(
        ["grpcurl", "-plaintext", *credentials, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def test_the_printed_line_promotes_wherever_it_is_pasted(server: Server, tmp_path: Path) -> None:
    line = server.line("  ")
    for pasted in (shell(line, tmp_path), shell(line, tmp_path)):
        assert pasted.returncode == 0, pasted
        promoted = json_format.Parse(pasted.stdout, ModelVersion())
        assert promoted.version_number == 1
        assert promoted.root_model_version_rid == promoted.source.promoted.previous_model_version_rid != promoted.rid
        assert promoted.model_api.inputs[0].tabular.name == "input_df"
        assert server.json("get-branch", promoted.model_rid)["head"] == to_json(promoted)


def test_reflection_lists_the_services(server: Server) -> None:
    services = grpcurl(server, server.address, "list").stdout.split()
    assert {MODELS, "modelregistry.v1.AccessService", "grpc.health.v1.Health"} <= set(services)


def test_reflection_describes_a_service_and_its_messages(server: Server) -> None:
    service = grpcurl(server, server.address, "describe", MODELS).stdout
    assert "rpc PromoteVersion ( .modelregistry.v1.PromoteVersionRequest ) returns" in service
    request = grpcurl(server, server.address, "describe", "modelregistry.v1.PromoteVersionRequest").stdout
    assert "string source_model_version_rid" in request
    assert "// Required. " in request
    everything = grpcurl(server, server.address, "describe")
    assert (everything.returncode, everything.stderr) == (0, ""), everything


def test_answers_have_the_names_of_the_json_over_http(server: Server) -> None:
    request = json.dumps({"name": "names", "parentFolderRid": "ri.compass.main.folder.names"})
    created = grpcurl(server, "-d", request, server.address, f"{MODELS}/CreateModel", token=server.token())
    assert json.loads(created.stdout).keys() == {"rid", "name", "parentFolderRid", "createdTime", "createdBy"}


def test_health_is_asked_without_credentials(server: Server) -> None:
    answer = grpcurl(server, server.address, "grpc.health.v1.Health/Check")
    assert json.loads(answer.stdout) == {"status": "SERVING"}


def test_an_error_is_told_with_its_name_and_parameters(server: Server) -> None:
    request = json.dumps({"model_rid": NO_MODEL})
    refused = grpcurl(server, "-d", request, server.address, f"{MODELS}/GetModel", token=server.token())
    assert refused.returncode == 64 + 5
    assert "Code: NotFound" in refused.stderr
    assert "Message: ModelNotFound: The given Model could not be found." in refused.stderr
    told = "".join(refused.stderr.split())
    assert '"reason":"MODEL_NOT_FOUND"' in told
    assert f'"modelRid":"{NO_MODEL}"' in told


def test_a_call_without_a_token_is_told_what_to_send(server: Server) -> None:
    refused = grpcurl(server, server.address, f"{MODELS}/ListModels")
    assert refused.returncode == 64 + 16
    assert "MissingCredentials: " in refused.stderr
    assert "authorization: Bearer" in refused.stderr


def test_a_server_that_describes_nothing_is_called_with_a_descriptor_set(tmp_path: Path) -> None:
    api = tmp_path / "api.binpb"
    assert run("protos", "--descriptor-set", api).returncode == 0
    with Server(tmp_path / "server", "--no-reflection") as silent:
        refused = grpcurl(silent, silent.address, "list")
        assert "does not support the reflection API" in refused.stderr
        missing = grpcurl(
            silent,
            *("-protoset", str(api), "-d", json.dumps({"modelRid": NO_MODEL})),
            *(silent.address, f"{MODELS}/GetModel"),
            token=silent.token(),
        )
        assert "Code: NotFound" in missing.stderr
        # Also what is in the details, which are messages of any kind.
        assert "MODEL_NOT_FOUND" in missing.stderr
        healthy = grpcurl(silent, "-protoset", str(api), silent.address, "grpc.health.v1.Health/Check")
        assert json.loads(healthy.stdout) == {"status": "SERVING"}
