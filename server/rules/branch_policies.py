"""What holds for new heads of a branch, and who may say so."""

from __future__ import annotations

from modelregistry.v1.promotion_pb2 import BranchPolicy
from modelregistry.v1.promotion_service_pb2 import (
    GetBranchPolicyRequest,
    ListBranchPolicyRevisionsRequest,
    SetBranchPolicyRequest,
)
from server.core.branches import POLICY_FIELDS, branch_of
from server.core.caller import Caller
from server.core.errors import AccessPermissionDenied, BranchPolicyChanged, FieldViolation, InvalidArgument
from server.core.permissions import TO_SET_POLICIES
from server.storage.contract import NO_POLICY, Reader, Transaction
from server.storage.paging import Page, PageRequest


def set_branch_policy(tx: Transaction, caller: Caller, request: SetBranchPolicyRequest) -> BranchPolicy:
    """Set the policy of a branch, which need not exist; what the request leaves out stays as it was.

    Raises InvalidArgument, ModelNotFound, AccessPermissionDenied and BranchPolicyChanged.
    """
    given = [field.name for field, _ in request.ListFields() if field.name in POLICY_FIELDS]
    if twice := [name for name in request.clear_fields if name in given]:
        raise InvalidArgument(
            violations=(FieldViolation("clear_fields", f"{twice[0]} cannot be set and cleared at once"),)
        )
    if not given and not request.clear_fields:
        raise InvalidArgument(violations=(FieldViolation("", f"sets none of {', '.join(POLICY_FIELDS)}"),))
    if tx.get_model(request.model_rid, caller).role < TO_SET_POLICIES:
        raise AccessPermissionDenied(resource_rid=request.model_rid)
    policy = tx.get_policy(request.model_rid, branch_of(request))
    if request.HasField("expected_revision") and request.expected_revision != policy.revision:
        raise BranchPolicyChanged(
            model_rid=policy.model_rid,
            branch_name=policy.branch,
            expected_revision=request.expected_revision,
            actual_revision=policy.revision,
        )
    for name in request.clear_fields:
        setattr(policy, name, getattr(NO_POLICY, name))
    for name in given:
        setattr(policy, name, getattr(request, name))
    policy.revision += 1
    return tx.add_policy(policy, caller.user)


def get_branch_policy(reader: Reader, caller: Caller, request: GetBranchPolicyRequest) -> BranchPolicy:
    """Return the policy of a branch. Raises ModelNotFound."""
    reader.get_model(request.model_rid, caller)
    return reader.get_policy(request.model_rid, branch_of(request))


def list_branch_policies(
    reader: Reader, caller: Caller, request: ListBranchPolicyRevisionsRequest, page: PageRequest
) -> Page[BranchPolicy]:
    """Return a page of the policies of a branch that were set, the newest first. Raises ModelNotFound."""
    reader.get_model(request.model_rid, caller)
    return reader.list_policies(request.model_rid, branch_of(request), page)
