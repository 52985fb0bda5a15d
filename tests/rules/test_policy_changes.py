"""When two changes of a policy are the same, and what an approval of one counts for."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule, BranchPolicy, Principals
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_POLICY_CHANGE,
    PROMOTION_REQUEST_KIND_PROMOTION,
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_OPEN,
    REVIEW_VERDICT_APPROVE,
    PromotionRequest,
    PromotionReview,
)
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest, SetFolderBranchPolicyRequest
from server.rules.approvals import standing_of
from server.rules.policy_changes import asked_of, canonical_change

MODEL = "ri.models.main.model.production"
A, B = ("ri.models.main.model.a", "ri.models.main.model.b")
RULE = ApprovalRule(required=1, approvers=["user:ann", "user:bob"])


def sources(*places: tuple[str, str | None]) -> AllowedSources:
    return AllowedSources(sources=[AllowedSource(model_rid=rid, branch=branch) for rid, branch in places])


# By field: one way to say something, others to say the same, and what is something else.
WAYS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "branch": (None, ["master"], ["dev"]),
    "expected_revision": (None, [1, 2], []),
    "clear_fields": (
        ["approvals", "promoters"],
        [["promoters", "approvals"], ["approvals", "promoters", "approvals"]],
        [["approvals"], []],
    ),
    "promotion_only": (False, [], [None, True]),
    "compatibility": (1, [], [2]),
    "min_time_as_head": (Duration(seconds=1), [], [Duration(seconds=2), None]),
    "promoters": (
        Principals(principals=["user:a", "user:b"]),
        [Principals(principals=["user:b", "user:a", "user:b"])],
        [Principals(principals=["user:a"]), None],
    ),
    "rollbackers": (
        Principals(principals=["user:a", "user:b"]),
        [Principals(principals=["user:b", "user:a"])],
        [Principals(principals=["user:c"])],
    ),
    "approvals": (
        RULE,
        [ApprovalRule(required=1, approvers=["user:bob", "user:ann"])],
        [ApprovalRule(required=2, approvers=RULE.approvers), ApprovalRule(required=1, approvers=["user:ann"])],
    ),
    "allowed_sources": (
        sources((A, "master"), (B, "dev")),
        [sources((B, "dev"), (A, None))],
        [sources((A, "master")), sources(), None],
    ),
}


def test_every_field_of_a_change_is_looked_at() -> None:
    assert {*WAYS, "model_rid"} == set(SetBranchPolicyRequest.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("name", WAYS)
def test_changes_are_the_same_if_they_ask_for_the_same(name: str) -> None:
    one, same, others = WAYS[name]
    for kind, where in ((SetBranchPolicyRequest, "model_rid"), (SetFolderBranchPolicyRequest, "folder_rid")):

        def canonical(value: Any, kind: Any = kind, where: str = where) -> bytes:
            change = canonical_change(kind(**{where: MODEL, name: value}))
            assert canonical_change(asked_of(change)) == change
            return change.SerializeToString(deterministic=True)

        assert {canonical(value) for value in same} <= {canonical(one)}
        assert canonical(one) not in {canonical(value) for value in others}


def test_the_policy_of_a_folder_and_that_of_a_branch_are_not_the_same() -> None:
    assert canonical_change(SetBranchPolicyRequest(model_rid=A)) != canonical_change(
        SetFolderBranchPolicyRequest(folder_rid=A)
    )
    assert canonical_change(SetBranchPolicyRequest(model_rid=A)) != canonical_change(
        SetBranchPolicyRequest(model_rid=B)
    )


def test_the_request_that_is_asked_for_stays_as_it_is() -> None:
    request = SetBranchPolicyRequest(model_rid=A, clear_fields=["promoters", "approvals"], expected_revision=7)
    before = SetBranchPolicyRequest()
    before.CopyFrom(request)
    canonical_change(request)
    assert request == before


@pytest.mark.parametrize(
    ("seen", "revision", "by", "is_approved"),
    [
        (3, 3, None, True),
        (3, 4, None, False),
        (0, 0, None, True),
        # Who has seen a head has not seen the policy.
        (None, 0, None, False),
        (3, 3, "user:bob", True),
        (3, 3, "user:ann", False),
    ],
)
def test_an_approval_of_a_change_counts_for_the_revision_that_it_saw(
    seen: int | None, revision: int, by: str | None, is_approved: bool
) -> None:
    review = PromotionReview(
        reviewed_by="user:ann", principals=["user:ann"], verdict=REVIEW_VERDICT_APPROVE, policy_revision=seen
    )
    request = PromotionRequest(
        kind=PROMOTION_REQUEST_KIND_POLICY_CHANGE, state=PROMOTION_REQUEST_STATE_OPEN, reviews=[review]
    )
    request.expire_time.FromMilliseconds(10)
    policy = BranchPolicy(revision=revision, approvals=RULE)
    # Whatever the head is.
    for head in (None, "ri.models.main.model-version.head"):
        standing = standing_of(request, (policy,), head, 5, by)
        assert standing.state == (PROMOTION_REQUEST_STATE_APPROVED if is_approved else PROMOTION_REQUEST_STATE_OPEN)


def test_an_approval_of_a_promotion_counts_whatever_the_revision_is() -> None:
    review = PromotionReview(reviewed_by="user:ann", principals=["user:ann"], verdict=REVIEW_VERDICT_APPROVE)
    request = PromotionRequest(
        kind=PROMOTION_REQUEST_KIND_PROMOTION, state=PROMOTION_REQUEST_STATE_OPEN, reviews=[review]
    )
    request.expire_time.FromMilliseconds(10)
    for revision in (1, 2):
        policy = BranchPolicy(revision=revision, approvals=RULE)
        assert standing_of(request, (policy,), None, 5).state == PROMOTION_REQUEST_STATE_APPROVED
