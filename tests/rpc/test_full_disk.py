"""What is answered while the reserve of a full disk is given up. tests/siege fills a real disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_OWNER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import REVIEW_VERDICT_REJECT, PolicyChange
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from server.core.permissions import MODELS_WRITE, RPC_SCOPES
from server.storage.sql import disk_reserve
from server.storage.sql import repository as sql_repository
from tests.builders import FOLDER, model_api
from tests.conftest import NewDatabase, OpenRepository
from tests.rpc.harness import Failure, Registry, failure_of, path_of, serving
from tests.rpc.test_health import NOT_SERVING, SERVING, until

SOME_REQUEST = "ri.models.main.promotion-request.00000000-0000-4000-8000-000000000000"


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("sqlite", migrated=True)


@pytest.fixture
def registry(url: str, open_repository: OpenRepository) -> Iterator[Registry]:
    with serving(open_repository(url, disk_reserve=2**20)) as registry:
        yield registry


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes are said to be free: the last of these."""
    free = [0]
    monkeypatch.setattr(disk_reserve, "free_bytes", lambda _: free[-1])
    return free


@pytest.fixture
def give_up(url: str, free: list[int]) -> Callable[[], None]:
    """Gives the reserve up, as another process would, with no room to take it back."""
    return lambda: os.truncate(Path(f"{url.removeprefix('sqlite:///')}-reserve"), 0)


HOOK = "https://receiver.example/hook"


def test_what_takes_something_away_goes_through_and_all_other_changes_do_not(
    registry: Registry, give_up: Callable[[], None]
) -> None:
    admin, jane = registry.user("admin"), registry.user("jane")
    model = admin.create_model("model")
    source = admin.create_version(model)
    admin.promote(source, model)
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    promotion = {"model_rid": model.rid, "source_model_version_rid": source.rid}
    of_source = {"model_rid": model.rid, "model_version_rid": source.rid}
    other = admin.create_version(model, branch="other")
    of_other = {"model_rid": model.rid, "model_version_rid": other.rid}
    yanked = admin("YankVersion", **of_other, scope=YANK_SCOPE_VERSION, reason="a mistake")
    # What would be requested if there were room.
    admin(
        "SetBranchPolicy",
        model_rid=model.rid,
        branch="release",
        approvals=ApprovalRule(required=1, approvers=["user:joe"]),
    )
    change = PolicyChange(
        branch=SetBranchPolicyRequest(model_rid=model.rid, branch="release", clear_fields=["approvals"])
    )
    subscribed = admin("CreateSubscription", resource_rid=model.rid, url=HOOK).subscription
    cursor = admin("ListEvents").cursor
    give_up()

    refused = {
        "CreateModel": {"name": "other", "parent_folder_rid": FOLDER},
        "CreateModelVersion": {"model_rid": model.rid, "model_api": model_api()},
        "PromoteVersion": {**promotion, "preview": True},
        "BatchPromoteVersions": {"promotions": [promotion]},
        "SetBranchPolicy": {"model_rid": model.rid, "compatibility": COMPATIBILITY_MODE_ENFORCE},
        "LockBranch": {"model_rid": model.rid, "reason": "incident 42"},
        "UnlockBranch": {"model_rid": model.rid},
        "SetFolderBranchPolicy": {"folder_rid": FOLDER, "promotion_only": True},
        "UnyankVersion": {"yank_rid": yanked.rid},
        "CreatePromotionRequest": promotion,
        "CreatePolicyChangeRequest": {"policy_change": change},
        "ReviewPromotionRequest": {"promotion_request_rid": SOME_REQUEST, "verdict": REVIEW_VERDICT_REJECT},
        "WithdrawPromotionRequest": {"promotion_request_rid": SOME_REQUEST},
        "GrantRole": {"resource_rid": model.rid, "principal": "user:joe", "role": ROLE_OWNER},
        "SetFolderPolicy": {"folder_rid": FOLDER, "new_model_owner": NEW_MODEL_OWNER_FOLDER},
        "TransferOwnership": {"resource_rid": model.rid, "principal": "user:joe"},
        "EnablePrincipal": {"principal": "user:joe"},
        "CreateSubscription": {"resource_rid": model.rid, "url": HOOK},
        "UpdateSubscription": {"subscription_rid": subscribed.rid, "description": "another"},
        "RotateSubscriptionSecret": {"subscription_rid": subscribed.rid},
        "RedeliverEvents": {"subscription_rid": subscribed.rid, "after_cursor": cursor},
    }
    failures = [admin.failure(rpc, **fields) for rpc, fields in refused.items()]
    with pytest.raises(grpc.RpcError) as upload:
        admin.upload(model, b"weights")
    for failure in (*failures, failure_of(upload.value)):
        assert is_full(failure), failure
    allowed = {
        "RevokeRole": {"resource_rid": model.rid, "principal": "user:jane"},
        "RollbackBranch": {"model_rid": model.rid, "to_version_number": 1},
        "BatchRollback": {"rollbacks": [{"model_rid": model.rid, "to_version_number": 1}]},
        "YankVersion": {**of_source, "scope": YANK_SCOPE_VERSION, "reason": "poisoned"},
        "DisablePrincipal": {"principal": "user:joe", "reason": "gone"},
        "DeleteSubscription": {"subscription_rid": subscribed.rid},
    }
    for rpc, fields in allowed.items():
        admin(rpc, **fields)

    # No RPC that changes something is forgotten here.
    changing = {rpc for rpc, scope in RPC_SCOPES.items() if scope == MODELS_WRITE}
    assert changing == {path_of(rpc) for rpc in (*refused, *allowed, "UploadModelFiles")}
    assert jane.failure("GetModel", model_rid=model.rid).name == "ModelNotFound"
    assert admin("GetBranch", model_rid=model.rid).head.version_number == 4


def is_full(failure: Failure) -> bool:
    is_told = "The disk of the database is full. Until it has room again, only RevokeRole," in failure.message
    return is_told and (failure.name, failure.retry_seconds) == ("StorageUnavailable", 1)


def test_a_server_that_may_not_write_is_not_ready_until_there_is_room(
    registry: Registry, give_up: Callable[[], None], free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_repository, "PROBE_SECONDS", 0)
    stub = health_pb2_grpc.HealthStub(registry.channel)
    until(stub, SERVING, after=registry.readiness.start)
    until(stub, NOT_SERVING, after=give_up)
    until(stub, SERVING, after=lambda: free.append(2**40))
    registry.user("admin").create_model("model")
