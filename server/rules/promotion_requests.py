"""Requests for promotion and for changes of policies: made, reviewed, withdrawn and listed.

What has become of one is what `approvals` says. A promotion that was approved is carried out in `promotion`, a change
of a policy in `branch_policies`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypeAlias

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER, Role
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_POLICY_CHANGE,
    PROMOTION_REQUEST_KIND_PROMOTION,
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_REJECTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    ApprovalProgress,
    PromotionRequest,
    PromotionRequestState,
    PromotionReview,
)
from modelregistry.v1.promotion_request_service_pb2 import (
    CreatePolicyChangeRequestRequest,
    CreatePromotionRequestRequest,
    GetPromotionRequestRequest,
    ListPromotionRequestsRequest,
    ReviewPromotionRequestRequest,
    WithdrawPromotionRequestRequest,
)
from server.core import rids
from server.core.branches import level_of
from server.core.caller import Caller
from server.core.cancellation import require_wanted
from server.core.errors import (
    ApprovalsNotRequired,
    FieldViolation,
    InvalidArgument,
    ModelNotFound,
    ModelVersionNotFound,
    PromotionRequestAlreadyOpen,
    PromotionRequestClosed,
    PromotionRequestNotFound,
    ReviewPromotionRequestPermissionDenied,
    WithdrawPromotionRequestPermissionDenied,
)
from server.core.permissions import TO_PROMOTE
from server.rules.approvals import (
    LIVE,
    Standing,
    expiry,
    seen_by,
    seen_now,
    standing_for,
    standing_of,
    wanting_approvals,
)
from server.rules.branch_policies import place_of, planned_change, require_revision
from server.rules.grants import require_owner
from server.rules.idempotency import claim
from server.rules.obstacles import LASTING, head_changed, require
from server.rules.policy_changes import asked_of, canonical_change
from server.rules.promotion import attempt_of, compared, facts_of_promotion, promote_as
from server.rules.sources import hide_sources, models_of_sources
from server.storage.contract import PromotionRequestFilter, Reader, StoredRequest, Transaction
from server.storage.paging import Page, PageRequest

# Who created or promoted a version and what it came from, by its RID.
AuthorsOf: TypeAlias = Callable[[str], frozenset[str]]

# How many requests are looked at, at a time and for one page, where not all that are stored are wanted.
LOOK = 100
MOST_LOOKS = 10
# How large a page of them may become before it ends: clients take answers of 4 MiB, and a change of a policy takes some
# 100 KiB.
MOST_BYTES = 2 * 2**20


def create_promotion_request(
    tx: Transaction, caller: Caller, request: CreatePromotionRequestRequest
) -> PromotionRequest:
    """Store a request for promotion, and return it.

    The same request, by its id, is carried out once. Raises what PromoteVersion does but for what may pass, and
    ApprovalsNotRequired, PromotionRequestAlreadyOpen and ComparisonsNeeded.
    """
    attempt = attempt_of(request)
    tx.lock_branches({attempt.place}, caller, TO_PROMOTE)
    tx.get_model(attempt.model_rid, caller)
    if made := claim(tx, caller, request, [rid := rids.new_promotion_request_rid()]):
        return _get(tx, caller, made[0])
    facts = facts_of_promotion(tx, caller, attempt)
    require(attempt, facts, LASTING)
    facts = compared(tx, attempt, facts)
    require(attempt, facts, LASTING)
    source, end, now_ms = facts.stored.source, facts.stored.branch, facts.stored.now_ms
    assert source is not None, "without one there is an obstacle"
    if not wanting_approvals(end.policies):
        raise ApprovalsNotRequired(resource_rid=attempt.model_rid, branch_name=attempt.branch)
    head_rid = None if end.head is None else end.head.rid
    if facts.request is not None:
        if standing_of(facts.request, end.policies, head_rid, now_ms).is_live:
            raise PromotionRequestAlreadyOpen(promotion_request_rid=facts.request.rid)
        tx.close_promotion_request(facts.request, PROMOTION_REQUEST_STATE_EXPIRED, None)
    found = facts.findings()
    made_now = PromotionRequest(
        rid=rid,
        kind=PROMOTION_REQUEST_KIND_PROMOTION,
        model_rid=attempt.model_rid,
        branch=attempt.branch,
        source_model_rid=source.version.model_rid,
        source_model_version_rid=source.version.rid,
        content_digest=source.content_digest.hex(),
        requested_head_version_rid=head_rid,
        error_count=found.error_count,
        warning_count=found.warning_count,
        reason=attempt.reason,
        requested_by=caller.user,
    )
    made_now.created_time.FromMilliseconds(now_ms)
    made_now.expire_time.FromMilliseconds(expiry(end.policies, now_ms))
    return _seen_at(StoredRequest(tx.add_promotion_request(made_now), end.policies, head_rid), now_ms)


def create_policy_change_request(
    tx: Transaction, caller: Caller, request: CreatePolicyChangeRequestRequest
) -> PromotionRequest:
    """Store a request for a change of a policy, and return it.

    The same request, by its id, is carried out once. Raises what SetBranchPolicy does but for ApprovalRequired, and
    RequestIdAlreadyUsed, ApprovalsNotRequired and PromotionRequestAlreadyOpen.
    """
    wanted = asked_of(request.policy_change)
    resource_rid, branch = place_of(wanted)
    require_owner(tx, caller, resource_rid)
    if made := claim(tx, caller, request, [rid := rids.new_promotion_request_rid()]):
        return _get(tx, caller, made[0])
    planned = planned_change(tx, caller, wanted)
    if not planned.needing_approvals:
        raise ApprovalsNotRequired(resource_rid=resource_rid, branch_name=branch)
    change, policies, now_ms = canonical_change(wanted), (planned.before,), tx.clock_ms()
    earlier = tx.find_open_change(change)
    if earlier is not None:
        if standing_of(earlier, policies, None, now_ms).is_live:
            raise PromotionRequestAlreadyOpen(promotion_request_rid=earlier.rid)
        tx.close_promotion_request(earlier, PROMOTION_REQUEST_STATE_EXPIRED, None)
    made_now = PromotionRequest(
        rid=rid,
        kind=PROMOTION_REQUEST_KIND_POLICY_CHANGE,
        model_rid=planned.before.model_rid,
        folder_rid=planned.before.folder_rid or None,
        branch=branch,
        policy_change=change,
        reason=request.reason if request.HasField("reason") else None,
        requested_by=caller.user,
    )
    made_now.created_time.FromMilliseconds(now_ms)
    made_now.expire_time.FromMilliseconds(expiry(policies, now_ms))
    stored = StoredRequest(tx.add_promotion_request(made_now), policies, None)
    return _shown(tx, caller, [_seen_at(stored, now_ms)])[0]


def review_promotion_request(
    tx: Transaction, caller: Caller, request: ReviewPromotionRequestRequest
) -> PromotionRequest:
    """Record a review, and return what has become of the request.

    The same request, by its id, is carried out once. Raises PromotionRequestNotFound, RequestIdAlreadyUsed,
    PromotionRequestClosed, InvalidArgument, ModelVersionNotFound, ModelNotFound,
    ReviewPromotionRequestPermissionDenied, BranchHeadChanged, BranchPolicyChanged and ComparisonsNeeded.
    """
    rid = request.promotion_request_rid
    _lock(tx, caller, rid)
    if claim(tx, caller, request, [rid]):
        return _get(tx, caller, rid)
    stored, now_ms = _find(tx, caller, rid), tx.clock_ms()
    asked = stored.request
    _require_live(stored, now_ms)
    if is_change(asked) and request.HasField("expected_head_version_rid"):
        said = (
            "is not for this kind of request: what counts is the revision of the policy, as in expected_policy_revision"
        )
        raise InvalidArgument(violations=(FieldViolation("expected_head_version_rid", said),))
    if not _is_seen_whole(tx, caller, asked):
        if is_change(asked):
            raise ModelNotFound(model_rid="")
        raise ModelVersionNotFound(model_rid=asked.model_rid, model_version_rid="")
    principals = standing_for(caller, stored.policies)
    is_approval = request.verdict == REVIEW_VERDICT_APPROVE
    if not principals or (is_approval and has_part_in(tx.authors_of, caller, asked)):
        raise ReviewPromotionRequestPermissionDenied(promotion_request_rid=rid)
    _require_expected(request, stored)
    seen = seen_now(asked, stored.policies, stored.head_rid)
    review = PromotionReview(
        reviewed_by=caller.user,
        principals=principals,
        verdict=request.verdict,
        comment=request.comment if request.HasField("comment") else None,
        head_version_rid=seen.head_rid,
        policy_revision=seen.policy_revision,
    )
    # Once for the same head or revision, so that nobody fills the record with one approval.
    if not (is_approval and any(_is_same(review, said) for said in asked.reviews)):
        tx.add_review(asked, review)
    if request.verdict == REVIEW_VERDICT_REJECT:
        tx.close_promotion_request(asked, PROMOTION_REQUEST_STATE_REJECTED, caller.user)
    elif not is_change(asked):
        _promote_if_wanted(tx, _find(tx, caller, rid), now_ms)
    return _get(tx, caller, rid)


def withdraw_promotion_request(
    tx: Transaction, caller: Caller, request: WithdrawPromotionRequestRequest
) -> PromotionRequest:
    """Record that a request is withdrawn, and return it.

    The same request, by its id, is carried out once. Raises PromotionRequestNotFound, RequestIdAlreadyUsed,
    WithdrawPromotionRequestPermissionDenied and PromotionRequestClosed.
    """
    rid = request.promotion_request_rid
    _lock(tx, caller, rid)
    if claim(tx, caller, request, [rid]):
        return _get(tx, caller, rid)
    stored = _find(tx, caller, rid)
    asked = stored.request
    if caller.user != asked.requested_by and _role(tx, caller, asked) < ROLE_OWNER:
        raise WithdrawPromotionRequestPermissionDenied(promotion_request_rid=rid)
    _require_live(stored, tx.clock_ms())
    tx.close_promotion_request(asked, PROMOTION_REQUEST_STATE_WITHDRAWN, caller.user)
    return _get(tx, caller, rid)


def get_promotion_request(reader: Reader, caller: Caller, request: GetPromotionRequestRequest) -> PromotionRequest:
    """Return a request for promotion. Raises PromotionRequestNotFound."""
    return _get(reader, caller, request.promotion_request_rid)


class Wanted(NamedTuple):
    """Which requests for promotion are asked for: what storage knows of it, and what follows from that."""

    stored: PromotionRequestFilter
    state: PromotionRequestState.ValueType | None
    waiting_for_me: bool


def wanted_by(request: ListPromotionRequestsRequest) -> Wanted:
    """Return which requests for promotion are asked for."""
    state = request.state or None
    has_closed = state not in (None, *LIVE, PROMOTION_REQUEST_STATE_EXPIRED)
    stored = PromotionRequestFilter(
        model_rid=request.model_rid if request.HasField("model_rid") else None,
        branch=request.branch if request.HasField("branch") else None,
        requested_by=request.requested_by if request.HasField("requested_by") else None,
        closed_as=state if has_closed else None,
        is_open=request.waiting_for_me or state in LIVE,
    )
    return Wanted(stored, state, request.waiting_for_me)


def list_promotion_requests(
    reader: Reader, caller: Caller, wanted: Wanted, page: PageRequest
) -> Page[PromotionRequest]:
    """Return a page of requests for promotion, which may be short where many have to be looked at.

    Raises ModelNotFound if only those into an absent or invisible model are wanted.
    """
    if wanted.stored.model_rid is not None:
        reader.get_model(wanted.stored.model_rid, caller)
    is_exact = wanted.state not in (*LIVE, PROMOTION_REQUEST_STATE_EXPIRED) and not wanted.waiting_for_me
    found: list[PromotionRequest] = []
    size_of_found = 0
    # Many requests are about few versions.
    authors_of = cache(reader.authors_of)
    after = page.after
    for _ in range(MOST_LOOKS):
        size = page.size - len(found) if is_exact else max(LOOK, page.size)
        look = reader.list_promotion_requests(caller, wanted.stored, PageRequest(size, after))
        now_ms = reader.clock_ms()
        for stored in look.items:
            require_wanted()
            after = stored.position
            standing = _standing(stored, now_ms)
            if _is_wanted(reader, caller, wanted, stored, standing, authors_of):
                found.append(_in_list(_seen(stored, standing)))
                size_of_found += found[-1].ByteSize()
            if len(found) == page.size or size_of_found > MOST_BYTES:
                is_last = look.next_position is None and stored is look.items[-1]
                return Page(_shown(reader, caller, found), None if is_last else after)
        if look.next_position is None:
            return Page(_shown(reader, caller, found), None)
    return Page(_shown(reader, caller, found), after)


def _is_wanted(
    reader: Reader, caller: Caller, wanted: Wanted, stored: StoredRequest, standing: Standing, authors_of: AuthorsOf
) -> bool:
    if wanted.state not in (None, standing.state):
        return False
    return not wanted.waiting_for_me or _waits_for(reader, caller, stored, standing, authors_of)


def _waits_for(
    reader: Reader, caller: Caller, stored: StoredRequest, standing: Standing, authors_of: AuthorsOf
) -> bool:
    """Whether the caller could approve a request that is open, and has not yet."""
    if standing.state != PROMOTION_REQUEST_STATE_OPEN:
        return False
    lacking = [level.policy for level in standing.levels if not level.is_met and caller.user not in level.given]
    if not standing_for(caller, lacking) or not _is_seen_whole(reader, caller, stored.request):
        return False
    return not has_part_in(authors_of, caller, stored.request)


def has_part_in(authors_of: AuthorsOf, caller: Caller, request: PromotionRequest) -> bool:
    """Whether the caller made a request, or had a part in the version that it is about."""
    if caller.user == request.requested_by:
        return True
    return not is_change(request) and caller.user in authors_of(request.source_model_version_rid)


def is_change(request: PromotionRequest) -> bool:
    """Whether a request is for a change of a policy."""
    return request.kind == PROMOTION_REQUEST_KIND_POLICY_CHANGE


def _is_seen_whole(reader: Reader, caller: Caller, request: PromotionRequest) -> bool:
    """Whether the caller may see what a request is about: the source, or the models of all allowed sources."""
    if not is_change(request):
        return request.HasField("source_model_version_rid")
    named = models_of_sources([asked_of(request.policy_change)])
    return not named or named == reader.visible_models(named, caller)


def _require_expected(request: ReviewPromotionRequestRequest, stored: StoredRequest) -> None:
    """Return if the reviewer has seen what there is now. Raises BranchHeadChanged and BranchPolicyChanged."""
    asked = stored.request
    if request.HasField("expected_policy_revision"):
        revision = stored.policies[0].revision
        require_revision(asked.folder_rid or asked.model_rid, asked.branch, request.expected_policy_revision, revision)
    expected = request.expected_head_version_rid if request.HasField("expected_head_version_rid") else None
    if error := head_changed(asked.model_rid, asked.branch, expected, stored.head_rid):
        raise error


def _role(reader: Reader, caller: Caller, request: PromotionRequest) -> Role.ValueType:
    """Return the caller's role on the model or folder that a request is for, which the caller sees."""
    if request.HasField("folder_rid"):
        return reader.get_role(request.folder_rid, caller)
    return reader.get_model(request.model_rid, caller).role


