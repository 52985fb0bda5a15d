"""Requests for promotion: who makes, reviews and withdraws them, what an approval counts for, and what consumes it."""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PROMOTION_REQUEST_STATE_REJECTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    PromotionRequest,
)
from tests.builders import model_api
from tests.rpc.approving import weaken_policy
from tests.rpc.harness import Registry, User
from tests.rpc.test_no_oracle import ABSENT_MODEL, ABSENT_VERSION, normalised

pytestmark = pytest.mark.database("shared")


class Office(NamedTuple):
    """A branch that wants two approvals of group:risk, a version for it, and who has to do with both.

    The maker created the version in staging, the asker may promote into production, and the three of group:risk see
    both models.
    """

    registry: Registry
    admin: User
    staging: Model
    production: Model
    source: ModelVersion
    maker: User
    asker: User
    ann: User
    bob: User
    cid: User

    def request(self, **fields: Any) -> PromotionRequest:
        """Request the promotion, as the asker."""
        return self.asker("CreatePromotionRequest", **self.wanted(**fields))

    def wanted(self, **fields: Any) -> dict[str, Any]:
        """What a request for the promotion says."""
        return {"model_rid": self.production.rid, "source_model_version_rid": self.source.rid} | fields

    def review(self, by: User, request: PromotionRequest, verdict: int = REVIEW_VERDICT_APPROVE, **fields: Any) -> Any:
        return by("ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=verdict, **fields)

    def approved(self, **fields: Any) -> PromotionRequest:
        """A request that ann and bob have approved."""
        request = self.request(**fields)
        self.review(self.ann, request)
        return self.review(self.bob, request)

    def set_rule(self, required: int = 2, approvers: tuple[str, ...] = ("group:risk",), **fields: Any) -> None:
        rule = ApprovalRule(required=required, approvers=approvers, **fields)
        self.admin("SetBranchPolicy", model_rid=self.production.rid, approvals=rule)

    def weaken_rule(self, approvers: tuple[str, ...]) -> None:
        """Set the rule although it weakens the one that there is."""
        rule = ApprovalRule(required=2, approvers=approvers)
        weaken_policy(self.registry, self.admin, model_rid=self.production.rid, approvals=rule)

    def promote(self, by: User | None = None, **fields: Any) -> ModelVersion:
        return (by or self.asker).promote(self.source, self.production, **fields)

    def refusal(self, by: User | None = None, **fields: Any) -> Any:
        """How a promotion is refused."""
        return (by or self.asker).failure("PromoteVersion", **self.wanted(preview=True, **fields))


@pytest.fixture
def office(admin: User, registry: Registry) -> Office:
    staging, production = (admin.create_model(name) for name in ("staging", "production"))
    people = {name: registry.user(name) for name in ("maker", "asker")}
    people |= {name: registry.user(name, "risk") for name in ("ann", "bob", "cid")}

    def grant(model: Model, principal: str, role: int) -> None:
        admin("GrantRole", resource_rid=model.rid, principal=principal, role=role)

    grant(staging, "user:maker", ROLE_EDITOR)
    grant(staging, "user:asker", ROLE_VIEWER)
    grant(production, "user:asker", ROLE_PROMOTER)
    for model in (staging, production):
        grant(model, "group:risk", ROLE_VIEWER)
    source = people["maker"].create_version(staging)
    office = Office(registry, admin, staging, production, source, **people)
    office.set_rule()
    return office


def test_two_approvals_let_a_version_be_promoted_once(office: Office) -> None:
    refused = office.refusal()
    assert (refused.name, refused.parameters) == (
        "ApprovalRequired",
        {
            "modelRid": office.production.rid,
            "branchName": "master",
            "required": "2",
            "given": "0",
            "promotionRequestRid": "",
            "resourceRid": office.production.rid,
        },
    )
    request = office.request(reason="for the audit")
    assert (request.state, request.requested_by, request.reason) == (
        PROMOTION_REQUEST_STATE_OPEN,
        "user:asker",
        "for the audit",
    )
    assert (request.source_model_version_rid, request.branch) == (office.source.rid, "master")

    one = office.review(office.ann, request, comment="fine")
    assert (one.state, one.approvals[0].given, one.approvals[0].required) == (PROMOTION_REQUEST_STATE_OPEN, 1, 2)
    assert one.reviews[0].principals == ["group:risk"]
    refused = office.refusal()
    assert (refused.parameters["given"], refused.parameters["promotionRequestRid"]) == ("1", request.rid)
    two = office.review(office.bob, request)
    assert two.state == PROMOTION_REQUEST_STATE_APPROVED

    promoted = office.promote()
    done = office.asker("GetPromotionRequest", promotion_request_rid=request.rid)
    assert (done.state, done.closed_by) == (PROMOTION_REQUEST_STATE_PROMOTED, "user:asker")
    assert done.model_version_rid == promoted.rid
    record = office.asker("GetPromotion", promotion_rid=done.promotion_rid)
    assert record.promotion_request_rid == request.rid
    assert [review.comment for review in done.reviews] == ["fine", ""]

    again = office.refusal()
    assert (again.name, again.parameters["given"]) == ("ApprovalRequired", "0")


def test_one_rejection_of_an_approver_ends_a_request_and_another_can_be_made(office: Office) -> None:
    request = office.approved()
    rejected = office.review(office.cid, request, REVIEW_VERDICT_REJECT, comment="no")
    assert (rejected.state, rejected.closed_by) == (PROMOTION_REQUEST_STATE_REJECTED, "user:cid")
    closed = office.ann.failure(
        "ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=REVIEW_VERDICT_APPROVE
    )
    assert (closed.name, closed.parameters) == (
        "PromotionRequestClosed",
        {"promotionRequestRid": request.rid, "state": "REJECTED"},
    )
    assert office.refusal().name == "ApprovalRequired"
    assert office.request().rid != request.rid


def test_a_request_is_withdrawn_by_who_made_it_or_by_an_owner(office: Office) -> None:
    request = office.request()
    wanted = {"promotion_request_rid": request.rid}
    assert office.ann.failure("WithdrawPromotionRequest", **wanted).name == "WithdrawPromotionRequestPermissionDenied"
    withdrawn = office.asker("WithdrawPromotionRequest", **wanted)
    assert (withdrawn.state, withdrawn.closed_by) == (PROMOTION_REQUEST_STATE_WITHDRAWN, "user:asker")
    assert office.asker.failure("WithdrawPromotionRequest", **wanted).parameters["state"] == "WITHDRAWN"
    office.admin("GrantRole", resource_rid=office.production.rid, principal="user:ann", role=ROLE_OWNER)
    again = office.request()
    assert office.ann("WithdrawPromotionRequest", promotion_request_rid=again.rid).closed_by == "user:ann"


def test_there_is_at_most_one_open_request_for_the_same(office: Office) -> None:
    request = office.request()
    refused = office.asker.failure("CreatePromotionRequest", **office.wanted())
    assert (refused.name, refused.parameters) == (
        "PromotionRequestAlreadyOpen",
        {"promotionRequestRid": request.rid},
    )
    other = office.maker.create_version(office.staging, model_api=model_api("other"))
    office.request(source_model_version_rid=other.rid)


def test_a_request_for_a_branch_that_wants_no_approvals_is_refused(office: Office) -> None:
    refused = office.asker.failure("CreatePromotionRequest", **office.wanted(branch="dev"))
    assert (refused.name, refused.parameters) == (
        "ApprovalsNotRequired",
        {"resourceRid": office.production.rid, "branchName": "dev"},
    )
    office.promote(branch="dev")


def test_those_who_had_a_part_do_not_approve_whatever_they_are(office: Office, registry: Registry) -> None:
    """The requester, the creator of the root, who promoted on the way; administrators are not exempt."""
    rigging = office.admin.create_model("rigging")
    office.admin("GrantRole", resource_rid=rigging.rid, principal="user:joe", role=ROLE_PROMOTER)
    office.admin("GrantRole", resource_rid=office.staging.rid, principal="user:joe", role=ROLE_VIEWER)
    office.admin("GrantRole", resource_rid=rigging.rid, principal="group:risk", role=ROLE_VIEWER)
    office.admin("GrantRole", resource_rid=rigging.rid, principal="user:asker", role=ROLE_VIEWER)
    passed_on = registry.user("joe").promote(office.source, rigging)
    source = office.admin.promote(passed_on, rigging)
    request = office.request(source_model_version_rid=source.rid)
    for name in ("asker", "maker", "joe", "admin"):
        for model in (rigging, office.production):
            role = ROLE_PROMOTER if name == "asker" else ROLE_VIEWER
            office.admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=role)
        refused = registry.user(name, "risk").failure(
            "ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=REVIEW_VERDICT_APPROVE
        )
        assert refused.name == "ReviewPromotionRequestPermissionDenied", name
    assert office.review(office.ann, request).approvals[0].given == 1


