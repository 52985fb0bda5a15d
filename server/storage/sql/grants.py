"""Grants: the questions and changes of the contract about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache

from sqlalchemy import BigInteger, Select, bindparam, delete, func, insert, literal_column, select

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_UNSPECIFIED, Grant, GrantChange, Role
from modelregistry.v1.event_pb2 import Event, EventSubject
from server.core.caller import Caller
from server.core.event_types import EventType
from server.core.rids import FOLDER, rid_type
from server.storage.contract import Grantees
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors
from server.storage.sql.event_log import add_event
from server.storage.sql.pages import page_of
from server.storage.sql.rows import AnyColumns, AnyRow, timestamp
from server.storage.sql.statements import Statement, for_callers, numbered, padded, principals, several, upsert
from server.storage.sql.tables import grant_changes, grants, models, opaque_keys
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import MAX_NAMED, role_on

# Greater than every key: where the list begins, since the newest are first.
_BEHIND_ALL = 2**63 - 1


def get_role(work: UnitOfWork, resource_rid: str, caller: Caller) -> Role.ValueType:
    """See the contract."""
    role: Role.ValueType | None = work.session.one(_role(caller), {"resource": resource_rid} | principals(caller)).role
    return role or ROLE_UNSPECIFIED


def grantees(work: UnitOfWork, resource_rids: Collection[str]) -> dict[str, Grantees]:
    """See the contract."""
    models_named = [rid for rid in resource_rids if rid_type(rid) != FOLDER]
    folder_of: dict[str, str | None] = {rid: None for rid in resource_rids if rid_type(rid) == FOLDER}
    folder_of |= {row.rid: row.parent_folder_rid for row in _rows_of(work, _folders_of, models_named)}
    named = {*folder_of} | {folder for folder in folder_of.values() if folder is not None}
    roles: dict[str, dict[str, Role.ValueType]] = {rid: {} for rid in named}
    for row in _rows_of(work, _grants_on, [*named]):
        roles[row.resource_rid][row.principal] = row.role
    found = {}
    for rid, folder in folder_of.items():
        inherited = roles[folder] if folder is not None else {}
        highest = {to: max(role, inherited.get(to, role)) for to, role in roles[rid].items()}
        found[rid] = Grantees(folder, inherited | highest)
    return found


def _rows_of(work: UnitOfWork, statement: Callable[[int], Statement], rids: Sequence[str]) -> Iterator[AnyRow]:
    """Yield what a statement that names resources finds for these."""
    for first in range(0, len(rids), MAX_NAMED):
        some = padded([*rids[first : first + MAX_NAMED]])
        yield from work.session.all(statement(len(some)), numbered("resource", some))


def list_grants(work: UnitOfWork, resource_rid: str, page: PageRequest) -> Page[Grant]:
    """See the contract."""
    parameters = {"resource": resource_rid, "after": page.after or "", "count": page.size + 1}
    rows = work.session.all(_list, parameters)
    return page_of(rows, rows[: page.size], "principal", _to_grant)


def list_grant_changes(work: UnitOfWork, resource_rid: str, page: PageRequest) -> Page[GrantChange]:
    """See the contract."""
    cursors = Cursors(work.session.one(_secret).key)
    before = _BEHIND_ALL if page.after is None else cursors.numbers(page.after)[1]
    rows = work.session.all(_changes, {"resource": resource_rid, "before": before, "count": page.size + 1})
    listed = rows[: page.size]
    # The key says how many changes there were of all resources.
    following = cursors.position(0, listed[-1].id) if len(listed) < len(rows) else None
    return Page([_to_change(row) for row in listed], following)


def owners(work: UnitOfWork, resource_rid: str) -> list[str]:
    """See the contract."""
    return [row.principal for row in work.session.all(_owners, {"resource": resource_rid})]


def lock_owners(work: UnitOfWork, resource_rid: str) -> None:
    """See the contract."""
    if not work.session.has_row_locks:
        return
    # Not a lock of rows: what has no owner has none, and a server need not have the right to lock those of grants.
    digest = hashlib.sha256(f"owners of {resource_rid}".encode()).digest()
    work.session.send(_lock, {"lock_key": int.from_bytes(digest[:8], signed=True)})


def set_grant(work: UnitOfWork, grant: Grant, changed_by: str) -> None:
    """See the contract."""
    work.session.send(_set, {"resource": grant.resource_rid, "to": grant.principal, "given_role": int(grant.role)})
    _record_change(work, grant.resource_rid, grant.principal, grant.role, changed_by)


def remove_grant(work: UnitOfWork, resource_rid: str, principal: str, changed_by: str) -> None:
    """See the contract."""
    if work.session.change(_remove, {"resource": resource_rid, "to": principal}):
        _record_change(work, resource_rid, principal, None, changed_by)


def _record_change(
    work: UnitOfWork, resource_rid: str, principal: str, role: Role.ValueType | None, changed_by: str
) -> None:
    now_ms = work.clock_ms()
    changed = {"resource": resource_rid, "to": principal, "given_role": role, "changer": changed_by, "now_ms": now_ms}
    work.session.send(_record, changed)
    change = GrantChange(
        resource_rid=resource_rid,
        principal=principal,
        role=role or ROLE_UNSPECIFIED,
        changed_by=changed_by,
        changed_time=timestamp(now_ms),
    )
    add_event(
        work,
        EventType.GRANT_CHANGED,
        Event(subject=EventSubject(grant_change=change)),
        about=resource_rid,
        actor=changed_by,
        time=now_ms,
    )


@for_callers
def _role(caller: Caller) -> Select[*AnyColumns]:
    return select(role_on(caller, bindparam("resource")).label("role"))


@cache
def _folders_of(count: int) -> Statement:
    return Statement(
        select(models.c.rid, models.c.parent_folder_rid).where(models.c.rid.in_(several("resource", count)))
    )


@cache
def _grants_on(count: int) -> Statement:
    granted = select(grants.c.resource_rid, grants.c.principal, grants.c.role)
    return Statement(granted.where(grants.c.resource_rid.in_(several("resource", count))))


_list = Statement(
    select(grants)
    # No principal is empty.
    .where(grants.c.resource_rid == bindparam("resource"), grants.c.principal > bindparam("after"))
    .order_by(grants.c.principal)
    .limit(bindparam("count"))
)
_changes = Statement(
    select(grant_changes)
    .where(grant_changes.c.resource_rid == bindparam("resource"), grant_changes.c.id < bindparam("before"))
    .order_by(grant_changes.c.id.desc())
    .limit(bindparam("count"))
)
_secret = Statement(select(opaque_keys.c.key))
_owners = Statement(
    select(grants.c.principal)
    .where(grants.c.resource_rid == bindparam("resource"), grants.c.role == literal_column(str(int(ROLE_OWNER))))
    .order_by(grants.c.principal)
)
_lock = Statement(select(func.pg_advisory_xact_lock(bindparam("lock_key", type_=BigInteger)).label("locked")))
_set = Statement(
    lambda dialect: (
        upsert(dialect, grants)
        .values(resource_rid=bindparam("resource"), principal=bindparam("to"), role=bindparam("given_role"))
        .on_conflict_do_update(
            index_elements=[grants.c.resource_rid, grants.c.principal], set_={"role": bindparam("given_role")}
        )
    )
)
_remove = Statement(
    delete(grants).where(grants.c.resource_rid == bindparam("resource"), grants.c.principal == bindparam("to"))
)
_record = Statement(
    insert(grant_changes).values(
        resource_rid=bindparam("resource"),
        principal=bindparam("to"),
        role=bindparam("given_role"),
        changed_by=bindparam("changer"),
        changed_time=bindparam("now_ms"),
    )
)


def _to_grant(row: AnyRow) -> Grant:
    return Grant(resource_rid=row.resource_rid, principal=row.principal, role=row.role)


def _to_change(row: AnyRow) -> GrantChange:
    return GrantChange(
        resource_rid=row.resource_rid,
        principal=row.principal,
        role=row.role,
        changed_by=row.changed_by,
        changed_time=timestamp(row.changed_time),
    )