def _is_same(review: PromotionReview, said: PromotionReview) -> bool:
    """Whether an approval was given before, of what was seen then, and by the same right."""
    return (
        said.verdict == REVIEW_VERDICT_APPROVE
        and seen_by(said) == seen_by(review)
        and all(getattr(said, name) == getattr(review, name) for name in ("reviewed_by", "principals"))
    )


def _lock(tx: Transaction, caller: Caller, rid: str) -> None:
    """Let the head of the branch and what was said of a request stay as they are. Raises PromotionRequestNotFound."""
    request = _find(tx, caller, rid).request
    # The head does not matter to a change; what is said of it is decided on the policy and on grants all the same.
    branches = set() if is_change(request) else {(request.model_rid, request.branch)}
    tx.lock_branches(branches, caller, ROLE_VIEWER)
    tx.lock_promotion_request(rid)


def _promote_if_wanted(tx: Transaction, stored: StoredRequest, now_ms: int) -> None:
    """Promote what has just been approved, as who requested it, where all policies say so and nothing is against it.

    That user's groups are unknown here, and so are an administrator's rights: what counts is what is granted to itself.
    """
    standing = _standing(stored, now_ms)
    if standing.state != PROMOTION_REQUEST_STATE_APPROVED or not standing.levels:
        return
    if not all(level.rule.promote_when_approved for level in standing.levels):
        return
    if not tx.is_disabled(stored.request.requested_by):
        promote_as(tx, Caller((stored.request.requested_by,)), stored.request)