def test_an_approver_who_carries_it_out_does_not_count(office: Office) -> None:
    office.admin("GrantRole", resource_rid=office.production.rid, principal="user:ann", role=ROLE_PROMOTER)
    office.approved()
    refused = office.refusal(office.ann)
    assert (refused.name, refused.parameters["given"]) == ("ApprovalRequired", "1")
    assert office.promote().version_number == 1


def test_an_approval_counts_for_the_head_that_it_saw(office: Office, registry: Registry) -> None:
    request = office.approved()
    other = office.maker.create_version(office.staging, model_api=model_api("churn"))
    urgent = office.request(source_model_version_rid=other.rid)
    office.review(office.ann, urgent)
    office.review(office.cid, urgent)
    head = office.promote(source_model_version_rid=other.rid)

    stale = office.asker("GetPromotionRequest", promotion_request_rid=request.rid)
    assert (stale.state, stale.approvals[0].given) == (PROMOTION_REQUEST_STATE_OPEN, 0)
    assert (len(stale.reviews), stale.head_version_rid) == (2, head.rid)
    assert office.refusal().parameters["given"] == "0"
    unseen = office.ann.failure(
        "ReviewPromotionRequest",
        promotion_request_rid=request.rid,
        verdict=REVIEW_VERDICT_APPROVE,
        expected_head_version_rid=office.source.rid,
    )
    assert unseen.name == "BranchHeadChanged"
    policy = office.ann.failure(
        "ReviewPromotionRequest",
        promotion_request_rid=request.rid,
        verdict=REVIEW_VERDICT_APPROVE,
        expected_policy_revision=7,
    )
    assert (policy.name, policy.parameters["actualRevision"]) == ("BranchPolicyChanged", "1")
    office.review(office.ann, request, expected_head_version_rid=head.rid, expected_policy_revision=1)
    assert office.review(office.cid, request).state == PROMOTION_REQUEST_STATE_APPROVED
    assert office.promote().version_number == 2


