"""Where versions that are promoted must come from, and for how long they must have been heads there.

It is told by records alone: of the version, and of those of equal content that it was promoted from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from modelregistry.v1.promotion_pb2 import AllowedSources, BranchPolicy
from server.core.branches import branch_of
from server.core.caller import Caller
from server.rules.policy_changes import SetPolicy
from server.storage.contract import Tenure


class SeesModels(Protocol):
    """Whoever knows which models a caller may see, such as a Reader."""

    def visible_models(self, model_rids: Collection[str], caller: Caller) -> set[str]:
        """Return those of the models that are stored and that the caller may see."""


def asks_for_sources(policies: Iterable[BranchPolicy]) -> bool:
    """Whether one of the policies asks where a version comes from."""
    return any(policy.HasField("allowed_sources") or policy.HasField("min_time_as_head") for policy in policies)


def models_of_sources(policies: Iterable[BranchPolicy | SetPolicy]) -> set[str]:
    """Return the RIDs of the models whose branches are allowed by policies, or by requests that set some."""
    return {source.model_rid for policy in policies for source in policy.allowed_sources.sources}


def hide_sources(reader: SeesModels, caller: Caller, policies: Sequence[BranchPolicy | SetPolicy]) -> None:
    """Replace allowed sources in models that the caller may not see by their number."""
    named = models_of_sources(policies)
    visible = reader.visible_models(named, caller) if named else set()
    for policy in policies:
        if not policy.HasField("allowed_sources"):
            continue
        seen = [source for source in policy.allowed_sources.sources if source.model_rid in visible]
        hidden_count = len(policy.allowed_sources.sources) - len(seen)
        policy.allowed_sources.CopyFrom(AllowedSources(sources=seen, hidden_count=hidden_count))


def in_allowed_sources(policy: BranchPolicy, tenures: Iterable[Tenure]) -> list[Tenure]:
    """Return the tenures on branches that a policy allows; all of them if it allows any branch."""
    if not policy.HasField("allowed_sources"):
        return [*tenures]
    allowed = {(source.model_rid, branch_of(source)) for source in policy.allowed_sources.sources}
    return [tenure for tenure in tenures if (tenure.model_rid, tenure.branch) in allowed]


def time_left_ms(policy: BranchPolicy, tenures: Iterable[Tenure], now_ms: int) -> int:
    """Return for how much longer the policy wants a version to be a head; 0 or less if it was for long enough."""
    return policy.min_time_as_head.ToMilliseconds() - _time_as_head_ms(in_allowed_sources(policy, tenures), now_ms)


def _time_as_head_ms(tenures: Iterable[Tenure], now_ms: int) -> int:
    """Return for how long there was a head, or several: what are heads at the same time count once.

    Else a minute on each of sixty branches would be an hour.
    """
    periods = [(each.since_ms, now_ms if each.until_ms is None else each.until_ms) for each in tenures]
    total_ms = counted_until_ms = 0
    for since_ms, until_ms in sorted(periods):
        total_ms += max(0, until_ms - max(since_ms, counted_until_ms))
        counted_until_ms = max(counted_until_ms, until_ms)
    return total_ms
