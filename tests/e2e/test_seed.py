"""The endpoint as its documentation shows it: that very curl, that very answer, and its four errors."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import REVIEW_VERDICT_APPROVE, PolicyChange, PromotionRequest
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from tests.builders import FOLDER
from tests.processes import Server, environment, run

SEED = Path(__file__).with_name("seed")
# As documented, but for the scheme: the server of this test speaks plain HTTP.
REQUEST = (SEED / "request.sh").read_text().replace("https://", "http://")
RESPONSE = json.loads((SEED / "response.json").read_text())

TARGET = "ri.models.main.model.f351c142-0e4c-4b12-adc2-6e1539737ae9"
SOURCE = "ri.models.main.model-version.adf94926-c3ac-41ea-beb2-4946699d08ee"
SOURCE_MODEL = "ri.models.main.model.00000000-0000-4000-8000-000000000001"
LEGACY = "ri.models.main.model-version.00000000-0000-4000-8000-000000000002"
UNKNOWN_MODEL = "ri.models.main.model.00000000-0000-4000-8000-000000000003"
UNKNOWN_VERSION = "ri.models.main.model-version.00000000-0000-4000-8000-000000000004"

OURS = {"source", "modelRid", "branch", "versionNumber", "createdBy", "rootModelVersionRid"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has the models and the version which the documentation speaks of."""
    folder = tmp_path_factory.mktemp("seed") / "cwd"
    folder.mkdir()
    born = {"createdTime": RESPONSE["createdTime"], "createdBy": "user:someone"}
    version = RESPONSE | born | {"modelRid": SOURCE_MODEL, "source": {"type": "sdk"}}
    rows: list[dict[str, Any]] = [
        {"rid": SOURCE_MODEL, "name": "source", "parentFolderRid": FOLDER} | born,
        {"rid": TARGET, "name": "target", "parentFolderRid": FOLDER} | born,
        version,
        version | {"rid": LEGACY, "source": {"type": "someWorkflowOfOld"}},
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    imported = run("import", file, cwd=folder)
    assert imported.returncode == 0, imported.stderr
    with Server(folder) as server:
        yield server


def shell(server: Server, command: str, token: str) -> tuple[int, dict[str, Any]]:
    """Run a curl command as somebody would paste it, and return the status and the JSON of its answer."""
    assert command.startswith("curl ")
    line = command.replace("curl ", "curl --silent --show-error --write-out '\\n%{http_code} %{content_type}' ", 1)
    variables = environment(HOSTNAME=server.url.removeprefix("http://"), TOKEN=token)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, env=variables)
    body, _, told = done.stdout.rpartition("\n")
    status, content_type = told.split()
    assert content_type == "application/json"
    return int(status), json.loads(body)


def shape(value: Any) -> Any:
    """The keys and types of JSON, to the bottom."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def test_the_documented_curl_gets_the_documented_answer(server: Server) -> None:
    status, answer = shell(server, REQUEST, server.token())

    assert status == 200
    assert answer.keys() == RESPONSE.keys() | OURS
    documented = {key: answer[key] for key in RESPONSE}
    assert shape(documented) == shape(RESPONSE)
    # A copy has a RID and a time of its own; all else is the source's.
    own = ("rid", "createdTime")
    assert {**documented, **dict.fromkeys(own)} == {**RESPONSE, **dict.fromkeys(own)}
    assert re.fullmatch(r"ri\.models\.main\.model-version\.[0-9a-f-]{36}", answer["rid"])
    assert answer["rid"] != SOURCE
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["createdTime"])
    assert answer["source"] == {
        "type": "promoted",
        "previousModelRid": SOURCE_MODEL,
        "previousModelVersionRid": SOURCE,
    }
    assert (answer["modelRid"], answer["branch"]) == (TARGET, "master")


def test_on_a_protected_branch_the_documented_curl_is_refused_and_after_two_approvals_the_same_one_succeeds(
    server: Server,
) -> None:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        for name in ("ann", "bob"):
            for model in (SOURCE_MODEL, TARGET):
                admin("GrantRole", resource_rid=model, principal=f"user:{name}", role=ROLE_VIEWER)
        rule = ApprovalRule(required=2, approvers=["user:ann", "user:bob"])
        admin("SetBranchPolicy", model_rid=TARGET, approvals=rule)
        status, refused = shell(server, REQUEST, server.token())
        assert (status, refused["errorCode"], refused["errorName"]) == (400, "FAILED_PRECONDITION", "ApprovalRequired")
        assert refused["parameters"] == {
            "modelRid": TARGET,
            "branchName": "master",
            "required": "2",
            "given": "0",
            "promotionRequestRid": "",
            "resourceRid": TARGET,
        }

        def approve(request: PromotionRequest) -> None:
            for name in ("ann", "bob"):
                reviewer = server.user(channel, name)
                reviewer("ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=REVIEW_VERDICT_APPROVE)

        request = admin("CreatePromotionRequest", model_rid=TARGET, source_model_version_rid=SOURCE)
        approve(request)
        status, answer = shell(server, REQUEST, server.token())
        assert (status, answer["source"]["previousModelVersionRid"]) == (200, SOURCE)
        [promotion] = admin("ListPromotions", model_version_rid=answer["rid"]).promotions
        assert promotion.promotion_request_rid == request.rid
        # The other tests find the branch as this one did.
        unprotect = SetBranchPolicyRequest(model_rid=TARGET, clear_fields=["approvals"])
        approve(admin("CreatePolicyChangeRequest", policy_change=PolicyChange(branch=unprotect)))
        admin("SetBranchPolicy", model_rid=TARGET, clear_fields=["approvals"])


@pytest.mark.parametrize(
    ("target", "source", "subject", "status", "code", "name", "parameters"),
    [
        (TARGET, LEGACY, "admin", 400, "INVALID_ARGUMENT", "UnsupportedModelSource", {}),
        (
            TARGET,
            SOURCE,
            "reader",
            403,
            "PERMISSION_DENIED",
            "PromoteVersionModelPermissionDenied",
            {"modelRid": TARGET},
        ),
        (UNKNOWN_MODEL, SOURCE, "admin", 404, "NOT_FOUND", "ModelNotFound", {"modelRid": UNKNOWN_MODEL}),
        (
            TARGET,
            UNKNOWN_VERSION,
            "admin",
            404,
            "NOT_FOUND",
            "ModelVersionNotFound",
            {"modelRid": TARGET, "modelVersionRid": UNKNOWN_VERSION},
        ),
    ],
    ids=["UnsupportedModelSource", "PromoteVersionModelPermissionDenied", "ModelNotFound", "ModelVersionNotFound"],
)
def test_the_documented_errors_are_answered(
    server: Server,
    target: str,
    source: str,
    subject: str,
    status: int,
    code: str,
    name: str,
    parameters: dict[str, str],
) -> None:
    server.run("grant", TARGET, "user:reader", "viewer")
    command = REQUEST.replace(TARGET, target).replace(SOURCE, source)

    answered, answer = shell(server, command, server.token(subject))

    assert answered == status
    assert answer.keys() == {"errorCode", "errorName", "errorInstanceId", "errorDescription", "parameters"}
    assert (answer["errorCode"], answer["errorName"], answer["parameters"]) == (code, name, parameters)
    assert answer["errorInstanceId"]
    assert answer["errorDescription"]
