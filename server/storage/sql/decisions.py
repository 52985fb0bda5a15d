"""Transactions that are deciding on what is stored now, so that a change of that can wait until they have ended.

A transaction marks itself before it reads what it decides on; a change is committed, and then waits for those that are
marked at that moment. One that marks itself later reads what was changed. This is the grace period of RCU: a mark is
shared and blocks nothing, so a change that waits holds up nobody, and there is no order of locks to keep.

The mark is an advisory lock of PostgreSQL, which ends with its transaction, be it by a lost connection, and not before
others see what that has committed. On SQLite one transaction at a time decides and commits, and none is marked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, and_, bindparam, column, func, literal_column, select, table, true

from server.core.errors import StorageUnavailable
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement
from server.storage.sql.unit_of_work import UnitOfWork

# Any constant will do that no other program uses for an advisory lock in this database.
_KEY = 7_310_583_284_117
_key = literal_column(str(_KEY), BigInteger)


class Decision(NamedTuple):
    """A transaction that is deciding: the process that carries it out, and which one of its transactions it is."""

    pid: int
    virtualtransaction: str


def mark(work: UnitOfWork) -> None:
    """Mark the transaction of a change, which decides on what it reads from now on."""
    session = work.session
    # In a group, those before may have done so. It takes 7 µs, less than a hundredth of a promotion.
    if session.has_row_locks and not (session.is_marked or work.is_marked):
        session.send(_mark)
        work.is_marked = True


def marking_after(locking: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Return a statement that marks the transaction once another one, which locks rows, has locked those that it finds.

    PostgreSQL has the count of rows, which it is asked for here, only when all of them are locked.
    """
    counted = select(func.count()).select_from(locking.subquery("locked")).subquery("counted")
    return select(_marking).select_from(counted)


def marked(session: Session) -> frozenset[Decision]:
    """Return the transactions that are deciding at this moment, on PostgreSQL.

    Raises StorageUnavailable on a standby, which has the locks of its primary's transactions, but not their marks.
    """
    rows = session.all(_marked, {"high": _KEY >> 32, "low": _KEY & 0xFFFF_FFFF})
    if rows[0].is_standby:
        raise StorageUnavailable
    return frozenset(Decision(row.pid, row.virtualtransaction) for row in rows if row.pid is not None)


_marking = func.pg_advisory_xact_lock_shared(_key).label("marked")
_mark = Statement(select(_marking))
_locks = table(
    "pg_locks",
    *map(column, ("locktype", "database", "classid", "objid", "objsubid", "pid", "virtualtransaction")),
)
_databases = table("pg_database", column("oid"), column("datname"))
_marks = (
    select(_locks.c.pid, _locks.c.virtualtransaction)
    .join_from(_locks, _databases, and_(_databases.c.oid == _locks.c.database, _locks.c.locktype == "advisory"))
    .where(
        _databases.c.datname == func.current_database(),
        _locks.c.classid == bindparam("high", type_=BigInteger),
        _locks.c.objid == bindparam("low", type_=BigInteger),
        # A key of one number.
        _locks.c.objsubid == literal_column("1"),
    )
    .subquery("marks")
)
_place = select(func.pg_is_in_recovery().label("is_standby")).subquery("place")
# A row at least, which has no process if there is no mark.
_marked = Statement(select(_place, _marks).select_from(_place.outerjoin(_marks, true())))
