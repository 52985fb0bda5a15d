"""What holds for new heads of a branch, and who may say so."""

from __future__ import annotations

from modelregistry.v1.promotion_pb2 import BranchLock, BranchPolicy
from modelregistry.v1.promotion_service_pb2 import (
    GetBranchPolicyRequest,
    ListBranchPolicyRevisionsRequest,
    LockBranchRequest,
    SetBranchPolicyRequest,
    UnlockBranchRequest,
)
from server.core.branches import POLICY_FIELDS, branch_of
from server.core.caller import Caller
from server.core.errors import AccessPermissionDenied, BranchPolicyChanged, FieldViolation, InvalidArgument
from server.core.permissions import TO_SET_POLICIES
from server.storage.contract import NO_POLICY, Reader, Transaction
from server.storage.paging import Page, PageRequest


def is_locked(policy: BranchPolicy, now_ms: int) -> bool:
    """Whether the policy has a lock that holds at this time, in ms since the epoch."""
    if not policy.HasField("lock"):
        return False
    return not policy.lock.HasField("expire_time") or policy.lock.expire_time.ToMilliseconds() > now_ms


def set_branch_policy(tx: Transaction, caller: Caller, request: SetBranchPolicyRequest) -> BranchPolicy:
    """Set the policy of a branch, which need not exist; what the request leaves out stays as it was.

    Raises ModelNotFound, AccessPermissionDenied and BranchPolicyChanged.
    """
    policy = _policy_to_change(tx, caller, request)
    if request.HasField("expected_revision") and request.expected_revision != policy.revision:
        raise BranchPolicyChanged(
            model_rid=policy.model_rid,
            branch_name=policy.branch,
            expected_revision=request.expected_revision,
            actual_revision=policy.revision,
        )
    for name in request.clear_fields:
        setattr(policy, name, getattr(NO_POLICY, name))
    for field, value in request.ListFields():
        if field.name in POLICY_FIELDS:
            setattr(policy, field.name, value)
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


def get_branch_policy(reader: Reader, caller: Caller, request: GetBranchPolicyRequest) -> BranchPolicy:
    """Return the policy of a branch. Raises ModelNotFound."""
    reader.get_model(request.model_rid, caller)
    return _as_of_now(reader, reader.get_policy(request.model_rid, branch_of(request)))


def list_branch_policies(
    reader: Reader, caller: Caller, request: ListBranchPolicyRevisionsRequest, page: PageRequest
) -> Page[BranchPolicy]:
    """Return a page of the policies of a branch that were set, the newest first. Raises ModelNotFound."""
    reader.get_model(request.model_rid, caller)
    return reader.list_policies(request.model_rid, branch_of(request), page)


def _policy_to_change(
    tx: Transaction, caller: Caller, request: SetBranchPolicyRequest | LockBranchRequest | UnlockBranchRequest
) -> BranchPolicy:
    """Return the policy that holds now, and let no transaction that was decided by it commit after this one.

    But for the first version of a branch: there is nothing to lock. Raises ModelNotFound and AccessPermissionDenied.
    """
    branch = branch_of(request)
    tx.lock_branches({(request.model_rid, branch)}, caller, TO_SET_POLICIES)
    if tx.get_model(request.model_rid, caller).role < TO_SET_POLICIES:
        raise AccessPermissionDenied(resource_rid=request.model_rid)
    return _as_of_now(tx, tx.get_policy(request.model_rid, branch))


def _next_revision(tx: Transaction, caller: Caller, policy: BranchPolicy) -> BranchPolicy:
    policy.revision += 1
    return tx.add_policy(policy, caller.user)


def _as_of_now(reader: Reader, policy: BranchPolicy) -> BranchPolicy:
    """Return a policy without a lock whose time is over."""
    if not is_locked(policy, reader.clock_ms()):
        policy.ClearField("lock")
    return policy
