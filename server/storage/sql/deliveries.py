"""Deliveries: which events wait for the URLs of subscriptions, and what became of them.

Events are queued in the order of their keys, up to those that are settled, so that none is passed by which is committed
later. A process leases the queue of a subscription, and no other one sends anything of it meanwhile. All that changes a
queue locks its row first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    SmallInteger,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_DEAD,
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_DROPPED,
    DELIVERY_STATE_PENDING,
    SUBSCRIPTION_STATE_ACTIVE,
    SUBSCRIPTION_STATE_DISABLED,
    Delivery,
    DeliveryState,
)
from server.core.event_types import NAMES, EventType
from server.core.uuids import new_uuid
from server.storage.contract import AttemptEnd, DeliveryWork, QueuedDelivery, QueueLease, Requeued, SealedSecrets
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyColumns, AnyRow, timestamp
from server.storage.sql.statements import Statement, forms, numbered, padded, several, upsert
from server.storage.sql.subscriptions import to_subscription
from server.storage.sql.tables import (
    deliveries,
    delivery_queues,
    event_fan_out,
    events,
    models,
    opaque_keys,
    subscriptions,
)
from server.storage.sql.unit_of_work import UnitOfWork

# Greater than every key: where the list begins, since the newest are first.
_BEHIND_ALL = 2**63 - 1


# What waits


def delivery_work(work: UnitOfWork) -> DeliveryWork:
    """See the contract."""
    row = work.session.one(_work, {"now_ms": work.clock_ms()})
    is_behind = row.since is not None and (row.newest or 0) > max(row.position, row.since)
    return DeliveryWork(is_behind, bool(row.is_due))


def fan_out(work: UnitOfWork, settled: int, count: int) -> bool:
    """See the contract."""
    place = work.session.one_or_none(_lock_fan_out)
    if place is None or place.since is None:
        return False
    after = max(place.position, place.since)
    if after >= settled:
        return False
    until = work.session.one(_last_of, {"after": after, "settled": settled, "count": count}).last or settled
    queue_events(work, work.session.all(_matches, {"after": after, "until": until}))
    work.session.send(_move_fan_out, {"until": until})
    return bool(until < settled)


def queue_events(work: UnitOfWork, found: Sequence[AnyRow], statement: Statement | None = None) -> int:
    """Queue rows of events with their subscriptions, in order; return how many of those subscriptions are there."""
    if not found:
        return 0
    now_ms = work.clock_ms()
    named = padded(sorted({row.subscription_id for row in found}))
    # Those that are deleted meanwhile have no queue.
    active = {row.id: row.is_active for row in work.session.all(_lock_queues(len(named)), numbered("key", named))}
    ids: dict[int, str] = {}
    count = 0
    for row in found:
        if row.subscription_id not in active:
            continue
        count += 1
        if row.id not in ids:
            ids[row.id] = Event.FromString(row.payload).id
        work.session.send(
            statement or _queue,
            {
                "to": row.subscription_id,
                "key": row.id,
                "named": ids[row.id],
                "of_type": row.type,
                "now_ms": now_ms,
            },
        )
    for key, is_active in active.items():
        if is_active:
            work.session.send(_be_due, {"key": key, "now_ms": now_ms})
    return count


def requeue(work: UnitOfWork, subscription_rid: str, event_ids: Collection[str]) -> list[str]:
    """See the contract."""
    named = padded(sorted(event_ids))
    rows = work.session.all(_by_ids(len(named)), numbered("event", named) | {"rid": subscription_rid})
    now_ms = work.clock_ms()
    for row in rows:
        work.session.send(_queue_again, {"key": row.id, "now_ms": now_ms})
    if rows:
        work.session.send(_be_due_again, {"key": rows[0].subscription_id, "now_ms": now_ms})
    return sorted(set(event_ids) - {row.event_id for row in rows})


def requeue_behind(work: UnitOfWork, subscription_rid: str, keys: range, count: int) -> Requeued:
    """See the contract."""
    after, settled = keys.start - 1, keys.stop - 1
    until = work.session.one(_last_of, {"after": after, "settled": settled, "count": count}).last or settled
    found = work.session.all(_matches_of_one, {"after": after, "until": until, "rid": subscription_rid})
    queued = queue_events(work, found, _queue_in_any_case)
    if queued:
        key = found[0].subscription_id
        work.session.send(_be_due_again, {"key": key, "now_ms": work.clock_ms()})
    return Requeued(queued, until if until < settled else None)


# Attempts


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
    is_leased = work.session.one_or_none(_leased, _of(lease)) is not None
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
    if is_leased and state == DELIVERY_STATE_DELIVERED:
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
    following = cursors.position(0, rows[len(listed) - 1].id) if len(listed) < len(rows) else None
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


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(int(value)), SmallInteger)


def _matching() -> Select[*AnyColumns]:
    """Events between two keys, in order, each with every subscription that lets it through."""
    # None of them is NULL in a match: an event is about a model in a folder, or about a folder.
    of = (models.c.rid, models.c.parent_folder_rid, events.c.folder_rid)
    has_type = subscriptions.c.types.bitwise_rshift(events.c.type).bitwise_and(literal_column("1"))
    return (
        select(events.c.id, events.c.type, events.c.payload, subscriptions.c.id.label("subscription_id"))
        .select_from(events)
        .outerjoin(models, models.c.id == events.c.model_id)
        .join(subscriptions, subscriptions.c.resource_rid.in_(of))
        .where(
            events.c.id > bindparam("after", type_=BigInteger),
            events.c.id <= bindparam("until", type_=BigInteger),
            or_(subscriptions.c.branch.is_(None), subscriptions.c.branch == events.c.branch),
            or_(subscriptions.c.types.is_(None), has_type == literal_column("1")),
        )
        .order_by(events.c.id, subscriptions.c.id)
    )


@forms
def _lock_queues(count: int) -> Select[*AnyColumns]:
    is_active = subscriptions.c.state == _number(SUBSCRIPTION_STATE_ACTIVE)
    return (
        select(delivery_queues.c.subscription_id.label("id"), is_active.label("is_active"))
        .join_from(delivery_queues, subscriptions, subscriptions.c.id == delivery_queues.c.subscription_id)
        .where(delivery_queues.c.subscription_id.in_(several("key", count)))
        .order_by(delivery_queues.c.subscription_id)
        .with_for_update(of=delivery_queues)
    )


@forms
def _by_ids(count: int) -> Select[*AnyColumns]:
    return (
        select(deliveries.c.id, deliveries.c.event_id, deliveries.c.subscription_id)
        .where(deliveries.c.subscription_id == _key_of_rid, deliveries.c.event_id.in_(several("event", count)))
        .order_by(deliveries.c.id)
    )


@forms
def _list(has_state: bool) -> Select[*AnyColumns]:
    query = (
        select(deliveries)
        .where(deliveries.c.subscription_id == _key_of_rid, deliveries.c.id < bindparam("before", type_=BigInteger))
        .order_by(deliveries.c.id.desc())
        .limit(bindparam("count"))
    )
    return query.where(deliveries.c.state == bindparam("in_state")) if has_state else query


def _queue_statement(dialect: Any, is_anew: bool) -> Any:
    statement = upsert(dialect, deliveries).values(
        subscription_id=bindparam("to"),
        event_key=bindparam("key"),
        event_id=bindparam("named"),
        event_type=bindparam("of_type"),
        state=_number(DELIVERY_STATE_PENDING),
        queued_time=bindparam("now_ms"),
        attempts=literal_column("0"),
    )
    place = [deliveries.c.subscription_id, deliveries.c.event_id]
    if not is_anew:
        return statement.on_conflict_do_nothing(index_elements=place)
    return statement.on_conflict_do_update(index_elements=place, set_=_anew)


_secret = Statement(select(opaque_keys.c.key))
_now_ms = bindparam("now_ms", type_=BigInteger)
_key = bindparam("key", type_=BigInteger)
_pending = deliveries.c.state == _number(DELIVERY_STATE_PENDING)
_key_of_rid = select(subscriptions.c.id).where(subscriptions.c.rid == bindparam("rid")).scalar_subquery()
_is_free = or_(delivery_queues.c.leased_until.is_(None), delivery_queues.c.leased_until < _now_ms)
_is_due = and_(delivery_queues.c.due_time <= _now_ms, _is_free)
_is_leased = and_(delivery_queues.c.subscription_id == _key, delivery_queues.c.lease == bindparam("lease_name"))
_is_fed = subscriptions.c.state != _number(SUBSCRIPTION_STATE_DISABLED)
# What is queued again begins anew, but for how often it was tried.
_anew = {
    "state": _number(DELIVERY_STATE_PENDING),
    "queued_time": _now_ms,
    "tried_since": null(),
    "next_time": null(),
}

_since = select(func.min(subscriptions.c.since_event)).where(_is_fed).scalar_subquery()
_work = Statement(
    select(
        select(func.max(events.c.id)).scalar_subquery().label("newest"),
        event_fan_out.c.position,
        _since.label("since"),
        exists().where(_is_due).label("is_due"),
    )
)
_lock_fan_out = Statement(
    select(event_fan_out.c.position, _since.label("since")).with_for_update(skip_locked=True, of=event_fan_out)
)
_move_fan_out = Statement(update(event_fan_out).values(position=bindparam("until")))
_some = (
    select(events.c.id)
    .where(events.c.id > bindparam("after", type_=BigInteger), events.c.id <= bindparam("settled", type_=BigInteger))
    .order_by(events.c.id)
    .limit(bindparam("count"))
    .subquery()
)
# NULL where none is left.
_last_of = Statement(
    select(case((func.count() == bindparam("count", type_=Integer), func.max(_some.c.id))).label("last"))
)
_matches = Statement(_matching().where(events.c.id > subscriptions.c.since_event, _is_fed))
_matches_of_one = Statement(_matching().where(subscriptions.c.rid == bindparam("rid")))
_queue = Statement(lambda dialect: _queue_statement(dialect, False))
_queue_in_any_case = Statement(lambda dialect: _queue_statement(dialect, True))
_queue_again = Statement(update(deliveries).where(deliveries.c.id == _key).values(_anew))
_be_due = Statement(
    update(delivery_queues)
    .where(delivery_queues.c.subscription_id == _key)
    .values(due_time=func.coalesce(delivery_queues.c.due_time, _now_ms))
)
_be_due_again = Statement(
    update(delivery_queues)
    .where(
        delivery_queues.c.subscription_id == _key,
        select(subscriptions.c.state).where(subscriptions.c.id == _key).scalar_subquery()
        == _number(SUBSCRIPTION_STATE_ACTIVE),
    )
    .values(due_time=_now_ms, failing_since=null())
)
_due = Statement(
    select(delivery_queues.c.subscription_id)
    .where(_is_due)
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
_next = Statement(_due_deliveries.order_by(deliveries.c.id))
_next_while_failing = Statement(
    _due_deliveries.order_by(func.coalesce(deliveries.c.next_time, literal_column("0")), deliveries.c.id)
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
    .values(state=_number(DELIVERY_STATE_DROPPED), error=bindparam("why"), next_time=null())
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
_works = Statement(update(delivery_queues).where(_is_leased).values(failing_since=null()))
_failing = Statement(select(delivery_queues.c.failing_since).where(_is_leased))
_hold_back = Statement(
    update(delivery_queues)
    .where(_is_leased)
    .values(
        lease=null(),
        leased_until=null(),
        due_time=bindparam("due_ms"),
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
        state=_number(DELIVERY_STATE_DEAD), error=func.coalesce(deliveries.c.error, bindparam("why")), next_time=null()
    )
)
_old = (
    select(deliveries.c.id)
    .where(deliveries.c.queued_time < bindparam("before_ms", type_=BigInteger), deliveries.c.state != _number(1))
    .order_by(deliveries.c.id)
    .limit(bindparam("count"))
)
_remove_old = Statement(delete(deliveries).where(deliveries.c.id.in_(_old)))
