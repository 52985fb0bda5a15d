"""Deliveries: attempts to send what is queued for subscriptions, and what became of them.

A process leases the queue of a subscription, and no other one sends anything of it meanwhile. All that changes a queue
locks its row first.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)

from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_DEAD,
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_DROPPED,
    DELIVERY_STATE_PENDING,
    SUBSCRIPTION_STATE_ACTIVE,
    Delivery,
    DeliveryState,
)
from server.core.event_types import NAMES, EventType
from server.core.uuids import new_uuid
from server.storage.contract import AttemptEnd, QueuedDelivery, QueueLease, SealedSecrets
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors
from server.storage.sql.delivery_queues import is_due, number
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyColumns, AnyRow, timestamp
from server.storage.sql.statements import Statement, forms
from server.storage.sql.subscriptions import subscription_key, to_subscription
from server.storage.sql.tables import deliveries, delivery_queues, events, opaque_keys, subscriptions
from server.storage.sql.unit_of_work import UnitOfWork

# Greater than every key: where the list begins, since the newest are first.
_BEHIND_ALL = 2**63 - 1


def lease_queues(work: UnitOfWork, count: int, lifetime: timedelta) -> list[QueueLease]:
    """See the contract."""
    now_ms = work.clock_ms()
    leases = []
    for row in work.session.all(_due, {"now_ms": now_ms, "count": count}):
        lease = QueueLease(row.subscription_id, new_uuid())
        work.session.send(_lease, _of(lease) | {"until_ms": now_ms + _ms(lifetime)})
        leases.append(lease)
    return leases


def next_delivery(work: UnitOfWork, lease: QueueLease) -> QueuedDelivery | None:
    """See the contract."""
    subscription = work.session.one_or_none(_leased, _of(lease))
    if subscription is None:
        return None
    now_ms = work.clock_ms()
    if subscription.state != SUBSCRIPTION_STATE_ACTIVE:
        work.session.send(_release, _of(lease) | {"due_ms": None})
        return None
    # A statement of its own, which sees what others have queued before they gave the lock away.
    next_one = _next if subscription.failing_since is None else _next_while_failing
    row = work.session.one_or_none(next_one, {"key": lease.subscription_key, "now_ms": now_ms})
    if row is None:
        due_ms = work.session.one(_next_time, {"key": lease.subscription_key}).next_time
        work.session.send(_release, _of(lease) | {"due_ms": due_ms})
        return None
    signs_too = subscription.previous_expire_time is not None and subscription.previous_expire_time > now_ms
    return QueuedDelivery(
        key=row.id,
        event_key=row.event_key,
        subscription=to_subscription(subscription),
        secrets=SealedSecrets(subscription.secret, subscription.previous_secret if signs_too else None),
        attempts=row.attempts,
        queued_ms=row.queued_time,
        tried_since_ms=row.tried_since,
    )


def begin_attempt(work: UnitOfWork, lease: QueueLease, delivery: QueuedDelivery, lifetime: timedelta) -> QueuedDelivery:
    """See the contract."""
    now_ms = work.clock_ms()
    begun = delivery._replace(
        attempts=delivery.attempts + 1,
        tried_since_ms=now_ms if delivery.tried_since_ms is None else delivery.tried_since_ms,
    )
    work.session.send(
        _begin,
        {"key": begun.key, "count_of": begun.attempts, "since_ms": begun.tried_since_ms, "now_ms": now_ms},
    )
    work.session.send(_lease, _of(lease) | {"until_ms": now_ms + _ms(lifetime)})
    return begun


def drop_delivery(work: UnitOfWork, delivery: QueuedDelivery, why: str) -> None:
    """See the contract."""
    work.session.send(_drop, {"key": delivery.key, "why": why})


def end_attempt(
    work: UnitOfWork,
    lease: QueueLease,
    delivery: QueuedDelivery,
    end: AttemptEnd,
    state: DeliveryState.ValueType,
    next_time_ms: int | None = None,
) -> None:
    """See the contract."""
    leased = work.session.one_or_none(_leased, _of(lease))
    work.session.send(
        _end,
        {
            "key": delivery.key,
            "count_of": delivery.attempts,
            "becomes": int(state),
            "took_ms": end.duration_ms,
            "status": end.http_status,
            "first_bytes": end.answer,
            "why": end.error,
            "again_ms": next_time_ms,
        },
    )
    # It is held back only while it fails: else there is nothing to clear.
    if leased is not None and leased.failing_since is not None and state == DELIVERY_STATE_DELIVERED:
        work.session.send(_works, _of(lease))


def failing_since(work: UnitOfWork, lease: QueueLease) -> int:
    """See the contract."""
    row = work.session.one_or_none(_failing, _of(lease))
    return work.clock_ms() if row is None or row.failing_since is None else int(row.failing_since)


def hold_back(work: UnitOfWork, lease: QueueLease, until_ms: int, queued_before_ms: int, why: str) -> None:
    """See the contract."""
    if not work.session.change(_hold_back, _of(lease) | {"due_ms": until_ms, "now_ms": work.clock_ms()}):
        return
    work.session.send(_give_up, {"key": lease.subscription_key, "before_ms": queued_before_ms, "why": why})


def give_back(work: UnitOfWork, lease: QueueLease) -> None:
    """See the contract."""
    work.session.send(_release, _of(lease) | {"due_ms": work.clock_ms()})


# What became of them


def list_deliveries(
    work: UnitOfWork, subscription_rid: str, state: DeliveryState.ValueType | None, page: PageRequest
) -> Page[Delivery]:
    """See the contract."""
    cursors = Cursors(work.session.one(_secret).key)
    before = _BEHIND_ALL if page.after is None else cursors.numbers(page.after)[1]
    values: dict[str, Any] = {"rid": subscription_rid, "before": before, "count": page.size + 1}
    if state is not None:
        values["in_state"] = int(state)
    rows = work.session.all(_list(state is not None), values)
    listed = messages_that_fit([_to_delivery(row) for row in rows[: page.size]], work.fitting_bytes)
    following = cursors.position(0, rows[len(listed) - 1].event_key) if len(listed) < len(rows) else None
    return Page(listed, following)


def remove_old_deliveries(work: UnitOfWork, age: timedelta, count: int) -> int:
    """See the contract."""
    return work.session.change(_remove_old, {"before_ms": work.clock_ms() - _ms(age), "count": count})


def _to_delivery(row: AnyRow) -> Delivery:
    delivery = Delivery(
        event_id=row.event_id,
        event_type=NAMES[EventType(row.event_type)],
        state=row.state,
        queued_time=timestamp(row.queued_time),
        attempts=row.attempts,
        duration_ms=row.duration_ms,
        http_status=row.http_status,
        answer=None if row.answer is None else bytes(row.answer).decode(errors="replace"),
        error=row.error,
    )
    if row.attempt_time is not None:
        delivery.attempt_time.CopyFrom(timestamp(row.attempt_time))
    if row.next_time is not None:
        delivery.next_attempt_time.CopyFrom(timestamp(row.next_time))
    return delivery


def _of(lease: QueueLease) -> dict[str, Any]:
    return {"key": lease.subscription_key, "lease_name": lease.name}


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


@forms
def _list(has_state: bool) -> Select[*AnyColumns]:
    query = (
        select(deliveries)
        .where(
            deliveries.c.subscription_id == subscription_key,
            deliveries.c.event_key < bindparam("before", type_=BigInteger),
        )
        .order_by(deliveries.c.event_key.desc())
        .limit(bindparam("count"))
    )
    return query.where(deliveries.c.state == bindparam("in_state")) if has_state else query


_secret = Statement(select(opaque_keys.c.key))
_now_ms = bindparam("now_ms", type_=BigInteger)
_key = bindparam("key", type_=BigInteger)
_pending = deliveries.c.state == number(DELIVERY_STATE_PENDING)
_is_leased = and_(delivery_queues.c.subscription_id == _key, delivery_queues.c.lease == bindparam("lease_name"))

_due = Statement(
    select(delivery_queues.c.subscription_id)
    .where(is_due)
    .order_by(delivery_queues.c.due_time)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True)
)
_lease = Statement(
    update(delivery_queues)
    .where(delivery_queues.c.subscription_id == _key)
    .values(lease=bindparam("lease_name"), leased_until=bindparam("until_ms"))
)
_leased = Statement(
    select(subscriptions, delivery_queues.c.failing_since)
    .join_from(delivery_queues, subscriptions, subscriptions.c.id == delivery_queues.c.subscription_id)
    .where(_is_leased)
    .with_for_update(of=delivery_queues)
)
_due_deliveries = (
    select(deliveries)
    .where(
        deliveries.c.subscription_id == _key,
        _pending,
        or_(deliveries.c.next_time.is_(None), deliveries.c.next_time <= _now_ms),
    )
    .limit(literal_column("1"))
)
_next = Statement(_due_deliveries.order_by(deliveries.c.event_key))
_next_while_failing = Statement(
    _due_deliveries.order_by(func.coalesce(deliveries.c.next_time, literal_column("0")), deliveries.c.event_key)
)
_next_time = Statement(
    select(func.min(deliveries.c.next_time).label("next_time")).where(deliveries.c.subscription_id == _key, _pending)
)
_release = Statement(
    update(delivery_queues)
    .where(_is_leased)
    .values(lease=null(), leased_until=null(), due_time=bindparam("due_ms", type_=BigInteger))
)
_begin = Statement(
    update(deliveries)
    .where(deliveries.c.id == _key)
    .values(
        attempts=bindparam("count_of"),
        tried_since=bindparam("since_ms"),
        attempt_time=_now_ms,
        duration_ms=null(),
        http_status=null(),
        answer=null(),
        error=null(),
        next_time=null(),
    )
)
_drop = Statement(
    update(deliveries)
    .where(deliveries.c.id == _key)
    .values(state=number(DELIVERY_STATE_DROPPED), error=bindparam("why"), next_time=null())
)
_end = Statement(
    update(deliveries)
    .where(deliveries.c.id == _key, deliveries.c.attempts == bindparam("count_of"), _pending)
    .values(
        state=bindparam("becomes"),
        duration_ms=bindparam("took_ms"),
        http_status=bindparam("status"),
        answer=bindparam("first_bytes"),
        error=bindparam("why"),
        next_time=bindparam("again_ms"),
    )
)
_works = Statement(update(delivery_queues).where(_is_leased).values(failing_since=null(), held_until=null()))
_failing = Statement(select(delivery_queues.c.failing_since).where(_is_leased))
_hold_back = Statement(
    update(delivery_queues)
    .where(_is_leased)
    .values(
        lease=null(),
        leased_until=null(),
        due_time=bindparam("due_ms"),
        held_until=bindparam("due_ms"),
        failing_since=func.coalesce(delivery_queues.c.failing_since, _now_ms),
    )
)
_give_up = Statement(
    update(deliveries)
    .where(
        deliveries.c.subscription_id == _key,
        _pending,
        deliveries.c.queued_time < bindparam("before_ms", type_=BigInteger),
    )
    .values(
        state=number(DELIVERY_STATE_DEAD), error=func.coalesce(deliveries.c.error, bindparam("why")), next_time=null()
    )
)
# What waits is kept as long as its event: that of a subscription that is paused for ever.
_is_kept = exists().where(events.c.id == deliveries.c.event_key)
_old = (
    select(deliveries.c.id)
    .where(deliveries.c.queued_time < bindparam("before_ms", type_=BigInteger), or_(~_pending, ~_is_kept))
    .order_by(deliveries.c.id)
    .limit(bindparam("count"))
)
_remove_old = Statement(delete(deliveries).where(deliveries.c.id.in_(_old)))
