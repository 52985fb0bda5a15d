"""What holds for new heads of a branch, and who may say so.

A policy is set on the branch of a model, or on a folder for the branches of a name in all of its models. These levels
are never merged: the policy of each must pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from modelregistry.v1.promotion_pb2 import AllowedSources, ApprovalRule, BranchLock, BranchPolicy
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_APPROVED,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PromotionRequest,
)
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
from server.core.branches import POLICY_FIELDS, branch_of, level_of
from server.core.caller import Caller
from server.core.cancellation import while_wanted
from server.core.errors import ApprovalRequired, BranchPolicyChanged, FieldViolation, InvalidArgument
from server.core.event_types import EventType
from server.rules.approvals import Level, standing_of, what_is_lacking
from server.rules.grants import require_owner
from server.rules.policy_changes import SetPolicy, canonical_change
from server.rules.sources import hide_sources
from server.rules.weakening import weakened_rules
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


class Planned(NamedTuple):
    """A change of a policy that is not made yet: what holds before and after it, and what is to be warned of."""

    before: BranchPolicy
    after: BranchPolicy
    warnings: tuple[str, ...]

    @property
    def needing_approvals(self) -> list[str]:
        """The rules that it weakens, if the policy wants approvals."""
        return weakened_rules(self.before, self.after) if self.before.HasField("approvals") else []


def set_branch_policy(tx: Transaction, caller: Caller, request: SetPolicy) -> BranchPolicy:
    """Set the policy of a branch, which need not exist, or of a folder; what the request leaves out stays as it was.

    Where the policy wants approvals, a change that weakens it consumes the approved request for it. Raises
    InvalidArgument, ModelNotFound, AccessPermissionDenied, BranchPolicyChanged and ApprovalRequired.
    """
    planned = planned_change(tx, caller, request)
    approved = _require_approved(tx, caller, request, planned)
    if approved is not None:
        planned.after.promotion_request_rid = approved.rid
    stored = _next_revision(tx, caller, planned.after)
    if approved is not None:
        tx.close_promotion_request(
            approved, PROMOTION_REQUEST_STATE_PROMOTED, caller.user, made_revision=stored.revision
        )
    stored.warnings.extend(planned.warnings)
    return stored


def planned_change(tx: Transaction, caller: Caller, request: SetPolicy) -> Planned:
    """Return what a request would change.

    Raises InvalidArgument, ModelNotFound, AccessPermissionDenied and BranchPolicyChanged.
    """
    _require_enough_approvers(request.approvals)
    policy = _policy_to_change(tx, caller, request)
    before = BranchPolicy()
    before.CopyFrom(policy)
    if request.HasField("expected_revision"):
        require_revision(resource_of(policy), policy.branch, request.expected_revision, policy.revision)
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
    warnings = (*_warnings_of_sources(tx, caller, request.allowed_sources), *_warnings_of_rules(tx, caller, policy))
    return Planned(before, policy, warnings)


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
    return _next_revision(tx, caller, policy, EventType.BRANCH_LOCKED)


def unlock_branch(tx: Transaction, caller: Caller, request: UnlockBranchRequest) -> BranchPolicy:
    """Take the lock of a branch away, if it has one. Raises ModelNotFound and AccessPermissionDenied."""
    policy = _policy_to_change(tx, caller, request)
    policy.ClearField("lock")
    return _next_revision(tx, caller, policy, EventType.BRANCH_UNLOCKED)


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
        if of_folder.HasField("promotion_request_rid") and not reader.get_role(model.parent_folder_rid, caller):
            of_folder.ClearField("promotion_request_rid")
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
    hide_sources(reader, caller, listed.items)
    return listed


def require_revision(resource_rid: str, branch: str, expected: int, actual: int) -> None:
    """Return if the policy of a branch or a folder has the revision that is expected. Raises BranchPolicyChanged."""
    if expected != actual:
        raise BranchPolicyChanged(
            resource_rid=resource_rid, branch_name=branch, expected_revision=expected, actual_revision=actual
        )


def resource_of(policy: BranchPolicy) -> str:
    """Return the RID of the model or the folder that a policy was set on."""
    return level_of(policy, policy.model_rid)


def place_of(request: OfFolder | OfModel) -> tuple[str, str]:
    """Return the RID of the model or folder whose policy is meant, and the name of the branch."""
    resource_rid = request.folder_rid if isinstance(request, OfFolder) else request.model_rid
    return resource_rid, branch_of(request)


def _has_rules(policy: BranchPolicy) -> bool:
    return any(field.name in _PROTECTING for field, _ in policy.ListFields())


def _policy_to_change(
    tx: Transaction,
    caller: Caller,
    request: SetPolicy | LockBranchRequest | UnlockBranchRequest,
) -> BranchPolicy:
    """Return the policy that holds now. Raises ModelNotFound and AccessPermissionDenied."""
    resource_rid, branch = place_of(request)
    require_owner(tx, caller, resource_rid)
    policy = _as_of_now(tx, tx.get_policy(resource_rid, branch))
    # It is of one revision alone.
    policy.ClearField("promotion_request_rid")
    return policy


def _require_approved(tx: Transaction, caller: Caller, request: SetPolicy, planned: Planned) -> PromotionRequest | None:
    """Return the approved request for this very change, if it needs one. Raises ApprovalRequired.

    What counts are the approvals of the policy that is changed, by its rule before the change.
    """
    weakened = planned.needing_approvals
    if not weakened:
        return None
    before = planned.before
    asked = tx.find_open_change(canonical_change(request))
    level = Level(before, frozenset())
    if asked is not None:
        standing = standing_of(asked, (before,), None, tx.clock_ms(), caller.user)
        if standing.state == PROMOTION_REQUEST_STATE_APPROVED:
            return asked
        if standing.is_live:
            [level] = standing.levels
        else:
            asked = None
    raise ApprovalRequired(
        model_rid=before.model_rid,
        branch_name=before.branch,
        required=level.rule.required,
        given=len(level.given),
        promotion_request_rid="" if asked is None else asked.rid,
        resource_rid=resource_of(before),
        explanation=f"This weakens {', '.join(weakened)}: {what_is_lacking(level, asked, caller.user)}",
    )


def _next_revision(
    tx: Transaction, caller: Caller, policy: BranchPolicy, change: EventType | None = None
) -> BranchPolicy:
    policy.revision += 1
    return _as_seen(tx, caller, tx.add_policy(policy, caller.user, change))


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
    hide_sources(reader, caller, [policy, policy.folder_policy] if policy.HasField("folder_policy") else [policy])
    return policy


def _as_of_now(reader: Reader, policy: BranchPolicy) -> BranchPolicy:
    """Return a policy without a lock whose time is over."""
    if not is_locked(policy, reader.clock_ms()):
        policy.ClearField("lock")
    return policy
