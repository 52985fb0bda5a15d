"""What holds for new heads of a branch: the questions and changes of the contract about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Integer, Table, bindparam, func, insert, select

from modelregistry.v1.event_pb2 import Event, EventSubject
from modelregistry.v1.promotion_pb2 import BranchPolicy
from server.core.branches import level_of
from server.core.event_types import EventType
from server.core.rids import FOLDER, rid_type
from server.storage.contract import NO_POLICY
from server.storage.paging import Page, PageRequest
from server.storage.sql.event_log import add_event
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyRow, timestamp
from server.storage.sql.statements import Statement
from server.storage.sql.tables import branch_policies, folder_branch_policies, model_id
from server.storage.sql.unit_of_work import UnitOfWork

# Above every revision.
_BEHIND_ALL = 2**31 - 1
# What has columns of its own, or is told and not stored.
_NO_RULES = ("model_rid", "folder_rid", "branch", "changed_by", "changed_time", "revision", "folder_policy", "warnings")

_earlier = branch_policies.alias("earlier")

# A policy that a server of the release before has set has no revision: then it is how many there are up to this one.
REVISION: ColumnElement[int] = func.coalesce(
    branch_policies.c.revision,
    select(func.count())
    .where(
        _earlier.c.model_id == branch_policies.c.model_id,
        _earlier.c.branch == branch_policies.c.branch,
        _earlier.c.id <= branch_policies.c.id,
    )
    .scalar_subquery(),
).cast(Integer)


class _Statements(NamedTuple):
    """What is asked of the policies of models' branches, or of folders."""

    newest: Statement
    revisions: Statement
    add: Statement


def get_policy(work: UnitOfWork, resource_rid: str, branch: str) -> BranchPolicy:
    """See the contract."""
    row = work.session.one_or_none(_of(resource_rid).newest, {"resource": resource_rid, "branch": branch})
    if row is None:
        policy = BranchPolicy(branch=branch)
        if _is_folder(resource_rid):
            policy.folder_rid = resource_rid
        else:
            policy.model_rid = resource_rid
            policy.compatibility = NO_POLICY.compatibility
        return policy
    return _to_policy(row, resource_rid)


def list_policies(work: UnitOfWork, resource_rid: str, branch: str, page: PageRequest) -> Page[BranchPolicy]:
    """See the contract."""
    before = _BEHIND_ALL if page.after is None else page.after
    rows = work.session.all(
        _of(resource_rid).revisions,
        {"resource": resource_rid, "branch": branch, "before": before, "count": page.size + 1},
    )
    policies = messages_that_fit([_to_policy(row, resource_rid) for row in rows[: page.size]], work.fitting_bytes)
    return Page(policies, policies[-1].revision if len(policies) < len(rows) else None)


def add_policy(
    work: UnitOfWork, policy: BranchPolicy, changed_by: str, change: EventType | None = None
) -> BranchPolicy:
    """See the contract."""
    resource_rid = level_of(policy, policy.model_rid)
    now_ms = work.clock_ms()
    values = {
        "resource": resource_rid,
        "branch_name": policy.branch,
        "changer": changed_by,
        "now_ms": now_ms,
        "number": policy.revision,
        "given_rules": _rules_of(policy),
    }
    if not _is_folder(resource_rid):
        values["mode"] = policy.compatibility
    work.session.send(_of(resource_rid).add, values)
    stored = BranchPolicy()
    stored.CopyFrom(policy)
    stored.changed_by = changed_by
    stored.changed_time.CopyFrom(timestamp(now_ms))
    is_of_folder = _is_folder(resource_rid)
    changed = EventType.FOLDER_BRANCH_POLICY_CHANGED if is_of_folder else EventType.BRANCH_POLICY_CHANGED
    add_event(
        work,
        change or changed,
        Event(subject=EventSubject(branch_policy=stored)),
        about=resource_rid,
        branch=policy.branch,
        actor=changed_by,
        time=now_ms,
    )
    return stored


def stored_rules(rules: bytes | None, revision: int | None) -> BranchPolicy:
    """Return the rules and the revision of a policy, from its columns for them."""
    policy = BranchPolicy.FromString(rules or b"")
    policy.revision = revision or 0
    return policy


def revision_of(work: UnitOfWork, key: int) -> int:
    """Return the revision of a policy of a branch that has none in its column.

    As a part of a statement that asks for more, this takes 25 µs of PostgreSQL, whether there is a policy or not.
    """
    revision: int = work.session.one(_revision_of, {"policy_key": key}).revision
    return revision


def _rules_of(policy: BranchPolicy) -> bytes:
    rules = BranchPolicy()
    rules.CopyFrom(policy)
    for name in _NO_RULES:
        rules.ClearField(name)  # type: ignore[arg-type]
    return rules.SerializeToString(deterministic=True)


def _to_policy(row: AnyRow, resource_rid: str) -> BranchPolicy:
    policy = stored_rules(row.rules, row.revision_number)
    if _is_folder(resource_rid):
        policy.folder_rid = resource_rid
    else:
        policy.model_rid = resource_rid
        policy.compatibility = row.compatibility
    policy.branch = row.branch
    policy.changed_by = row.changed_by
    policy.changed_time.CopyFrom(timestamp(row.changed_time))
    return policy


def _is_folder(resource_rid: str) -> bool:
    return rid_type(resource_rid) == FOLDER


def _of(resource_rid: str) -> _Statements:
    return _OF_FOLDERS if _is_folder(resource_rid) else _OF_BRANCHES


def _statements(
    table: Table, revision: ColumnElement[int], is_resource: ColumnElement[bool], given: Mapping[str, Any]
) -> _Statements:
    """Return the statements for the policies of a table; `given` is what the columns get that no other table has."""
    listed = (
        select(table, revision.label("revision_number"))
        .where(is_resource, table.c.branch == bindparam("branch"))
        .order_by(table.c.id.desc())
    )
    return _Statements(
        newest=Statement(listed.limit(1)),
        revisions=Statement(listed.where(revision < bindparam("before")).limit(bindparam("count"))),
        add=Statement(
            insert(table).values(
                **given,
                branch=bindparam("branch_name"),
                changed_by=bindparam("changer"),
                changed_time=bindparam("now_ms"),
                revision=bindparam("number"),
                rules=bindparam("given_rules"),
            )
        ),
    )


_model = model_id(bindparam("resource"))
_OF_BRANCHES = _statements(
    branch_policies,
    REVISION,
    branch_policies.c.model_id == _model,
    {"model_id": _model, "compatibility": bindparam("mode")},
)
_folder: BindParameter[str] = bindparam("resource")
_OF_FOLDERS = _statements(
    folder_branch_policies,
    folder_branch_policies.c.revision,
    folder_branch_policies.c.folder_rid == _folder,
    {"folder_rid": _folder},
)
_revision_of = Statement(select(REVISION.label("revision")).where(branch_policies.c.id == bindparam("policy_key")))
