"""Changes that weaken a policy which wants approvals: requested, reviewed, and carried out once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule, BranchPolicy, Principals
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_POLICY_CHANGE,
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PROMOTION_REQUEST_STATE_REJECTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    PolicyChange,
    PromotionRequest,
)
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest, SetFolderBranchPolicyRequest
from tests.rpc.harness import Registry, User, failure_of
from tests.rpc.test_no_oracle import ABSENT_MODEL, normalised
from tests.storage.conftest import at_once

pytestmark = pytest.mark.database("shared")


class Place(NamedTuple):
    """A policy that wants two approvals of group:risk, of a branch of a model or of a folder, and who owns that."""

    admin: User
    owner: User
    ann: User
    bob: User
    cid: User
    model: Model | None
    folder_rid: str

    @property
    def rid(self) -> str:
        return self.model.rid if self.model else self.folder_rid

    @property
    def where(self) -> dict[str, str]:
        return {"model_rid": self.rid} if self.model else {"folder_rid": self.rid}

    def set(self, by: User | None = None, **rules: Any) -> BranchPolicy:
        """Set the policy, as the owner."""
        return (by or self.owner)("SetBranchPolicy" if self.model else "SetFolderBranchPolicy", **self.where, **rules)

    def refusal(self, by: User | None = None, **rules: Any) -> Any:
        """How a change is refused."""
        rpc = "SetBranchPolicy" if self.model else "SetFolderBranchPolicy"
        return (by or self.owner).failure(rpc, **self.where, **rules)

    def change(self, **rules: Any) -> PolicyChange:
        if self.model:
            return PolicyChange(branch=SetBranchPolicyRequest(**self.where, **rules))
        return PolicyChange(folder=SetFolderBranchPolicyRequest(**self.where, **rules))

    def request(self, by: User | None = None, **rules: Any) -> PromotionRequest:
        return (by or self.owner)("CreatePolicyChangeRequest", policy_change=self.change(**rules))

    def request_refusal(self, by: User | None = None, **rules: Any) -> Any:
        return (by or self.owner).failure("CreatePolicyChangeRequest", policy_change=self.change(**rules))

    def review(self, by: User, request: PromotionRequest, verdict: int = REVIEW_VERDICT_APPROVE, **fields: Any) -> Any:
        return by("ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=verdict, **fields)

    def approved(self, **rules: Any) -> PromotionRequest:
        """A request of the owner that ann and bob have approved."""
        request = self.request(**rules)
        self.review(self.ann, request)
        return self.review(self.bob, request)

    def get(self, request: PromotionRequest) -> PromotionRequest:
        return self.owner("GetPromotionRequest", promotion_request_rid=request.rid)

    def revisions(self) -> list[BranchPolicy]:
        rpc = "ListBranchPolicyRevisions" if self.model else "ListFolderBranchPolicyRevisions"
        return list(self.admin(rpc, **self.where).policies)


RULE = ApprovalRule(required=2, approvers=["group:risk", "user:owner"])
STRICT: dict[str, Any] = {
    "approvals": RULE,
    "promotion_only": True,
    "promoters": Principals(principals=["user:jane"]),
    "min_time_as_head": Duration(seconds=60),
}
LESS = ApprovalRule(required=1, approvers=["group:risk", "user:owner"])


@pytest.fixture(params=["of a model", "of a folder"])
def place(request: pytest.FixtureRequest, admin: User, registry: Registry) -> Place:
    folder = f"ri.compass.main.folder.{uuid.uuid4()}"
    model = admin.create_model("production", folder) if request.param == "of a model" else None
    people = {"owner": registry.user("owner")} | {name: registry.user(name, "risk") for name in ("ann", "bob", "cid")}
    place = Place(admin, **people, model=model, folder_rid=folder)
    for principal, role in (("user:owner", ROLE_OWNER), ("group:risk", ROLE_VIEWER)):
        admin("GrantRole", resource_rid=place.rid, principal=principal, role=role)
    # That approvals are wanted for the first time weakens nothing, nor does whatever is set with it.
    assert place.set(**STRICT).revision == 1
    return place


WEAKER: dict[str, dict[str, Any]] = {
    "fewer approvals": {"approvals": LESS},
    "no approvals": {"clear_fields": ["approvals"]},
    "a puppet who approves": {"approvals": ApprovalRule(required=2, approvers=[*RULE.approvers, "user:puppet"])},
    "more time to approve": {
        "approvals": ApprovalRule(required=2, approvers=RULE.approvers, expire_after=Duration(seconds=10**6))
    },
    "versions that are created": {"promotion_only": False},
    "versions that are created, by default": {"clear_fields": ["promotion_only"]},
    "a puppet who promotes": {"promoters": Principals(principals=["user:jane", "user:puppet"])},
    "all promoters": {"clear_fields": ["promoters"]},
    "a shorter time": {"min_time_as_head": Duration(seconds=59)},
    "one who rolls back": {"rollbackers": Principals(principals=["user:puppet"])},
}


@pytest.mark.parametrize("rules", WEAKER.values(), ids=WEAKER.keys())
def test_no_owner_weakens_a_policy_that_wants_approvals_without_them(place: Place, rules: dict[str, Any]) -> None:
    for by in (place.owner, place.admin):
        refused = place.refusal(by, **rules)
        assert (refused.name, refused.code) == ("ApprovalRequired", grpc.StatusCode.FAILED_PRECONDITION)
        assert refused.parameters == {
            "modelRid": place.rid if place.model else "",
            "branchName": "master",
            "required": "2",
            "given": "0",
            "promotionRequestRid": "",
            "resourceRid": place.rid,
        }
        assert "CreatePolicyChangeRequest" in refused.message
    request = place.request(**rules)
    assert (request.kind, request.state, request.requested_by) == (
        PROMOTION_REQUEST_KIND_POLICY_CHANGE,
        PROMOTION_REQUEST_STATE_OPEN,
        "user:owner",
    )
    place.review(place.ann, request)
    refused = place.refusal(**rules)
    assert (refused.parameters["given"], refused.parameters["promotionRequestRid"]) == ("1", request.rid)
    place.review(place.bob, request)
    changed = place.set(**rules)
    assert (changed.revision, changed.promotion_request_rid) == (2, request.rid)
    done = place.get(request)
    assert (done.state, done.closed_by, done.made_policy_revision) == (
        PROMOTION_REQUEST_STATE_PROMOTED,
        "user:owner",
        2,
    )
    assert [policy.promotion_request_rid for policy in place.revisions()] == [request.rid, ""]


def test_an_approved_change_is_carried_out_once(place: Place) -> None:
    request = place.approved(approvals=LESS)
    place.set(approvals=LESS)
    back = place.set(approvals=RULE)
    assert (back.revision, back.HasField("promotion_request_rid")) == (3, False)
    refused = place.refusal(approvals=LESS)
    assert (refused.name, refused.parameters["promotionRequestRid"]) == ("ApprovalRequired", "")
    assert place.request(approvals=LESS).rid != request.rid


def test_what_is_as_strict_or_stricter_goes_on_without_approvals(place: Place) -> None:
    stricter: list[dict[str, Any]] = [
        {},
        {"approvals": ApprovalRule(required=3, approvers=["group:risk"], expire_after=Duration(seconds=3600))},
        {"min_time_as_head": Duration(seconds=61)},
        {"promoters": Principals(principals=["user:jane"])},
        {"allowed_sources": AllowedSources()},
        # What is set is not taken away.
        {"promotion_only": True, "clear_fields": ["promotion_only"]},
    ]
    for number, rules in enumerate(stricter, start=2):
        refused = place.request_refusal(**rules)
        assert (refused.name, refused.parameters) == (
            "ApprovalsNotRequired",
            {"resourceRid": place.rid, "branchName": "master"},
        )
        changed = place.set(**rules)
        assert (changed.revision, changed.HasField("promotion_request_rid")) == (number, False)
    if place.model:
        place.owner("LockBranch", model_rid=place.rid, reason="incident 42")
        assert not place.owner("UnlockBranch", model_rid=place.rid).HasField("lock")


def test_a_policy_that_wants_no_approvals_is_weakened_without(place: Place) -> None:
    place.set(branch="dev", promotion_only=True)
    refused = place.request_refusal(branch="dev", clear_fields=["promotion_only"])
    assert refused.name == "ApprovalsNotRequired"
    assert place.set(branch="dev", clear_fields=["promotion_only"]).revision == 2


def test_a_new_revision_makes_a_request_open_again(place: Place) -> None:
    request = place.approved(approvals=LESS)
    assert (request.state, request.policy_revision) == (PROMOTION_REQUEST_STATE_APPROVED, 1)
    place.set(min_time_as_head=Duration(seconds=90))
    stale = place.get(request)
    assert (stale.state, stale.approvals[0].given, stale.policy_revision) == (PROMOTION_REQUEST_STATE_OPEN, 0, 2)
    assert [(review.policy_revision, review.counts) for review in stale.reviews] == [(1, False), (1, False)]
    assert place.refusal(approvals=LESS).parameters["given"] == "0"
    wanted = {"promotion_request_rid": request.rid, "verdict": REVIEW_VERDICT_APPROVE}
    unseen = place.ann.failure("ReviewPromotionRequest", **wanted, expected_policy_revision=1)
    assert (unseen.name, unseen.parameters) == (
        "BranchPolicyChanged",
        {"resourceRid": place.rid, "branchName": "master", "expectedRevision": "1", "actualRevision": "2"},
    )
    place.review(place.ann, request, expected_policy_revision=2)
    assert place.review(place.cid, request).state == PROMOTION_REQUEST_STATE_APPROVED
    assert place.set(approvals=LESS).promotion_request_rid == request.rid


def test_neither_who_requests_a_change_nor_who_makes_it_counts_among_those_who_approve_it(place: Place) -> None:
    request = place.request(approvals=LESS)
    verdict = {"promotion_request_rid": request.rid, "verdict": REVIEW_VERDICT_APPROVE}
    # The one is an approver by the rule, the other an administrator.
    for by in (place.owner, place.admin):
        assert by.failure("ReviewPromotionRequest", **verdict).name == "ReviewPromotionRequestPermissionDenied"
    place.admin("GrantRole", resource_rid=place.rid, principal="user:ann", role=ROLE_OWNER)
    place.review(place.ann, request)
    assert place.review(place.bob, request).state == PROMOTION_REQUEST_STATE_APPROVED
    refused = place.refusal(place.ann, approvals=LESS)
    assert (refused.parameters["given"], refused.parameters["promotionRequestRid"]) == ("1", request.rid)
    # An administrator may carry it out, who has approved nothing.
    assert place.set(place.admin, approvals=LESS).promotion_request_rid == request.rid
    assert place.get(request).closed_by == "user:admin"


def test_the_same_change_is_the_same_however_it_is_written(place: Place) -> None:
    staging, other = place.admin.create_model("staging"), place.admin.create_model("other")
    for model in (staging, other):
        place.admin("GrantRole", resource_rid=model.rid, principal="user:owner", role=ROLE_VIEWER)
        place.admin("GrantRole", resource_rid=model.rid, principal="group:risk", role=ROLE_VIEWER)
    place.set(allowed_sources=AllowedSources(), promotion_only=True)
    ways: list[dict[str, Any]] = [
        {
            "clear_fields": ["promotion_only", "approvals"],
            "allowed_sources": AllowedSources(
                sources=[AllowedSource(model_rid=staging.rid), AllowedSource(model_rid=other.rid)]
            ),
            "promoters": Principals(principals=["user:jane", "user:joe"]),
            "rollbackers": Principals(principals=["user:b", "user:a"]),
        },
        {
            "branch": "master",
            "expected_revision": 2,
            "clear_fields": ["approvals", "promotion_only", "approvals"],
            "allowed_sources": AllowedSources(
                sources=[
                    AllowedSource(model_rid=other.rid, branch="master"),
                    AllowedSource(model_rid=staging.rid, branch="master"),
                ]
            ),
            "promoters": Principals(principals=["user:joe", "user:jane", "user:joe"]),
            "rollbackers": Principals(principals=["user:a", "user:b"]),
        },
    ]
    request = place.approved(**ways[0])
    refused = place.request_refusal(**ways[1])
    assert (refused.name, refused.parameters) == ("PromotionRequestAlreadyOpen", {"promotionRequestRid": request.rid})
    for different in ({"branch": "dev"}, {"clear_fields": ["approvals"]}, {"promoters": None}):
        other_change = place.change(**ways[1] | different)
        assert other_change != request.policy_change
        if "branch" not in different:
            assert place.refusal(**ways[1] | different).parameters["promotionRequestRid"] == ""
    assert place.set(**ways[1]).promotion_request_rid == request.rid


def test_a_change_that_expects_another_revision_is_not_requested(place: Place) -> None:
    assert place.request_refusal(approvals=LESS, expected_revision=7).name == "BranchPolicyChanged"
    puppets = ApprovalRule(required=2, approvers=["user:puppet"])
    assert place.request_refusal(approvals=puppets).name == "InvalidArgument"


def test_a_request_for_a_change_is_rejected_and_withdrawn_like_one_for_a_promotion(place: Place) -> None:
    rejected = place.review(place.cid, place.approved(approvals=LESS), REVIEW_VERDICT_REJECT, comment="no")
    assert (rejected.state, rejected.closed_by) == (PROMOTION_REQUEST_STATE_REJECTED, "user:cid")
    assert place.refusal(approvals=LESS).parameters["promotionRequestRid"] == ""
    again = place.request(approvals=LESS)
    wanted = {"promotion_request_rid": again.rid}
    assert place.ann.failure("WithdrawPromotionRequest", **wanted).name == "WithdrawPromotionRequestPermissionDenied"
    assert place.owner("WithdrawPromotionRequest", **wanted).state == PROMOTION_REQUEST_STATE_WITHDRAWN
    third = place.request(approvals=LESS)
    place.admin("GrantRole", resource_rid=place.rid, principal="user:ann", role=ROLE_OWNER)
    assert place.ann("WithdrawPromotionRequest", promotion_request_rid=third.rid).closed_by == "user:ann"


def test_a_request_for_a_change_expires_by_the_rule_that_it_would_weaken(place: Place) -> None:
    soon = ApprovalRule(required=2, approvers=RULE.approvers, expire_after=Duration(nanos=1_000_000))
    place.set(approvals=soon)
    request = place.request(approvals=LESS)
    # By the clock of the database, which an answer of a later call has moved on.
    while place.get(request).state == PROMOTION_REQUEST_STATE_OPEN:
        pass
    assert place.get(request).state == PROMOTION_REQUEST_STATE_EXPIRED
    assert place.request(approvals=LESS).rid != request.rid


def test_the_same_request_id_requests_a_change_once(place: Place) -> None:
    wanted = {"policy_change": place.change(approvals=LESS), "request_id": str(uuid.uuid4())}
    first = place.owner("CreatePolicyChangeRequest", **wanted, reason="too slow")
    assert first.reason == "too slow"
    named = place.change(approvals=LESS, branch="master")
    assert place.owner("CreatePolicyChangeRequest", **wanted | {"policy_change": named}, reason="too slow") == first
    used = place.owner.failure("CreatePolicyChangeRequest", **wanted, reason="another")
    assert used.name == "RequestIdAlreadyUsed"


def test_a_review_of_a_change_that_expects_a_head_is_refused(place: Place) -> None:
    request = place.request(approvals=LESS)
    some_version = "ri.models.main.model-version.99999999-9999-4999-8999-999999999999"
    refused = place.ann.failure(
        "ReviewPromotionRequest",
        promotion_request_rid=request.rid,
        verdict=REVIEW_VERDICT_APPROVE,
        expected_head_version_rid=some_version,
    )
    assert (refused.name, [field for field, _ in refused.violations]) == (
        "InvalidArgument",
        ["expected_head_version_rid"],
    )


def all_at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    """What each of so many calls at once returned, or how it failed."""

    def attempt(_: int) -> Any:
        try:
            return call()
        except grpc.RpcError as error:
            return failure_of(error)

    return at_once(count, attempt)


def test_of_16_callers_who_carry_out_one_approved_change_one_makes_a_revision(place: Place) -> None:
    request = place.approved(approvals=LESS)

    came = all_at_once(16, lambda: place.set(approvals=LESS, expected_revision=1))
    made = [each for each in came if isinstance(each, BranchPolicy)]
    assert [each.promotion_request_rid for each in made] == [request.rid]
    # Which of the two depends on whether it saw the new revision, or the request closed.
    assert {each.name for each in came if each not in made} <= {"BranchPolicyChanged", "ApprovalRequired"}
    assert [policy.revision for policy in place.revisions()] == [2, 1]


def test_of_callers_who_expect_no_revision_one_consumes_the_request_and_the_others_change_nothing(place: Place) -> None:
    request = place.approved(promotion_only=False)
    came = all_at_once(4, lambda: place.set(promotion_only=False))
    made = sorted((each for each in came if isinstance(each, BranchPolicy)), key=lambda policy: policy.revision)
    assert [each.promotion_request_rid for each in made] == [request.rid, *[""] * (len(made) - 1)]
    assert {each.name for each in came if each not in made} <= {"ApprovalRequired"}
    assert [policy.promotion_only for policy in place.revisions()] == [*[False] * len(made), True]


def test_the_policy_of_a_branch_and_of_its_folder_are_weakened_each_by_its_own_rule(
    admin: User, registry: Registry
) -> None:
    folder = f"ri.compass.main.folder.{uuid.uuid4()}"
    model = admin.create_model("production", folder)
    people = {name: registry.user(name) for name in ("owner", "ann", "bob", "cid")}
    for name in people:
        role = ROLE_OWNER if name == "owner" else ROLE_VIEWER
        admin("GrantRole", resource_rid=folder, principal=f"user:{name}", role=role)
    of_model, of_folder = (Place(admin, **people, model=of, folder_rid=folder) for of in (model, None))
    of_model.set(approvals=ApprovalRule(required=1, approvers=["user:ann"]), promotion_only=True)
    of_folder.set(approvals=ApprovalRule(required=1, approvers=["user:bob"]), promotion_only=True)
    for place, approver, other in ((of_model, of_model.ann, of_model.bob), (of_folder, of_model.bob, of_model.ann)):
        request = place.request(promotion_only=False)
        assert [(each.resource_rid, each.required) for each in request.approvals] == [(place.rid, 1)]
        refused = other.failure(
            "ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=REVIEW_VERDICT_APPROVE
        )
        assert refused.name == "ReviewPromotionRequestPermissionDenied"
        assert place.review(approver, request).state == PROMOTION_REQUEST_STATE_APPROVED
        assert place.set(promotion_only=False).promotion_request_rid == request.rid


def test_the_request_behind_a_folders_policy_is_told_to_those_who_may_see_it(admin: User, registry: Registry) -> None:
    folder = f"ri.compass.main.folder.{uuid.uuid4()}"
    model = admin.create_model("production", folder)
    ann, dan = registry.user("ann"), registry.user("dan")
    for rid, principal in ((folder, "user:ann"), (model.rid, "user:dan")):
        admin("GrantRole", resource_rid=rid, principal=principal, role=ROLE_VIEWER)
    place = Place(admin, admin, ann, ann, ann, None, folder)
    place.set(approvals=ApprovalRule(required=1, approvers=["user:ann"]))
    request = place.request(clear_fields=["approvals"])
    place.review(ann, request)
    place.set(clear_fields=["approvals"])
    for user, rid in ((ann, request.rid), (dan, "")):
        of_folder = user("GetBranchPolicy", model_rid=model.rid).folder_policy
        assert (of_folder.revision, of_folder.promotion_request_rid) == (2, rid)


def listed(user: User, **wanted: Any) -> list[str]:
    found, token = [], None
    while True:
        page = user("ListPromotionRequests", page_token=token, **wanted)
        found += [request.rid for request in page.promotion_requests]
        if not page.HasField("next_page_token"):
            return found
        token = page.next_page_token


def test_requests_for_changes_are_listed_for_those_who_have_a_role_there(place: Place, registry: Registry) -> None:
    requests = [place.request(**rules).rid for rules in ({"approvals": LESS}, {"promotion_only": False})]
    requests.reverse()
    # Two of its principals have a role there, of which the first is listed no less often.
    place.admin("GrantRole", resource_rid=place.rid, principal="user:ann", role=ROLE_VIEWER)
    for size in (1, 2, 100):
        for user, wanted in ((place.ann, {}), (place.ann, {"waiting_for_me": True}), (place.owner, {})):
            assert [rid for rid in listed(user, page_size=size, **wanted) if rid in requests] == requests
        for user in (place.owner, place.admin):
            assert not {*requests}.intersection(listed(user, page_size=100, waiting_for_me=True))
    stranger = registry.user(str(uuid.uuid4()), "risk2")
    assert listed(stranger) == []


def test_an_invisible_request_for_a_change_answers_like_an_absent_one(place: Place, jane: User) -> None:
    secret = place.request(approvals=LESS)
    absent = "ri.models.main.promotion-request.99999999-9999-4999-8999-999999999999"
    for rpc, fields in (
        ("GetPromotionRequest", {}),
        ("WithdrawPromotionRequest", {}),
        ("ReviewPromotionRequest", {"verdict": REVIEW_VERDICT_APPROVE}),
        ("ReviewPromotionRequest", {"verdict": REVIEW_VERDICT_REJECT, "expected_policy_revision": 1}),
    ):
        invisible, missing = (
            normalised(jane, rpc, {secret.rid: absent}, promotion_request_rid=rid, **fields)
            for rid in (secret.rid, absent)
        )
        assert invisible == missing


def test_who_may_not_set_a_policy_is_answered_as_by_that(place: Place, jane: User) -> None:
    """Whether the policy wants approvals, and which change is requested, is told to owners alone."""
    rpc = "SetBranchPolicy" if place.model else "SetFolderBranchPolicy"
    place.request(approvals=LESS)
    for by in (jane, place.ann):
        for rules in ({"approvals": LESS}, {"promotion_only": True}):
            asked = normalised(by, "CreatePolicyChangeRequest", {}, policy_change=place.change(**rules))
            assert asked == normalised(by, rpc, {}, **place.where, **rules)
    hidden = place.admin.create_model("hidden")
    named = [
        {"allowed_sources": AllowedSources(sources=[AllowedSource(model_rid=rid)])}
        for rid in (hidden.rid, ABSENT_MODEL)
    ]
    invisible, absent = (
        normalised(
            place.owner, "CreatePolicyChangeRequest", {hidden.rid: ABSENT_MODEL}, policy_change=place.change(**rules)
        )
        for rules in named
    )
    assert invisible == absent


def test_allowed_sources_that_a_reader_may_not_see_are_counted_and_keep_it_from_reviewing(place: Place) -> None:
    hidden = place.admin.create_model("hidden")
    place.admin("GrantRole", resource_rid=hidden.rid, principal="user:owner", role=ROLE_VIEWER)
    place.set(allowed_sources=AllowedSources())
    request = place.request(allowed_sources=AllowedSources(sources=[AllowedSource(model_rid=hidden.rid)]))

    def told(each: PromotionRequest) -> tuple[int, int]:
        change = each.policy_change.branch if place.model else each.policy_change.folder
        return len(change.allowed_sources.sources), change.allowed_sources.hidden_count

    assert told(request) == (1, 0)
    seen = place.ann("GetPromotionRequest", promotion_request_rid=request.rid)
    assert told(seen) == (0, 1)
    assert hidden.rid.encode() not in seen.SerializeToString()
    [in_list] = [each for each in place.ann("ListPromotionRequests").promotion_requests if each.rid == request.rid]
    assert told(in_list) == (0, 1)
    assert request.rid not in listed(place.ann, waiting_for_me=True)
    refused = place.ann.failure(
        "ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=REVIEW_VERDICT_APPROVE
    )
    assert (refused.name, refused.parameters) == ("ModelNotFound", {"modelRid": ""})
    place.admin("GrantRole", resource_rid=hidden.rid, principal="group:risk", role=ROLE_VIEWER)
    assert request.rid in listed(place.ann, waiting_for_me=True)
    assert told(place.review(place.ann, request)) == (1, 0)
