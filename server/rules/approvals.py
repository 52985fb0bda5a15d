"""What has become of a request for promotion, and what its approvals are worth: one pure function.

It follows from what was said, the policies that hold now, the head of the branch and the clock. What is stored of a
request are its reviews, and once for all how it was closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from modelregistry.v1.promotion_pb2 import ApprovalRule, BranchPolicy
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    REVIEW_VERDICT_APPROVE,
    PromotionRequest,
    PromotionRequestState,
    PromotionReview,
)
from server.core.caller import Caller

# How long a request lasts where a policy does not say.
LIFETIME = timedelta(days=7)

# The states in which a request can be reviewed, withdrawn and carried out.
LIVE = (PROMOTION_REQUEST_STATE_OPEN, PROMOTION_REQUEST_STATE_APPROVED)


class Level(NamedTuple):
    """A policy of the branch that wants approvals, and the users whose approvals count by it."""

    policy: BranchPolicy
    given: frozenset[str]

    @property
    def rule(self) -> ApprovalRule:
        """Which approvals it wants."""
        return self.policy.approvals

    @property
    def is_met(self) -> bool:
        """Whether there are as many as it wants."""
        return len(self.given) >= self.rule.required


class Standing(NamedTuple):
    """What has become of a request: its state, when it expires in ms since the epoch, and its approvals by level."""

    state: PromotionRequestState.ValueType
    expire_ms: int
    levels: tuple[Level, ...]

    @property
    def is_live(self) -> bool:
        """Whether it can be reviewed, withdrawn and carried out."""
        return self.state in LIVE

    def counts(self, review: PromotionReview) -> bool:
        """Whether a review is an approval of a user whose approval counts."""
        return review.verdict == REVIEW_VERDICT_APPROVE and any(
            review.reviewed_by in level.given for level in self.levels
        )


def standing_of(
    request: PromotionRequest,
    policies: Sequence[BranchPolicy],
    head_rid: str | None,
    now_ms: int,
    carried_out_by: str | None = None,
) -> Standing:
    """Return what has become of a request as it is stored, with these policies and this head of its branch.

    Who carries it out does not count among those who approved it.
    """
    levels = tuple(
        Level(policy, frozenset(_approving(request, policy.approvals, head_rid)) - {carried_out_by})
        for policy in wanting_approvals(policies)
    )
    expire_ms = min(request.expire_time.ToMilliseconds(), expiry(policies, request.created_time.ToMilliseconds()))
    if request.state != PROMOTION_REQUEST_STATE_OPEN:
        return Standing(request.state, expire_ms, ())
    if now_ms >= expire_ms:
        return Standing(PROMOTION_REQUEST_STATE_EXPIRED, expire_ms, ())
    is_approved = all(level.is_met for level in levels)
    return Standing(
        PROMOTION_REQUEST_STATE_APPROVED if is_approved else PROMOTION_REQUEST_STATE_OPEN, expire_ms, levels
    )


def wanting_approvals(policies: Sequence[BranchPolicy]) -> list[BranchPolicy]:
    """Return those of the policies of a branch that want approvals."""
    return [policy for policy in policies if policy.HasField("approvals")]


def expiry(policies: Sequence[BranchPolicy], created_ms: int) -> int:
    """Return when a request that was made at this time expires by the policies of its branch, in ms since the epoch."""
    rules = [policy.approvals for policy in wanting_approvals(policies)]
    lifetimes = [rule.expire_after.ToTimedelta() if rule.HasField("expire_after") else LIFETIME for rule in rules]
    return created_ms + min(lifetimes, default=LIFETIME) // timedelta(milliseconds=1)


def standing_for(caller: Caller, policies: Sequence[BranchPolicy]) -> list[str]:
    """Return the approvers that a caller stands for: for each policy that wants approvals, the one that it names.

    Empty if no policy names the caller.
    """
    named = []
    for policy in wanting_approvals(policies):
        principal = next((name for name in caller.principals if name in policy.approvals.approvers), None)
        if principal is not None and principal not in named:
            named.append(principal)
    return named


def _approving(request: PromotionRequest, rule: ApprovalRule, head_rid: str | None) -> set[str]:
    """Return the users who have approved this head, under a principal that the rule names."""
    approvers = frozenset(rule.approvers)
    return {
        review.reviewed_by
        for review in request.reviews
        if review.verdict == REVIEW_VERDICT_APPROVE
        and (review.head_version_rid if review.HasField("head_version_rid") else None) == head_rid
        and not approvers.isdisjoint(review.principals)
    }
