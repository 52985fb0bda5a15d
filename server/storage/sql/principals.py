"""Principals that are disabled: the questions and changes of the contract about them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, insert, not_, select

from modelregistry.v1.access_service_pb2 import DisabledPrincipal
from modelregistry.v1.event_pb2 import Event, EventSubject
from server.core.event_types import EventType
from server.storage.paging import Page, PageRequest
from server.storage.sql.event_log import add_event
from server.storage.sql.pages import page_of
from server.storage.sql.rows import AnyRow, timestamp
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement
from server.storage.sql.tables import principal_changes
from server.storage.sql.unit_of_work import UnitOfWork

_later = principal_changes.alias("later")


def disabled_principals(session: Session) -> frozenset[str]:
    """See the contract of the repository."""
    return frozenset(row.principal for row in session.all(_all))


def list_disabled_principals(work: UnitOfWork, page: PageRequest) -> Page[DisabledPrincipal]:
    """See the contract."""
    rows = work.session.all(_list, {"after": page.after or "", "count": page.size + 1})
    return page_of(rows, rows[: page.size], "principal", _to_disabled)


def is_disabled(work: UnitOfWork, principal: str) -> bool:
    """See the contract."""
    return work.session.one_or_none(_is_disabled, {"of": principal}) is not None


def disable_principal(work: UnitOfWork, principal: str, reason: str, changed_by: str) -> DisabledPrincipal:
    """See the contract."""
    now_ms = _record(work, principal, reason, changed_by)
    disabled = DisabledPrincipal(
        principal=principal, reason=reason, disabled_by=changed_by, disabled_time=timestamp(now_ms)
    )
    _tell(work, EventType.PRINCIPAL_DISABLED, disabled, changed_by, now_ms)
    return disabled


def enable_principal(work: UnitOfWork, principal: str, changed_by: str) -> None:
    """See the contract."""
    now_ms = _record(work, principal, None, changed_by)
    _tell(work, EventType.PRINCIPAL_ENABLED, DisabledPrincipal(principal=principal), changed_by, now_ms)


def _record(work: UnitOfWork, principal: str, reason: str | None, changed_by: str) -> int:
    """Record a change, and return when it was made, in ms since the epoch."""
    now_ms = work.clock_ms()
    values: dict[str, Any] = {"of": principal, "given_reason": reason, "changer": changed_by, "now_ms": now_ms}
    work.session.send(_add, values)
    return now_ms


def _tell(work: UnitOfWork, type_: EventType, principal: DisabledPrincipal, changed_by: str, now_ms: int) -> None:
    add_event(work, type_, Event(subject=EventSubject(principal=principal)), about=None, actor=changed_by, time=now_ms)


def _to_disabled(row: AnyRow) -> DisabledPrincipal:
    return DisabledPrincipal(
        principal=row.principal,
        reason=row.reason,
        disabled_by=row.changed_by,
        disabled_time=timestamp(row.changed_time),
    )


_is_newest = not_(
    exists().where(_later.c.principal == principal_changes.c.principal, _later.c.id > principal_changes.c.id)
)
_disabled = select(principal_changes).where(principal_changes.c.reason.is_not(None), _is_newest)
_all = Statement(_disabled)
_is_disabled = Statement(_disabled.where(principal_changes.c.principal == bindparam("of")))


def is_disabled_principal(principal: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a principal is disabled."""
    return _disabled.where(principal_changes.c.principal == principal).exists()


_list = Statement(
    # No principal is empty.
    _disabled.where(principal_changes.c.principal > bindparam("after"))
    .order_by(principal_changes.c.principal)
    .limit(bindparam("count"))
)
_add = Statement(
    insert(principal_changes).values(
        principal=bindparam("of"),
        reason=bindparam("given_reason"),
        changed_by=bindparam("changer"),
        changed_time=bindparam("now_ms"),
    )
)
