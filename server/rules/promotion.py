"""Promotion: how an existing version becomes the new head of a branch of any model.

Whether it may is what `obstacles` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import TypeAlias

from modelregistry.v1.compatibility_pb2 import SEVERITY_ERROR
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    Promotion,
)
from modelregistry.v1.promotion_request_pb2 import PROMOTION_REQUEST_STATE_PROMOTED, PromotionRequest
from modelregistry.v1.promotion_request_service_pb2 import CreatePromotionRequestRequest
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoted,
    BatchPromoteVersionsRequest,
    BatchPromoteVersionsResponse,
    BatchPromotion,
    CheckPromotionResponse,
    PromotionObstacle,
    RollbackBranchRequest,
)
from modelregistry.v1.recall_service_pb2 import BatchRollbackRequest, BatchRollbackResponse, BranchRollback
from server.core import rids
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.cancellation import while_wanted
from server.core.errors import (
    FieldViolation,
    InvalidArgument,
    RegistryError,
)
from server.core.permissions import TO_PROMOTE
from server.rules.api_history import ApiHistory, Broken, Place, api_histories, newest_broken, record
from server.rules.compatibility import MAX_FINDINGS_BYTES, RULES_VERSION
from server.rules.idempotency import Claim, claim_of, replayed_version
from server.rules.obstacles import (
    OF_THE_APPROVALS,
    OF_THE_BRANCH,
    OF_THE_CONTENT,
    OF_THE_REQUEST_ID,
    OF_THE_SOURCE,
    Attempt,
    Facts,
    Obstacle,
    is_overridden,
    obstacles,
    require,
)
from server.rules.sources import asks_for_sources, models_of_sources
from server.rules.verdicts import ComparisonsNeeded, comparison_of, findings_on
from server.storage.contract import (
    NO_POLICY,
    BranchEnd,
    Comparison,
    Head,
    HeadApi,
    PolicyPeriod,
    Promoted,
    Reader,
    Repository,
    RequestRecord,
    StoredVersion,
    Transaction,
    WantedPromotion,
)

_Request: TypeAlias = (
    PromoteVersionRequest | BatchPromotion | CreatePromotionRequestRequest | RollbackBranchRequest | BranchRollback
)

# What the number of the version adds to a finding, and the finding to an answer, at most.
_BYTES_OF_NUMBER = 14

# The RPCs


def promote_version(tx: Transaction, caller: Caller, request: PromoteVersionRequest) -> ModelVersion:
    """Copy the source version into the target model, record that, and return the copy.

    The same request, by its id, is carried out once: it returns the same copy again. Raises ModelNotFound,
    RequestIdAlreadyUsed, PromoteVersionModelPermissionDenied, BranchLocked, ModelVersionNotFound,
    UnsupportedModelSource, VersionYanked, SourceNotAllowed, SourceTooYoung, BranchHeadChanged, TooManyModelApis,
    ModelApiIncompatible and ApprovalRequired; and ComparisonsNeeded, for which there is `write_with_verdicts`.
    """
    rid = rids.new_model_version_rid()
    [promoted] = _carry_out(tx, caller, [attempt_of(request)], [rid], claim_of(caller, request, [rid]))
    return promoted


def rollback_branch(tx: Transaction, caller: Caller, request: RollbackBranchRequest) -> ModelVersion:
    """Promote an earlier version of a branch onto the same branch, record that, and return the copy.

    Raises ModelNotFound, RequestIdAlreadyUsed, PromoteVersionModelPermissionDenied, BranchLocked, BranchNotFound,
    VersionNumberNotFound, UnsupportedModelSource, VersionYanked, VersionRolledBack, BranchHeadChanged,
    VersionAlreadyHead and ComparisonsNeeded.
    """
    rid = rids.new_model_version_rid()
    [promoted] = _carry_out(tx, caller, [_rollback(tx, caller, request)], [rid], claim_of(caller, request, [rid]))
    return promoted


def batch_promote_versions(
    tx: Transaction, caller: Caller, request: BatchPromoteVersionsRequest
) -> BatchPromoteVersionsResponse:
    """Carry out all promotions of a request, or none, and return what they made.

    Raises what promote_version raises, with the entry that is at fault as a violation.
    """
    new_rids = [rids.new_model_version_rid() for _ in request.promotions]
    attempts = [attempt_of(entry) for entry in request.promotions]
    promoted = _carry_out(tx, caller, attempts, new_rids, claim_of(caller, request, new_rids), entries="promotions")
    return BatchPromoteVersionsResponse(promoted=_batch_promoted(tx, promoted))


def batch_rollback(tx: Transaction, caller: Caller, request: BatchRollbackRequest) -> BatchRollbackResponse:
    """Carry out all rollbacks of a request, or none, and return what they made.

    Raises InvalidArgument for two rollbacks of one branch, and what rollback_branch raises, with the entry that is at
    fault as a violation.
    """
    _require_different_branches(request)
    new_rids = [rids.new_model_version_rid() for _ in request.rollbacks]
    attempts = [_rollback(tx, caller, entry) for entry in while_wanted(request.rollbacks)]
    promoted = _carry_out(tx, caller, attempts, new_rids, claim_of(caller, request, new_rids), entries="rollbacks")
    return BatchRollbackResponse(rolled_back=_batch_promoted(tx, promoted))


def check_promotion(repository: Repository, caller: Caller, request: PromoteVersionRequest) -> CheckPromotionResponse:
    """Return everything that would decide the promotion, as far as the caller may know it."""
    attempt, claim = attempt_of(request), claim_of(caller, request, [])
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
        for history in facts.histories:
            facts = _with_earlier_heads(repository, facts, history, answer)
    answer.obstacles.extend(
        PromotionObstacle(
            error_name=error.name,
            description=f"{error.description} {error.explanation}".rstrip(),
            parameters=error.parameters,
        )
        for error in obstacles(attempt, facts)
    )
    answer.would_succeed = not answer.obstacles
    return answer


def promote_as(tx: Transaction, requester: Caller, request: PromotionRequest) -> None:
    """Carry out an approved request as who made it, if nothing speaks against that. Raises ComparisonsNeeded."""
    attempt = Attempt(
        kind=PROMOTION_KIND_PROMOTION,
        model_rid=request.model_rid,
        branch=request.branch,
        source_rid=request.source_model_version_rid,
        reason=request.reason if request.HasField("reason") else None,
    )
    facts = facts_of_promotion(tx, requester, attempt)
    # Nothing is compared for what is refused anyway.
    if any(obstacles(attempt, facts)) or any(obstacles(attempt, compared(tx, attempt, facts))):
        return
    _carry_out(tx, requester, [attempt], [rids.new_model_version_rid()], None)


def facts_of_promotion(tx: Transaction, caller: Caller, attempt: Attempt) -> Facts:
    """Return what decides a promotion by itself, but for what is found when contents are compared."""
    return _with_request(tx, attempt, _facts_of(tx, caller, attempt, None, None))


def compared(tx: Transaction, attempt: Attempt, facts: Facts) -> Facts:
    """Return facts with what was found when contents were compared. Raises ComparisonsNeeded."""
    [facts] = _compared(tx, [attempt], [facts])
    return facts


# How it is done


def _facts_of_check(
    reader: Reader, caller: Caller, attempt: Attempt, claim: Claim | None
) -> tuple[Facts, Promotion | None]:
    """Return the facts of an attempt, and the findings of their verdict if there is one."""
    earlier = None if claim is None else reader.find_request(claim.key)
    facts = _facts_of(reader, caller, attempt, claim, earlier)
    if facts.stored.source is not None and not facts.is_repeated:
        histories = api_histories(reader, attempt.place, facts.stored.branch, facts.stored.source)
        facts = facts._replace(histories=histories)
    facts = _with_request(reader, attempt, facts)
    # Now, since there is no reader any more when the obstacles are listed.
    if asks_for_sources(facts.stored.branch.policies):
        tenures, visible = facts.tenures(), facts.visible_sources()
        facts = facts._replace(tenures=lambda: tenures, visible_sources=lambda: visible)
    return facts, None if facts.verdict is None else reader.get_findings(facts.verdict)


def _facts_of(
    reader: Reader, caller: Caller, attempt: Attempt, claim: Claim | None, earlier: RequestRecord | None
) -> Facts:
    """Return the facts of an attempt; what only some rules ask for is asked of the reader when they do."""
    stored = reader.get_promotion_facts(_wanted(attempt), caller)
    facts = Facts(stored, caller, claim, earlier)
    source, branch = stored.source, stored.branch
    asks = attempt.kind == PROMOTION_KIND_ROLLBACK or asks_for_sources(branch.policies)
    if source is None or not asks:
        return facts
    return facts._replace(
        tenures=cache(lambda: reader.list_tenures(source.version.rid)),
        was_rolled_back=lambda: reader.was_rolled_back(branch, source.content_digest),
        visible_sources=lambda: reader.visible_models(models_of_sources(branch.policies), caller),
    )


def _with_earlier_heads(
    repository: Repository, facts: Facts, history: ApiHistory, answer: CheckPromotionResponse
) -> Facts:
    """Return facts with the newest Model API that would be broken beside the head's.

    The errors are added to the answer, but for those that are found beside a newer one, too.
    """
    room = MAX_FINDINGS_BYTES - answer.ByteSize()
    told = {finding.SerializeToString(deterministic=True) for finding in answer.findings}
    for api in while_wanted(() if history.is_too_long else history.others):
        if api.verdict is not None and not api.verdict.error_count:
            continue
        found = _stored_or_made(repository, history.comparison(api))
        if facts.broken is None and found.error_count:
            facts = facts._replace(broken=Broken.by(api, found))
        for finding in found.findings:
            payload = finding.SerializeToString(deterministic=True)
            if finding.severity != SEVERITY_ERROR or payload in told:
                continue
            room -= len(payload) + _BYTES_OF_NUMBER
            if room < 0:
                return facts
            told.add(payload)
            answer.error_count += 1
            answer.findings.add(earlier_version_number=api.version_number).MergeFrom(finding)
    return facts


def _carry_out(
    tx: Transaction,
    caller: Caller,
    attempts: Sequence[Attempt],
    new_rids: Sequence[str],
    claim: Claim | None,
    entries: str | None = None,
) -> list[ModelVersion]:
    """Carry out all attempts of one request, or return what it made before.

    Raises the first obstacle, and ComparisonsNeeded if nothing else speaks against them. `entries` is the field of the
    request that has them, if there can be several.
    """

    def require_all(found: Sequence[Facts], among: Sequence[Obstacle]) -> None:
        for number, (attempt, facts) in enumerate(zip(attempts, found, strict=True)):
            try:
                require(attempt, facts, among)
            except RegistryError as error:
                if entries is not None:
                    error.violations = (FieldViolation(f"{entries}[{number}]", error.description), *error.violations)
                raise

    # Locked first, so that what is read of a branch holds until the end of the transaction. A new branch may be made by
    # another one meanwhile: `append_version` notices.
    tx.lock_branches({(attempt.model_rid, attempt.branch) for attempt in attempts}, caller, TO_PROMOTE)
    earlier = None if claim is None else tx.claim_request(claim.key, claim.request)
    found = [_facts_of(tx, caller, attempt, claim, earlier) for attempt in while_wanted(attempts)]
    require_all(found, ())
    require(attempts[0], found[0], OF_THE_REQUEST_ID)
    require_all(found, OF_THE_SOURCE)
    if earlier is not None:
        return [
            replayed_version(tx, caller, attempt.model_rid, rid)
            for attempt, rid in zip(attempts, earlier.results, strict=True)
        ]
    found = _one_after_another(tx, attempts, found, new_rids)
    require_all(found, OF_THE_BRANCH)
    found = _compared(tx, attempts, found)
    require_all(found, OF_THE_CONTENT)
    found = [_with_request(tx, attempt, facts) for attempt, facts in zip(attempts, found, strict=True)]
    require_all(found, OF_THE_APPROVALS)
    promoted = []
    last: dict[tuple[str, str], Promoted] = {}
    for attempt, facts, rid in zip(while_wanted(attempts), found, new_rids, strict=True):
        source, end = _source(facts), facts.stored.branch
        if attempt.place in last:
            end = _stored_behind(last[attempt.place], end)
        promotion = _record_of(source.version, attempt, facts, end, override=is_overridden(attempt, facts))
        made = tx.append_promoted(
            _copy_of(source.version, attempt, rid, caller), source.content_digest, promotion, facts.verdict, end
        )
        record(tx, attempt.place, facts.histories)
        if facts.request is not None:
            tx.close_promotion_request(
                facts.request, PROMOTION_REQUEST_STATE_PROMOTED, caller.user, promotion.rid, made.version.rid
            )
        last[attempt.place] = made
        # Who promotes has seen the source, and not always the root.
        seen = StoredVersion(
            made.version,
            source.content_digest,
            None,
            hides_root=source.hides_root,
            is_yanked=facts.stored.yank is not None,
        )
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
            # Its time and the hash behind it are known once it is stored: `_stored_behind`.
            head = Head(new_rids[before], _source(found[before]).content_digest, created_ms=0)
            end = following[before].stored.branch
            end = end._replace(next_number=end.next_number + 1, head=head)
            comparison = comparison_of(end, _source(facts))
            verdict = None if comparison is None else tx.find_verdict(comparison)
            facts = facts._replace(stored=facts.stored._replace(branch=end, verdict=verdict))
        last[attempt.place] = number
        following.append(facts)
    return following


def _with_request(reader: Reader, attempt: Attempt, facts: Facts) -> Facts:
    """Return facts with the request for this promotion, if approvals are wanted of it."""
    # Of a source that the caller may not see nothing is told, nor that somebody wants it promoted.
    if attempt.kind != PROMOTION_KIND_PROMOTION or facts.stored.source is None or not facts.wants_approvals:
        return facts
    source_rid = facts.stored.source.version.rid
    return facts._replace(request=reader.find_open_request(attempt.model_rid, attempt.branch, source_rid))


def _compared(tx: Transaction, attempts: Sequence[Attempt], found: Sequence[Facts]) -> list[Facts]:
    """Return facts with what their verdicts say. Raises ComparisonsNeeded, with all that are not stored."""
    compared, lacking = [], []
    # What those before on the same branch are going to record.
    coming: dict[tuple[Place, PolicyPeriod], list[HeadApi]] = {}
    for attempt, facts in zip(while_wanted(attempts), found, strict=True):
        verdict = facts.verdict
        if verdict is None:
            lacking += [] if facts.comparison is None else [facts.comparison]
        else:
            facts = facts.with_findings(verdict.error_count, partial(tx.get_findings, verdict))
        histories = api_histories(tx, attempt.place, facts.stored.branch, _source(facts), coming)
        for history in histories:
            coming.setdefault((attempt.place, history.period), []).extend(history.unrecorded)
            # A rollback is never refused, so it waits for none of these comparisons.
            lacking += [] if attempt.kind == PROMOTION_KIND_ROLLBACK else history.lacking
        if histories:
            facts = facts._replace(histories=histories, broken=newest_broken(tx, histories))
        compared.append(facts)
    if lacking:
        raise ComparisonsNeeded(tuple(dict.fromkeys(lacking)))
    return compared


def _stored_or_made(repository: Repository, comparison: Comparison) -> Promotion:
    """Return what a comparison finds, and store nothing."""

    def stored(reader: Reader) -> Promotion | None:
        verdict = reader.find_verdict(comparison)
        return None if verdict is None else reader.get_findings(verdict)

    found = repository.read(stored)
    return findings_on(repository, comparison) if found is None else found


def attempt_of(request: PromoteVersionRequest | BatchPromotion | CreatePromotionRequestRequest) -> Attempt:
    """Return the promotion that a request asks for, or that is to be approved first."""
    return Attempt(
        kind=PROMOTION_KIND_PROMOTION,
        model_rid=request.model_rid,
        branch=branch_of(request),
        source_rid=request.source_model_version_rid,
        to_version_number=None,
        expected_head_rid=_expected_head(request),
        reason=_reason(request),
    )


def _rollback(tx: Transaction, caller: Caller, request: RollbackBranchRequest | BranchRollback) -> Attempt:
    branch, number = branch_of(request), request.to_version_number
    source = tx.find_numbered_version(request.model_rid, branch, number, caller)
    return Attempt(
        kind=PROMOTION_KIND_ROLLBACK,
        model_rid=request.model_rid,
        branch=branch,
        source_rid=None if source is None else source.version.rid,
        to_version_number=number,
        expected_head_rid=_expected_head(request),
        reason=_reason(request),
        override=request.override,
    )


def _require_different_branches(request: BatchRollbackRequest) -> None:
    """Return if each entry is about another branch: what the first of two leaves, the second could bring back."""
    seen = set()
    for number, entry in enumerate(request.rollbacks):
        place = entry.model_rid, branch_of(entry)
        if place in seen:
            said = f"must be unique in its list: an entry before it rolls {place[1]!r} of {place[0]} back, too"
            raise InvalidArgument(violations=(FieldViolation(f"rollbacks[{number}]", said),))
        seen.add(place)


def _batch_promoted(tx: Transaction, promoted: Sequence[ModelVersion]) -> Iterator[BatchPromoted]:
    for version in promoted:
        yield BatchPromoted(
            model_version_rid=version.rid,
            model_rid=version.model_rid,
            branch=version.branch,
            version_number=version.version_number,
            promotion_rid=tx.get_promotion_rid(version.rid),
        )


def _expected_head(request: _Request) -> str | None:
    return request.expected_head_version_rid if request.HasField("expected_head_version_rid") else None


def _reason(request: _Request) -> str | None:
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


def _record_of(source: ModelVersion, attempt: Attempt, facts: Facts, end: BranchEnd, *, override: bool) -> Promotion:
    """Return what is recorded of a promotion, but for what its version says."""
    of_branch, of_folder = [policy.revision or None for policy in (*end.policies, NO_POLICY)][:2]
    return Promotion(
        rid=rids.new_promotion_rid(),
        kind=attempt.kind,
        source_model_rid=source.model_rid,
        source_model_version_rid=source.rid,
        reason=attempt.reason,
        policy_revision=of_branch,
        folder_policy_revision=of_folder,
        override=override,
        promotion_request_rid=None if facts.request is None else facts.request.rid,
    )


def _stored_behind(before: Promoted, end: BranchEnd) -> BranchEnd:
    """Return where a branch goes on behind a promotion that has just been stored."""
    assert end.head is not None, "that promotion has made it"
    head = end.head._replace(created_ms=before.version.created_time.ToMilliseconds())
    return end._replace(head=head, chain=before.chain)
