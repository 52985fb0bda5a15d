"""A policy that wants approvals, weakened in spite of that, as an administrator and its approvers do it together."""

from __future__ import annotations

from typing import Any

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.promotion_pb2 import BranchPolicy
from modelregistry.v1.promotion_request_pb2 import REVIEW_VERDICT_APPROVE, PolicyChange
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from tests.rpc.harness import Registry, User


def weaken_policy(registry: Registry, admin: User, **request: Any) -> BranchPolicy:
    """Set the policy of a branch of a model, once as many as it wants have approved that.

    Of a group that it names, some review that nobody else is; else its users do, who have to see the model.
    """
    wanted = SetBranchPolicyRequest(**request)
    before = admin("GetBranchPolicy", model_rid=wanted.model_rid, branch=wanted.branch or None)
    asked = admin("CreatePolicyChangeRequest", policy_change=PolicyChange(branch=wanted))
    named = [approver.split(":", 1) for approver in before.approvals.approvers]
    groups = [name for kind, name in named if kind == "group"]
    names = (
        [f"keeper{number}" for number in range(before.approvals.required)] if groups else [name for _, name in named]
    )
    for name in names[: before.approvals.required]:
        if groups:
            admin("GrantRole", resource_rid=wanted.model_rid, principal=f"user:{name}", role=ROLE_VIEWER)
        reviewer = registry.user(name, *groups[:1])
        reviewer("ReviewPromotionRequest", promotion_request_rid=asked.rid, verdict=REVIEW_VERDICT_APPROVE)
    return admin("SetBranchPolicy", **request)
