"""Which changes of a policy loosen it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_UNSPECIFIED,
    COMPATIBILITY_MODE_WARN,
)
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule, BranchPolicy, Principals
from server.core.branches import POLICY_FIELDS
from server.rules.weakening import weakened_rules

STAGING = AllowedSource(model_rid="ri.models.main.model.staging")
SAME = AllowedSource(model_rid="ri.models.main.model.staging", branch="master")
DEV = AllowedSource(model_rid="ri.models.main.model.staging", branch="dev")


def some(*names: str) -> Principals:
    return Principals(principals=names)


def approved(required: int, *approvers: str, seconds: int | None = None) -> ApprovalRule:
    after = None if seconds is None else Duration(seconds=seconds)
    return ApprovalRule(required=required, approvers=approvers, expire_after=after)


# By field: what is strict, what is as strict or stricter, and what is weaker; None is unset.
CHANGES: dict[str, list[tuple[Any, list[Any], list[Any]]]] = {
    "compatibility": [
        (
            COMPATIBILITY_MODE_ENFORCE,
            [COMPATIBILITY_MODE_ENFORCE],
            [COMPATIBILITY_MODE_WARN, COMPATIBILITY_MODE_UNSPECIFIED],
        )
    ],
    "promotion_only": [(True, [True], [False]), (False, [True], [])],
    "allowed_sources": [
        (
            AllowedSources(sources=[STAGING]),
            [AllowedSources(sources=[SAME]), AllowedSources()],
            [AllowedSources(sources=[STAGING, DEV]), AllowedSources(sources=[DEV]), None],
        ),
        (None, [AllowedSources(sources=[STAGING])], []),
    ],
    "min_time_as_head": [
        (Duration(seconds=60), [Duration(seconds=61)], [Duration(seconds=59, nanos=999_000_000), None]),
        (None, [Duration(seconds=1)], []),
    ],
    "promoters": [
        (some("group:ml", "user:jane"), [some("user:jane")], [some("user:jane", "user:joe"), None]),
        (None, [some("user:jane")], []),
    ],
    "approvals": [
        (
            approved(2, "group:risk", "user:jane"),
            [
                approved(3, "group:risk"),
                approved(2, "group:risk", seconds=60),
                approved(2, "user:jane", seconds=7 * 86_400),
            ],
            [
                approved(1, "group:risk"),
                approved(3, "group:risk", "user:joe"),
                approved(2, "group:risk", seconds=7 * 86_400 + 1),
                None,
            ],
        ),
        (None, [approved(1, "user:jane")], []),
    ],
    # Owners may roll back where nothing is said.
    "rollbackers": [
        (some("user:jane", "user:joe"), [some("user:jane")], [some("user:jane", "group:ml"), None]),
        (None, [None], [some("user:jane")]),
    ],
}


def policy(field: str, value: Any) -> BranchPolicy:
    return BranchPolicy(**({} if value is None else {field: value}))


def test_every_rule_can_be_weakened() -> None:
    assert CHANGES.keys() == {*POLICY_FIELDS}


@pytest.mark.parametrize(
    ("field", "before", "after", "is_weaker"),
    [
        (field, before, after, is_weaker)
        for field, changes in CHANGES.items()
        for before, stricter, weaker in changes
        for is_weaker, values in ((False, stricter), (True, weaker))
        for after in values
    ],
)
def test_a_rule_is_weakened_by_what_lets_more_pass(field: str, before: Any, after: Any, is_weaker: bool) -> None:
    assert weakened_rules(policy(field, before), policy(field, after)) == [field] * is_weaker


def test_all_that_is_weakened_is_named() -> None:
    before = BranchPolicy(promotion_only=True, compatibility=COMPATIBILITY_MODE_ENFORCE, promoters=some("user:jane"))
    after = BranchPolicy(promotion_only=True, compatibility=COMPATIBILITY_MODE_WARN)
    assert weakened_rules(before, after) == ["compatibility", "promoters"]
