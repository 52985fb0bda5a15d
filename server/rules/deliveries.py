"""Deliveries: what of an event is sent to a subscription's URL, whether it still may be, and when it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_DEAD,
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_PENDING,
    SUBSCRIPTION_STATE_DISABLED,
)
from server.core.caller import Caller
from server.rules.events import hide
from server.storage.contract import AttemptEnd, LogEnd, QueuedDelivery, QueueLease, Transaction

# How many events are queued in one transaction.
MOST_FANNED_OUT = 500
# How many deliveries one transaction drops.
MOST_DROPPED = 100
GONE = 410


class Retries(NamedTuple):
    """When a delivery that failed is tried again: after pauses from `first` to `longest`, until it is dead.

    A pause is about as long as all before it together. The others of a receiver that fails are held back for a pause,
    too, of `longest_hold` at most, before one of them is tried; if that succeeds, they all are. What was queued for
    longer than `give_up_after` is dead, once its receiver fails.
    """

    first: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(hours=1)
    longest_hold: timedelta = timedelta(minutes=10)
    give_up_after: timedelta = timedelta(days=3)


class Attempt(NamedTuple):
    """What is to be sent: an event, as the principal of the subscription may see it."""

    lease: QueueLease
    delivery: QueuedDelivery
    event: Event


def fan_out(tx: Transaction, settled: LogEnd) -> bool:
    """Queue events up to the settled one; return whether there are more. Raises StorageUnavailable if it is gone."""
    tx.require_event(settled)
    return tx.fan_out_events(settled.key, MOST_FANNED_OUT)


def take(
    tx: Transaction, lease: QueueLease, acting_for: Callable[[str], Caller], lifetime: timedelta
) -> Attempt | None:
    """Return what is to be sent next of a leased queue, and record that it is tried; None if the lease was given back.

    `acting_for` returns the caller for whom a principal's subscriptions act. What that caller may not see is dropped.
    """
    for _ in range(MOST_DROPPED):
        delivery = tx.next_delivery(lease)
        if delivery is None:
            return None
        created_by = delivery.subscription.created_by
        caller = acting_for(created_by)
        is_disabled = tx.is_disabled(created_by)
        kept = None if is_disabled else tx.find_event(delivery.event_key, caller)
        if kept is not None:
            hide(tx, caller, [kept])
            return Attempt(lease, tx.begin_attempt(lease, delivery, lifetime), kept.event)
        may_not = "is disabled" if is_disabled else "may not see the event, or it is no longer kept"
        tx.drop_delivery(delivery, f"{created_by} {may_not}")
    tx.give_back(lease)
    return None


def finish(tx: Transaction, attempt: Attempt, end: AttemptEnd, retries: Retries) -> bool:
    """Record how an attempt ended, and return whether it succeeded; else the lease is given back."""
    lease, delivery = attempt.lease, attempt.delivery
    if end.is_success:
        tx.end_attempt(lease, delivery, end, DELIVERY_STATE_DELIVERED)
        return True
    if end.http_status == GONE:
        _disable(tx, attempt, end)
        return False
    now_ms = tx.clock_ms()
    queued_before_ms = now_ms - _ms(retries.give_up_after)
    if delivery.queued_ms < queued_before_ms:
        tx.end_attempt(lease, delivery, end, DELIVERY_STATE_DEAD)
    else:
        assert delivery.tried_since_ms is not None, "what was tried has a first attempt"
        pause_ms = _pause_ms(now_ms - delivery.tried_since_ms, retries.first, retries.longest)
        tx.end_attempt(lease, delivery, end, DELIVERY_STATE_PENDING, now_ms + pause_ms)
    hold_ms = _pause_ms(now_ms - tx.failing_since(lease), retries.first, retries.longest_hold)
    why = "given up, since the receiver has kept failing"
    tx.hold_back(lease, now_ms + hold_ms, queued_before_ms, why)
    return False


def _disable(tx: Transaction, attempt: Attempt, end: AttemptEnd) -> None:
    """Record that a receiver is gone: nothing is sent there until an owner says so."""
    tx.lock_subscription(attempt.delivery.subscription.rid)
    subscription = tx.find_subscription(attempt.delivery.subscription.rid)
    if subscription is not None and subscription.url == attempt.delivery.subscription.url:
        tx.end_attempt(attempt.lease, attempt.delivery, end, DELIVERY_STATE_DEAD)
        subscription.state = SUBSCRIPTION_STATE_DISABLED
        tx.change_subscription(subscription, "")
    else:
        # Its URL was changed meanwhile, and who is there was not asked yet.
        tx.end_attempt(attempt.lease, attempt.delivery, end, DELIVERY_STATE_PENDING)
    tx.give_back(attempt.lease)


def _pause_ms(so_far_ms: int, first: timedelta, longest: timedelta) -> int:
    """Return a pause about as long as what has passed so far, so that each is twice as long as the one before."""
    pause_ms = min(max(so_far_ms, _ms(first)), _ms(longest))
    return round(pause_ms * random.uniform(0.75, 1.25))  # noqa: S311 - it spreads retries


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
