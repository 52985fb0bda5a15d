"""What holds for new heads of a branch, and who may say so.

A policy is set on the branch of a model, or on a folder for the branches of a name in all of its models. These levels
are never merged: the policy of each must pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from modelregistry.v1.promotion_pb2 import AllowedSources, ApprovalRule, BranchLock, BranchPolicy
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
from server.core.cancellation import while_wanted
from server.core.errors import BranchPolicyChanged, FieldViolation, InvalidArgument
from server.rules.grants import require_owner
from server.rules.sources import models_of_sources
from server.storage.contract import NO_POLICY, Reader, Transaction
from server.storage.paging import Page, PageRequest

# All of them, but for what is said of contents.
_PROTECTING = frozenset(POLICY_FIELDS) - {"compatibility"}
# Those that versions which are created go past.
_OF_PROMOTIONS: tuple[Literal["allowed_sources", "min_time_as_head", "promoters", "approvals"], ...] = (
    "allowed_sources",
    "min_time_as_head",
    "promoters",
    "approvals",
)

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


def refuses_creations(policy: BranchPolicy) -> bool:
    """Whether a policy lets no version be created: one could go round approvals otherwise."""
    return policy.promotion_only or policy.HasField("approvals")


def is_locked(policy: BranchPolicy, now_ms: int) -> bool:
    """Whether the policy has a lock that holds at this time, in ms since the epoch."""
    if not policy.HasField("lock"):
        return False
    return not policy.lock.HasField("expire_time") or policy.lock.expire_time.ToMilliseconds() > now_ms


def is_protected(policies: Sequence[BranchPolicy], now_ms: int) -> bool:
    """Whether a branch has a lock, or any rule but that of compatibility, be it of its own policy or of the folder's.

    Compatibility says what a head must be like, and not who decides on it.
    """
    return is_locked(policies[0], now_ms) or any(_has_rules(policy) for policy in policies)


def set_branch_policy(
    tx: Transaction, caller: Caller, request: SetBranchPolicyRequest | SetFolderBranchPolicyRequest
) -> BranchPolicy:
    """Set the policy of a branch, which need not exist, or of a folder; what the request leaves out stays as it was.

    Raises InvalidArgument, ModelNotFound, AccessPermissionDenied and BranchPolicyChanged.
    """
    _require_enough_approvers(request.approvals)
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
    warnings = [*_warnings_of_sources(tx, caller, request.allowed_sources), *_warnings_of_rules(tx, caller, policy)]
    stored = _next_revision(tx, caller, policy)
    stored.warnings.extend(warnings)
    return stored


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
        return _as_seen(reader, caller, reader.get_policy(request.folder_rid, branch_of(request)))
    model = reader.get_model(request.model_rid, caller).model
    policy = _as_of_now(reader, reader.get_policy(request.model_rid, branch_of(request)))
    of_folder = reader.get_policy(model.parent_folder_rid, branch_of(request))
    if of_folder.revision:
        policy.folder_policy.CopyFrom(of_folder)
    return _as_seen(reader, caller, policy)


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
    listed = reader.list_policies(place_of(request)[0], branch_of(request), page)
    _hide_sources(reader, caller, listed.items)
    return listed


def resource_of(policy: BranchPolicy) -> str:
    """Return the RID of the model or the folder that a policy was set on."""
    return policy.folder_rid or policy.model_rid


def place_of(request: OfFolder | OfModel) -> tuple[str, str]:
    """Return the RID of the model or folder whose policy is meant, and the name of the branch."""
    resource_rid = request.folder_rid if isinstance(request, OfFolder) else request.model_rid
    return resource_rid, branch_of(request)


def _has_rules(policy: BranchPolicy) -> bool:
    return any(field.name in _PROTECTING for field, _ in policy.ListFields())


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
    return _as_seen(tx, caller, tx.add_policy(policy, caller.user))


def _require_enough_approvers(rule: ApprovalRule) -> None:
    """Return if a rule for approvals, if there is one, can be met. Raises InvalidArgument."""
    approvers = {*rule.approvers}
    if rule.required > len(approvers) and all(approver.startswith("user:") for approver in approvers):
        said = f"can never be met: {len(approvers)} users may approve, and each of them counts once"
        raise InvalidArgument(violations=(FieldViolation("approvals.required", said),))


def _warnings_of_sources(tx: Transaction, caller: Caller, allowed: AllowedSources) -> Iterator[str]:
    """Return a warning for each source that is not protected itself. Raises ModelNotFound."""
    now_ms = tx.clock_ms()
    for source in while_wanted(allowed.sources):
        branch = branch_of(source)
        model = tx.get_model(source.model_rid, caller).model
        policies = tx.get_policy(model.rid, branch), tx.get_policy(model.parent_folder_rid, branch)
        if not is_protected(policies, now_ms):
            yield (
                f"allowed_sources: the branch {branch} of {model.rid} has no rules itself, so that all who may create"
                " versions there decide what may come from it."
            )


def _warnings_of_rules(tx: Transaction, caller: Caller, policy: BranchPolicy) -> Iterator[str]:
    """Return a warning for each way past the rules of a policy that others of its rules would close."""
    if policy.HasField("min_time_as_head") and not policy.HasField("allowed_sources"):
        yield "min_time_as_head: time on any branch counts, unless allowed_sources names some."
    rules = [name for name in _OF_PROMOTIONS if policy.HasField(name)]
    if rules and not refuses_creations(policy) and not _folder_refuses_creations(tx, caller, policy):
        yield f"{', '.join(rules)}: CreateModelVersion goes past it, unless promotion_only is set."


def _folder_refuses_creations(tx: Transaction, caller: Caller, policy: BranchPolicy) -> bool:
    if policy.HasField("folder_rid"):
        return False
    model = tx.get_model(policy.model_rid, caller).model
    return refuses_creations(tx.get_policy(model.parent_folder_rid, policy.branch))


def _as_seen(reader: Reader, caller: Caller, policy: BranchPolicy) -> BranchPolicy:
    """Return a policy as the caller may see it, and that of the folder in it."""
    _hide_sources(reader, caller, [policy, policy.folder_policy] if policy.HasField("folder_policy") else [policy])
    return policy


def _hide_sources(reader: Reader, caller: Caller, policies: Sequence[BranchPolicy]) -> None:
    """Replace allowed sources in models that the caller may not see by their number."""
    named = models_of_sources(policies)
    visible = reader.visible_models(named, caller) if named else set()
    for policy in policies:
        if not policy.HasField("allowed_sources"):
            continue
        seen = [source for source in policy.allowed_sources.sources if source.model_rid in visible]
        hidden_count = len(policy.allowed_sources.sources) - len(seen)
        policy.allowed_sources.CopyFrom(AllowedSources(sources=seen, hidden_count=hidden_count))


def _as_of_now(reader: Reader, policy: BranchPolicy) -> BranchPolicy:
    """Return a policy without a lock whose time is over."""
    if not is_locked(policy, reader.clock_ms()):
        policy.ClearField("lock")
    return policy
