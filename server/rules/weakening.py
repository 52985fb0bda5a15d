"""What a change of a policy loosens: who could change it alone could do alone what it keeps from being done."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelregistry.v1.promotion_pb2 import AllowedSources, BranchPolicy, Principals
from server.core.branches import branch_of
from server.rules.approvals import lifetime


def weakened_rules(before: BranchPolicy, after: BranchPolicy) -> list[str]:
    """Return the names of the rules that are taken away or loosened, in the order of their fields."""
    return [name for name, weakens in _WEAKENS.items() if weakens(before, after)]


def _mode(before: BranchPolicy, after: BranchPolicy) -> bool:
    # In the order of how much they refuse.
    return after.compatibility < before.compatibility


def _promotion_only(before: BranchPolicy, after: BranchPolicy) -> bool:
    return before.promotion_only and not after.promotion_only


def _allowed_sources(before: BranchPolicy, after: BranchPolicy) -> bool:
    return _is_gone("allowed_sources", before, after) or (
        before.HasField("allowed_sources") and bool(_places(after.allowed_sources) - _places(before.allowed_sources))
    )


def _min_time_as_head(before: BranchPolicy, after: BranchPolicy) -> bool:
    return after.min_time_as_head.ToMilliseconds() < before.min_time_as_head.ToMilliseconds()


def _promoters(before: BranchPolicy, after: BranchPolicy) -> bool:
    return _is_gone("promoters", before, after) or (
        before.HasField("promoters") and _has_more(before.promoters, after.promoters)
    )


def _approvals(before: BranchPolicy, after: BranchPolicy) -> bool:
    if not before.HasField("approvals"):
        return False
    old, new = before.approvals, after.approvals
    return new.required < old.required or bool({*new.approvers} - {*old.approvers}) or lifetime(new) > lifetime(old)


def _rollbackers(before: BranchPolicy, after: BranchPolicy) -> bool:
    # Unset means the owners, who are not known here: all who are named beside them may be more.
    return _is_gone("rollbackers", before, after) or _has_more(before.rollbackers, after.rollbackers)


def _is_gone(name: str, before: BranchPolicy, after: BranchPolicy) -> bool:
    return before.HasField(name) and not after.HasField(name)  # type: ignore[arg-type]


def _has_more(before: Principals, after: Principals) -> bool:
    return bool({*after.principals} - {*before.principals})


def _places(sources: AllowedSources) -> set[tuple[str, str]]:
    return {(source.model_rid, branch_of(source)) for source in sources.sources}


_WEAKENS: Mapping[str, Callable[[BranchPolicy, BranchPolicy], bool]] = {
    "compatibility": _mode,
    "promotion_only": _promotion_only,
    "allowed_sources": _allowed_sources,
    "min_time_as_head": _min_time_as_head,
    "promoters": _promoters,
    "approvals": _approvals,
    "rollbackers": _rollbackers,
}
