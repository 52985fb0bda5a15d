"""Queues of subscriptions: when there is something to send, and what waits in them.

All that changes a queue locks its row first.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    SmallInteger,
    and_,
    bindparam,
    case,
    literal_column,
    null,
    or_,
    select,
    update,
)

from modelregistry.v1.subscription_pb2 import DELIVERY_STATE_PENDING, SUBSCRIPTION_STATE_ACTIVE
from server.storage.sql.statements import Statement
from server.storage.sql.tables import deliveries, delivery_queues, subscriptions
from server.storage.sql.unit_of_work import UnitOfWork


def number(value: int) -> ColumnElement[int]:
    """Return a number as a part of a statement, which is planned for it."""
    return literal_column(str(int(value)), SmallInteger)


def start_queue(work: UnitOfWork, key: int) -> None:
    """Let the queue of a subscription be due, as if its receiver had never failed; nothing if it is not active."""
    work.session.send(_start, {"key": key, "now_ms": work.clock_ms()})


def stop_queue(work: UnitOfWork, key: int) -> None:
    """Let the queue of a subscription be due no more."""
    work.session.send(_stop, {"key": key})


def be_due(work: UnitOfWork, key: int) -> None:
    """Let the queue of an active subscription, which has got something, be due as soon as its receiver is tried."""
    work.session.send(_be_due, {"key": key, "now_ms": work.clock_ms()})


def queue_anew(work: UnitOfWork, key: int) -> None:
    """Let all that waits for a subscription begin anew."""
    work.session.send(_anew, {"key": key, "now_ms": work.clock_ms()})


_now_ms = bindparam("now_ms", type_=BigInteger)
_key = bindparam("key", type_=BigInteger)
_is_it = delivery_queues.c.subscription_id == _key
_state = select(subscriptions.c.state).where(subscriptions.c.id == _key).scalar_subquery()
# Not before the time to which a receiver is held back that fails. What is due for an event that is tried again later is
# no such time.
_soon = case((delivery_queues.c.held_until > _now_ms, delivery_queues.c.held_until), else_=_now_ms)

# Whether something is to be sent of a queue that nobody works on.
is_due = and_(
    delivery_queues.c.due_time <= _now_ms,
    or_(delivery_queues.c.leased_until.is_(None), delivery_queues.c.leased_until < _now_ms),
)
# What is queued again begins anew, but for how often it was tried.
ANEW = {"state": number(DELIVERY_STATE_PENDING), "queued_time": _now_ms, "tried_since": null(), "next_time": null()}

_start = Statement(
    update(delivery_queues)
    .where(_is_it, _state == number(SUBSCRIPTION_STATE_ACTIVE))
    .values(due_time=_now_ms, failing_since=null(), held_until=null())
)
_stop = Statement(update(delivery_queues).where(_is_it).values(due_time=null()))
_be_due = Statement(
    update(delivery_queues)
    .where(_is_it, or_(delivery_queues.c.due_time.is_(None), delivery_queues.c.due_time > _soon))
    .values(due_time=_soon)
)
_anew = Statement(
    update(deliveries)
    .where(
        deliveries.c.subscription_id == _key,
        deliveries.c.state == number(DELIVERY_STATE_PENDING),
    )
    .values(ANEW)
)
