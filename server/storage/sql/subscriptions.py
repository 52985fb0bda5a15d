"""Subscriptions: the questions and changes of the contract about them.

What changes a subscription locks its queue first, as what sends its events does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import BigInteger, bindparam, delete, func, insert, null, select, update

from modelregistry.v1.event_pb2 import Event, EventSubject
from modelregistry.v1.subscription_pb2 import SUBSCRIPTION_STATE_ACTIVE, SUBSCRIPTION_STATE_DISABLED, Subscription
from server.core.event_types import BY_NAME, NAMES, EventType
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors
from server.storage.sql.delivery_queues import queue_anew, start_queue, stop_queue
from server.storage.sql.event_log import add_event
from server.storage.sql.rows import AnyRow, timestamp
from server.storage.sql.statements import Statement
from server.storage.sql.tables import delivery_queues, events, opaque_keys, subscriptions
from server.storage.sql.unit_of_work import UnitOfWork

# Greater than every key: where the list begins, since the newest are first.
_BEHIND_ALL = 2**63 - 1


def find_subscription(work: UnitOfWork, subscription_rid: str) -> Subscription | None:
    """See the contract."""
    row = work.session.one_or_none(_one, {"rid": subscription_rid})
    return None if row is None else to_subscription(row)


def list_subscriptions(work: UnitOfWork, resource_rid: str, page: PageRequest) -> Page[Subscription]:
    """See the contract."""
    cursors = Cursors(work.session.one(_secret).key)
    before = _BEHIND_ALL if page.after is None else cursors.numbers(page.after)[1]
    rows = work.session.all(_list, {"resource": resource_rid, "before": before, "count": page.size + 1})
    listed = rows[: page.size]
    # The key says how many there were of all resources.
    following = cursors.position(0, listed[-1].id) if len(listed) < len(rows) else None
    return Page([to_subscription(row) for row in listed], following)


def count_subscriptions(work: UnitOfWork, resource_rid: str, created_by: str) -> tuple[int, int]:
    """See the contract."""
    row = work.session.one(_counts, {"resource": resource_rid, "maker": created_by})
    return row.of_resource, row.of_principal


def lock_subscriptions(work: UnitOfWork, resource_rid: str, created_by: str) -> None:
    """See the contract."""
    if not work.session.has_row_locks:
        return
    # Not locks of rows, of which there may be none. All lock a resource before they lock a principal.
    for of in (resource_rid, created_by):
        digest = hashlib.sha256(f"subscriptions of {of}".encode()).digest()
        work.session.send(_lock_all, {"lock_key": int.from_bytes(digest[:8], signed=True)})


def add_subscription(work: UnitOfWork, subscription: Subscription, secret: bytes) -> Subscription:
    """See the contract."""
    now_ms = work.clock_ms()
    stored = Subscription()
    stored.CopyFrom(subscription)
    stored.created_time.CopyFrom(timestamp(now_ms))
    # First its event, so that its key is not behind `since_event`.
    _tell(work, EventType.SUBSCRIPTION_CREATED, stored, stored.created_by, now_ms)
    work.session.send(
        _add,
        {
            **_values(stored),
            "new_rid": stored.rid,
            "resource": stored.resource_rid,
            "maker": stored.created_by,
            "now_ms": now_ms,
            "sealed": secret,
        },
    )
    work.session.send(_add_queue, {"rid": stored.rid})
    return stored


def lock_subscription(work: UnitOfWork, subscription_rid: str) -> None:
    """See the contract."""
    if work.session.has_row_locks:
        work.session.send(_lock, {"rid": subscription_rid})


def change_subscription(work: UnitOfWork, subscription: Subscription, changed_by: str) -> Subscription:
    """See the contract."""
    now_ms = work.clock_ms()
    before = work.session.one(_one, {"rid": subscription.rid})
    stored = Subscription()
    stored.CopyFrom(subscription)
    stored.changed_time.CopyFrom(timestamp(now_ms))
    work.session.send(_change, _values(stored) | {"rid": stored.rid, "now_ms": now_ms})
    if before.state == SUBSCRIPTION_STATE_DISABLED != stored.state:
        work.session.send(_begin_now, {"rid": stored.rid})
    if stored.state != SUBSCRIPTION_STATE_ACTIVE:
        stop_queue(work, before.id)
    elif before.state != SUBSCRIPTION_STATE_ACTIVE or before.url != stored.url:
        queue_anew(work, before.id)
        start_queue(work, before.id)
    _tell(work, EventType.SUBSCRIPTION_CHANGED, stored, changed_by, now_ms)
    return stored


def set_secret(
    work: UnitOfWork, subscription: Subscription, secret: bytes, previous_lifetime: timedelta | None, changed_by: str
) -> Subscription:
    """See the contract."""
    now_ms = work.clock_ms()
    until_ms = None if previous_lifetime is None else now_ms + _ms(previous_lifetime)
    stored = Subscription()
    stored.CopyFrom(subscription)
    stored.changed_time.CopyFrom(timestamp(now_ms))
    stored.ClearField("previous_secret_expire_time")
    if until_ms is not None:
        stored.previous_secret_expire_time.CopyFrom(timestamp(until_ms))
    statement = _replace_secret if until_ms is None else _rotate_secret
    work.session.send(statement, {"rid": stored.rid, "sealed": secret, "now_ms": now_ms, "previous_until": until_ms})
    _tell(work, EventType.SUBSCRIPTION_CHANGED, stored, changed_by, now_ms)
    return stored


def remove_subscription(work: UnitOfWork, subscription: Subscription, removed_by: str) -> None:
    """See the contract."""
    work.session.send(_remove, {"rid": subscription.rid})
    _tell(work, EventType.SUBSCRIPTION_DELETED, subscription, removed_by, work.clock_ms())


def to_subscription(row: AnyRow) -> Subscription:
    """Return the subscription of a row, which may have other columns, too."""
    subscription = Subscription(
        rid=row.rid,
        resource_rid=row.resource_rid,
        branch=row.branch,
        types=[] if row.types is None else [name for type_, name in NAMES.items() if row.types >> type_ & 1],
        url=row.url,
        state=row.state,
        description=row.description,
        created_by=row.created_by,
        created_time=timestamp(row.created_time),
    )
    if row.changed_time is not None:
        subscription.changed_time.CopyFrom(timestamp(row.changed_time))
    if row.previous_expire_time is not None:
        subscription.previous_secret_expire_time.CopyFrom(timestamp(row.previous_expire_time))
    return subscription


def _values(subscription: Subscription) -> dict[str, object]:
    return {
        "on_branch": subscription.branch if subscription.HasField("branch") else None,
        "of_types": _bits(subscription.types),
        "to_url": subscription.url,
        "in_state": int(subscription.state),
        "described": subscription.description if subscription.HasField("description") else None,
    }


def _bits(types: Iterable[str]) -> int | None:
    return sum(1 << type_ for type_ in {BY_NAME[name] for name in types}) or None


def _tell(work: UnitOfWork, type_: EventType, subscription: Subscription, actor: str, now_ms: int) -> None:
    event = Event(subject=EventSubject(subscription=subscription))
    add_event(work, type_, event, about=subscription.resource_rid, actor=actor, time=now_ms)


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


# The key of the subscription with the RID `rid`.
subscription_key = select(subscriptions.c.id).where(subscriptions.c.rid == bindparam("rid")).scalar_subquery()
_now_ms = bindparam("now_ms", type_=BigInteger)
_of_queue = delivery_queues.c.subscription_id == subscription_key
_newest_event = select(func.max(events.c.id)).scalar_subquery()

_secret = Statement(select(opaque_keys.c.key))
_one = Statement(select(subscriptions).where(subscriptions.c.rid == bindparam("rid")))
_list = Statement(
    select(subscriptions)
    .where(subscriptions.c.resource_rid == bindparam("resource"), subscriptions.c.id < bindparam("before"))
    .order_by(subscriptions.c.id.desc())
    .limit(bindparam("count"))
)
_counts = Statement(
    select(
        select(func.count())
        .where(subscriptions.c.resource_rid == bindparam("resource"))
        .scalar_subquery()
        .label("of_resource"),
        select(func.count())
        .where(subscriptions.c.created_by == bindparam("maker"))
        .scalar_subquery()
        .label("of_principal"),
    )
)
_lock_all = Statement(select(func.pg_advisory_xact_lock(bindparam("lock_key", type_=BigInteger)).label("locked")))
_lock = Statement(select(delivery_queues.c.subscription_id).where(_of_queue).with_for_update())
_add = Statement(
    insert(subscriptions).values(
        rid=bindparam("new_rid"),
        resource_rid=bindparam("resource"),
        branch=bindparam("on_branch"),
        types=bindparam("of_types"),
        url=bindparam("to_url"),
        state=bindparam("in_state"),
        description=bindparam("described"),
        created_by=bindparam("maker"),
        created_time=bindparam("now_ms"),
        since_event=_newest_event,
        secret=bindparam("sealed"),
    )
)
_add_queue = Statement(insert(delivery_queues).values(subscription_id=subscription_key))
_change = Statement(
    update(subscriptions)
    .where(subscriptions.c.rid == bindparam("rid"))
    .values(
        branch=bindparam("on_branch"),
        types=bindparam("of_types"),
        url=bindparam("to_url"),
        state=bindparam("in_state"),
        description=bindparam("described"),
        changed_time=_now_ms,
    )
)
_begin_now = Statement(
    update(subscriptions).where(subscriptions.c.rid == bindparam("rid")).values(since_event=_newest_event)
)
_rotate_secret = Statement(
    update(subscriptions)
    .where(subscriptions.c.rid == bindparam("rid"))
    .values(
        secret=bindparam("sealed"),
        previous_secret=subscriptions.c.secret,
        previous_expire_time=bindparam("previous_until"),
        changed_time=_now_ms,
    )
)
_replace_secret = Statement(
    update(subscriptions)
    .where(subscriptions.c.rid == bindparam("rid"))
    .values(secret=bindparam("sealed"), previous_secret=null(), previous_expire_time=null(), changed_time=_now_ms)
)
_remove = Statement(delete(subscriptions).where(subscriptions.c.rid == bindparam("rid")))
