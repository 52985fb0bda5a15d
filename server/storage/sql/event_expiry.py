"""Removes events that are past their retention: always those with the smallest keys, so that what is left has no gap.

Up to which key they were removed is written down in the same transaction, so that a cursor from before is known as one.
Servers only insert events and read them, and wait for none of this.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import takewhile

from sqlalchemy import BigInteger, bindparam, delete, func, select, update

from server.storage.sql.statements import Statement
from server.storage.sql.tables import event_retention, events
from server.storage.sql.unit_of_work import UnitOfWork


def remove_old_events(work: UnitOfWork, age: timedelta, most: int) -> int:
    """See the contract."""
    before_ms = work.clock_ms() - age // timedelta(milliseconds=1)
    oldest = work.session.all(_oldest, {"count": most})
    past = [row.id for row in takewhile(lambda row: row.created_time < before_ms, oldest)]
    if not past:
        return 0
    work.session.send(_set_removed, {"last": past[-1]})
    return work.session.change(_remove, {"last": past[-1]})


# Without the newest: SQLite would give its key to the next one, which then had the place of another.
_oldest = Statement(
    select(events.c.id, events.c.created_time)
    .where(events.c.id < select(func.max(events.c.id)).scalar_subquery())
    .order_by(events.c.id)
    .limit(bindparam("count"))
)
_last = bindparam("last", type_=BigInteger)
_remove = Statement(delete(events).where(events.c.id <= _last))
# Another `gc` may have removed more meanwhile.
_set_removed = Statement(
    update(event_retention).where(event_retention.c.removed_up_to < _last).values(removed_up_to=_last)
)