def _require_live(stored: StoredRequest, now_ms: int) -> None:
    standing = _standing(stored, now_ms)
    if not standing.is_live:
        state = PromotionRequestState.Name(standing.state).removeprefix("PROMOTION_REQUEST_STATE_")
        raise PromotionRequestClosed(promotion_request_rid=stored.request.rid, state=state)


def _find(reader: Reader, caller: Caller, rid: str) -> StoredRequest:
    stored = reader.find_promotion_request(rid, caller)
    if stored is None:
        raise PromotionRequestNotFound(promotion_request_rid=rid)
    return stored


def _get(reader: Reader, caller: Caller, rid: str) -> PromotionRequest:
    return _shown(reader, caller, [_seen_at(_find(reader, caller, rid), reader.clock_ms())])[0]


def _standing(stored: StoredRequest, now_ms: int) -> Standing:
    return standing_of(stored.request, stored.policies, stored.head_rid, now_ms)


def _seen_at(stored: StoredRequest, now_ms: int) -> PromotionRequest:
    return _seen(stored, _standing(stored, now_ms))


def _seen(stored: StoredRequest, standing: Standing) -> PromotionRequest:
    """Return a request with what has become of it."""
    seen = PromotionRequest()
    seen.CopyFrom(stored.request)
    seen.state = standing.state
    seen.expire_time.FromMilliseconds(standing.expire_ms)
    if stored.head_rid is not None:
        seen.head_version_rid = stored.head_rid
    if is_change(seen):
        seen.policy_revision = stored.policies[0].revision
    seen.approvals.extend(
        ApprovalProgress(
            resource_rid=level_of(level.policy, seen.model_rid), required=level.rule.required, given=len(level.given)
        )
        for level in standing.levels
    )
    for review in seen.reviews:
        review.counts = standing.counts(review)
    return seen


def _shown(reader: Reader, caller: Caller, requests: list[PromotionRequest]) -> list[PromotionRequest]:
    """Return requests without the allowed sources that the caller may not see."""
    hide_sources(reader, caller, [asked_of(request.policy_change) for request in requests if is_change(request)])
    return requests


def _in_list(request: PromotionRequest) -> PromotionRequest:
    request.ClearField("reviews")
    return request
