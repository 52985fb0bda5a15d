"""Verdicts on compatibility: one for each pair of contents, made when it is first needed, and kept."""

from __future__ import annotations

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF, SEVERITY_ERROR
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.errors import FieldViolation, ModelApiIncompatible
from server.rules.compatibility import RULES_VERSION, compare
from server.storage.contract import BranchEnd, Comparison, Reader, StoredVersion, Transaction, Verdict

MAX_FINDINGS_BYTES = 2**20
# What one finding adds to its bytes in a message.
_TAG_BYTES = 8


def verdict_on(tx: Transaction, end: BranchEnd, candidate: StoredVersion, known: Verdict | None) -> Verdict | None:
    """Return what replacing the head of a branch with the candidate means; None if there is nothing to compare.

    `known` is the verdict if it is known already. One that is made here is stored.
    """
    comparison = _comparison(end, candidate)
    if comparison is None:
        return None
    verdict = known or tx.find_verdict(comparison)
    return verdict or tx.add_verdict(comparison, _findings(tx, comparison, candidate))


def findings_on(reader: Reader, end: BranchEnd, candidate: StoredVersion, known: Verdict | None) -> Promotion:
    """Return the same as a message with findings and their counts, and store nothing."""
    comparison = _comparison(end, candidate)
    if comparison is None:
        return Promotion()
    return _findings(reader, comparison, candidate) if known is None else reader.get_findings(known)


def incompatible(findings: Promotion, model_rid: str, branch: str) -> ModelApiIncompatible:
    """Return the failure that these findings are."""
    errors = (finding for finding in findings.findings if finding.severity == SEVERITY_ERROR)
    return ModelApiIncompatible(
        model_rid=model_rid,
        branch_name=branch,
        error_count=findings.error_count,
        violations=tuple(FieldViolation(finding.path, finding.message) for finding in errors),
    )


def _comparison(end: BranchEnd, candidate: StoredVersion) -> Comparison | None:
    if end.compatibility == COMPATIBILITY_MODE_OFF or end.head is None:
        return None
    if end.head.content_digest == candidate.content_digest:
        return None
    return Comparison(end.head.content_digest, candidate.content_digest, RULES_VERSION)


def _findings(reader: Reader, comparison: Comparison, candidate: StoredVersion) -> Promotion:
    """Compare, and return as many of the findings as a record has room for, with the counts of all."""
    found = compare(reader.get_model_api(comparison.head_digest), candidate.version.model_api)
    error_count = sum(finding.severity == SEVERITY_ERROR for finding in found)
    kept, size = [], 0
    for finding in found:
        size += finding.ByteSize() + _TAG_BYTES
        if size > MAX_FINDINGS_BYTES:
            break
        kept.append(finding)
    return Promotion(findings=kept, error_count=error_count, warning_count=len(found) - error_count)
