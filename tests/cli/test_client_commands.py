"""The client commands against a real server: what they do, what they print, and how they fail."""

from __future__ import annotations

import json
import socket
import subprocess
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.core.permissions import MODELS_READ
from tests.certificates import Authority
from tests.processes import COMMAND, Server, environment, failure, run, side_by_side

NO_MODEL = "ri.models.main.model.none"
FOLDER = "ri.compass.main.folder.sample"

# Exit codes: 64 plus the gRPC status code.
INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNAVAILABLE, UNAUTHENTICATED = 67, 69, 70, 71, 78, 80

VERSION: dict[str, Any] = {
    "modelApi": {
        "inputs": [{"type": "parameter", "name": "age", "required": True, "dataType": {"type": "integer"}}],
        "outputs": [{"type": "parameter", "name": "risk", "required": True, "dataType": {"type": "double"}}],
    },
    "condaRequirements": ["numpy==1.24.0"],
    "backingRepositories": ["ri.stemma.main.repository.risk"],
    "source": {"type": "external"},
}


@dataclass(frozen=True)
class Example:
    """Two models, a version in the first, and the copy of it that the second got when it was promoted."""

    folder: str
    models: list[dict[str, Any]]
    version: dict[str, Any]
    promoted: dict[str, Any]


@pytest.fixture(scope="module")
def example(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Made by the commands alone."""
    folder = new_folder()
    staging, production = (server.json("create-model", name, "--folder", folder) for name in ("staging", "production"))
    file = tmp_path_factory.mktemp("example") / "version.json"
    file.write_text(json.dumps(VERSION))
    version = server.json("create-version", staging["rid"], "--file", file, "--branch", "dev")
    promoted = server.json("promote", version["rid"], production["rid"])
    return Example(folder, [staging, production], version, promoted)


def new_folder() -> str:
    return f"ri.compass.main.folder.{uuid.uuid4()}"


def table(result: subprocess.CompletedProcess[str]) -> str:
    """What was printed, with single spaces."""
    assert result.returncode == 0, result
    return "\n".join(" ".join(line.split()) for line in result.stdout.splitlines())


# What they do


def test_a_version_is_created_from_a_file(example: Example) -> None:
    assert example.version | VERSION == example.version
    assert example.version["modelRid"] == example.models[0]["rid"]
    assert (example.version["branch"], example.version["versionNumber"]) == ("dev", 1)


def test_a_version_is_created_from_a_pipe(server: Server, example: Example) -> None:
    version = server.json("create-version", example.models[0]["rid"], "--file", "-", stdin=json.dumps(VERSION))
    assert version["modelApi"] == VERSION["modelApi"]


def test_promote_copies_a_version_into_the_other_model(example: Example) -> None:
    staging, production = example.models
    own = {"rid", "createdTime", "source", "modelRid", "branch"}
    assert example.promoted.keys() == example.version.keys()
    assert {key for key in example.promoted if example.promoted[key] != example.version[key]} == own
    assert (example.promoted["modelRid"], example.promoted["branch"]) == (production["rid"], "master")
    assert example.promoted["source"] == {
        "type": "promoted",
        "previousModelRid": staging["rid"],
        "previousModelVersionRid": example.version["rid"],
    }


def test_promote_takes_a_branch(server: Server, example: Example) -> None:
    promoted = server.json("promote", example.version["rid"], example.models[1]["rid"], "--branch", "canary")
    assert promoted["branch"] == "canary"


def test_models_and_versions_are_read_back_as_they_were_answered(server: Server, example: Example) -> None:
    promoted, production = example.promoted, example.models[1]
    rid = production["rid"]
    commands = [
        ("get-model",),
        ("get-version", promoted["rid"]),
        ("list-versions",),
        ("get-branch",),
        ("list-branches",),
    ]
    answers = side_by_side([partial(server.json, command, rid, *others) for command, *others in commands])
    live = {"name": "master", "head": promoted, "versionCount": 1}
    assert answers[:4] == [production, promoted, {"data": [promoted]}, live]
    assert live in answers[4]["data"]


def test_models_are_listed_page_by_page(server: Server, example: Example) -> None:
    pages = [server.json("list-models", "--folder", example.folder, "--page-size", "1")]
    pages.append(server.json("list-models", "--folder", example.folder, "--page-token", pages[0]["nextPageToken"]))
    models = [model for page in pages for model in page["data"]]
    assert sorted(models, key=str) == sorted(example.models, key=str)
    assert "nextPageToken" not in pages[1]


def test_an_administrator_says_who_owns_what_and_who_is_served(server: Server) -> None:
    folder = new_folder()
    policy = server.json("set-folder-policy", folder, "folder")
    assert policy["newModelOwner"] == "FOLDER"
    assert server.json("get-folder-policy", folder) == policy
    model = server.json("create-model", "owned by its folder", "--folder", folder)["rid"]
    assert server.json("grants", model)["data"] == []
    jane = {"resourceRid": model, "principal": "user:jane-who-leaves", "role": "OWNER"}
    assert server.json("transfer-ownership", model, jane["principal"]) == jane

    disabled = server.json("disable-principal", jane["principal"], "--reason", "has left")
    assert (disabled["principal"], disabled["reason"], disabled["disabledBy"]) == (
        "user:jane-who-leaves",
        "has left",
        "user:admin",
    )
    assert disabled in server.json("disabled-principals")["data"]
    refused = failure(server.run("get-model", model, token=server.token("jane-who-leaves")), PERMISSION_DENIED)
    assert refused.startswith("PrincipalDisabled")
    server.json("enable-principal", jane["principal"])
    assert server.json("get-model", model, token=server.token("jane-who-leaves"))["rid"] == model


def test_grants_are_given_listed_and_taken_away(server: Server) -> None:
    model = server.json("create-model", "granted", "--folder", new_folder())["rid"]
    jane = {"resourceRid": model, "principal": "user:jane", "role": "VIEWER"}
    server.json("grant", model, "user:jane", "viewer")
    assert jane in server.json("grants", model)["data"]
    assert server.json("get-model", model, token=server.token("jane"))["rid"] == model
    server.json("revoke", model, "user:jane")
    assert jane not in server.json("grants", model)["data"]
    taken, given, _ = server.json("grant-changes", model)["data"]
    assert (taken["principal"], taken.get("role")) == ("user:jane", None)
    assert jane.items() <= given.items()
    assert failure(server.run("get-model", model, token=server.token("jane")), NOT_FOUND)


def test_the_options_do_what_the_variables_do(server: Server, example: Example) -> None:
    rid = example.models[0]["rid"]
    result = run(
        "get-model", rid, "--target", server.address, "--token", server.token(), MODELREGISTRY_TARGET="nowhere"
    )
    assert json.loads(result.stdout) == example.models[0]
    listed = server.run("list-versions", rid, MODELREGISTRY_BRANCH="dev", MODELREGISTRY_OUTPUT="table")
    assert example.version["rid"] in table(listed)


# For people


def test_a_table_shows_one_thing_as_fields_with_its_full_rids(server: Server, example: Example) -> None:
    production, promoted = example.models[1], example.promoted
    shown = table(server.run("get-version", production["rid"], promoted["rid"], "--output", "table", COLUMNS="40"))
    for line in (f"rid {promoted['rid']}", f"modelRid {production['rid']}", "source promoted", "inputs 1", "outputs 1"):
        assert line in shown.splitlines()


def test_a_table_shows_a_list_as_rows_with_their_full_rids(server: Server, example: Example) -> None:
    shown = table(server.run("list-models", "--folder", example.folder, "--output", "table", COLUMNS="40"))
    header, _, *rows = filter(None, shown.splitlines())
    assert header == "rid name parentFolderRid createdTime createdBy"
    assert sorted(rows) == sorted(" ".join(model.values()) for model in example.models)


def test_a_table_says_how_to_go_on_apart_from_its_rows(server: Server, example: Example) -> None:
    arguments = ("list-models", "--folder", example.folder, "--page-size", "1")
    token = server.json(*arguments)["nextPageToken"]
    result = server.run(*arguments, "--output", "table")
    assert result.stderr == f"there is more: --page-token {token}\n"
    assert token not in result.stdout


def test_an_empty_list_is_told_in_words(server: Server) -> None:
    assert table(server.run("list-models", "--folder", new_folder(), "--output", "table")) == "nothing"


# How they fail

REFUSED = [
    (("get-model", NO_MODEL), NOT_FOUND, "ModelNotFound"),
    (("get-model", "nonsense"), INVALID_ARGUMENT, "InvalidArgument"),
    (("create-model", "line\nbreak \x1b[31m", "--folder", FOLDER), INVALID_ARGUMENT, "InvalidDisplayName"),
    (("list-models", "--page-size", "1001"), INVALID_ARGUMENT, "InvalidPageSize"),
    (("promote", "ri.models.main.model-version.none", NO_MODEL), NOT_FOUND, "ModelNotFound"),
    (("grant", NO_MODEL, "user:jane", "viewer"), NOT_FOUND, "ModelNotFound"),
    (("list-models", "--token", "made-up"), UNAUTHENTICATED, "InvalidCredentials"),
    (("list-models", "--token", ""), UNAUTHENTICATED, "MissingCredentials"),
]


@pytest.fixture(scope="module")
def refused(server: Server) -> dict[tuple[str, ...], subprocess.CompletedProcess[str]]:
    """How each of these commands failed."""
    commands = [arguments for arguments, _, _ in REFUSED]
    return dict(zip(commands, side_by_side([partial(server.run, *command) for command in commands]), strict=True))


@pytest.mark.parametrize(("arguments", "exit_code", "name"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_a_refused_call_is_told_in_one_line_with_the_name_and_the_instance_id_of_the_log(
    server: Server,
    refused: dict[tuple[str, ...], subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
    exit_code: int,
    name: str,
) -> None:
    told_and_logged(server, refused[arguments], exit_code, name)


def test_a_call_that_the_token_does_not_permit_is_refused(server: Server, example: Example) -> None:
    reading = server.token(scopes=[MODELS_READ])
    told_and_logged(
        server, server.run("create-model", "x", "--folder", FOLDER, token=reading), PERMISSION_DENIED, "ApiUsageDenied"
    )


def test_a_name_that_is_taken_has_an_exit_code_of_its_own(server: Server, example: Example) -> None:
    again = server.run("create-model", "staging", "--folder", example.folder)
    told_and_logged(server, again, ALREADY_EXISTS, "ResourceNameAlreadyExists")


def told_and_logged(server: Server, result: subprocess.CompletedProcess[str], exit_code: int, name: str) -> None:
    line = failure(result, exit_code)
    assert line.startswith(f"{name}: ")
    _, _, instance_id = line.removesuffix("]").rpartition(" [instance ")
    assert uuid.UUID(instance_id)
    assert server.logged(error_instance_id=instance_id)["error"].startswith(f"{name}: ")


def test_a_server_that_cannot_be_reached_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"127.0.0.1:{listener.getsockname()[1]}"
    targets = [closed, f"http://{closed}", "no-such-host.invalid:50051", "two\nlines", "nonsense:port"]
    for result in side_by_side([partial(run, "get-model", NO_MODEL, "--target", target) for target in targets]):
        assert failure(result, UNAVAILABLE).startswith("UNAVAILABLE: ")


def test_an_empty_target_is_told_in_one_line() -> None:
    assert "''" in failure(run("get-model", NO_MODEL, "--target", ""), 66)


@pytest.mark.parametrize("token", ["é", "two\nlines"])
def test_a_token_that_no_jwt_can_be_is_told_in_one_line(server: Server, token: str) -> None:
    assert "--token" in failure(server.run("get-model", NO_MODEL, token=token))


NO_VERSIONS = {
    b"{": "the text is not valid JSON",
    b"": "the text is not valid JSON",
    b"\xff\xfe": "the text is not valid JSON",
    b"[]": "must be an object, not a list",
    b'{"modelApi": {"inputs": [{"type": "image"}]}}': "modelApi.inputs[0].type: must be one of tabular",
    b'{"condaRequirement": []}': "condaRequirement: is not a known key",
    json.dumps({f"key{n}": n for n in range(100)}).encode(): "and 80 more",
}


def test_a_file_that_is_no_version_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.json" for n in range(len(NO_VERSIONS))]
    for file, content in zip(files, NO_VERSIONS, strict=True):
        file.write_bytes(content)
    results = side_by_side([partial(server.run, "create-version", NO_MODEL, "--file", file) for file in files])
    for file, result, problem in zip(files, results, NO_VERSIONS.values(), strict=True):
        line = failure(result)
        assert line.startswith(f"--file {file}: ")
        assert problem in line


def test_a_file_that_cannot_be_read_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    absent = server.run("create-version", NO_MODEL, "--file", tmp_path / "absent.json")
    assert failure(absent) == f"--file {tmp_path / 'absent.json'}: No such file or directory"
    folder = server.run("create-version", NO_MODEL, "--file", tmp_path)
    assert failure(folder) == f"--file {tmp_path}: Is a directory"


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [(("create-version", NO_MODEL, "--file", "-"), 1), (("get-model", NO_MODEL), NOT_FOUND)],
    ids=["which is to be read", "which is not needed"],
)
def test_a_closed_standard_input_is_no_reason_for_a_traceback(
    server: Server, arguments: tuple[str, ...], exit_code: int
) -> None:
    command = ["bash", "-c", 'exec "$@" <&-', "bash", str(COMMAND), *arguments]
    variables = environment(MODELREGISTRY_TARGET=server.address, MODELREGISTRY_TOKEN=server.token())
    failure(subprocess.run(command, capture_output=True, text=True, check=False, env=variables), exit_code)


def test_what_no_request_can_hold_is_told_in_one_line(server: Server) -> None:
    assert "out of range" in failure(server.run("list-models", "--page-size", "99999999999"))
    assert "surrogates" in failure(server.run("get-model", b"\xff".decode(errors="surrogateescape")))


def test_certificates_that_cannot_be_used_are_told_in_one_line(server: Server, tmp_path: Path) -> None:
    broken, absent = tmp_path / "broken.pem", tmp_path / "absent.pem"
    broken.write_text("no certificate")
    cert, key = Authority(tmp_path / "authority").issue("jane")
    unusable = [
        ("--ca-cert", broken),
        ("--ca-cert", absent),
        ("--client-cert", cert),
        ("--client-key", key),
        ("--client-cert", cert, "--client-key", broken),
        ("--client-cert", absent, "--client-key", key),
    ]
    results = side_by_side([partial(server.run, "get-model", NO_MODEL, *options) for options in unusable])
    for options, result in zip(unusable, results, strict=True):
        assert str(options[0]) in failure(result)


def test_a_server_of_this_machine_is_not_asked_for_through_a_proxy(server: Server, example: Example) -> None:
    assert server.json("get-model", example.models[0]["rid"], http_proxy="http://127.0.0.1:1") == example.models[0]
