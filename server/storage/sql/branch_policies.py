"""What holds for new heads of a branch: the questions and changes of the contract about it."""

from __future__ import annotations

from sqlalchemy import Integer, bindparam, func, insert, select

from modelregistry.v1.promotion_pb2 import BranchPolicy
from server.storage.contract import NO_POLICY
from server.storage.paging import Page, PageRequest
from server.storage.sql.pages import page_of
from server.storage.sql.rows import AnyRow, timestamp
from server.storage.sql.statements import Statement
from server.storage.sql.tables import branch_policies, model_id
from server.storage.sql.unit_of_work import UnitOfWork

# Above every revision.
_BEHIND_ALL = 2**31 - 1

_earlier = branch_policies.alias("earlier")


def get_policy(work: UnitOfWork, model_rid: str, branch: str) -> BranchPolicy:
    """See the contract."""
    row = work.session.one_or_none(_newest, {"model_rid": model_rid, "branch": branch})
    if row is None:
        return BranchPolicy(model_rid=model_rid, branch=branch, compatibility=NO_POLICY.compatibility)
    return _to_policy(row, model_rid)


def list_policies(work: UnitOfWork, model_rid: str, branch: str, page: PageRequest) -> Page[BranchPolicy]:
    """See the contract."""
    before = _BEHIND_ALL if page.after is None else page.after
    rows = work.session.all(
        _revisions, {"model_rid": model_rid, "branch": branch, "before": before, "count": page.size + 1}
    )
    return page_of(rows, rows[: page.size], "revision_number", lambda row: _to_policy(row, model_rid))


def add_policy(work: UnitOfWork, policy: BranchPolicy, changed_by: str) -> BranchPolicy:
    """See the contract."""
    now_ms = work.clock_ms()
    work.session.send(
        _add,
        {
            "model_rid": policy.model_rid,
            "branch_name": policy.branch,
            "mode": policy.compatibility,
            "changer": changed_by,
            "now_ms": now_ms,
            "number": policy.revision,
            "without_column": _rules_of(policy),
        },
    )
    stored = BranchPolicy()
    stored.CopyFrom(policy)
    stored.changed_by = changed_by
    stored.changed_time.CopyFrom(timestamp(now_ms))
    return stored


def _rules_of(policy: BranchPolicy) -> bytes | None:
    """Return what is stored of a policy that has no column."""
    rules = BranchPolicy(promotion_only=policy.promotion_only, lock=policy.lock if policy.HasField("lock") else None)
    return rules.SerializeToString(deterministic=True) or None


def stored_rules(row: AnyRow) -> BranchPolicy:
    """Return the rules of a policy, and nothing else of it, from a row with its columns for them."""
    policy = BranchPolicy.FromString(row.rules or b"")
    policy.compatibility = row.compatibility
    return policy


def _to_policy(row: AnyRow, model_rid: str) -> BranchPolicy:
    policy = stored_rules(row)
    policy.model_rid = model_rid
    policy.branch = row.branch
    policy.changed_by = row.changed_by
    policy.changed_time.CopyFrom(timestamp(row.changed_time))
    policy.revision = row.revision_number
    return policy


_number = func.coalesce(
    branch_policies.c.revision,
    select(func.count())
    .where(
        _earlier.c.model_id == branch_policies.c.model_id,
        _earlier.c.branch == branch_policies.c.branch,
        _earlier.c.id <= branch_policies.c.id,
    )
    .scalar_subquery(),
)
_of_branch = (
    select(branch_policies, _number.cast(Integer).label("revision_number"))
    .where(
        branch_policies.c.model_id == model_id(bindparam("model_rid")),
        branch_policies.c.branch == bindparam("branch"),
    )
    .order_by(branch_policies.c.id.desc())
)
_newest = Statement(_of_branch.limit(1))
_revisions = Statement(_of_branch.where(_number < bindparam("before")).limit(bindparam("count")))
_add = Statement(
    insert(branch_policies).values(
        model_id=model_id(bindparam("model_rid")),
        branch=bindparam("branch_name"),
        compatibility=bindparam("mode"),
        changed_by=bindparam("changer"),
        changed_time=bindparam("now_ms"),
        revision=bindparam("number"),
        rules=bindparam("without_column"),
    )
)
