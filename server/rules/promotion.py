"""Promotion: whether an existing version may become the new head of a branch of any model, and how it does.

`OBSTACLES` is the one list of what speaks against a promotion; its order is a promise. PromoteVersion raises the first
obstacle and CheckPromotion lists all; batches and rollbacks go by the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

from modelregistry.v1.access_service_pb2 import ROLE_UNSPECIFIED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    Promotion,
    PromotionKind,
)
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoted,
    BatchPromoteVersionsRequest,
    BatchPromoteVersionsResponse,
    BatchPromotion,
    CheckPromotionResponse,
    PromotionObstacle,
    RollbackBranchRequest,
)
from server.core import rids
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.cancellation import while_wanted
from server.core.errors import (
    BranchHeadChanged,
    BranchNotFound,
    FieldViolation,
    ModelNotFound,
    ModelVersionNotFound,
    PromoteVersionModelPermissionDenied,
    RegistryError,
    RequestIdAlreadyUsed,
    UnsupportedModelSource,
    VersionAlreadyHead,
    VersionNumberNotFound,
)
from server.core.permissions import TO_PROMOTE
from server.rules.compatibility import RULES_VERSION
from server.rules.idempotency import Claim, claim_of, replayed_version
from server.rules.verdicts import ComparisonsNeeded, comparison_of, findings_on, incompatible
from server.storage.contract import (
    BranchEnd,
    Comparison,
    Head,
    Promoted,
    PromotionFacts,
    Reader,
    Repository,
    RequestRecord,
    StoredVersion,
    Transaction,
    Verdict,
    WantedPromotion,
)


class Attempt(NamedTuple):
    """A promotion that is asked for: by itself, in a batch, or as a rollback to a version of the branch."""

    kind: PromotionKind.ValueType
    model_rid: str
    branch: str
    # Of a rollback, None if the branch has no version of the number.
    source_rid: str | None
    to_version_number: int | None
    expected_head_rid: str | None
    reason: str | None

    @property
    def place(self) -> tuple[str, str]:
        """The RID of the target model, and the name of the branch."""
        return self.model_rid, self.branch


class Facts(NamedTuple):
    """What decides an attempt: what is stored of it, and what is known of the request that it is part of.

    `claim` is that request if it has an id, `earlier` the one that was carried out under this id. `error_count` is how
    many errors were found when the source was compared with the branch's head, and `findings` returns them.
    """

    stored: PromotionFacts
    claim: Claim | None = None
    earlier: RequestRecord | None = None
    error_count: int = 0
    findings: Callable[[], Promotion] = Promotion

    @property
    def is_repeated(self) -> bool:
        """Whether the very same request was carried out before, so that nothing is left to do."""
        return self.claim is not None and self.earlier is not None and self.earlier.digest == self.claim.request.digest

    @property
    def comparison(self) -> Comparison | None:
        """What has to be compared for the source to replace the head; None if nothing has to be."""
        return None if self.stored.source is None else comparison_of(self.stored.branch, self.stored.source)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on that comparison, if it is stored."""
        return None if self.comparison is None else self.stored.verdict

    def with_findings(self, error_count: int, findings: Callable[[], Promotion]) -> Facts:
        """Return the facts with what the comparison found."""
        return self._replace(error_count=error_count, findings=findings)


# What speaks against an attempt, in order


