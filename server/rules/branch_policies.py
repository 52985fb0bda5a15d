"""What holds for new heads of a branch, and who may say so.

A policy is set on the branch of a model, or on a folder for the branches of a name in all of its models. These levels
are never merged: the policy of each must pass.
"""

from __future__ import annotations

from typing import TypeAlias

from modelregistry.v1.promotion_pb2 import BranchLock, BranchPolicy
from modelregistry.v1.promotion_service_pb2 import (
    GetBranchPolicyRequest,
    GetFolderBranchPolicyRequest,
    ListBranchPolicyRevisionsRequest,
    ListFolderBranchPolicyRevisionsRequest,
    LockBranchRequest,
    SetBranchPolicyRequest,
    SetFolderBranchPolicyRequest,
    UnlockBranchRequest,
)
from server.core.branches import POLICY_FIELDS, branch_of
from server.core.caller import Caller
from server.core.errors import BranchPolicyChanged, FieldViolation, InvalidArgument
from server.rules.grants import require_owner
from server.storage.contract import NO_POLICY, Reader, Transaction
from server.storage.paging import Page, PageRequest

OfFolder: TypeAlias = (
    SetFolderBranchPolicyRequest | GetFolderBranchPolicyRequest | ListFolderBranchPolicyRevisionsRequest
)
OfModel: TypeAlias = (
    SetBranchPolicyRequest
    | GetBranchPolicyRequest
    | ListBranchPolicyRevisionsRequest
    | LockBranchRequest
    | UnlockBranchRequest
)


def is_locked(policy: BranchPolicy, now_ms: int) -> bool:
    """Whether the policy has a lock that holds at this time, in ms since the epoch."""
    if not policy.HasField("lock"):
        return False
    return not policy.lock.HasField("expire_time") or policy.lock.expire_time.ToMilliseconds() > now_ms


def set_branch_policy(
    tx: Transaction, caller: Caller, request: SetBranchPolicyRequest | SetFolderBranchPolicyRequest
) -> BranchPolicy:
    """Set the policy of a branch, which need not exist, or of a folder; what the request leaves out stays as it was.

    Raises ModelNotFound, AccessPermissionDenied and BranchPolicyChanged.
    """
    policy = _policy_to_change(tx, caller, request)
    if request.HasField("expected_revision") and request.expected_revision != policy.revision:
        raise BranchPolicyChanged(
            resource_rid=resource_of(policy),
            branch_name=policy.branch,
            expected_revision=request.expected_revision,
            actual_revision=policy.revision,
        )
    compatibility = policy.compatibility
    for name in request.clear_fields:
        policy.ClearField(name)  # type: ignore[arg-type]
    rules = {field.name: value for field, value in request.ListFields() if field.name in POLICY_FIELDS}
    for name in rules:
        policy.ClearField(name)  # type: ignore[arg-type]
    policy.MergeFrom(BranchPolicy(**rules))
    if not policy.compatibility and not policy.HasField("folder_rid"):
        policy.compatibility = NO_POLICY.compatibility
    if policy.compatibility != compatibility:
        policy.compatibility_since_revision = policy.revision + 1
    return _next_revision(tx, caller, policy)


def lock_branch(tx: Transaction, caller: Caller, request: LockBranchRequest) -> BranchPolicy:
    """Lock a branch, which need not exist, in place of a lock that it has.

    Raises InvalidArgument, ModelNotFound and AccessPermissionDenied.
    """
    policy = _policy_to_change(tx, caller, request)
    lock = BranchLock(reason=request.reason, locked_by=caller.user)
    lock.locked_time.FromMilliseconds(tx.clock_ms())
    if request.HasField("expire_time"):
        lock.expire_time.CopyFrom(request.expire_time)
    policy.lock.CopyFrom(lock)
    if not is_locked(policy, lock.locked_time.ToMilliseconds()):
        said = f"is over: it is {lock.locked_time.ToJsonString()} by the clock of the server"
        raise InvalidArgument(violations=(FieldViolation("expire_time", said),))
    return _next_revision(tx, caller, policy)


def unlock_branch(tx: Transaction, caller: Caller, request: UnlockBranchRequest) -> BranchPolicy:
    """Take the lock of a branch away, if it has one. Raises ModelNotFound and AccessPermissionDenied."""
    policy = _policy_to_change(tx, caller, request)
    policy.ClearField("lock")
    return _next_revision(tx, caller, policy)


def get_branch_policy(
    reader: Reader, caller: Caller, request: GetBranchPolicyRequest | GetFolderBranchPolicyRequest
) -> BranchPolicy:
    """Return the policy of a branch, with that of the model's folder if one was set; or that of a folder by itself.

    Raises ModelNotFound and AccessPermissionDenied.
    """
    if isinstance(request, GetFolderBranchPolicyRequest):
        require_owner(reader, caller, request.folder_rid)
        return reader.get_policy(request.folder_rid, branch_of(request))
    model = reader.get_model(request.model_rid, caller).model
    policy = _as_of_now(reader, reader.get_policy(request.model_rid, branch_of(request)))
    of_folder = reader.get_policy(model.parent_folder_rid, branch_of(request))
    if of_folder.revision:
        policy.folder_policy.CopyFrom(of_folder)
    return policy


def list_branch_policies(
    reader: Reader,
    caller: Caller,
    request: ListBranchPolicyRevisionsRequest | ListFolderBranchPolicyRevisionsRequest,
    page: PageRequest,
) -> Page[BranchPolicy]:
    """Return a page of the policies of a branch or a folder that were set, the newest first.

    Raises ModelNotFound and AccessPermissionDenied.
    """
    if isinstance(request, ListFolderBranchPolicyRevisionsRequest):
        require_owner(reader, caller, request.folder_rid)
    else:
        reader.get_model(request.model_rid, caller)
    return reader.list_policies(place_of(request)[0], branch_of(request), page)


def resource_of(policy: BranchPolicy) -> str:
    """Return the RID of the model or the folder that a policy was set on."""
    return policy.folder_rid or policy.model_rid


def place_of(request: OfFolder | OfModel) -> tuple[str, str]:
    """Return the RID of the model or folder whose policy is meant, and the name of the branch."""
    resource_rid = request.folder_rid if isinstance(request, OfFolder) else request.model_rid
    return resource_rid, branch_of(request)


def _policy_to_change(
    tx: Transaction,
    caller: Caller,
    request: SetBranchPolicyRequest | SetFolderBranchPolicyRequest | LockBranchRequest | UnlockBranchRequest,
) -> BranchPolicy:
    """Return the policy that holds now. Raises ModelNotFound and AccessPermissionDenied."""
    resource_rid, branch = place_of(request)
    require_owner(tx, caller, resource_rid)
    return _as_of_now(tx, tx.get_policy(resource_rid, branch))


def _next_revision(tx: Transaction, caller: Caller, policy: BranchPolicy) -> BranchPolicy:
    policy.revision += 1
    return tx.add_policy(policy, caller.user)


def _as_of_now(reader: Reader, policy: BranchPolicy) -> BranchPolicy:
    """Return a policy without a lock whose time is over."""
    if not is_locked(policy, reader.clock_ms()):
        policy.ClearField("lock")
    return policy
