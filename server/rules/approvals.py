"""What has become of a request, for promotion or for a change of a policy, and what its approvals are worth.

One pure function says so, from what was said, the policies that hold now, the head of the branch and the clock. What is
stored of a request are its reviews, and once for all how it was closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from modelregistry.v1.promotion_pb2 import ApprovalRule, BranchPolicy
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_POLICY_CHANGE,
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


class Seen(NamedTuple):
    """What an approval counts for: the head of a branch, or, where a policy is to be changed, its revision."""

    head_rid: str | None = None
    policy_revision: int | None = None


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

    Of a change, the policy is the one that is to be changed. Who carries a request out does not count among those who
    approved it.
    """
    seen = seen_now(request, policies, head_rid)
    levels = tuple(
        Level(policy, frozenset(_approving(request, policy.approvals, seen)) - {carried_out_by})
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


def seen_now(request: PromotionRequest, policies: Sequence[BranchPolicy], head_rid: str | None) -> Seen:
    """Return what a reviewer of a request sees now, with these policies and this head of its branch."""
    if request.kind == PROMOTION_REQUEST_KIND_POLICY_CHANGE:
        return Seen(policy_revision=policies[0].revision)
    return Seen(head_rid)


def seen_by(review: PromotionReview) -> Seen:
    """Return what a reviewer saw."""
    return Seen(
        review.head_version_rid if review.HasField("head_version_rid") else None,
        review.policy_revision if review.HasField("policy_revision") else None,
    )


def wanting_approvals(policies: Sequence[BranchPolicy]) -> list[BranchPolicy]:
    """Return those of the policies of a branch that want approvals."""
    return [policy for policy in policies if policy.HasField("approvals")]


def expiry(policies: Sequence[BranchPolicy], created_ms: int) -> int:
    """Return when a request that was made at this time expires by the policies of its branch, in ms since the epoch."""
    lifetimes = [lifetime(policy.approvals) for policy in wanting_approvals(policies)]
    return created_ms + min(lifetimes, default=LIFETIME) // timedelta(milliseconds=1)


def lifetime(rule: ApprovalRule) -> timedelta:
    """Return for how long a request can be reviewed and carried out by a rule, from when it was made."""
    return rule.expire_after.ToTimedelta() if rule.HasField("expire_after") else LIFETIME


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


# How many approvers a sentence names.
_APPROVERS_NAMED = 3


def what_is_lacking(level: Level, request: PromotionRequest | None, carried_out_by: str) -> str:
    """Return a sentence on who may still approve, as far as that is known; not who carries it out."""
    done = {*level.given, carried_out_by} | ({request.requested_by} if request else set())
    left = [name for name in level.rule.approvers if name not in done]
    more = len(left) - _APPROVERS_NAMED
    named = ", ".join(left[:_APPROVERS_NAMED]) + (f" and {more} more" if more > 0 else "")
    still = f"; {named} may still approve" if named else ""
    return f"{len(level.given)} of {level.rule.required} approvals{still}."


def _approving(request: PromotionRequest, rule: ApprovalRule, seen: Seen) -> set[str]:
    """Return the users who have approved what is seen now, under a principal that the rule names."""
    approvers = frozenset(rule.approvers)
    return {
        review.reviewed_by
        for review in request.reviews
        if review.verdict == REVIEW_VERDICT_APPROVE
        and seen_by(review) == seen
        and not approvers.isdisjoint(review.principals)
    }
