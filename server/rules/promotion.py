"""The main job: an existing version is copied into another model as the new head of a branch.

The order of the checks is a promise: each failure wins over those after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
)
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoted,
    BatchPromoteVersionsRequest,
    BatchPromoteVersionsResponse,
    BatchPromotion,
    RollbackBranchRequest,
)
from server.core import rids
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.errors import (
    BranchHeadChanged,
    FieldViolation,
    ModelNotFound,
    ModelVersionNotFound,
    PromoteVersionModelPermissionDenied,
    RegistryError,
    UnsupportedModelSource,
    VersionAlreadyHead,
    VersionNumberNotFound,
)
from server.core.permissions import TO_PROMOTE
from server.rules.compatibility import RULES_VERSION
from server.rules.idempotency import claim, claim_of, is_repeatable, made_before
from server.rules.promotion_copy import Copy, record_of, version_of
from server.rules.verdicts import require_compatible, verdict_on
from server.storage.contract import BranchEnd, Plain, Reader, Repository, StoredVersion, Transaction, VisibleModel


def promote(repository: Repository, caller: Caller, request: PromoteVersionRequest) -> ModelVersion:
    """Promote a version at once if nothing speaks against it; otherwise step by step, which says what does.

    Raises what promote_version raises.
    """
    plain = plain_promotion(repository, caller, request)
    promoted = None if plain is None else repository.promote_at_once(plain, caller)
    return promoted or repository.write(
        lambda tx: promote_version(tx, caller, request), repeatable=is_repeatable(request)
    )


def promote_version(tx: Transaction, caller: Caller, request: PromoteVersionRequest) -> ModelVersion:
    """Copy the source version into the target model, record that, and return the copy.

    The same request, by its id, is carried out once: it returns the same copy again. Raises ModelNotFound,
    RequestIdAlreadyUsed, PromoteVersionModelPermissionDenied, ModelVersionNotFound, UnsupportedModelSource,
    BranchHeadChanged and ModelApiIncompatible.
    """
    target = tx.get_model(request.model_rid, caller)
    made = claim(tx, caller, request, [rid := rids.new_model_version_rid()])
    if made is not None:
        return made_before(tx, caller, request.model_rid, made[0])
    require_promoter(target)
    return _promote(tx, caller, request, find_source(tx, caller, request), rid)


def batch_promote_versions(
    tx: Transaction, caller: Caller, request: BatchPromoteVersionsRequest
) -> BatchPromoteVersionsResponse:
    """Carry out all promotions of a request, or none, and return what they made.

    Raises what promote_version raises, with the entry that is at fault as a violation.
    """
    entries = [_as_request(entry) for entry in request.promotions]
    targets = []
    for index, entry in enumerate(entries):
        with _naming(index):
            targets.append(tx.get_model(entry.model_rid, caller))
    new = [rids.new_model_version_rid() for _ in entries]
    made = claim(tx, caller, request, new)
    if made is not None:
        return _batch(
            tx, [made_before(tx, caller, entry.model_rid, rid) for entry, rid in zip(entries, made, strict=True)]
        )
    sources = []
    for index, (entry, target) in enumerate(zip(entries, targets, strict=True)):
        with _naming(index):
            require_promoter(target)
            sources.append(find_source(tx, caller, entry))
    # Two batches that share branches take them in one order, whatever that of their entries, so neither waits for ever.
    for model_rid, branch in sorted({(entry.model_rid, branch_of(entry)) for entry in entries}):
        tx.hold_branch(model_rid, branch)
    promoted = []
    for index, (entry, source, rid) in enumerate(zip(entries, sources, new, strict=True)):
        with _naming(index):
            promoted.append(_promote(tx, caller, entry, source, rid))
    return _batch(tx, promoted)


def rollback_branch(tx: Transaction, caller: Caller, request: RollbackBranchRequest) -> ModelVersion:
    """Promote an earlier version of a branch onto the same branch, record that, and return the copy.

    Compatibility only warns: who has to go back has no choice. Raises ModelNotFound, RequestIdAlreadyUsed,
    PromoteVersionModelPermissionDenied, BranchNotFound, VersionNumberNotFound, UnsupportedModelSource,
    BranchHeadChanged and VersionAlreadyHead.
    """
    model_rid, branch, number = request.model_rid, branch_of(request), request.to_version_number
    target = tx.get_model(model_rid, caller)
    made = claim(tx, caller, request, [rid := rids.new_model_version_rid()])
    if made is not None:
        return made_before(tx, caller, model_rid, made[0])
    require_promoter(target)
    source = tx.find_numbered_version(model_rid, branch, number, caller)
    if source is None:
        tx.get_branch(model_rid, branch, caller)
        raise VersionNumberNotFound(model_rid=model_rid, branch_name=branch, version_number=number)
    require_supported(source)
    end = tx.extend_branch(model_rid, branch)
    require_head(end, request)
    if end.next_number == number + 1:
        raise VersionAlreadyHead(model_rid=model_rid, branch_name=branch, version_number=number)
    return _append(tx, caller, Copy(PROMOTION_KIND_ROLLBACK, source, rid, model_rid, branch, _reason(request)), end)


# The checks, in order


def require_promoter(target: VisibleModel) -> None:
    """Return if the caller may promote into the model. Raises PromoteVersionModelPermissionDenied."""
    if target.role < TO_PROMOTE:
        raise PromoteVersionModelPermissionDenied(model_rid=target.model.rid)


def find_source(reader: Reader, caller: Caller, request: PromoteVersionRequest) -> StoredVersion:
    """Return the source version. Raises ModelVersionNotFound and UnsupportedModelSource."""
    source = reader.find_version(request.source_model_version_rid, caller)
    if source is None:
        raise _source_not_found(request.model_rid, request.source_model_version_rid)
    require_supported(source)
    return source


def require_supported(source: StoredVersion) -> None:
    """Return if the version has a source that the API can express. Raises UnsupportedModelSource."""
    if source.legacy_source is not None:
        raise UnsupportedModelSource


def require_head(end: BranchEnd, request: PromoteVersionRequest | RollbackBranchRequest) -> None:
    """Return if the branch has the head that the request expects, or if it expects none. Raises BranchHeadChanged."""
    actual = "" if end.head is None else end.head.rid
    if request.HasField("expected_head_version_rid") and request.expected_head_version_rid != actual:
        raise BranchHeadChanged(
            model_rid=request.model_rid,
            branch_name=branch_of(request),
            expected_head_version_rid=request.expected_head_version_rid,
            actual_head_version_rid=actual,
        )


# What is done


def _promote(
    tx: Transaction, caller: Caller, request: PromoteVersionRequest, source: StoredVersion, rid: str
) -> ModelVersion:
    branch = branch_of(request)
    end = tx.extend_branch(request.model_rid, branch)
    require_head(end, request)
    copy = Copy(PROMOTION_KIND_PROMOTION, source, rid, request.model_rid, branch, _reason(request))
    return _append(tx, caller, copy, end)


def plain_promotion(repository: Repository, caller: Caller, request: PromoteVersionRequest) -> Plain | None:
    """Return the promotion that a request asks for; None if its source is not plainly there."""
    rid = request.source_model_version_rid
    source = repository.version_at_hand(rid) or repository.read(lambda reader: reader.find_version(rid, caller))
    if source is None or source.legacy_source is not None:
        return None
    copy = Copy(
        PROMOTION_KIND_PROMOTION,
        source,
        rids.new_model_version_rid(),
        request.model_rid,
        branch_of(request),
        _reason(request),
    )
    return Plain(
        version=version_of(copy, caller),
        content_digest=source.content_digest,
        record=record_of(copy),
        role=TO_PROMOTE,
        expected_head_rid=request.expected_head_version_rid if request.HasField("expected_head_version_rid") else None,
        rules=RULES_VERSION,
        claim=claim_of(caller, request, [copy.rid]),
    )


def _append(tx: Transaction, caller: Caller, copy: Copy, end: BranchEnd) -> ModelVersion:
    """Store the copy at the end of the branch, with the record of it."""
    verdict = verdict_on(tx, end, copy.source)
    if copy.kind == PROMOTION_KIND_PROMOTION:
        require_compatible(tx, end, verdict, copy.model_rid, copy.branch)
    promoted = tx.append_version(version_of(copy, caller), copy.source.content_digest, branch=end)
    tx.add_promotion(record_of(copy), verdict)
    # The branch may have kept us waiting, and a role that was revoked meanwhile counts.
    require_promoter(tx.get_model(copy.model_rid, caller))
    try:
        tx.get_model(copy.source.version.model_rid, caller)
    except ModelNotFound:
        raise _source_not_found(copy.model_rid, copy.source.version.rid) from None
    return promoted


def _source_not_found(model_rid: str, version_rid: str) -> ModelVersionNotFound:
    return ModelVersionNotFound(model_rid=model_rid, model_version_rid=version_rid)


def _reason(request: PromoteVersionRequest | RollbackBranchRequest) -> str | None:
    return request.reason if request.HasField("reason") else None


# Batches


def _as_request(entry: BatchPromotion) -> PromoteVersionRequest:
    """Return the promotion that an entry asks for, as if it stood alone."""
    return PromoteVersionRequest(
        model_rid=entry.model_rid,
        source_model_version_rid=entry.source_model_version_rid,
        branch=branch_of(entry),
        expected_head_version_rid=entry.expected_head_version_rid
        if entry.HasField("expected_head_version_rid")
        else None,
        reason=entry.reason if entry.HasField("reason") else None,
    )


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Add to what is raised that this entry is at fault."""
    try:
        yield
    except RegistryError as error:
        error.violations = (FieldViolation(f"promotions[{index}]", error.description), *error.violations)
        raise


def _batch(reader: Reader, promoted: list[ModelVersion]) -> BatchPromoteVersionsResponse:
    return BatchPromoteVersionsResponse(
        promoted=[
            BatchPromoted(
                model_version_rid=version.rid,
                model_rid=version.model_rid,
                branch=version.branch,
                version_number=version.version_number,
                promotion_rid=reader.get_promotion_rid(version.rid),
            )
            for version in promoted
        ]
    )
