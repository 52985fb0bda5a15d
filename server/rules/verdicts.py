"""Verdicts on compatibility: one for each pair of contents, made when it is first needed, and kept.

A comparison takes up to a third of a second, and more of what was stored before Model APIs had a bound. So no
transaction is open meanwhile and no branch locked: a change that lacks verdicts is rolled back, they are made and
stored one by one, and the change begins anew, perhaps upon another head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TypeAlias, TypeVar

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF, SEVERITY_ERROR
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.cancellation import while_wanted
from server.core.errors import FieldViolation, ModelApiIncompatible, Overloaded
from server.rules.compatibility import RULES_VERSION, compare
from server.storage.contract import BranchEnd, Comparison, Repository, StoredVersion, Transaction

T = TypeVar("T")

# How often a change begins anew: the head may be another each time. Where promotions make it so, one of them is
# committed in each round, so that of a hundred each has its turn.
ROUNDS = 100


class ComparisonsNeeded(Exception):
    """A change lacks verdicts, and is rolled back: they have to be made, and then it is to be run again."""

    def __init__(self, comparisons: Collection[Comparison]):
        super().__init__(f"{len(comparisons)} verdicts are not stored yet")
        self.comparisons = comparisons


# Does work where comparisons have their place, and returns when it is done. Raises what that raises, and Overloaded.
Runner: TypeAlias = Callable[[Callable[[], None]], None]


def run_inline(work: Callable[[], None]) -> None:
    """Do work at once, in this thread."""
    work()


def write_with_verdicts(
    repository: Repository,
    change: Callable[[Transaction], T],
    run: Runner = run_inline,
    *,
    repeatable: bool = False,
    branch: tuple[str, str] | None = None,
    may_use_reserve: bool = False,
    make: Callable[[Comparison], None] | None = None,
) -> T:
    """Run a change as `repository.write` does, and make the verdicts that it lacks, each by `run`.

    They are stored, unless there is a way to `make` them that keeps them elsewhere. Raises what these raise, and
    Overloaded if there are others to be made again and again.
    """
    if make is None:
        make = partial(_make_verdict, repository, may_use_reserve=may_use_reserve)
    for _ in range(ROUNDS):
        try:
            return repository.write(change, repeatable=repeatable, branch=branch, may_use_reserve=may_use_reserve)
        except ComparisonsNeeded as needed:
            comparisons = needed.comparisons
        for comparison in while_wanted(comparisons):
            run(partial(make, comparison))
    raise Overloaded


def comparison_of(end: BranchEnd, candidate: StoredVersion) -> Comparison | None:
    """Return what has to be compared for a candidate to replace the head of a branch; None if nothing has to be."""
    if end.compatibility == COMPATIBILITY_MODE_OFF or end.head is None:
        return None
    if end.head.content_digest == candidate.content_digest:
        return None
    return Comparison(end.head.content_digest, candidate.content_digest, RULES_VERSION)


def findings_on(repository: Repository, comparison: Comparison) -> Promotion:
    """Compare two contents, and return the findings and their counts. Nothing is stored."""
    head, candidate = repository.read(
        lambda reader: (reader.get_model_api(comparison.head_digest), reader.get_model_api(comparison.candidate_digest))
    )
    return compare(head, candidate)


def incompatible(
    findings: Promotion, model_rid: str, branch: str, version_number: int, *, is_earlier: bool = False
) -> ModelApiIncompatible:
    """Return the failure that these findings are, on a version of the branch: its head, or an earlier one."""
    beside = f"beside version {version_number}: " if is_earlier else ""
    errors = (finding for finding in findings.findings if finding.severity == SEVERITY_ERROR)
    return ModelApiIncompatible(
        model_rid=model_rid,
        branch_name=branch,
        error_count=findings.error_count,
        compared_version_number=version_number,
        violations=tuple(FieldViolation(finding.path, beside + finding.message) for finding in errors),
    )


def _make_verdict(repository: Repository, comparison: Comparison, *, may_use_reserve: bool) -> None:
    """Store the verdict on a comparison, unless another call has done so meanwhile."""
    if repository.read(lambda reader: reader.find_verdict(comparison)) is None:
        findings = findings_on(repository, comparison)
        repository.write(lambda tx: tx.add_verdict(comparison, findings), may_use_reserve=may_use_reserve)