def test_an_approval_counts_as_long_as_the_policy_names_its_principal(office: Office) -> None:
    request = office.approved()
    office.weaken_rule(approvers=("group:safety", "user:ann"))
    stale = office.asker("GetPromotionRequest", promotion_request_rid=request.rid)
    # Ann counted under group:risk, and counts under her own name once she says so.
    assert (stale.state, stale.approvals[0].given) == (PROMOTION_REQUEST_STATE_OPEN, 0)
    assert office.refusal().parameters["given"] == "0"
    assert office.review(office.ann, request).approvals[0].given == 1
    # What was said stays on record, and counts again where the policy names it again.
    office.weaken_rule(approvers=("group:risk",))
    again = office.asker("GetPromotionRequest", promotion_request_rid=request.rid)
    assert (again.state, [review.counts for review in again.reviews]) == (PROMOTION_REQUEST_STATE_APPROVED, [True] * 3)


def test_a_user_counts_once(office: Office, registry: Registry) -> None:
    office.weaken_rule(approvers=("group:risk", "group:safety", "user:ann"))
    request = office.request()
    office.review(office.ann, request)
    again = office.review(registry.user("ann", "safety", "risk"), request)
    assert (again.state, again.approvals[0].given) == (PROMOTION_REQUEST_STATE_OPEN, 1)


