"""A change of a policy as it is requested: two are the same if their canonical forms are equal."""

from __future__ import annotations

from typing import TypeAlias

from modelregistry.v1.promotion_pb2 import AllowedSource
from modelregistry.v1.promotion_request_pb2 import PolicyChange
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest, SetFolderBranchPolicyRequest
from server.core.branches import branch_of

SetPolicy: TypeAlias = SetBranchPolicyRequest | SetFolderBranchPolicyRequest


def asked_of(change: PolicyChange) -> SetPolicy:
    """Return what carries a change out."""
    return change.folder if change.HasField("folder") else change.branch


def canonical_change(request: SetPolicy) -> PolicyChange:
    """Return what a request changes, with its branch filled in, and what has no order in the order of code points.

    The revision that it expects is no part of that: it says when to change the policy, and not how.
    """
    change = PolicyChange()
    if isinstance(request, SetFolderBranchPolicyRequest):
        change.folder.CopyFrom(request)
    else:
        change.branch.CopyFrom(request)
    change.DiscardUnknownFields()
    asked = asked_of(change)
    asked.ClearField("expected_revision")
    asked.branch = branch_of(asked)
    asked.clear_fields[:] = sorted({*asked.clear_fields})
    for name in ("promoters", "rollbackers"):
        if asked.HasField(name):
            named = getattr(asked, name).principals
            named[:] = sorted({*named})
    if asked.HasField("approvals"):
        asked.approvals.approvers[:] = sorted({*asked.approvals.approvers})
    if asked.HasField("allowed_sources"):
        places = sorted({(source.model_rid, branch_of(source)) for source in asked.allowed_sources.sources})
        del asked.allowed_sources.sources[:]
        asked.allowed_sources.sources.extend(AllowedSource(model_rid=rid, branch=branch) for rid, branch in places)
    return change
