"""Fanning out: which events are queued for which subscriptions, as they happen and again.

Events are queued up to those that are settled, so that none is passed by which is committed later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, Select, bindparam, exists, func, literal_column, or_, select, update

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_PENDING,
    SUBSCRIPTION_STATE_ACTIVE,
    SUBSCRIPTION_STATE_DISABLED,
)
from server.storage.contract import DeliveryWork, Requeued
from server.storage.sql.delivery_queues import ANEW, be_due, is_due, number, start_queue
from server.storage.sql.event_log import further_on
from server.storage.sql.rows import AnyColumns, AnyRow
from server.storage.sql.statements import Statement, forms, numbered, padded, several, upsert
from server.storage.sql.subscriptions import subscription_key
from server.storage.sql.tables import deliveries, delivery_queues, event_fan_out, events, models, subscriptions
from server.storage.sql.unit_of_work import UnitOfWork


def delivery_work(work: UnitOfWork) -> DeliveryWork:
    """See the contract."""
    row = work.session.one(_work, {"now_ms": work.clock_ms()})
    is_behind = row.since is not None and (row.newest or 0) > max(row.position, row.since)
    return DeliveryWork(is_behind, bool(row.is_due))


def fan_out_events(work: UnitOfWork, settled: int, count: int) -> bool:
    """See the contract."""
    place = work.session.one_or_none(_lock_fan_out)
    if place is None or place.since is None:
        return False
    after = max(place.position, place.since)
    if after >= settled:
        return False
    until = further_on(work.session, after, settled, count)
    _queue_events(work, work.session.all(_matches, {"after": after, "until": until}), anew=False)
    work.session.send(_move_fan_out, {"until": until})
    return bool(until < settled)


def requeue_behind(work: UnitOfWork, subscription_rid: str, keys: range, count: int) -> Requeued:
    """See the contract."""
    after, settled = keys.start - 1, keys.stop - 1
    until = further_on(work.session, after, settled, count)
    found = work.session.all(_matches_of_one, {"after": after, "until": until, "rid": subscription_rid})
    queued = _queue_events(work, found, anew=True)
    return Requeued(queued, until if until < settled else None)


def requeue(work: UnitOfWork, subscription_rid: str, event_ids: Collection[str]) -> list[str]:
    """See the contract."""
    named = padded(sorted(event_ids))
    rows = work.session.all(_by_ids(len(named)), numbered("event", named) | {"rid": subscription_rid})
    now_ms = work.clock_ms()
    for row in rows:
        work.session.send(_queue_again, {"key": row.id, "now_ms": now_ms})
    if rows:
        start_queue(work, rows[0].subscription_id)
    return sorted(set(event_ids) - {row.event_id for row in rows})


def _queue_events(work: UnitOfWork, found: Sequence[AnyRow], *, anew: bool) -> int:
    """Queue rows of events with their subscriptions, in order; return how many of those subscriptions are there.

    If that is wanted, what is queued already, or was delivered, begins anew, and its queue is due at once.
    """
    if not found:
        return 0
    now_ms = work.clock_ms()
    named = padded(sorted({row.subscription_id for row in found}))
    # Those that are deleted meanwhile have no queue.
    active = {row.id: row.is_active for row in work.session.all(_lock_queues(len(named)), numbered("key", named))}
    queued = [row for row in found if row.subscription_id in active]
    ids = {row.id: Event.FromString(row.payload).id for row in queued}
    for row in queued:
        work.session.send(
            _queue_in_any_case if anew else _queue,
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
            (start_queue if anew else be_due)(work, key)
    return len(queued)


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
    is_active = subscriptions.c.state == number(SUBSCRIPTION_STATE_ACTIVE)
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
        .where(deliveries.c.subscription_id == subscription_key, deliveries.c.event_id.in_(several("event", count)))
        .order_by(deliveries.c.id)
    )


def _queue_statement(dialect: Any, anew: bool) -> Any:
    statement = upsert(dialect, deliveries).values(
        subscription_id=bindparam("to"),
        event_key=bindparam("key"),
        event_id=bindparam("named"),
        event_type=bindparam("of_type"),
        state=number(DELIVERY_STATE_PENDING),
        queued_time=bindparam("now_ms"),
        attempts=literal_column("0"),
    )
    place = [deliveries.c.subscription_id, deliveries.c.event_id]
    if not anew:
        return statement.on_conflict_do_nothing(index_elements=place)
    return statement.on_conflict_do_update(index_elements=place, set_=ANEW)


_key = bindparam("key", type_=BigInteger)
_is_fed = subscriptions.c.state != number(SUBSCRIPTION_STATE_DISABLED)

_since = select(func.min(subscriptions.c.since_event)).where(_is_fed).scalar_subquery()
_work = Statement(
    select(
        select(func.max(events.c.id)).scalar_subquery().label("newest"),
        event_fan_out.c.position,
        _since.label("since"),
        exists().where(is_due).label("is_due"),
    )
)
_lock_fan_out = Statement(
    select(event_fan_out.c.position, _since.label("since")).with_for_update(skip_locked=True, of=event_fan_out)
)
_move_fan_out = Statement(update(event_fan_out).values(position=bindparam("until")))
_matches = Statement(_matching().where(events.c.id > subscriptions.c.since_event, _is_fed))
_matches_of_one = Statement(_matching().where(subscriptions.c.rid == bindparam("rid")))
_queue = Statement(lambda dialect: _queue_statement(dialect, False))
_queue_in_any_case = Statement(lambda dialect: _queue_statement(dialect, True))
_queue_again = Statement(update(deliveries).where(deliveries.c.id == _key).values(ANEW))
