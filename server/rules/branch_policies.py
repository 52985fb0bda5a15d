"""What holds for promotions into a branch, and who may say so."""

from __future__ import annotations

from modelregistry.v1.promotion_pb2 import BranchPolicy
from modelregistry.v1.promotion_service_pb2 import GetBranchPolicyRequest, SetBranchPolicyRequest
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.errors import AccessPermissionDenied
from server.core.permissions import TO_SET_POLICIES
from server.storage.contract import Reader, Transaction


def set_branch_policy(tx: Transaction, caller: Caller, request: SetBranchPolicyRequest) -> BranchPolicy:
    """Set the policy of a branch, which need not exist. Raises ModelNotFound and AccessPermissionDenied."""
    if tx.get_model(request.model_rid, caller).role < TO_SET_POLICIES:
        raise AccessPermissionDenied(resource_rid=request.model_rid)
    return tx.add_policy(request.model_rid, branch_of(request), request.compatibility, caller.user)


def get_branch_policy(reader: Reader, caller: Caller, request: GetBranchPolicyRequest) -> BranchPolicy:
    """Return the policy of a branch. Raises ModelNotFound."""
    reader.get_model(request.model_rid, caller)
    return reader.get_policy(request.model_rid, branch_of(request))