def _request_id_used(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if facts.claim is None or facts.earlier is None:
        return None
    return RequestIdAlreadyUsed(request_id=facts.claim.request_id)


def _role_too_low(attempt: Attempt, facts: Facts) -> RegistryError | None:
    if (facts.stored.role or ROLE_UNSPECIFIED) >= TO_PROMOTE:
        return None
    return PromoteVersionModelPermissionDenied(model_rid=attempt.model_rid)


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


def _head_changed(attempt: Attempt, facts: Facts) -> RegistryError | None:
    head = facts.stored.branch.head
    actual = "" if head is None else head.rid
    if attempt.expected_head_rid in (None, actual):
        return None
    return BranchHeadChanged(
        model_rid=attempt.model_rid,
        branch_name=attempt.branch,
        expected_head_version_rid=attempt.expected_head_rid or "",
        actual_head_version_rid=actual,
    )


def _already_head(attempt: Attempt, facts: Facts) -> RegistryError | None:
    number = attempt.to_version_number
    if number is None or facts.stored.branch.next_number != number + 1:
        return None
    return VersionAlreadyHead(model_rid=attempt.model_rid, branch_name=attempt.branch, version_number=number)


def _model_api_incompatible(attempt: Attempt, facts: Facts) -> RegistryError | None:
    # After an incident the way back must be open: a rollback records its findings, and they refuse nothing.
    if attempt.kind == PROMOTION_KIND_ROLLBACK or facts.stored.branch.compatibility != COMPATIBILITY_MODE_ENFORCE:
        return None
    return incompatible(facts.findings(), attempt.model_rid, attempt.branch) if facts.error_count else None


Obstacle: TypeAlias = Callable[[Attempt, Facts], RegistryError | None]

# In a batch, all entries are looked at for one group before any is for the next. CheckPromotion asks every obstacle,
# whatever those before it said: the role may be too low and the source None.
_OF_THE_REQUEST: tuple[Obstacle, ...] = (_request_id_used,)
_OF_THE_SOURCE: tuple[Obstacle, ...] = (_role_too_low, _source_not_found, _source_unsupported)
_OF_THE_BRANCH: tuple[Obstacle, ...] = (_head_changed, _already_head)
_OF_THE_CONTENT: tuple[Obstacle, ...] = (_model_api_incompatible,)
OBSTACLES = (*_OF_THE_REQUEST, *_OF_THE_SOURCE, *_OF_THE_BRANCH, *_OF_THE_CONTENT)


def obstacles(attempt: Attempt, facts: Facts, among: Sequence[Obstacle] = OBSTACLES) -> Iterator[RegistryError]:
    """Yield what speaks against an attempt, the first one first.

    Of a target that is not there nothing more is said, and against what was carried out before nothing is.
    """
    if facts.stored.role is None:
        yield ModelNotFound(model_rid=attempt.model_rid)
    elif not facts.is_repeated:
        for obstacle in among:
            error = obstacle(attempt, facts)
            if error is not None:
                yield error


# The RPCs


def promote_version(tx: Transaction, caller: Caller, request: PromoteVersionRequest) -> ModelVersion:
    """Copy the source version into the target model, record that, and return the copy.

    The same request, by its id, is carried out once: it returns the same copy again. Raises ModelNotFound,
    RequestIdAlreadyUsed, PromoteVersionModelPermissionDenied, ModelVersionNotFound, UnsupportedModelSource,
    BranchHeadChanged and ModelApiIncompatible; and ComparisonsNeeded, for which there is `write_with_verdicts`.
    """
    rid = rids.new_model_version_rid()
    [promoted] = _carry_out(tx, caller, [_attempt(request)], [rid], claim_of(caller, request, [rid]))
    return promoted


def rollback_branch(tx: Transaction, caller: Caller, request: RollbackBranchRequest) -> ModelVersion:
    """Promote an earlier version of a branch onto the same branch, record that, and return the copy.

    Raises ModelNotFound, RequestIdAlreadyUsed, PromoteVersionModelPermissionDenied, BranchNotFound,
    VersionNumberNotFound, UnsupportedModelSource, BranchHeadChanged, VersionAlreadyHead and ComparisonsNeeded.
    """
    branch, number = branch_of(request), request.to_version_number
    source = tx.find_numbered_version(request.model_rid, branch, number, caller)
    attempt = Attempt(
        kind=PROMOTION_KIND_ROLLBACK,
        model_rid=request.model_rid,
        branch=branch,
        source_rid=None if source is None else source.version.rid,
        to_version_number=number,
        expected_head_rid=_expected_head(request),
        reason=_reason(request),
    )
    rid = rids.new_model_version_rid()
    [promoted] = _carry_out(tx, caller, [attempt], [rid], claim_of(caller, request, [rid]))
    return promoted


def batch_promote_versions(
    tx: Transaction, caller: Caller, request: BatchPromoteVersionsRequest
) -> BatchPromoteVersionsResponse:
    """Carry out all promotions of a request, or none, and return what they made.

    Raises what promote_version raises, with the entry that is at fault as a violation.
    """
    new_rids = [rids.new_model_version_rid() for _ in request.promotions]
    attempts = [_attempt(entry) for entry in request.promotions]
    promoted = _carry_out(tx, caller, attempts, new_rids, claim_of(caller, request, new_rids), names_entries=True)
    return BatchPromoteVersionsResponse(
        promoted=[
            BatchPromoted(
                model_version_rid=version.rid,
                model_rid=version.model_rid,
                branch=version.branch,
                version_number=version.version_number,
                promotion_rid=tx.get_promotion_rid(version.rid),
            )
            for version in promoted
        ]
    )


def check_promotion(repository: Repository, caller: Caller, request: PromoteVersionRequest) -> CheckPromotionResponse:
    """Return everything that would decide the promotion, as far as the caller may know it."""
    attempt, claim = _attempt(request), claim_of(caller, request, [])
    facts, stored = repository.read(lambda reader: _facts_of_check(reader, caller, attempt, claim))
    answer, branch = CheckPromotionResponse(), facts.stored.branch
    if facts.stored.role is not None and facts.is_repeated:
        assert facts.earlier is not None
        answer.repeated_version_rid = facts.earlier.results[0]
    elif facts.stored.role is not None:
        answer.compatibility = branch.compatibility
        answer.version_number = branch.next_number
        if branch.head is not None:
            answer.head_version_rid = branch.head.rid
        if facts.comparison is not None:
            found = findings_on(repository, facts.comparison) if stored is None else stored
            facts = facts.with_findings(found.error_count, lambda: found)
            answer.findings.extend(found.findings)
            answer.error_count, answer.warning_count = found.error_count, found.warning_count
    answer.obstacles.extend(
        PromotionObstacle(error_name=error.name, description=error.description, parameters=error.parameters)
        for error in obstacles(attempt, facts)
    )
    answer.would_succeed = not answer.obstacles
    return answer


# How it is done


def _facts_of_check(
    reader: Reader, caller: Caller, attempt: Attempt, claim: Claim | None
) -> tuple[Facts, Promotion | None]:
    """Return the facts of an attempt, and the findings of their verdict if there is one."""
    earlier = None if claim is None else reader.find_request(claim.key)
    facts = Facts(reader.get_promotion_facts(_wanted(attempt), caller), claim, earlier)
    return facts, None if facts.verdict is None else reader.get_findings(facts.verdict)


def _carry_out(
    tx: Transaction,
    caller: Caller,
    attempts: Sequence[Attempt],
    new_rids: Sequence[str],
    claim: Claim | None,
    names_entries: bool = False,
) -> list[ModelVersion]:
    """Carry out all attempts of one request, or return what it made before.

    Raises the first obstacle, and ComparisonsNeeded if nothing else speaks against them.
    """

    def require(found: Sequence[Facts], among: Sequence[Obstacle]) -> None:
        for number, (attempt, facts) in enumerate(zip(attempts, found, strict=True)):
            with _naming(number if names_entries else None):
                for error in obstacles(attempt, facts, among):
                    raise error

    # Locked first, so that what is read of a branch holds until the end of the transaction. A new branch may be made by
    # another one meanwhile: `append_version` notices.
    tx.lock_branches({(attempt.model_rid, attempt.branch) for attempt in attempts}, caller, TO_PROMOTE)
    earlier = None if claim is None else tx.claim_request(claim.key, claim.request)
    found = [Facts(tx.get_promotion_facts(_wanted(each), caller), claim, earlier) for each in while_wanted(attempts)]
    require(found, ())
    for error in obstacles(attempts[0], found[0], _OF_THE_REQUEST):
        raise error
    require(found, _OF_THE_SOURCE)
    if earlier is not None:
        return [
            replayed_version(tx, caller, attempt.model_rid, rid)
            for attempt, rid in zip(attempts, earlier.results, strict=True)
        ]
    found = _one_after_another(tx, attempts, found, new_rids)
    require(found, _OF_THE_BRANCH)
    found = _compared(tx, found)
    require(found, _OF_THE_CONTENT)
    promoted = []
    last: dict[tuple[str, str], Promoted] = {}
    for attempt, facts, rid in zip(while_wanted(attempts), found, new_rids, strict=True):
        source, end = _source(facts), facts.stored.branch
        if attempt.place in last:
            end = _stored_behind(last[attempt.place], end)
        made = tx.append_promoted(
            _copy_of(source.version, attempt, rid, caller),
            source.content_digest,
            _record_of(source.version, attempt),
            facts.verdict,
            end,
        )
        last[attempt.place] = made
        # Who promotes has seen the source, and not always the root.
        seen = StoredVersion(made.version, source.content_digest, None, hides_root=source.hides_root)
        promoted.append(seen.as_seen())
    return promoted


def _one_after_another(
    tx: Transaction, attempts: Sequence[Attempt], found: Sequence[Facts], new_rids: Sequence[str]
) -> list[Facts]:
    """Return the facts of each attempt where those before it have been carried out."""
    following: list[Facts] = []
    # Which entry was the last one on each branch.
    last: dict[tuple[str, str], int] = {}
    for number, (attempt, facts) in enumerate(zip(while_wanted(attempts), found, strict=True)):
        if attempt.place in last:
            before = last[attempt.place]
            # When it is created, and its place in the chain, will be known once it is.
            head = Head(new_rids[before], _source(found[before]).content_digest, created_ms=0)
            end = following[before].stored.branch
            end = end._replace(next_number=end.next_number + 1, head=head)
            comparison = comparison_of(end, _source(facts))
            verdict = None if comparison is None else tx.find_verdict(comparison)
            facts = facts._replace(stored=facts.stored._replace(branch=end, verdict=verdict))
        last[attempt.place] = number
        following.append(facts)
    return following


def _compared(tx: Transaction, found: Sequence[Facts]) -> list[Facts]:
    """Return facts with what their verdicts say. Raises ComparisonsNeeded, with all that are not stored."""
    compared, lacking = [], []
    for facts in found:
        if facts.verdict is not None:
            facts = facts.with_findings(facts.verdict.error_count, partial(tx.get_findings, facts.verdict))
        elif facts.comparison is not None:
            lacking.append(facts.comparison)
        compared.append(facts)
    if lacking:
        raise ComparisonsNeeded(tuple(dict.fromkeys(lacking)))
    return compared


def _attempt(request: PromoteVersionRequest | BatchPromotion) -> Attempt:
    return Attempt(
        kind=PROMOTION_KIND_PROMOTION,
        model_rid=request.model_rid,
        branch=branch_of(request),
        source_rid=request.source_model_version_rid,
        to_version_number=None,
        expected_head_rid=_expected_head(request),
        reason=_reason(request),
    )


def _expected_head(request: PromoteVersionRequest | BatchPromotion | RollbackBranchRequest) -> str | None:
    return request.expected_head_version_rid if request.HasField("expected_head_version_rid") else None


def _reason(request: PromoteVersionRequest | BatchPromotion | RollbackBranchRequest) -> str | None:
    return request.reason if request.HasField("reason") else None


def _wanted(attempt: Attempt) -> WantedPromotion:
    return WantedPromotion(attempt.model_rid, attempt.branch, attempt.source_rid, RULES_VERSION)


def _source(facts: Facts) -> StoredVersion:
    assert facts.stored.source is not None, "without one there is an obstacle"
    return facts.stored.source


def _copy_of(source: ModelVersion, attempt: Attempt, rid: str, caller: Caller) -> ModelVersion:
    """Return the copy: everything equal to the source, the root carried over, but for what is the copy's own."""
    copy = ModelVersion()
    copy.CopyFrom(source)
    copy.rid = rid
    copy.model_rid = attempt.model_rid
    copy.branch = attempt.branch
    copy.created_by = caller.user
    copy.ClearField("created_time")
    copy.ClearField("version_number")
    promoted = PromotedSource(previous_model_rid=source.model_rid, previous_model_version_rid=source.rid)
    copy.source.CopyFrom(ModelVersionSource(promoted=promoted))
    return copy


def _record_of(source: ModelVersion, attempt: Attempt) -> Promotion:
    """Return what is recorded of a promotion, but for what its version says."""
    return Promotion(
        rid=rids.new_promotion_rid(),
        kind=attempt.kind,
        source_model_rid=source.model_rid,
        source_model_version_rid=source.rid,
        reason=attempt.reason,
    )


def _stored_behind(before: Promoted, end: BranchEnd) -> BranchEnd:
    """Return where a branch goes on behind a promotion that has just been stored."""
    assert end.head is not None, "that promotion has made it"
    head = end.head._replace(created_ms=before.version.created_time.ToMilliseconds())
    return end._replace(head=head, chain=before.chain)


@contextmanager
def _naming(entry: int | None) -> Iterator[None]:
    """Add to what is raised that this entry of a batch is at fault."""
    try:
        yield
    except RegistryError as error:
        if entry is not None:
            error.violations = (FieldViolation(f"promotions[{entry}]", error.description), *error.violations)
        raise
