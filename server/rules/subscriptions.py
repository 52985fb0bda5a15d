"""Subscriptions: who may have the events of a resource sent where, how many of them, and for whom they act."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_UNSPECIFIED,
    SUBSCRIPTION_STATE_ACTIVE,
    SUBSCRIPTION_STATE_PAUSED,
    Delivery,
    Subscription,
)
from modelregistry.v1.subscription_service_pb2 import (
    CreateSubscriptionRequest,
    ListDeliveriesRequest,
    RedeliverEventsRequest,
    RedeliverEventsResponse,
    RotateSubscriptionSecretRequest,
    UpdateSubscriptionRequest,
)
from server.core import rids
from server.core.caller import Caller
from server.core.errors import (
    AccessPermissionDenied,
    DeliveryNotFound,
    FieldViolation,
    InvalidArgument,
    ModelNotFound,
    SubscriptionNotFound,
    SubscriptionPermissionDenied,
    TooManySubscriptions,
)
from server.core.webhooks import WebhookRules, new_secret, parse_url, secret_bytes
from server.rules.grants import require_owner
from server.rules.idempotency import claim, replayed_results
from server.storage.contract import LogEnd, Reader, Transaction
from server.storage.paging import Page, PageRequest

MOST_OF_A_RESOURCE = 20
# Fewer than a process serves at a time, so that one principal's receivers, however slow, leave room for others.
MOST_OF_A_PRINCIPAL = 50
# For how long the secret before the newest one signs, too.
PREVIOUS_SECRET_LIFETIME = timedelta(hours=24)
# How many events one call looks through that queues all behind a cursor.
MOST_LOOKED_AT = 1000


class WithSecret(NamedTuple):
    """A subscription, and the secret that was made up for it, if one was."""

    subscription: Subscription
    secret: str | None


def create_subscription(
    tx: Transaction,
    caller: Caller,
    request: CreateSubscriptionRequest,
    allowed: WebhookRules,
    seal: Callable[[bytes], bytes],
) -> WithSecret:
    """Store a subscription, whose secret is encrypted by `seal`.

    The same request, by its id, is carried out once: it returns the same subscription again, and no secret. Raises
    InvalidArgument, ModelNotFound, AccessPermissionDenied, RequestIdAlreadyUsed, SubscriptionNotFound,
    TooManySubscriptions and what `seal` raises.
    """
    _require_allowed(request.url, allowed)
    require_owner(tx, caller, request.resource_rid)
    rid = rids.new_subscription_rid()
    earlier = claim(tx, caller, request, [rid])
    if earlier is not None:
        return WithSecret(find_subscription(tx, caller, earlier[0]), None)
    _require_room(tx, request.resource_rid, caller.user)
    made = None if request.HasField("secret") else new_secret()
    subscription = Subscription(
        rid=rid,
        resource_rid=request.resource_rid,
        branch=request.branch if request.HasField("branch") else None,
        types=sorted(set(request.types)),
        url=request.url,
        state=SUBSCRIPTION_STATE_ACTIVE,
        description=request.description if request.HasField("description") else None,
        created_by=caller.user,
    )
    return WithSecret(tx.add_subscription(subscription, seal(secret_bytes(made or request.secret))), made)


def find_subscription(reader: Reader, caller: Caller, subscription_rid: str) -> Subscription:
    """Return a subscription of a model or folder that the caller owns. Raises SubscriptionNotFound."""
    subscription = reader.find_subscription(subscription_rid)
    if subscription is not None:
        try:
            require_owner(reader, caller, subscription.resource_rid)
        except (ModelNotFound, AccessPermissionDenied):
            subscription = None
    if subscription is None:
        raise SubscriptionNotFound(subscription_rid=subscription_rid)
    return subscription


def list_subscriptions(reader: Reader, caller: Caller, resource_rid: str, page: PageRequest) -> Page[Subscription]:
    """Return a page of a resource's subscriptions. Raises ModelNotFound and AccessPermissionDenied."""
    require_owner(reader, caller, resource_rid)
    return reader.list_subscriptions(resource_rid, page)


def update_subscription(
    tx: Transaction, caller: Caller, request: UpdateSubscriptionRequest, allowed: WebhookRules
) -> Subscription:
    """Change what a request gives, and return the subscription; nothing is stored if nothing changes.

    Raises InvalidArgument, SubscriptionNotFound and SubscriptionPermissionDenied.
    """
    if request.HasField("url"):
        _require_allowed(request.url, allowed)
    before = _locked(tx, caller, request.subscription_rid)
    after = Subscription()
    after.CopyFrom(before)
    for name in request.clear_fields:
        after.ClearField(name)  # type: ignore[arg-type] # validation knows the names
    if request.HasField("url"):
        after.url = request.url
    if request.HasField("branch"):
        after.branch = request.branch
    if request.HasField("description"):
        after.description = request.description
    if request.types:
        after.types[:] = sorted(set(request.types))
    if request.HasField("paused"):
        after.state = SUBSCRIPTION_STATE_PAUSED if request.paused else SUBSCRIPTION_STATE_ACTIVE
    if sorted(after.types) == sorted(before.types):
        after.types[:] = before.types
    if after == before:
        return before
    if after.url != before.url:
        _require_same_principal(caller, before)
    return tx.change_subscription(after, caller.user)


