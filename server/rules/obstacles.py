"""Obstacles: what speaks against a new head of a branch, whether it is promoted, rolled back to or created.

`OBSTACLES` is the one list of them; its order is a promise. PromoteVersion raises the first obstacle and CheckPromotion
lists all; batches, rollbacks and CreateModelVersion go by the same list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_UNSPECIFIED, Role
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    PROMOTION_KIND_UNSPECIFIED,
    Promotion,
    PromotionKind,
)
from modelregistry.v1.promotion_request_pb2 import PromotionRequest
from server.core.branches import branch_of, level_of
from server.core.caller import Caller
from server.core.errors import (
    ApprovalRequired,
    BranchAcceptsPromotionsOnly,
    BranchHeadChanged,
    BranchLocked,
    BranchNotFound,
    CreateModelVersionPermissionDenied,
    ModelNotFound,
    ModelVersionNotFound,
    PromoteVersionModelPermissionDenied,
    RegistryError,
    RequestIdAlreadyUsed,
    SourceNotAllowed,
    SourceTooYoung,
    TooManyModelApis,
    UnsupportedModelSource,
    VersionAlreadyHead,
    VersionNumberNotFound,
    VersionRolledBack,
    VersionYanked,
)
from server.core.permissions import TO_CREATE_VERSIONS, TO_OVERRIDE, TO_PROMOTE
from server.rules.api_history import ENFORCING, MOST_APIS, ApiHistory, Broken
from server.rules.approvals import Level, Standing, standing_of, wanting_approvals, what_is_lacking
from server.rules.branch_policies import is_locked, is_protected, refuses_creations
from server.rules.idempotency import Claim
from server.rules.sources import in_allowed_sources, time_left_ms
from server.rules.verdicts import comparison_of, incompatible
from server.storage.contract import Comparison, PromotionFacts, RequestRecord, StoredVersion, Tenure, Verdict


class Attempt(NamedTuple):
    """A new head that is asked for: a promotion by itself or in a batch, a rollback to a version of the branch, or a
    version that is created.
    """

    # PROMOTION_KIND_UNSPECIFIED if it is created.
    kind: PromotionKind.ValueType
    model_rid: str
    branch: str
    # Of a rollback, None if the branch has no version of the number; of one that is created, its own.
    source_rid: str | None
    to_version_number: int | None = None
    expected_head_rid: str | None = None
    reason: str | None = None
    # Whether an owner wants a rollback to pass what `OVERRIDABLE` says.
    override: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """The RID of the target model, and the name of the branch."""
        return self.model_rid, self.branch

    @property
    def is_creation(self) -> bool:
        """Whether the version is created, and copied from no other."""
        return self.kind == PROMOTION_KIND_UNSPECIFIED

    @property
    def is_override(self) -> bool:
        """Whether a rollback passes what `OVERRIDABLE` says: it takes a reason."""
        return self.override and bool(self.reason)

    @property
    def needed_role(self) -> Role.ValueType:
        """The role that its caller needs."""
        if self.override:
            return TO_OVERRIDE
        return TO_CREATE_VERSIONS if self.is_creation else TO_PROMOTE


class Facts(NamedTuple):
    """What decides an attempt: what is stored of it, and what is known of the request that it is part of.

    `claim` is that request if it has an id, `earlier` the one that was carried out under this id. `error_count` is how
    many errors were found when the source was compared with the branch's head, and `findings` returns them. `histories`
    are what it is compared with beside the head, and `broken` is the newest of these with which errors were found.
    `tenures` and `was_rolled_back` return what storage says of the source, and `visible_sources` which models of
    allowed sources the caller may see; they are asked where a rule needs it.
    `request` is the request for this promotion that was not closed, as it is stored, where approvals are wanted and
    there is one.
    """

    stored: PromotionFacts
    caller: Caller
    claim: Claim | None = None
    earlier: RequestRecord | None = None
    error_count: int = 0
    findings: Callable[[], Promotion] = Promotion
    histories: tuple[ApiHistory, ...] = ()
    broken: Broken | None = None
    tenures: Callable[[], Sequence[Tenure]] = list
    was_rolled_back: Callable[[], bool] = bool
    visible_sources: Callable[[], Collection[str]] = frozenset
    request: PromotionRequest | None = None

    @property
    def is_repeated(self) -> bool:
        """Whether the very same request was carried out before, so that nothing is left to do."""
        return self.claim is not None and self.earlier is not None and self.earlier.digest == self.claim.request.digest

    @property
    def wants_approvals(self) -> bool:
        """Whether a policy of the branch wants approvals of promotions."""
        return bool(wanting_approvals(self.stored.branch.policies))

    @property
    def standing(self) -> Standing | None:
        """What has become of the request for this promotion, for its caller; None if there is none that is live."""
        if self.request is None:
            return None
        end = self.stored.branch
        head_rid = None if end.head is None else end.head.rid
        standing = standing_of(self.request, end.policies, head_rid, self.stored.now_ms, self.caller.user)
        return standing if standing.is_live else None

    @property
    def comparison(self) -> Comparison | None:
        """What has to be compared for the source to replace the head; None if nothing has to be."""
        return None if self.stored.source is None else comparison_of(self.stored.branch, self.stored.source)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on that comparison, if it is stored."""
        return None if self.comparison is None else self.stored.verdict

    def with_source(self, source: StoredVersion) -> Facts:
        """Return the facts with what is to become the head."""
        return self._replace(stored=self.stored._replace(source=source))

    def with_findings(self, error_count: int, findings: Callable[[], Promotion]) -> Facts:
        """Return the facts with what the comparison found."""
        return self._replace(error_count=error_count, findings=findings)


