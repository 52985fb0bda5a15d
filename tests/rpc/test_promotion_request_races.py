"""Requests for promotion when much happens to one at once, at two replicas: what was decided fits what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import ApprovalRule, BranchPolicy
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PROMOTION_REQUEST_STATE_REJECTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    PolicyChange,
    PromotionRequest,
)
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from tests.builders import model_api
from tests.conftest import OpenRepository
from tests.rpc.harness import Failure, Registry, User, failure_of, serving
from tests.storage.conftest import at_once

ROUNDS = 6
REVIEWERS = ("ann", "bob", "cid")


class Replicas(NamedTuple):
    """Two servers of one registry, and a version that is to be promoted into branches that want two approvals."""

    servers: tuple[Registry, Registry]
    source: ModelVersion
    target: Model

    def user(self, name: str, number: int = 0) -> User:
        groups = ("risk",) if name in REVIEWERS else ()
        return self.servers[number % 2].user(name, *groups)

    @property
    def admin(self) -> User:
        return self.user("admin")

    def protect(self, branch: str, approvers: tuple[str, ...] = ("group:risk",), **rule: Any) -> None:
        """Let a branch want two approvals."""
        approvals = ApprovalRule(required=2, approvers=approvers, **rule)
        self.admin("SetBranchPolicy", model_rid=self.target.rid, branch=branch, approvals=approvals)

    def wanted(self, branch: str, **fields: Any) -> dict[str, Any]:
        place = {"model_rid": self.target.rid, "source_model_version_rid": self.source.rid, "branch": branch}
        return place | fields

    def request(self, branch: str) -> PromotionRequest:
        return self.admin("CreatePromotionRequest", **self.wanted(branch))

    def review(self, name: str, request: PromotionRequest, verdict: int = REVIEW_VERDICT_APPROVE) -> PromotionRequest:
        number = REVIEWERS.index(name)
        return self.user(name, number)("ReviewPromotionRequest", promotion_request_rid=request.rid, verdict=verdict)

    def approved(self, branch: str) -> PromotionRequest:
        request = self.request(branch)
        for name in REVIEWERS[:2]:
            self.review(name, request)
        return request

    def promote(self, branch: str, number: int = 0) -> ModelVersion:
        return self.user("admin", number)("PromoteVersion", **self.wanted(branch, preview=True))

    def now(self, request: PromotionRequest) -> PromotionRequest:
        return self.admin("GetPromotionRequest", promotion_request_rid=request.rid)

    def versions(self, branch: str) -> list[str]:
        listed = self.admin("ListModelVersions", model_rid=self.target.rid, branch=branch)
        return [version.rid for version in listed.model_versions]


@pytest.fixture
def replicas(migrated_url: str, open_repository: OpenRepository) -> Iterator[Replicas]:
    with serving(open_repository(migrated_url)) as one, serving(open_repository(migrated_url)) as other:
        admin = one.user("admin")
        source = one.user("admin").create_version(admin.create_model("staging"))
        production = admin.create_model("production")
        for model_rid in (source.model_rid, production.rid):
            admin("GrantRole", resource_rid=model_rid, principal="group:risk", role=1)
        yield Replicas((one, other), source, production)


def all_of(*acts: Callable[[], Any]) -> list[Any]:
    """Do all at once, and return what each returned, or how it failed."""

    def attempt(number: int) -> Any:
        try:
            return acts[number]()
        except grpc.RpcError as error:
            return failure_of(error)

    return at_once(len(acts), attempt)


def has_head(replicas: Replicas, branch: str) -> None:
    replicas.admin("CreateModelVersion", model_rid=replicas.target.rid, branch=branch, model_api=model_api())


@pytest.mark.parametrize("is_new", [True, False], ids=["a new branch", "a branch with a head"])
def test_of_32_callers_who_promote_one_approved_request_one_makes_a_version(replicas: Replicas, is_new: bool) -> None:
    if not is_new:
        has_head(replicas, "master")
    replicas.protect("master")
    request = replicas.approved("master")

    came = all_of(*(lambda number=number: replicas.promote("master", number) for number in range(32)))

    made = [each for each in came if isinstance(each, ModelVersion)]
    refused = [each for each in came if isinstance(each, Failure)]
    assert (len(made), {each.name for each in refused}) == (1, {"ApprovalRequired"}), came
    assert {(each.parameters["given"], each.parameters["promotionRequestRid"]) for each in refused} == {("0", "")}
    assert replicas.versions("master")[0] == made[0].rid
    assert len(replicas.versions("master")) == (1 if is_new else 2)
    done = replicas.now(request)
    assert (done.state, done.model_version_rid) == (PROMOTION_REQUEST_STATE_PROMOTED, made[0].rid)
    [record] = replicas.admin("ListPromotions", model_version_rid=made[0].rid).promotions
    assert (record.rid, record.promotion_request_rid) == (done.promotion_rid, request.rid)


def test_approval_withdrawal_and_promotion_at_once_end_one_way(replicas: Replicas) -> None:
    for number in range(ROUNDS):
        branch = f"branch {number}"
        if number % 2:
            has_head(replicas, branch)
        replicas.protect(branch)
        request = replicas.request(branch)
        replicas.review("ann", request)
        before = len(replicas.versions(branch)) if number % 2 else 0

        approval, withdrawal, *promotions = all_of(
            lambda request=request: replicas.review("bob", request),
            lambda request=request: replicas.user("admin", 1)(
                "WithdrawPromotionRequest", promotion_request_rid=request.rid
            ),
            *(lambda branch=branch, number=number: replicas.promote(branch, number) for number in range(4)),
        )

        now = replicas.now(request)
        made = [each for each in promotions if isinstance(each, ModelVersion)]
        listed = replicas.admin("ListPromotions", model_rid=replicas.target.rid, branch=branch).promotions
        assert len(listed) == len(made)
        if now.state == PROMOTION_REQUEST_STATE_PROMOTED:
            assert [each.rid for each in made] == [now.model_version_rid]
            assert (withdrawal.name, withdrawal.parameters["state"]) == ("PromotionRequestClosed", "PROMOTED")
        else:
            assert (now.state, made) == (PROMOTION_REQUEST_STATE_WITHDRAWN, [])
            assert withdrawal.state == PROMOTION_REQUEST_STATE_WITHDRAWN
            is_late = isinstance(approval, Failure) and approval.parameters["state"] == "WITHDRAWN"
            assert is_late or approval.state == PROMOTION_REQUEST_STATE_APPROVED
            assert len(now.reviews) == (1 if is_late else 2)
        assert before + len(made) == (len(replicas.versions(branch)) if made or number % 2 else 0)


def test_a_review_beside_a_change_of_the_policy_counts_by_the_new_one(replicas: Replicas) -> None:
    for number in range(ROUNDS):
        branch = f"branch {number}"
        if number % 2:
            has_head(replicas, branch)
        replicas.protect(branch, approvers=("group:risk", "group:safety"))
        request = replicas.request(branch)
        replicas.review("ann", request)

        review, _ = all_of(
            lambda request=request: replicas.review("bob", request),
            lambda branch=branch: replicas.protect(branch, approvers=("group:safety",)),
        )

        if isinstance(review, Failure):
            assert review.name == "ReviewPromotionRequestPermissionDenied"
        now = replicas.now(request)
        assert (now.state, now.approvals[0].given) == (PROMOTION_REQUEST_STATE_OPEN, 0)
        [refused] = all_of(lambda branch=branch: replicas.promote(branch))
        assert (refused.name, refused.parameters["given"]) == ("ApprovalRequired", "0")


def test_a_rejection_beside_a_promotion_ends_one_way(replicas: Replicas) -> None:
    for number in range(ROUNDS):
        branch = f"branch {number}"
        replicas.protect(branch)
        request = replicas.approved(branch)

        rejection, promotion = all_of(
            lambda request=request: replicas.review("cid", request, REVIEW_VERDICT_REJECT),
            lambda branch=branch: replicas.promote(branch),
        )

        if isinstance(promotion, ModelVersion):
            assert (rejection.name, rejection.parameters["state"]) == ("PromotionRequestClosed", "PROMOTED")
            assert replicas.now(request).state == PROMOTION_REQUEST_STATE_PROMOTED
        else:
            assert promotion.name == "ApprovalRequired"
            assert rejection.state == replicas.now(request).state == PROMOTION_REQUEST_STATE_REJECTED


def test_of_many_who_request_the_same_at_once_one_does_and_the_others_are_told_of_it(replicas: Replicas) -> None:
    replicas.protect("master")
    came = all_of(
        *(
            lambda number=number: replicas.user("admin", number)("CreatePromotionRequest", **replicas.wanted("master"))
            for number in range(8)
        )
    )
    [made] = [each for each in came if isinstance(each, PromotionRequest)]
    refused = [each for each in came if isinstance(each, Failure)]
    assert {(each.name, each.parameters["promotionRequestRid"]) for each in refused} == {
        ("PromotionRequestAlreadyOpen", made.rid)
    }


def test_the_last_of_the_approvals_that_come_at_once_promotes(replicas: Replicas) -> None:
    """As the one who asked, by what is granted to that user itself: here an owner of what it has created."""
    for number in range(ROUNDS):
        branch = f"branch {number}"
        replicas.protect(branch, promote_when_approved=True)
        request = replicas.request(branch)

        came = all_of(*(lambda name=name, request=request: replicas.review(name, request) for name in REVIEWERS))

        now = replicas.now(request)
        assert now.state == PROMOTION_REQUEST_STATE_PROMOTED
        assert replicas.versions(branch) == [now.model_version_rid]
        late = [each for each in came if isinstance(each, Failure)]
        assert all(each.parameters["state"] == "PROMOTED" for each in late)
        assert len(now.reviews) == len(came) - len(late)


def test_promotions_of_two_approved_requests_at_once_leave_one_without_its_approvals(replicas: Replicas) -> None:
    """Whichever comes second would replace a head that nobody has seen."""
    replicas.protect("master")
    staging = replicas.admin("GetModel", model_rid=replicas.source.model_rid)
    other = replicas.admin.create_version(staging, model_api=model_api("churn"))
    second = replicas._replace(source=other)
    requests = [each.approved("master") for each in (replicas, second)]

    came = all_of(lambda: replicas.promote("master", 0), lambda: second.promote("master", 1))

    made = [each for each in came if isinstance(each, ModelVersion)]
    [refused] = [each for each in came if isinstance(each, Failure)]
    assert (len(made), refused.name, refused.parameters["given"]) == (1, "ApprovalRequired", "0")
    states = sorted(replicas.now(request).state for request in requests)
    assert states == [PROMOTION_REQUEST_STATE_OPEN, PROMOTION_REQUEST_STATE_PROMOTED]


def weaker(replicas: Replicas, branch: str) -> SetBranchPolicyRequest:
    rule = ApprovalRule(required=1, approvers=["group:risk"])
    return SetBranchPolicyRequest(model_rid=replicas.target.rid, branch=branch, approvals=rule)


def approved_change(replicas: Replicas, branch: str) -> PromotionRequest:
    """A change that weakens the policy of a branch, which ann and bob have approved."""
    replicas.protect(branch)
    request = replicas.admin(
        "CreatePolicyChangeRequest", policy_change=PolicyChange(branch=weaker(replicas, branch)), reason="too slow"
    )
    for name in REVIEWERS[:2]:
        replicas.review(name, request)
    return request


def set_weaker(replicas: Replicas, branch: str) -> BranchPolicy:
    return replicas.user("admin", 1).send("SetBranchPolicy", weaker(replicas, branch).SerializeToString())


def test_a_rejection_beside_the_change_of_a_policy_ends_one_way(replicas: Replicas) -> None:
    for number in range(ROUNDS):
        branch = f"branch {number}"
        request = approved_change(replicas, branch)

        rejection, changed = all_of(
            lambda request=request: replicas.review("cid", request, REVIEW_VERDICT_REJECT),
            lambda branch=branch: set_weaker(replicas, branch),
        )

        now = replicas.now(request)
        if isinstance(changed, BranchPolicy):
            assert (rejection.name, rejection.parameters["state"]) == ("PromotionRequestClosed", "PROMOTED")
            assert (now.state, now.made_policy_revision) == (PROMOTION_REQUEST_STATE_PROMOTED, changed.revision)
        else:
            assert changed.name == "ApprovalRequired"
            assert rejection.state == now.state == PROMOTION_REQUEST_STATE_REJECTED


def test_a_change_that_was_approved_is_made_of_the_revision_that_was_approved_or_not_at_all(replicas: Replicas) -> None:
    for number in range(ROUNDS):
        branch = f"branch {number}"
        request = approved_change(replicas, branch)

        stricter, changed = all_of(
            lambda branch=branch: replicas.admin(
                "SetBranchPolicy", model_rid=replicas.target.rid, branch=branch, promotion_only=True
            ),
            lambda branch=branch: set_weaker(replicas, branch),
        )

        assert stricter.promotion_only
        if isinstance(changed, BranchPolicy):
            assert (changed.revision, stricter.revision) == (2, 3)
            assert (stricter.approvals.required, stricter.promotion_request_rid) == (1, "")
        else:
            assert (changed.name, changed.parameters["given"]) == ("ApprovalRequired", "0")
            assert (stricter.revision, replicas.now(request).state) == (2, PROMOTION_REQUEST_STATE_OPEN)