def test_what_a_disabled_user_has_approved_counts_for_nothing(office: Office) -> None:
    request = office.approved()
    office.admin("DisablePrincipal", principal="user:ann", reason="its token was stolen")
    try:
        seen = office.bob("GetPromotionRequest", promotion_request_rid=request.rid)
        assert (seen.state, seen.approvals[0].given) == (PROMOTION_REQUEST_STATE_OPEN, 1)
        assert office.refusal().name == "ApprovalRequired"
        [listed] = office.bob("ListPromotionRequests", model_rid=office.production.rid).promotion_requests
        assert listed.state == PROMOTION_REQUEST_STATE_OPEN
    finally:
        office.admin("EnablePrincipal", principal="user:ann")
    assert office.promote().version_number == 1


def test_an_approval_that_was_given_before_is_not_written_down_again(office: Office) -> None:
    """Otherwise one approver could fill the record, of which only the newest reviews are told and counted."""
    request = office.approved()
    for _ in range(3):
        again = office.review(office.ann, request)
    assert (again.state, len(again.reviews)) == (PROMOTION_REQUEST_STATE_APPROVED, 2)


def test_each_level_wants_its_own_approvals_and_one_may_count_for_both(office: Office, registry: Registry) -> None:
    rule = ApprovalRule(required=1, approvers=["group:safety", "user:bob"])
    office.admin("SetFolderBranchPolicy", folder_rid=office.admin.folder, branch="master", approvals=rule)
    request = office.request()
    office.review(office.ann, request)
    three = office.review(office.cid, request)
    assert [(each.resource_rid, each.given) for each in three.approvals] == [
        (office.production.rid, 2),
        (office.admin.folder, 0),
    ]
    refused = office.refusal()
    assert (refused.parameters["resourceRid"], refused.parameters["required"]) == (office.admin.folder, "1")
    both = office.review(office.bob, request)
    assert [each.given for each in both.approvals] == [3, 1]
    assert both.reviews[-1].principals == ["group:risk", "user:bob"]
    assert office.promote().version_number == 1


def test_repeated_requests_are_carried_out_once(office: Office) -> None:
    key = str(uuid.uuid4())
    request = office.request(request_id=key)
    assert office.request(request_id=key) == request
    used = office.asker.failure("CreatePromotionRequest", **office.wanted(request_id=key, reason="other"))
    assert used.name == "RequestIdAlreadyUsed"
    one = office.review(office.ann, request, request_id=key)
    assert office.review(office.ann, request, request_id=key) == one
    office.review(office.bob, request)
    promoted = office.promote(request_id=key)
    assert office.promote(request_id=key) == promoted


def test_a_branch_with_approvals_lets_no_version_be_created(office: Office) -> None:
    refused = office.admin.failure("CreateModelVersion", model_rid=office.production.rid, model_api=model_api())
    assert (refused.name, refused.parameters["resourceRid"]) == ("BranchAcceptsPromotionsOnly", office.production.rid)


def test_the_last_approval_promotes_as_who_asked_where_the_policy_says_so(office: Office) -> None:
    office.set_rule(promote_when_approved=True)
    done = office.approved(reason="for the audit")
    assert (done.state, done.closed_by) == (PROMOTION_REQUEST_STATE_PROMOTED, "user:asker")
    head = office.asker("GetBranch", model_rid=office.production.rid, branch="master").head
    assert (head.rid, head.created_by) == (done.model_version_rid, "user:asker")
    assert office.asker("GetPromotion", promotion_rid=done.promotion_rid).reason == "for the audit"


def test_where_who_asked_may_not_promote_any_more_the_request_stays_approved(office: Office) -> None:
    office.set_rule(promote_when_approved=True)
    request = office.request()
    office.review(office.ann, request)
    office.admin("GrantRole", resource_rid=office.production.rid, principal="user:asker", role=ROLE_VIEWER)
    assert office.review(office.bob, request).state == PROMOTION_REQUEST_STATE_APPROVED
    assert office.promote(office.admin).version_number == 1