# What speaks against an attempt, in order


def _model_not_found(attempt: Attempt, facts: Facts) -> RegistryError | None:
    return ModelNotFound(model_rid=attempt.model_rid)


def _request_id_used(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if facts.claim is None or facts.earlier is None:
        return None
    return RequestIdAlreadyUsed(request_id=facts.claim.request_id)


def _role_too_low(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if (facts.stored.role or ROLE_UNSPECIFIED) >= attempt.needed_role:
        return None
    if attempt.is_creation:
        return CreateModelVersionPermissionDenied(model_rid=attempt.model_rid)
    return PromoteVersionModelPermissionDenied(model_rid=attempt.model_rid)


def _not_a_promoter(attempt: Attempt, facts: Facts) -> RegistryError | None:
    """Beside the role. Administrators may promote and roll back wherever others may."""
    if attempt.is_creation or facts.caller.is_admin:
        return None
    policies = facts.stored.branch.policies
    is_rollback = attempt.kind == PROMOTION_KIND_ROLLBACK
    field: Literal["rollbackers", "promoters"] = "rollbackers" if is_rollback else "promoters"
    named = [getattr(policy, field).principals for policy in policies if policy.HasField(field)]
    if named:
        may = all(not set(facts.caller.principals).isdisjoint(principals) for principals in named)
    elif is_rollback and is_protected(policies, facts.stored.now_ms):
        may = (facts.stored.role or ROLE_UNSPECIFIED) >= ROLE_OWNER
    else:
        may = True
    return None if may else PromoteVersionModelPermissionDenied(model_rid=attempt.model_rid)


def _branch_locked(attempt: Attempt, facts: Facts) -> RegistryError | None:
    policy = facts.stored.branch.policies[0]
    if not is_locked(policy, facts.stored.now_ms):
        return None
    # After an incident the way back must be open.
    if attempt.kind == PROMOTION_KIND_ROLLBACK and attempt.reason:
        return None
    return BranchLocked(
        model_rid=attempt.model_rid,
        branch_name=attempt.branch,
        reason=policy.lock.reason,
        expire_time=policy.lock.expire_time.ToJsonString() if policy.lock.HasField("expire_time") else "",
    )


def _accepts_promotions_only(attempt: Attempt, facts: Facts) -> RegistryError | None:
    for policy in facts.stored.branch.policies:
        if attempt.is_creation and refuses_creations(policy):
            return BranchAcceptsPromotionsOnly(
                model_rid=attempt.model_rid,
                branch_name=attempt.branch,
                resource_rid=level_of(policy, attempt.model_rid),
            )
    return None


def _source_not_found(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if facts.stored.source is not None:
        return None
    if attempt.to_version_number is None:
        return ModelVersionNotFound(model_rid=attempt.model_rid, model_version_rid=attempt.source_rid or "")
    if facts.stored.branch.head is None:
        return BranchNotFound(model_rid=attempt.model_rid, branch_name=attempt.branch)
    return VersionNumberNotFound(
        model_rid=attempt.model_rid, branch_name=attempt.branch, version_number=attempt.to_version_number
    )


def _source_unsupported(attempt: Attempt, facts: Facts) -> RegistryError | None:
    source = facts.stored.source
    return UnsupportedModelSource() if source is not None and source.legacy_source is not None else None


def _source_yanked(attempt: Attempt, facts: Facts) -> RegistryError | None:
    yank = facts.stored.yank
    if yank is None or attempt.is_override:
        return None
    # Of a yank that the caller may not know of, all else is empty.
    return VersionYanked(
        model_version_rid=attempt.source_rid or "",
        yank_rid=yank.rid,
        yanked_version_rid=yank.model_version_rid,
        yanked_by=yank.yanked_by,
        reason=yank.reason,
    )


def _rolled_back(attempt: Attempt, facts: Facts) -> RegistryError | None:
    number = attempt.to_version_number
    if number is None or facts.stored.source is None or attempt.is_override:
        return None
    if not is_protected(facts.stored.branch.policies, facts.stored.now_ms) or not facts.was_rolled_back():
        return None
    return VersionRolledBack(model_rid=attempt.model_rid, branch_name=attempt.branch, version_number=number)


def _source_not_allowed(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if attempt.kind != PROMOTION_KIND_PROMOTION or facts.stored.source is None:
        return None
    for policy in facts.stored.branch.policies:
        if policy.HasField("allowed_sources") and not in_allowed_sources(policy, facts.tenures()):
            visible = facts.visible_sources()
            seen = [source for source in policy.allowed_sources.sources if source.model_rid in visible]
            return SourceNotAllowed(
                model_rid=attempt.model_rid,
                branch_name=attempt.branch,
                resource_rid=level_of(policy, attempt.model_rid),
                allowed_sources=", ".join(f"{source.model_rid}:{branch_of(source)}" for source in seen),
            )
    return None


def _source_too_young(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if attempt.kind != PROMOTION_KIND_PROMOTION or facts.stored.source is None:
        return None
    for policy in facts.stored.branch.policies:
        if not policy.HasField("min_time_as_head"):
            continue
        left_ms = time_left_ms(policy, facts.tenures(), facts.stored.now_ms)
        if left_ms > 0:
            return SourceTooYoung(
                model_rid=attempt.model_rid,
                branch_name=attempt.branch,
                resource_rid=level_of(policy, attempt.model_rid),
                seconds_left=math.ceil(left_ms / 1000),
            )
    return None


def _head_changed(attempt: Attempt, facts: Facts) -> RegistryError | None:
    head = facts.stored.branch.head
    head_rid = None if head is None else head.rid
    return head_changed(attempt.model_rid, attempt.branch, attempt.expected_head_rid, head_rid)


def head_changed(
    model_rid: str, branch: str, expected_rid: str | None, head_rid: str | None
) -> BranchHeadChanged | None:
    """Return what to say where a branch has not the head that is expected, if one is."""
    actual = head_rid or ""
    if expected_rid in (None, actual):
        return None
    return BranchHeadChanged(
        model_rid=model_rid,
        branch_name=branch,
        expected_head_version_rid=expected_rid or "",
        actual_head_version_rid=actual,
    )


def _already_head(attempt: Attempt, facts: Facts) -> RegistryError | None:
    number = attempt.to_version_number
    if number is None or facts.stored.branch.next_number != number + 1:
        return None
    return VersionAlreadyHead(model_rid=attempt.model_rid, branch_name=attempt.branch, version_number=number)


def _too_many_model_apis(attempt: Attempt, facts: Facts) -> RegistryError | None:
    for history in facts.histories:
        if history.is_too_long and attempt.kind != PROMOTION_KIND_ROLLBACK:
            return TooManyModelApis(
                model_rid=attempt.model_rid,
                branch_name=attempt.branch,
                resource_rid=history.period.level_rid,
                since_revision=history.period.since_revision,
                limit=MOST_APIS,
            )
    return None


def _model_api_incompatible(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if not facts.error_count and facts.broken is None:
        return None
    # After an incident the way back must be open: a rollback records its findings, and they refuse nothing.
    end = facts.stored.branch
    if attempt.kind == PROMOTION_KIND_ROLLBACK or end.compatibility not in ENFORCING:
        return None
    if facts.error_count:
        return incompatible(facts.findings(), attempt.model_rid, attempt.branch, end.next_number - 1)
    if facts.broken is not None:
        found, number = facts.broken.findings(), facts.broken.version_number
        return incompatible(found, attempt.model_rid, attempt.branch, number, is_earlier=True)
    return None


def _approval_required(attempt: Attempt, facts: Facts) -> RegistryError | None:
    # After an incident the way back must be open; and what is created has no source that could be approved.
    if attempt.kind != PROMOTION_KIND_PROMOTION:
        return None
    standing = facts.standing
    if standing is None:
        levels = tuple(Level(policy, frozenset()) for policy in wanting_approvals(facts.stored.branch.policies))
    else:
        levels = standing.levels
    for level in levels:
        if not level.is_met:
            return ApprovalRequired(
                model_rid=attempt.model_rid,
                branch_name=attempt.branch,
                required=level.rule.required,
                given=len(level.given),
                promotion_request_rid="" if standing is None or facts.request is None else facts.request.rid,
                resource_rid=level_of(level.policy, attempt.model_rid),
                explanation=what_is_lacking(level, None if standing is None else facts.request, facts.caller.user),
            )
    return None


Obstacle: TypeAlias = Callable[[Attempt, Facts], RegistryError | None]

# In a batch, all entries are looked at for one group before any is for the next. CheckPromotion asks every obstacle,
# whatever those before it said: the role may be too low and the source None.
OF_THE_REQUEST_ID: tuple[Obstacle, ...] = (_request_id_used,)
OF_THE_TARGET: tuple[Obstacle, ...] = (_role_too_low, _not_a_promoter, _branch_locked, _accepts_promotions_only)
OF_THE_SOURCE: tuple[Obstacle, ...] = (
    *OF_THE_TARGET,
    _source_not_found,
    _source_unsupported,
    _source_yanked,
    _rolled_back,
    _source_not_allowed,
    _source_too_young,
)
OF_THE_BRANCH: tuple[Obstacle, ...] = (_head_changed, _already_head)
OF_THE_CONTENT: tuple[Obstacle, ...] = (_too_many_model_apis, _model_api_incompatible)
OF_THE_APPROVALS: tuple[Obstacle, ...] = (_approval_required,)
OBSTACLES = (*OF_THE_REQUEST_ID, *OF_THE_SOURCE, *OF_THE_BRANCH, *OF_THE_CONTENT, *OF_THE_APPROVALS)
# What an owner can have a rollback pass, with a reason.
OVERRIDABLE: tuple[Obstacle, ...] = (_source_yanked, _rolled_back)
# A promotion can be requested although these stand against it: they may pass until it is carried out.
_MAY_PASS = (*OF_THE_REQUEST_ID, _branch_locked, _source_too_young, *OF_THE_APPROVALS)
LASTING = tuple(obstacle for obstacle in OBSTACLES if obstacle not in _MAY_PASS)


def obstacles(attempt: Attempt, facts: Facts, among: Sequence[Obstacle] = OBSTACLES) -> Iterator[RegistryError]:
    """Yield what speaks against an attempt, the first one first."""
    for obstacle in _applicable(facts, among):
        error = obstacle(attempt, facts)
        if error is not None:
            yield error


def is_overridden(attempt: Attempt, facts: Facts) -> bool:
    """Whether an attempt passes by its override alone."""
    return attempt.override and any(obstacle(attempt._replace(override=False), facts) for obstacle in OVERRIDABLE)


def require(attempt: Attempt, facts: Facts, among: Sequence[Obstacle] = OBSTACLES) -> None:
    """Raise the first obstacle, if there is one."""
    for obstacle in _applicable(facts, among):
        error = obstacle(attempt, facts)
        if error is not None:
            raise error


def _applicable(facts: Facts, among: Sequence[Obstacle]) -> Sequence[Obstacle]:
    """Return the obstacles to look at: of a target that is not there nothing more is said, and against what was carried
    out before nothing is.
    """
    if facts.stored.role is None:
        return (_model_not_found,)
    return () if facts.is_repeated else among