def delete_subscription(tx: Transaction, caller: Caller, subscription_rid: str) -> None:
    """Forget a subscription, and all that is queued for it. Raises SubscriptionNotFound.

    Whoever made it may do so without being an owner any more, since it counts among that principal's.
    """
    tx.lock_subscription(subscription_rid)
    subscription = tx.find_subscription(subscription_rid)
    if subscription is None or subscription.created_by != caller.user:
        subscription = find_subscription(tx, caller, subscription_rid)
    tx.remove_subscription(subscription, caller.user)


def rotate_secret(
    tx: Transaction, caller: Caller, request: RotateSubscriptionSecretRequest, seal: Callable[[bytes], bytes]
) -> WithSecret:
    """Give a subscription a new secret, encrypted by `seal`.

    The same request, by its id, is carried out once: it returns the subscription as it is then, and no secret. Raises
    SubscriptionNotFound, SubscriptionPermissionDenied, RequestIdAlreadyUsed and what `seal` raises.
    """
    subscription = _locked(tx, caller, request.subscription_rid)
    _require_same_principal(caller, subscription)
    if claim(tx, caller, request, [subscription.rid]) is not None:
        return WithSecret(subscription, None)
    made = None if request.HasField("secret") else new_secret()
    sealed = seal(secret_bytes(made or request.secret))
    lifetime = None if request.revoke_previous else PREVIOUS_SECRET_LIFETIME
    return WithSecret(tx.set_secret(subscription, sealed, lifetime, caller.user), made)


def list_deliveries(
    reader: Reader, caller: Caller, request: ListDeliveriesRequest, page: PageRequest
) -> Page[Delivery]:
    """Return a page of a subscription's deliveries. Raises SubscriptionNotFound."""
    find_subscription(reader, caller, request.subscription_rid)
    state = None if request.state == DELIVERY_STATE_UNSPECIFIED else request.state
    return reader.list_deliveries(request.subscription_rid, state, page)


def redeliver_events(
    tx: Transaction, caller: Caller, request: RedeliverEventsRequest, settled: LogEnd
) -> RedeliverEventsResponse:
    """Queue events again: those that are named, or those behind a cursor up to the settled one.

    The same request, by its id, is carried out once. Raises InvalidArgument, SubscriptionNotFound,
    RequestIdAlreadyUsed, DeliveryNotFound, CursorUnknown and CursorExpired.
    """
    if bool(request.event_ids) == request.HasField("after_cursor"):
        sentence = "is required, or event_ids, and not both"
        raise InvalidArgument(violations=(FieldViolation("after_cursor", sentence),))
    subscription = _locked(tx, caller, request.subscription_rid)
    # Whoever repeats a request waits for the lock, and finds it here when it was carried out.
    earlier = replayed_results(tx, caller, request)
    if earlier is not None:
        return RedeliverEventsResponse(next_cursor=next(iter(earlier[1:]), None))
    if request.HasField("after_cursor"):
        after = tx.event_key(request.after_cursor)
        requeued = tx.requeue_behind(subscription.rid, range(after + 1, settled.key + 1), MOST_LOOKED_AT)
        following = None if requeued.last_key is None else tx.event_cursor(requeued.last_key)
        answer = RedeliverEventsResponse(queued_count=requeued.queued, next_cursor=following)
    else:
        wanted = {event_id.lower() for event_id in request.event_ids}
        absent = tx.requeue(subscription.rid, wanted)
        if absent:
            raise DeliveryNotFound(subscription_rid=subscription.rid, event_id=absent[0])
        answer = RedeliverEventsResponse(queued_count=len(wanted))
    claim(tx, caller, request, [subscription.rid, *([answer.next_cursor] if answer.next_cursor else [])])
    return answer


def _locked(tx: Transaction, caller: Caller, subscription_rid: str) -> Subscription:
    tx.lock_subscription(subscription_rid)
    return find_subscription(tx, caller, subscription_rid)


def _require_allowed(url: str, allowed: WebhookRules) -> None:
    objection = allowed.objection(parse_url(url))
    if objection is not None:
        raise InvalidArgument(violations=(FieldViolation("url", objection),))


def _require_room(tx: Transaction, resource_rid: str, created_by: str) -> None:
    tx.lock_subscriptions(resource_rid, created_by)
    of_resource, of_principal = tx.count_subscriptions(resource_rid, created_by)
    if of_resource >= MOST_OF_A_RESOURCE:
        raise TooManySubscriptions(resource=resource_rid, limit=MOST_OF_A_RESOURCE)
    if of_principal >= MOST_OF_A_PRINCIPAL:
        raise TooManySubscriptions(resource=created_by, limit=MOST_OF_A_PRINCIPAL)


def _require_same_principal(caller: Caller, subscription: Subscription) -> None:
    """Return if it is the caller for whom it acts; administrators see what everyone sees."""
    if caller.user != subscription.created_by and not caller.is_admin:
        raise SubscriptionPermissionDenied(subscription_rid=subscription.rid, created_by=subscription.created_by)