def test_check_promotion_tells_who_may_still_approve(office: Office) -> None:
    check = office.wanted(preview=True)
    [obstacle] = office.asker("CheckPromotion", **check).obstacles
    assert obstacle.error_name == "ApprovalRequired"
    assert "0 of 2 approvals; group:risk may still approve." in obstacle.description
    request = office.request()
    office.review(office.ann, request)
    [obstacle] = office.asker("CheckPromotion", **check).obstacles
    assert "1 of 2 approvals; group:risk may still approve." in obstacle.description
    office.review(office.bob, request)
    assert office.asker("CheckPromotion", **check).would_succeed


# What the caller may not see

ABSENT = "ri.models.main.promotion-request.99999999-9999-4999-8999-999999999999"


def test_an_invisible_request_answers_like_an_absent_one(office: Office, jane: User) -> None:
    """Also to one who sees its source, and whatever has become of it."""
    office.admin("GrantRole", resource_rid=office.staging.rid, principal="user:jane", role=ROLE_EDITOR)
    requests = [office.request()]
    office.asker("WithdrawPromotionRequest", promotion_request_rid=requests[0].rid)
    requests.append(office.approved())
    for rpc, fields in (
        ("GetPromotionRequest", {}),
        ("WithdrawPromotionRequest", {}),
        ("WithdrawPromotionRequest", {"request_id": str(uuid.uuid4())}),
        ("ReviewPromotionRequest", {"verdict": REVIEW_VERDICT_APPROVE}),
        ("ReviewPromotionRequest", {"verdict": REVIEW_VERDICT_REJECT, "request_id": str(uuid.uuid4())}),
    ):
        absent = normalised(jane, rpc, {}, promotion_request_rid=ABSENT, **fields)
        for request in requests:
            invisible = normalised(jane, rpc, {request.rid: ABSENT}, promotion_request_rid=request.rid, **fields)
            assert invisible == absent, rpc


def test_a_request_with_an_invisible_target_or_source_answers_like_one_with_an_absent_one(
    office: Office, jane: User, registry: Registry
) -> None:
    def refusal(by: User, hidden: str, absent: str, given: str, **fields: Any) -> bytes:
        return normalised(by, "CreatePromotionRequest", {hidden: absent}, **office.wanted(**fields) | {given: hidden})

    office.request()
    invisible = refusal(jane, office.production.rid, ABSENT_MODEL, "model_rid")
    assert invisible == refusal(jane, ABSENT_MODEL, ABSENT_MODEL, "model_rid")
    # Also of one for whose promotion there is a request, which one who does not see it is not told of.
    office.admin("GrantRole", resource_rid=office.production.rid, principal="user:jane", role=ROLE_PROMOTER)
    place = "source_model_version_rid"
    assert refusal(jane, office.source.rid, ABSENT_VERSION, place) == refusal(
        jane, ABSENT_VERSION, ABSENT_VERSION, place
    )
    refused = office.refusal(jane)
    assert refused.name == "ModelVersionNotFound"
    checked = [
        jane("CheckPromotion", **office.wanted(preview=True) | {place: rid})
        for rid in (office.source.rid, ABSENT_VERSION)
    ]
    told = [
        [(each.error_name, each.parameters.get("promotionRequestRid")) for each in one.obstacles] for one in checked
    ]
    assert told == [[("ModelVersionNotFound", None), ("ApprovalRequired", "")]] * 2


