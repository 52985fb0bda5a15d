"""Policies of branches: who sets them, what a request leaves as it was, and what they refuse."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_OFF,
    COMPATIBILITY_MODE_UNSPECIFIED,
    COMPATIBILITY_MODE_WARN,
)
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule, Principals
from server.core.branches import POLICY_FIELDS
from server.storage.contract import NO_POLICY
from tests.processes import until
from tests.rpc.approving import weaken_policy
from tests.rpc.harness import Registry, User


@pytest.fixture
def production(admin: User) -> Model:
    """A model."""
    return admin.create_model("production")


def test_a_policy_is_set_by_owners_and_read_by_viewers(admin: User, jane: User, production: Model) -> None:
    rid = production.rid
    assert jane.failure("GetBranchPolicy", model_rid=rid).name == "ModelNotFound"
    admin("GrantRole", resource_rid=rid, principal="user:jane", role=ROLE_EDITOR)
    request = {"model_rid": rid, "branch": "new", "compatibility": COMPATIBILITY_MODE_ENFORCE}

    failure = jane.failure("SetBranchPolicy", **request)
    assert (failure.name, failure.parameters) == ("AccessPermissionDenied", {"resourceRid": rid})
    default = jane("GetBranchPolicy", model_rid=rid)
    assert (default.branch, default.compatibility, default.changed_by) == ("master", COMPATIBILITY_MODE_WARN, "")
    assert not default.HasField("changed_time")
    admin("GrantRole", resource_rid=rid, principal="user:jane", role=ROLE_OWNER)
    policy = jane("SetBranchPolicy", **request)
    assert (policy.branch, policy.compatibility, policy.changed_by) == ("new", COMPATIBILITY_MODE_ENFORCE, "user:jane")
    assert jane("GetBranchPolicy", model_rid=rid, branch="new") == policy


def test_what_a_request_leaves_out_stays_as_it_was(admin: User, production: Model) -> None:
    def set_policy(**fields: Any) -> tuple[int, int, bool]:
        policy = admin("SetBranchPolicy", model_rid=production.rid, **fields)
        assert admin("GetBranchPolicy", model_rid=production.rid) == policy
        return policy.revision, policy.compatibility, policy.promotion_only

    assert set_policy(promotion_only=True) == (1, COMPATIBILITY_MODE_WARN, True)
    assert set_policy(compatibility=COMPATIBILITY_MODE_ENFORCE) == (2, COMPATIBILITY_MODE_ENFORCE, True)
    assert set_policy(promotion_only=False) == (3, COMPATIBILITY_MODE_ENFORCE, False)
    assert set_policy(promotion_only=True, clear_fields=["compatibility"]) == (4, COMPATIBILITY_MODE_WARN, True)
    assert set_policy(clear_fields=["promotion_only"]) == (5, COMPATIBILITY_MODE_WARN, False)
    assert set_policy(promotion_only=True, clear_fields=["promotion_only"]) == (6, COMPATIBILITY_MODE_WARN, True)
    assert set_policy() == (7, COMPATIBILITY_MODE_WARN, True)
    assert set_policy(compatibility=COMPATIBILITY_MODE_UNSPECIFIED) == (8, COMPATIBILITY_MODE_WARN, True)


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"compatibility": 17}, "compatibility", "must be one of COMPATIBILITY_MODE_OFF, "),
        (
            {"clear_fields": ["compatibility", "revision"]},
            "clear_fields[1]",
            "must be one of compatibility, promotion_only, allowed_sources,",
        ),
        ({"promotion_only": True, "expected_revision": -1}, "expected_revision", "must not be negative"),
    ],
)
def test_a_request_that_says_nonsense_is_refused(
    admin: User, production: Model, fields: dict[str, Any], field: str, sentence: str
) -> None:
    failure = admin.failure("SetBranchPolicy", model_rid=production.rid, **fields)
    assert (failure.code.name, failure.name) == ("INVALID_ARGUMENT", "InvalidArgument")
    [(at, said)] = failure.violations
    assert (at, said[: len(sentence)]) == (field, sentence)
    assert admin("GetBranchPolicy", model_rid=production.rid).revision == 0


def test_a_policy_that_is_not_the_expected_one_stays(admin: User, production: Model) -> None:
    request = {"model_rid": production.rid, "promotion_only": True}
    assert admin("SetBranchPolicy", **request, expected_revision=0).revision == 1
    failure = admin.failure("SetBranchPolicy", **request, expected_revision=0)
    assert (failure.code.name, failure.name) == ("ABORTED", "BranchPolicyChanged")
    assert failure.parameters == {
        "resourceRid": production.rid,
        "branchName": "master",
        "expectedRevision": "0",
        "actualRevision": "1",
    }
    assert admin("SetBranchPolicy", **request, expected_revision=1).revision == 2


def test_policies_that_are_set_at_once_are_set_one_upon_the_other(admin: User, production: Model) -> None:
    """None takes away what another one has just set."""

    def set_policy(number: int) -> int:
        field = {"promotion_only": True} if number % 2 else {"compatibility": COMPATIBILITY_MODE_ENFORCE}
        revision: int = admin("SetBranchPolicy", model_rid=production.rid, **field).revision
        return revision

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(set_policy, range(16))) == [*range(1, 17)]
    policy = admin("GetBranchPolicy", model_rid=production.rid)
    assert (policy.compatibility, policy.promotion_only) == (COMPATIBILITY_MODE_ENFORCE, True)


def test_revisions_are_listed_the_newest_first(admin: User, production: Model) -> None:
    set_ = [admin("SetBranchPolicy", model_rid=production.rid, promotion_only=bool(n % 2)) for n in range(5)]
    admin("SetBranchPolicy", model_rid=production.rid, branch="other", compatibility=COMPATIBILITY_MODE_OFF)

    listed, token = [], None
    while True:
        page = admin("ListBranchPolicyRevisions", model_rid=production.rid, page_size=2, page_token=token)
        listed += page.policies
        if not page.HasField("next_page_token"):
            break
        token = page.next_page_token

    assert listed == set_[::-1]
    assert [policy.revision for policy in listed] == [5, 4, 3, 2, 1]


def test_where_heads_come_by_promotion_alone_no_version_is_created(admin: User, production: Model) -> None:
    source = admin.create_version(admin.create_model("staging"))
    admin.create_version(production)
    admin("SetBranchPolicy", model_rid=production.rid, promotion_only=True)

    failure = admin.failure("CreateModelVersion", model_rid=production.rid, model_api=source.model_api)

    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "BranchAcceptsPromotionsOnly")
    rid = production.rid
    assert failure.parameters == {"modelRid": rid, "branchName": "master", "resourceRid": rid}
    assert admin.promote(source, production).version_number == 2
    assert admin("RollbackBranch", model_rid=production.rid, to_version_number=1).version_number == 3
    assert admin.create_version(production, branch="other").version_number == 1


def test_what_was_created_before_the_policy_is_answered_again(admin: User, production: Model) -> None:
    request = {"model_rid": production.rid, "request_id": "0d8a3a2e-7f0a-4a5e-8a52-5f1f6f3c1f11"}
    created = admin.create_version(production, request_id=request["request_id"])
    admin("SetBranchPolicy", model_rid=production.rid, promotion_only=True)
    assert admin.create_version(production, request_id=request["request_id"]) == created


# Folders


def test_the_policy_of_a_folder_holds_in_all_of_its_models(admin: User, jane: User, production: Model) -> None:
    source = admin.create_version(admin.create_model("staging"), branch="dev")
    admin("GrantRole", resource_rid=production.rid, principal="user:jane", role=ROLE_OWNER)
    request = {"folder_rid": admin.folder, "promotion_only": True}
    failure = jane.failure("SetFolderBranchPolicy", **request)
    assert (failure.name, failure.parameters) == ("AccessPermissionDenied", {"resourceRid": admin.folder})

    policy = admin("SetFolderBranchPolicy", **request)

    assert (policy.folder_rid, policy.branch, policy.compatibility) == (admin.folder, "master", 0)
    assert admin("GetFolderBranchPolicy", folder_rid=admin.folder) == policy
    assert [*admin("ListFolderBranchPolicyRevisions", folder_rid=admin.folder).policies] == [policy]
    of_branch = jane("GetBranchPolicy", model_rid=production.rid)
    assert (of_branch.revision, of_branch.promotion_only, of_branch.folder_policy) == (0, False, policy)
    # A policy of the branch takes nothing away from that of the folder.
    jane("SetBranchPolicy", model_rid=production.rid, promotion_only=False, compatibility=COMPATIBILITY_MODE_OFF)
    failure = jane.failure("CreateModelVersion", model_rid=production.rid, model_api=source.model_api)
    assert failure.name == "BranchAcceptsPromotionsOnly"
    assert failure.parameters["resourceRid"] == admin.folder
    promoted = admin.promote(source, production)
    assert admin.create_version(production, branch="other").version_number == 1
    [record] = admin("ListPromotions", model_version_rid=promoted.rid).promotions
    assert (record.policy_revision, record.folder_policy_revision) == (1, 1)


def test_of_two_modes_the_stricter_one_counts(admin: User, production: Model) -> None:
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, compatibility=COMPATIBILITY_MODE_ENFORCE)
    source = admin.create_version(admin.create_model("staging"), branch="dev")
    request = {"model_rid": production.rid, "source_model_version_rid": source.rid, "preview": True}
    assert admin("CheckPromotion", **request).compatibility == COMPATIBILITY_MODE_ENFORCE
    admin("SetBranchPolicy", model_rid=production.rid, compatibility=COMPATIBILITY_MODE_OFF)
    assert admin("CheckPromotion", **request).compatibility == COMPATIBILITY_MODE_ENFORCE
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, clear_fields=["compatibility"])
    assert admin("CheckPromotion", **request).compatibility == COMPATIBILITY_MODE_OFF


def test_every_rule_is_set_cleared_and_left_as_it_was(registry: Registry, admin: User, production: Model) -> None:
    rules: dict[str, Any] = {
        "compatibility": COMPATIBILITY_MODE_ENFORCE,
        "promotion_only": True,
        "allowed_sources": AllowedSources(sources=[AllowedSource(model_rid=production.rid, branch="dev")]),
        "min_time_as_head": Duration(seconds=1),
        "promoters": Principals(principals=["group:ml"]),
        "rollbackers": Principals(principals=["user:jane"]),
        # Once it holds, it is asked for all that weakens the policy.
        "approvals": ApprovalRule(required=2, approvers=["group:risk"]),
    }
    assert rules.keys() == {*POLICY_FIELDS}
    expected: dict[str, Any] = {}
    for name, value in rules.items():
        policy = admin("SetBranchPolicy", model_rid=production.rid, **{name: value})
        policy.ClearField("warnings")
        expected[name] = value
        assert {field: getattr(policy, field) for field in expected} == expected
        assert admin("GetBranchPolicy", model_rid=production.rid) == policy
    for name in rules:
        cleared = {"model_rid": production.rid, "clear_fields": [name]}
        policy = weaken_policy(registry, admin, **cleared)
        del expected[name]
        assert {field: getattr(policy, field) for field in expected} == expected
        assert getattr(policy, name) == getattr(NO_POLICY, name)


# Locks


def test_a_locked_branch_gets_no_head_but_by_a_rollback_with_a_reason(admin: User, production: Model) -> None:
    source = admin.create_version(admin.create_model("staging"))
    for _ in range(2):
        admin.create_version(production)
    locked = admin("LockBranch", model_rid=production.rid, reason="incident 42")
    assert (locked.lock.reason, locked.lock.locked_by, locked.revision) == ("incident 42", "user:admin", 1)
    assert admin("GetBranchPolicy", model_rid=production.rid) == locked
    promotion = {"model_rid": production.rid, "source_model_version_rid": source.rid}
    rollback = {"model_rid": production.rid, "to_version_number": 1}

    refused = [
        admin.failure("PromoteVersion", **promotion, preview=True),
        admin.failure("BatchPromoteVersions", promotions=[promotion]),
        admin.failure("CreateModelVersion", model_rid=production.rid, model_api=source.model_api),
        admin.failure("RollbackBranch", **rollback),
    ]

    for failure in refused:
        assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "BranchLocked")
        place = {"modelRid": production.rid, "branchName": "master"}
        assert failure.parameters == {**place, "reason": "incident 42", "expireTime": ""}
    [obstacle] = admin("CheckPromotion", **promotion, preview=True).obstacles
    assert obstacle.error_name == "BranchLocked"
    assert admin("RollbackBranch", **rollback, reason="incident 42").version_number == 3
    assert admin.promote(source, production, branch="other").version_number == 1
    unlocked = admin("UnlockBranch", model_rid=production.rid)
    assert (unlocked.HasField("lock"), unlocked.revision) == (False, 2)
    assert not admin("UnlockBranch", model_rid=production.rid).HasField("lock")
    assert admin.promote(source, production).version_number == 4


def test_a_lock_ends_with_its_time(admin: User, production: Model) -> None:
    source = admin.create_version(admin.create_model("staging"))
    soon = Timestamp()
    soon.FromMilliseconds(time.time_ns() // 1_000_000 + 1_500)
    admin("LockBranch", model_rid=production.rid, reason="incident 42", expire_time=soon)
    request = {"model_rid": production.rid, "source_model_version_rid": source.rid, "preview": True}
    failure = admin.failure("PromoteVersion", **request)
    assert (failure.name, failure.parameters["expireTime"]) == ("BranchLocked", soon.ToJsonString())
    until(lambda: admin("CheckPromotion", **request).would_succeed)
    assert not admin("GetBranchPolicy", model_rid=production.rid).HasField("lock")
    assert admin.promote(source, production).version_number == 1
    # What the next revision says, the lock that is over is no part of.
    assert not admin("SetBranchPolicy", model_rid=production.rid, promotion_only=True).HasField("lock")
    [_, locked] = admin("ListBranchPolicyRevisions", model_rid=production.rid).policies
    assert locked.lock.expire_time == soon


def test_a_lock_that_would_be_over_is_refused(admin: User, production: Model) -> None:
    failure = admin.failure("LockBranch", model_rid=production.rid, reason="late", expire_time=Timestamp(seconds=1))
    assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["expire_time"])
    assert admin("GetBranchPolicy", model_rid=production.rid).revision == 0


def test_owners_lock_and_unlock(admin: User, jane: User, production: Model) -> None:
    calls = {"LockBranch": {"reason": "mine"}, "UnlockBranch": {}}
    for rpc, fields in calls.items():
        assert jane.failure(rpc, model_rid=production.rid, **fields).name == "ModelNotFound"
    admin("GrantRole", resource_rid=production.rid, principal="user:jane", role=ROLE_EDITOR)
    for rpc, fields in calls.items():
        assert jane.failure(rpc, model_rid=production.rid, **fields).name == "AccessPermissionDenied"
