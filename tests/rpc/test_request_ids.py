"""Requests with an id are carried out once, however often and wherever they arrive."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles
from modelregistry.v1.model_pb2 import ModelVersionSource, PromotedSource, SdkSource
from tests import builders
from tests.builders import model_api
from tests.conftest import OpenRepository
from tests.rpc.harness import Registry, User, serving
from tests.storage.inspection import row_counts, statements

pytestmark = pytest.mark.database("shared")


def new_id() -> str:
    return str(uuid.uuid4())


class Example:
    """Two models with a version each: `source` in one, and the head of the other."""

    def __init__(self, admin: User):
        self._folder = admin.folder
        self.staging, self.production = admin.create_model("staging"), admin.create_model("production")
        self.source = admin.create_version(self.staging)
        self.live = [admin.promote(self.source, self.production) for _ in range(2)]

    def request(self, rpc: str) -> dict[str, Any]:
        """A request of an RPC that can have an id, without one."""
        promotion = {"model_rid": self.production.rid, "source_model_version_rid": self.source.rid}
        requests: dict[str, dict[str, Any]] = {
            "CreateModel": {"name": "new", "parent_folder_rid": self._folder},
            "CreateModelVersion": {"model_rid": self.staging.rid, "model_api": model_api()},
            "PromoteVersion": {**promotion, "preview": True},
            "BatchPromoteVersions": {"promotions": [promotion, {**promotion, "branch": "canary"}]},
            "RollbackBranch": {"model_rid": self.production.rid, "to_version_number": 1},
        }
        return requests[rpc]


REPEATABLE = ["CreateModel", "CreateModelVersion", "PromoteVersion", "BatchPromoteVersions", "RollbackBranch"]
OTHERWISE: dict[str, dict[str, Any]] = {
    "CreateModel": {"name": "other"},
    "CreateModelVersion": {"model_api": model_api("other")},
    "PromoteVersion": {"reason": "another"},
    "RollbackBranch": {"branch": "other"},
}


@pytest.mark.parametrize("rpc", REPEATABLE)
def test_a_repeated_request_gets_the_same_answer_and_does_nothing(admin: User, migrated_url: str, rpc: str) -> None:
    example = Example(admin)
    request = {**example.request(rpc), "request_id": new_id()}
    first = admin(rpc, **request)
    before = row_counts(migrated_url)

    assert admin(rpc, **request) == first
    assert admin(rpc, **{**request, "request_id": request["request_id"].upper()}) == first

    assert row_counts(migrated_url) == before
    assert admin(rpc, **{**request, "request_id": new_id()} | ({"name": "n"} if rpc == "CreateModel" else {})) != first


@pytest.mark.parametrize("rpc", REPEATABLE)
def test_the_same_id_for_another_request_is_refused(admin: User, migrated_url: str, rpc: str) -> None:
    example = Example(admin)
    request = {**example.request(rpc), "request_id": new_id()}
    admin(rpc, **request)
    before = row_counts(migrated_url)
    other = {**request, **OTHERWISE.get(rpc, {})}
    if rpc == "BatchPromoteVersions":
        other["promotions"] = request["promotions"][::-1]

    failure = admin.failure(rpc, **other)

    assert (failure.name, failure.code.name) == ("RequestIdAlreadyUsed", "ALREADY_EXISTS")
    assert failure.parameters == {"requestId": request["request_id"]}
    assert row_counts(migrated_url) == before


def test_each_caller_and_each_rpc_has_ids_of_its_own(admin: User, jane: User) -> None:
    example, request_id = Example(admin), new_id()
    for model in (example.staging, example.production):
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_EDITOR)

    made = [
        user(rpc, **example.request(rpc), request_id=request_id).rid
        for rpc in ("CreateModelVersion", "PromoteVersion", "RollbackBranch")
        for user in (admin, jane)
    ]

    assert len(set(made)) == 6


@pytest.mark.parametrize(
    ("rpc", "given", "left_out"),
    [
        ("PromoteVersion", {"branch": "master"}, {}),
        ("RollbackBranch", {"branch": "master"}, {}),
        ("CreateModelVersion", {"branch": "master", "source": ModelVersionSource(sdk=SdkSource())}, {}),
    ],
)
def test_what_is_left_out_is_what_it_means(
    admin: User, rpc: str, given: dict[str, Any], left_out: dict[str, Any]
) -> None:
    request = {**Example(admin).request(rpc), "request_id": new_id()}

    assert admin(rpc, **request, **given) == admin(rpc, **request, **left_out)


def test_the_branches_of_a_batch_are_what_they_mean(admin: User) -> None:
    request = {**Example(admin).request("BatchPromoteVersions"), "request_id": new_id()}
    explicit = [{**entry, "branch": entry.get("branch", "master")} for entry in request["promotions"]]

    assert admin("BatchPromoteVersions", **request) == admin(
        "BatchPromoteVersions", **{**request, "promotions": explicit}
    )


def test_the_state_of_things_does_not_matter_to_a_repeated_request(admin: User, jane: User) -> None:
    """Nor does the role, as long as the target is visible; of what is not, the answer says nothing any more."""
    example = Example(admin)
    admin("GrantRole", resource_rid=example.production.rid, principal="user:jane", role=ROLE_PROMOTER)
    admin("GrantRole", resource_rid=example.staging.rid, principal="user:jane", role=ROLE_VIEWER)
    request = {
        **example.request("PromoteVersion"),
        "request_id": new_id(),
        "expected_head_version_rid": example.live[-1].rid,
    }
    first = jane("PromoteVersion", **request)
    admin.promote(example.source, example.production)
    admin("RevokeRole", resource_rid=example.staging.rid, principal="user:jane")
    admin("GrantRole", resource_rid=example.production.rid, principal="user:jane", role=ROLE_VIEWER)

    first.source.CopyFrom(ModelVersionSource(promoted=PromotedSource()))
    first.root_model_version_rid = ""
    assert jane("PromoteVersion", **request) == first
    admin("RevokeRole", resource_rid=example.production.rid, principal="user:jane")
    assert jane.failure("PromoteVersion", **request).name == "ModelNotFound"


def test_a_model_that_its_creator_may_see_no_more_is_not_found_again(admin: User, jane: User) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_EDITOR)
    request = {"name": "mine", "parent_folder_rid": admin.folder, "request_id": new_id()}
    model = jane("CreateModel", **request)
    for resource_rid in (admin.folder, model.rid):
        admin("RevokeRole", resource_rid=resource_rid, principal="user:jane")

    failure = jane.failure("CreateModel", **request)

    assert (failure.name, failure.parameters) == ("ModelNotFound", {"modelRid": model.rid})


def test_a_failed_request_can_be_tried_again_with_its_id(admin: User) -> None:
    example = Example(admin)
    request = {**example.request("PromoteVersion"), "request_id": new_id()}
    wrong = {**request, "expected_head_version_rid": example.live[0].rid}
    assert admin.failure("PromoteVersion", **wrong).name == "BranchHeadChanged"

    assert admin("PromoteVersion", **request).version_number == 3


@pytest.mark.parametrize("rpc", REPEATABLE)
def test_of_the_same_requests_at_once_one_is_carried_out(admin: User, migrated_url: str, rpc: str) -> None:
    example = Example(admin)
    request = {**example.request(rpc), "request_id": new_id()}
    before = row_counts(migrated_url)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: admin(rpc, **request), range(8)))

    assert all(answer == answers[0] for answer in answers)
    after = row_counts(migrated_url)
    assert after["requests"] - before["requests"] == 1
    promotions = {"PromoteVersion": 1, "BatchPromoteVersions": 2, "RollbackBranch": 1}.get(rpc, 0)
    assert after["promotions"] - before["promotions"] == promotions


def test_another_replica_gives_the_same_answer(admin: User, migrated_url: str, open_repository: OpenRepository) -> None:
    request = {**Example(admin).request("PromoteVersion"), "request_id": new_id()}
    first = admin("PromoteVersion", **request)

    with serving(open_repository(migrated_url)) as replica:
        assert replica.user("admin")("PromoteVersion", **request) == first


def test_the_files_of_a_repeated_creation_are_not_stored_again(
    admin: User, migrated_url: str, registry: Registry
) -> None:
    model = admin.create_model("m")
    files = ModelFiles(dill=DillModelFiles(serialized_model_function="gASVLw=="))
    request = {"model_rid": model.rid, "model_api": model_api(), "model_files": files, "request_id": new_id()}
    with statements() as executed:
        first = admin("CreateModelVersion", **request)
        assert any("uploads" in each.statement for each in executed)
    before = row_counts(migrated_url)

    with statements() as executed:
        assert admin("CreateModelVersion", **request) == first

    assert executed
    assert not any("uploads" in each.statement for each in executed)
    assert row_counts(migrated_url) == before
    other = ModelFiles(dill=DillModelFiles(serialized_model_function="other"))
    assert admin.failure("CreateModelVersion", **{**request, "model_files": other}).name == "RequestIdAlreadyUsed"


@pytest.mark.parametrize(
    "wrong", ["", "x", "8a3c3bbd4f3f4a269d8b0b2b0c4b2f6c", "{8a3c3bbd-4f3f-4a26-9d8b-0b2b0c4b2f6c}"]
)
@pytest.mark.parametrize("rpc", REPEATABLE)
def test_an_id_is_a_uuid(admin: User, rpc: str, wrong: str) -> None:
    failure = admin.failure(rpc, **{**Example(admin).request(rpc), "request_id": wrong})

    assert (failure.name, failure.violations) == ("InvalidArgument", [("request_id", f"must be a UUID, not {wrong!r}")])


def test_the_order_is_visibility_then_the_id_then_the_role(admin: User, jane: User) -> None:
    example = Example(admin)
    request = {**example.request("PromoteVersion"), "request_id": new_id()}
    outcome: Callable[[], str] = lambda: jane.failure("PromoteVersion", **request).name  # noqa: E731
    assert outcome() == "ModelNotFound"
    for role in (ROLE_PROMOTER, ROLE_VIEWER):
        admin("GrantRole", resource_rid=example.production.rid, principal="user:jane", role=role)
        if role == ROLE_PROMOTER:
            admin("GrantRole", resource_rid=example.staging.rid, principal="user:jane", role=role)
            jane("PromoteVersion", **request)
    request["branch"] = "other"
    assert outcome() == "RequestIdAlreadyUsed"
    request["request_id"] = new_id()
    assert outcome() == "PromoteVersionModelPermissionDenied"


def test_a_legacy_source_refuses_again_and_again(admin: User, registry: Registry) -> None:
    example = Example(admin)
    legacy = builders.append(registry.repository, builders.version(example.staging.rid), '{"type":"foundryMl"}')
    request = {**example.request("PromoteVersion"), "source_model_version_rid": legacy.rid, "request_id": new_id()}

    for _ in range(2):
        assert admin.failure("PromoteVersion", **request).name == "UnsupportedModelSource"