def test_a_source_that_the_reader_may_not_see_is_left_out_and_cannot_be_reviewed(
    office: Office, registry: Registry
) -> None:
    request = office.request()
    office.admin("GrantRole", resource_rid=office.production.rid, principal="user:dan", role=ROLE_VIEWER)
    dan = registry.user("dan")
    seen = dan("GetPromotionRequest", promotion_request_rid=request.rid)
    [listed] = dan("ListPromotionRequests", model_rid=office.production.rid).promotion_requests
    for blank in (seen, listed):
        assert not blank.HasField("source_model_rid")
        assert not blank.HasField("source_model_version_rid")
        assert not blank.HasField("content_digest")
        assert (blank.rid, blank.requested_by) == (request.rid, "user:asker")
    office.weaken_rule(approvers=("group:risk", "user:dan"))
    for verdict in (REVIEW_VERDICT_APPROVE, REVIEW_VERDICT_REJECT):
        refused = dan.failure("ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=verdict)
        assert (refused.name, refused.parameters) == (
            "ModelVersionNotFound",
            {"modelRid": office.production.rid, "modelVersionRid": ""},
        )
    assert not dan("ListPromotionRequests", waiting_for_me=True).promotion_requests


# Lists


def listed(user: User, **wanted: Any) -> list[str]:
    """The RIDs of the requests that a user is told of, page by page."""
    found, token = [], None
    while True:
        page = user("ListPromotionRequests", page_token=token, **wanted)
        found += [request.rid for request in page.promotion_requests]
        if not page.HasField("next_page_token"):
            return found
        token = page.next_page_token


def test_requests_are_listed_by_state_and_by_who_is_waited_for(office: Office, registry: Registry, jane: User) -> None:
    sources = [office.maker.create_version(office.staging, model_api=model_api(str(number))) for number in range(4)]
    requests = [office.request(source_model_version_rid=source.rid) for source in sources]
    fresh, half, ready, gone = (request.rid for request in requests)
    office.review(office.ann, requests[1])
    for reviewer in (office.ann, office.bob):
        office.review(reviewer, requests[2])
    office.asker("WithdrawPromotionRequest", promotion_request_rid=gone)

    of_model = {"model_rid": office.production.rid}
    # Others of the server see requests of theirs, too.
    mine = {request.rid for request in requests}
    waits = {"ann": [fresh], "bob": [half, fresh], "maker": [], "asker": []}
    states = {
        PROMOTION_REQUEST_STATE_OPEN: [half, fresh],
        PROMOTION_REQUEST_STATE_APPROVED: [ready],
        PROMOTION_REQUEST_STATE_WITHDRAWN: [gone],
        PROMOTION_REQUEST_STATE_REJECTED: [],
        PROMOTION_REQUEST_STATE_EXPIRED: [],
    }
    for size in (1, 2, 100):
        for name, waiting in waits.items():
            user, wanted = getattr(office, name), {"waiting_for_me": True, "page_size": size}
            assert [rid for rid in listed(user, **wanted) if rid in mine] == waiting, name
            if name != "maker":
                assert listed(user, **wanted, **of_model) == waiting, name
        for state, expected in states.items():
            assert [rid for rid in listed(office.ann, state=state, page_size=size) if rid in mine] == expected
            assert listed(office.admin, state=state, page_size=size, **of_model) == expected
        by_asker = listed(office.asker, requested_by="user:asker", page_size=size)
        assert [rid for rid in by_asker if rid in mine] == [gone, ready, half, fresh]
        assert not mine.intersection(listed(office.asker, branch="other", page_size=size))
        assert not mine.intersection(listed(jane, page_size=size, requested_by="user:asker"))
    # Not even the administrator's list of what waits has what it could not approve.
    assert fresh not in listed(office.admin, waiting_for_me=True, **of_model)
    assert jane.failure("ListPromotionRequests", **of_model).name == "ModelNotFound"
    page = office.ann("ListPromotionRequests", **of_model).promotion_requests
    assert [len(request.reviews) for request in page] == [0] * 4
    assert [request.approvals[0].given for request in page if request.approvals] == [2, 1, 0]


def test_a_page_token_belongs_to_its_query(office: Office) -> None:
    sources = [office.maker.create_version(office.staging, model_api=model_api(str(number))) for number in range(2)]
    for source in sources:
        office.request(source_model_version_rid=source.rid)
    token = office.ann("ListPromotionRequests", page_size=1).next_page_token
    for other in ({"waiting_for_me": True}, {"state": PROMOTION_REQUEST_STATE_OPEN}, {"branch": "master"}):
        assert office.ann.failure("ListPromotionRequests", page_token=token, **other).name == "InvalidPageToken"


def test_a_disabled_user_is_not_promoted_for(office: Office) -> None:
    office.set_rule(promote_when_approved=True)
    request = office.request()
    office.review(office.ann, request)
    office.admin("DisablePrincipal", principal="user:asker", reason="gone")
    try:
        assert office.review(office.bob, request).state == PROMOTION_REQUEST_STATE_APPROVED
    finally:
        office.admin("EnablePrincipal", principal="user:asker")


def test_what_is_granted_to_a_group_alone_does_not_promote(office: Office, registry: Registry) -> None:
    office.set_rule(promote_when_approved=True)
    office.admin("GrantRole", resource_rid=office.production.rid, principal="group:ml", role=ROLE_PROMOTER)
    office.admin("GrantRole", resource_rid=office.staging.rid, principal="group:ml", role=ROLE_VIEWER)
    member = registry.user("member", "ml")
    request = member("CreatePromotionRequest", **office.wanted())
    office.review(office.ann, request)
    assert office.review(office.bob, request).state == PROMOTION_REQUEST_STATE_APPROVED
    assert office.promote(member).created_by == "user:member"


def test_of_a_batch_only_the_first_entry_into_a_protected_branch_can_pass(office: Office) -> None:
    other = office.maker.create_version(office.staging, model_api=model_api("churn"))
    requests = [office.approved(), office.approved(source_model_version_rid=other.rid)]
    entries = [office.wanted(), office.wanted(source_model_version_rid=other.rid)]
    refused = office.asker.failure("BatchPromoteVersions", promotions=entries)
    assert (refused.name, refused.parameters["given"]) == ("ApprovalRequired", "0")
    assert refused.parameters["promotionRequestRid"] == requests[1].rid
    assert [field for field, _ in refused.violations] == ["promotions[1]"]
    # And twice the same is no way to consume an approval twice.
    twice = office.asker.failure("BatchPromoteVersions", promotions=[office.wanted()] * 2)
    assert (twice.name, [field for field, _ in twice.violations]) == ("ApprovalRequired", ["promotions[1]"])
    [made] = office.asker("BatchPromoteVersions", promotions=entries[:1]).promoted
    done = office.asker("GetPromotionRequest", promotion_request_rid=requests[0].rid)
    assert (done.state, done.promotion_rid) == (PROMOTION_REQUEST_STATE_PROMOTED, made.promotion_rid)


def test_the_request_tells_what_the_comparison_with_the_head_found(office: Office) -> None:
    office.approved()
    office.promote()
    other = office.maker.create_version(office.staging, model_api=model_api("other"))
    request = office.request(source_model_version_rid=other.rid)
    check = office.asker("CheckPromotion", **office.wanted(preview=True, source_model_version_rid=other.rid))
    assert (request.error_count, request.warning_count) == (check.error_count, check.warning_count)
    assert request.error_count > 0
    assert request.requested_head_version_rid == check.head_version_rid


def test_the_request_tells_of_warnings_where_there_is_no_error(office: Office) -> None:
    office.approved()
    office.promote()
    fewer_inputs = model_api()
    del fewer_inputs.inputs[0].tabular.columns[-1]
    other = office.maker.create_version(office.staging, model_api=fewer_inputs)
    request = office.request(source_model_version_rid=other.rid)
    assert (request.error_count, request.warning_count) == (0, 1)


def test_a_request_is_refused_as_the_promotion_would_be_but_for_what_may_pass(office: Office) -> None:
    office.admin("LockBranch", model_rid=office.production.rid, reason="incident 42")
    request = office.approved()
    assert office.refusal().name == "BranchLocked"
    office.admin("UnlockBranch", model_rid=office.production.rid)
    assert office.promote().version_number == 1
    assert office.asker("GetPromotionRequest", promotion_request_rid=request.rid).HasField("promotion_rid")
    expected = office.asker.failure(
        "CreatePromotionRequest", **office.wanted(expected_head_version_rid=office.source.rid)
    )
    assert expected.name == "BranchHeadChanged"
    assert office.ann.failure("CreatePromotionRequest", **office.wanted()).name == "PromoteVersionModelPermissionDenied"


def test_a_rollback_needs_no_approvals(office: Office) -> None:
    office.approved()
    first = office.promote()
    office.approved()
    office.promote()
    rolled_back = office.admin("RollbackBranch", model_rid=office.production.rid, to_version_number=1)
    assert rolled_back.source.promoted.previous_model_version_rid == first.rid
