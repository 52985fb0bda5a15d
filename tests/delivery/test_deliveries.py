"""Events reach the URLs of subscriptions: signed, in order, and for as long as who subscribed may see them."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_DEAD,
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_DROPPED,
    DELIVERY_STATE_PENDING,
    SUBSCRIPTION_STATE_ACTIVE,
    SUBSCRIPTION_STATE_DISABLED,
    SUBSCRIPTION_STATE_PAUSED,
    Delivery,
    Subscription,
)
from modelregistry.v1.subscription_service_pb2 import RedeliverEventsResponse
from server.core.errors import SecretsUnavailable
from server.core.webhooks import secret_bytes
from server.observability.prometheus import Prometheus
from server.storage.sql import tables
from server.storage.sql.decisions import mark
from server.storage.sql.transaction import SqlTransaction
from tests.conftest import OpenRepository
from tests.delivery.conftest import SOON, Deliver, Receive
from tests.delivery.receiver import Answer, Received, Receiver
from tests.processes import until
from tests.rpc.harness import DEADLINE_SECONDS, Registry, User
from tests.storage.inspection import open_engine

PROMOTED = "modelregistry.version.promoted.v1"
CREATED = "modelregistry.version.created.v1"
ATTEMPTS = "modelregistry_webhook_attempts_total"


def subscribe(user: User, resource_rid: str, receiver: Receiver, **fields: Any) -> tuple[Subscription, str]:
    """Subscribe to a resource; return the subscription and its secret."""
    created = user("CreateSubscription", resource_rid=resource_rid, url=receiver.url, **fields)
    return created.subscription, created.secret


def deliveries(user: User, subscription: Subscription, **fields: Any) -> list[Delivery]:
    """The deliveries of a subscription, newest first."""
    return list(user("ListDeliveries", subscription_rid=subscription.rid, **fields).deliveries)


def become(user: User, subscription: Subscription, *states: int) -> list[Delivery]:
    """Wait until the deliveries of a subscription, newest first, are in these states, and return them."""
    until(lambda: [each.state for each in deliveries(user, subscription)] == [*states])
    return deliveries(user, subscription)


def test_an_event_reaches_a_receiver_that_verifies_it_with_the_public_package(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, model = receive(), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver)
    deliver()

    version = admin.create_version(model)

    received = receiver.next()
    event = received.event(secret)
    assert received.path == "/hook"
    assert (event["type"], event["modelVersionRid"], event["actor"]) == (CREATED, version.rid, "user:admin")
    [listed] = admin("ListEvents", types=[CREATED], model_rid=model.rid).events
    assert received.id == listed.id
    [delivery] = become(admin, subscription, DELIVERY_STATE_DELIVERED)
    assert (delivery.event_id, delivery.event_type) == (listed.id, CREATED)
    assert (delivery.attempts, delivery.http_status) == (1, 204)
    # Loopback is not public.
    assert not delivery.HasField("answer")
    assert receiver.is_idle


def test_events_arrive_in_order_and_once(admin: User, deliver: Deliver, receive: Receive) -> None:
    receiver, model = receive(), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver)
    versions = [admin.create_version(model).rid for _ in range(30)]
    deliver()

    assert [receiver.next().event(secret)["modelVersionRid"] for _ in versions] == versions
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 30)
    assert receiver.is_idle
    # What is sent in one turn goes over one connection.
    assert receiver.connections < 10


def test_only_what_the_filter_lets_through_is_sent(admin: User, deliver: Deliver, receive: Receive) -> None:
    of_folder, of_branch, of_model = receive(), receive(), receive()
    source, target = admin.create_model("source"), admin.create_model("target")
    other = admin.create_model("elsewhere", "ri.compass.main.folder.elsewhere")
    _, folders = subscribe(admin, admin.folder, of_folder, types=[PROMOTED])
    _, branches = subscribe(admin, target.rid, of_branch, branch="canary", types=[PROMOTED, CREATED])
    _, models = subscribe(admin, source.rid, of_model)
    deliver()

    version = admin.create_version(source)
    admin.create_version(other)
    admin.promote(version, target)
    admin.promote(version, target, branch="canary")
    admin.create_version(source)

    assert [of_folder.next().event(folders)["branch"] for _ in range(2)] == ["master", "canary"]
    assert of_branch.next().event(branches)["branch"] == "canary"
    assert [of_model.next().event(models)["type"] for _ in range(2)] == [CREATED, CREATED]
    assert of_folder.is_idle
    assert of_branch.is_idle
    assert of_model.is_idle


def test_what_happened_before_is_not_sent(admin: User, deliver: Deliver, receive: Receive) -> None:
    deliver()
    receiver, model = receive(), admin.create_model("m")
    admin.create_version(model)
    _, secret = subscribe(admin, model.rid, receiver)
    after = admin.create_version(model)
    assert receiver.next().event(secret)["modelVersionRid"] == after.rid


def test_attempts_are_counted(admin: User, deliver: Deliver, receive: Receive) -> None:
    statuses = iter([500, 503])
    receiver, model = receive(lambda _: Answer(next(statuses, 200))), admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, receiver)
    prometheus = Prometheus([])
    deliver(tried=lambda is_success: prometheus.tried("delivered" if is_success else "failed"))

    admin.create_version(model)

    become(admin, subscription, DELIVERY_STATE_DELIVERED)
    prometheus.count()
    outcomes = ("delivered", "failed")
    told = [prometheus.registry.get_sample_value(ATTEMPTS, {"outcome": outcome}) for outcome in outcomes]
    assert told == [1, 2]


def test_a_failure_is_tried_again_with_the_same_id_until_it_is_answered(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    statuses = iter([500, 503, 404])
    receiver, model = receive(lambda _: Answer(next(statuses, 200), body=b"seen")), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver)
    admin.create_version(model)
    deliver()

    received = [receiver.next() for _ in range(4)]
    assert len({each.id for each in received}) == 1
    for each in received:
        each.event(secret)
    [delivery] = become(admin, subscription, DELIVERY_STATE_DELIVERED)
    assert (delivery.attempts, delivery.http_status) == (4, 200)


def test_events_that_a_receiver_refuses_hold_up_no_others(admin: User, deliver: Deliver, receive: Receive) -> None:
    model = admin.create_model("m")
    poisoned = admin.create_version(model).rid
    receiver = receive(lambda received: Answer(500 if poisoned.encode() in received.body else 204))
    subscription, secret = subscribe(admin, model.rid, receiver)
    for reason in ("bad", "worse"):
        yank = {"model_rid": model.rid, "model_version_rid": poisoned, "scope": "YANK_SCOPE_VERSION"}
        admin("YankVersion", **yank, reason=reason)
    good = [admin.create_version(model).rid for _ in range(3)]
    deliver()

    seen: list[str] = []
    while not set(good) <= set(seen):
        seen.append(receiver.next().event(secret)["modelVersionRid"])
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 3, *[DELIVERY_STATE_PENDING] * 2)


# An event that is refused is tried again in an hour, and its receiver soon.
IN_AN_HOUR = SOON._replace(first=timedelta(hours=1), longest=timedelta(hours=1))


@pytest.mark.parametrize("is_working", [True, False])
def test_what_happens_after_an_event_was_refused_does_not_wait_until_that_is_tried_again(
    admin: User, deliver: Deliver, receive: Receive, is_working: bool
) -> None:
    model = admin.create_model("m")
    first = admin.create_version(model).rid
    poison = {"model_rid": model.rid, "model_version_rid": first, "scope": "YANK_SCOPE_VERSION", "reason": "bad"}
    receiver = receive(lambda received: Answer(500 if first.encode() in received.body else 204))
    subscription, secret = subscribe(admin, model.rid, receiver)
    admin("YankVersion", **poison)
    refused = [DELIVERY_STATE_PENDING]
    if is_working:
        admin.create_version(model)
        refused = [DELIVERY_STATE_DELIVERED, *refused]
    deliver(IN_AN_HOUR)
    until(
        lambda: [(each.state, each.attempts) for each in deliveries(admin, subscription)] == [(s, 1) for s in refused]
    )
    for _ in refused:
        receiver.next()

    for _ in range(2):
        later = admin.create_version(model)
        assert receiver.next().event(secret)["modelVersionRid"] == later.rid


def test_a_new_url_is_tried_at_once(admin: User, deliver: Deliver, receive: Receive) -> None:
    wrong, right, model = receive(lambda _: Answer(404)), receive(), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, wrong, types=[CREATED])
    versions = [admin.create_version(model).rid for _ in range(2)]
    deliver(IN_AN_HOUR._replace(longest_hold=timedelta(hours=1)))
    wrong.next()
    until(lambda: deliveries(admin, subscription)[-1].http_status == 404)

    admin("UpdateSubscription", subscription_rid=subscription.rid, url=right.url)
    assert [right.next().event(secret)["modelVersionRid"] for _ in versions] == versions


def test_a_receiver_that_is_gone_takes_no_event_from_the_one_that_has_replaced_it(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    right, model = receive(), admin.create_model("m")

    def move(_: Received) -> Answer:
        admin("UpdateSubscription", subscription_rid=subscription.rid, url=right.url)
        return Answer(410)

    subscription, secret = subscribe(admin, model.rid, receive(move), types=[CREATED])
    version = admin.create_version(model)
    deliver()
    assert right.next().event(secret)["modelVersionRid"] == version.rid
    become(admin, subscription, DELIVERY_STATE_DELIVERED)
    assert admin("GetSubscription", subscription_rid=subscription.rid).state == SUBSCRIPTION_STATE_ACTIVE


@pytest.mark.parametrize("backend", ["postgresql"])
def test_what_is_due_again_waits_for_no_decision_of_others(
    admin: User, deliver: Deliver, receive: Receive, open_repository: OpenRepository, migrated_url: str
) -> None:
    may_begin, has_begun, may_end = threading.Event(), threading.Event(), threading.Event()

    def answer(_: Received) -> Answer:
        if not has_begun.is_set():
            may_begin.set()
            has_begun.wait()
            return Answer(500)
        return Answer()

    def decide(tx: SqlTransaction) -> None:
        mark(tx)
        # It is marked by what asks the database something.
        tx.is_disabled("user:x")
        has_begun.set()
        may_end.wait(DEADLINE_SECONDS)

    receiver, model = receive(answer), admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, receiver, types=[CREATED])
    deliver()
    admin.create_version(model)
    assert may_begin.wait(DEADLINE_SECONDS)
    deciding = threading.Thread(target=lambda: open_repository(migrated_url).write(decide))
    deciding.start()
    try:
        assert has_begun.wait(DEADLINE_SECONDS)
        # So there is something to queue, which is not settled.
        admin.create_version(model)
        for _ in range(2):
            receiver.next()
        until(lambda: DELIVERY_STATE_DELIVERED in [each.state for each in deliveries(admin, subscription)])
    finally:
        may_end.set()
        deciding.join()
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 2)


def test_a_redirect_is_a_failure_and_is_not_followed(admin: User, deliver: Deliver, receive: Receive) -> None:
    elsewhere = receive()
    receiver = receive(lambda _: Answer(302, {"location": elsewhere.url}))
    model = admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, receiver)
    admin.create_version(model)
    deliver()
    receiver.next()
    receiver.next()
    [delivery] = become(admin, subscription, DELIVERY_STATE_PENDING)
    assert delivery.attempts >= 1
    assert elsewhere.is_idle


def test_410_disables_the_subscription_until_an_owner_has_it_active_again(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, model = receive(lambda _: Answer(410)), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver, types=[CREATED])
    first = admin.create_version(model)
    admin.create_version(model)
    deliver()
    gone = receiver.next()
    assert gone.event(secret)["modelVersionRid"] == first.rid

    def state() -> int:
        return admin("GetSubscription", subscription_rid=subscription.rid).state

    until(lambda: state() == SUBSCRIPTION_STATE_DISABLED)
    become(admin, subscription, DELIVERY_STATE_PENDING, DELIVERY_STATE_DEAD)
    [told] = admin("ListEvents", types=["modelregistry.subscription.changed.v1"], model_rid=model.rid).events
    assert (told.subject.subscription.state, told.actor) == (SUBSCRIPTION_STATE_DISABLED, "")

    receiver.answer = lambda _: Answer()
    admin("UpdateSubscription", subscription_rid=subscription.rid, paused=False)
    assert state() == SUBSCRIPTION_STATE_ACTIVE
    become(admin, subscription, DELIVERY_STATE_DELIVERED, DELIVERY_STATE_DEAD)
    admin("RedeliverEvents", subscription_rid=subscription.rid, event_ids=[gone.id])
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 2)


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_happens_while_a_subscription_is_disabled_is_never_sent(
    admin: User, deliver: Deliver, receive: Receive, is_alone: bool
) -> None:
    receiver, model = receive(lambda _: Answer(410)), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver, types=[CREATED])
    if not is_alone:
        other = receive()
        subscribe(admin, model.rid, other, types=[CREATED])
    admin.create_version(model)
    deliver()
    receiver.next()
    become(admin, subscription, DELIVERY_STATE_DEAD)
    for _ in range(2):
        admin.create_version(model)
    if not is_alone:
        # So they were queued for the other one.
        for _ in range(3):
            other.next()

    receiver.answer = lambda _: Answer()
    admin("UpdateSubscription", subscription_rid=subscription.rid, paused=False)
    version = admin.create_version(model)
    assert receiver.next().event(secret)["modelVersionRid"] == version.rid
    become(admin, subscription, DELIVERY_STATE_DELIVERED, DELIVERY_STATE_DEAD)


def test_a_paused_subscription_gets_what_happened_once_it_is_active_again(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, model = receive(), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver, types=[CREATED])
    paused = admin("UpdateSubscription", subscription_rid=subscription.rid, paused=True)
    assert paused.state == SUBSCRIPTION_STATE_PAUSED
    deliver()
    version = admin.create_version(model)
    become(admin, subscription, DELIVERY_STATE_PENDING)
    assert receiver.is_idle

    admin("UpdateSubscription", subscription_rid=subscription.rid, paused=False)
    assert receiver.next().event(secret)["modelVersionRid"] == version.rid


def test_what_a_paused_subscription_waits_with_is_kept_as_long_as_its_event(
    admin: User, deliver: Deliver, receive: Receive, registry: Registry, migrated_url: str
) -> None:
    model = admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, receive(), types=[CREATED])
    admin("UpdateSubscription", subscription_rid=subscription.rid, paused=True)
    deliver()
    for _ in range(2):
        admin.create_version(model)
    gone, _ = become(admin, subscription, *[DELIVERY_STATE_PENDING] * 2)
    engine = open_engine(migrated_url)
    with engine.begin() as connection:
        connection.execute(update(tables.deliveries).values(queued_time=0))
        key = select(tables.deliveries.c.event_key).where(tables.deliveries.c.event_id == gone.event_id)
        connection.execute(delete(tables.events).where(tables.events.c.id == key.scalar_subquery()))
    engine.dispose()

    assert registry.repository.write(lambda tx: tx.remove_old_deliveries(timedelta(days=30), 10)) == 1
    [kept] = become(admin, subscription, DELIVERY_STATE_PENDING)
    assert kept.event_id != gone.event_id


def test_a_dead_receiver_holds_up_neither_others_nor_promotions(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    good, model = receive(), admin.create_model("m")
    with Receiver() as closed:
        pass
    dead, _ = subscribe(admin, model.rid, closed)
    _, secret = subscribe(admin, model.rid, good, types=[CREATED])
    deliver()
    versions = [admin.create_version(model).rid for _ in range(5)]
    assert [good.next().event(secret)["modelVersionRid"] for _ in versions] == versions
    until(lambda: any(each.attempts for each in deliveries(admin, dead)))
    assert {each.state for each in deliveries(admin, dead)} == {DELIVERY_STATE_PENDING}


def test_a_slow_receiver_holds_up_no_others(admin: User, deliver: Deliver, receive: Receive) -> None:
    may_answer = threading.Event()

    def wait(_: Received) -> Answer:
        may_answer.wait()
        return Answer()

    slow, good, model = receive(wait), receive(), admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, slow, types=[CREATED])
    _, secret = subscribe(admin, model.rid, good, types=[CREATED])
    deliver()
    try:
        versions = [admin.create_version(model).rid for _ in range(5)]
        slow.next()
        assert [good.next().event(secret)["modelVersionRid"] for _ in versions] == versions
        # It is sent one at a time.
        assert slow.is_idle
    finally:
        may_answer.set()
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 5)


def test_what_was_tried_for_too_long_is_dead_and_can_be_delivered_again(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, model = receive(lambda _: Answer(500)), admin.create_model("m")
    subscription, secret = subscribe(admin, model.rid, receiver, types=[CREATED])
    versions = [admin.create_version(model).rid for _ in range(3)]
    deliver(SOON._replace(give_up_after=timedelta(milliseconds=300)))
    dead = become(admin, subscription, *[DELIVERY_STATE_DEAD] * 3)
    assert dead == deliveries(admin, subscription, state=DELIVERY_STATE_DEAD)
    assert deliveries(admin, subscription, state=DELIVERY_STATE_DELIVERED) == []

    while not receiver.is_idle:
        receiver.next()
    receiver.answer = lambda _: Answer()
    again = admin("RedeliverEvents", subscription_rid=subscription.rid, event_ids=[each.event_id for each in dead])
    assert again.queued_count == 3
    assert [receiver.next().event(secret)["modelVersionRid"] for _ in versions] == versions
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 3)


def test_events_behind_a_cursor_are_delivered_again_in_order_with_their_ids(
    admin: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, model = receive(), admin.create_model("m")
    beginning = admin("ListEvents", order="LIST_ORDER_OLDEST_FIRST", model_rid=model.rid).cursor
    before = [admin.create_version(model).rid for _ in range(2)]
    subscription, secret = subscribe(admin, model.rid, receiver, types=[CREATED])
    after = [admin.create_version(model).rid for _ in range(2)]
    deliver()
    first = [receiver.next() for _ in after]
    assert [each.event(secret)["modelVersionRid"] for each in first] == after
    become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 2)

    again = admin("RedeliverEvents", subscription_rid=subscription.rid, after_cursor=beginning)
    assert (again.queued_count, again.HasField("next_cursor")) == (4, False)
    found = [receiver.next() for _ in range(4)]
    assert [each.event(secret)["modelVersionRid"] for each in found] == before + after
    assert [each.id for each in found[2:]] == [each.id for each in first]
    # Those of the newest events come first, however often they were queued.
    listed = become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 4)
    assert [each.event_id for each in listed] == [each.id for each in reversed(found)]


def test_a_repeated_request_goes_on_where_it_went_on_before(
    admin: User, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rules.subscriptions.MOST_LOOKED_AT", 2)
    model = admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, receive(), types=[CREATED])
    beginning = admin("ListEvents", order="LIST_ORDER_OLDEST_FIRST", model_rid=model.rid).cursor
    for _ in range(3):
        admin.create_version(model)

    def redeliver(after: str, request_id: str) -> RedeliverEventsResponse:
        fields = {"subscription_rid": subscription.rid, "after_cursor": after, "request_id": request_id}
        first = admin("RedeliverEvents", **fields)
        again = admin("RedeliverEvents", **fields)
        assert (again.HasField("queued_count"), again.next_cursor) == (False, first.next_cursor)
        return first

    first = redeliver(beginning, str(uuid.uuid4()))
    rest = redeliver(first.next_cursor, str(uuid.uuid4()))
    assert (first.queued_count, rest.queued_count, rest.HasField("next_cursor")) == (2, 1, False)


def test_what_its_maker_may_no_longer_see_falls_silent(
    admin: User, jane: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, other, model = receive(), receive(), admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    subscription, _ = subscribe(jane, model.rid, receiver, types=[CREATED])
    _, secret = subscribe(admin, model.rid, other, types=[CREATED])
    admin.create_version(model)
    admin("RevokeRole", resource_rid=model.rid, principal="user:jane")
    deliver()
    admin.create_version(model)

    for _ in range(2):
        other.next().event(secret)
    dropped = become(admin, subscription, *[DELIVERY_STATE_DROPPED] * 2)
    assert receiver.is_idle
    # Also when they are sent again.
    admin("RedeliverEvents", subscription_rid=subscription.rid, event_ids=[dropped[0].event_id])
    become(admin, subscription, *[DELIVERY_STATE_DROPPED] * 2)
    assert receiver.is_idle


def test_a_viewer_is_told_what_viewers_are_told(admin: User, jane: User, deliver: Deliver, receive: Receive) -> None:
    receiver, model = receive(), admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    subscription, secret = subscribe(jane, model.rid, receiver)
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    admin.create_version(model)
    deliver()
    event = receiver.next().event(secret)
    assert event["type"] == CREATED
    # Of the call, owners are told alone; and so are they of grants.
    assert "requestId" not in event
    assert "peer" not in event
    become(admin, subscription, DELIVERY_STATE_DELIVERED, DELIVERY_STATE_DROPPED)


def test_the_subscriptions_of_a_disabled_principal_fall_silent(
    admin: User, jane: User, deliver: Deliver, receive: Receive
) -> None:
    receiver, model = receive(), admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    subscription, _ = subscribe(jane, model.rid, receiver, types=[CREATED])
    admin("DisablePrincipal", principal="user:jane", reason="has left")
    admin.create_version(model)
    deliver()
    become(admin, subscription, DELIVERY_STATE_DROPPED)
    assert receiver.is_idle


def test_two_secrets_sign_until_the_older_one_is_revoked(admin: User, deliver: Deliver, receive: Receive) -> None:
    receiver, model = receive(), admin.create_model("m")
    subscription, first = subscribe(admin, model.rid, receiver, types=[CREATED])
    deliver()
    rotated = admin("RotateSubscriptionSecret", subscription_rid=subscription.rid)
    admin.create_version(model)
    received = receiver.next()
    received.event(first)
    received.event(rotated.secret)
    assert len(received.headers["webhook-signature"].split()) == 2

    newest = admin("RotateSubscriptionSecret", subscription_rid=subscription.rid, revoke_previous=True).secret
    admin.create_version(model)
    received = receiver.next()
    received.event(newest)
    assert len(received.headers["webhook-signature"].split()) == 1


def test_a_secret_before_that_cannot_be_read_any_more_keeps_nothing_from_being_sent(
    admin: User, deliver: Deliver, receive: Receive, registry: Registry
) -> None:
    receiver, model = receive(), admin.create_model("m")
    subscription, first = subscribe(admin, model.rid, receiver, types=[CREATED])
    rotated = admin("RotateSubscriptionSecret", subscription_rid=subscription.rid)

    def unseal(sealed: bytes) -> bytes:
        secret = registry.secrets.unseal(sealed)
        if secret == secret_bytes(first):
            raise SecretsUnavailable
        return secret

    deliver(unseal=unseal)
    admin.create_version(model)
    received = receiver.next()
    received.event(rotated.secret)
    assert len(received.headers["webhook-signature"].split()) == 1


@pytest.mark.parametrize("backend", ["postgresql"])
def test_two_replicas_deliver_each_event_once(
    admin: User,
    deliver: Deliver,
    receive: Receive,
    registry: Registry,
    open_repository: OpenRepository,
    migrated_url: str,
) -> None:
    receivers = [receive() for _ in range(4)]
    model = admin.create_model("m")
    subscriptions = [subscribe(admin, model.rid, receiver, types=[CREATED]) for receiver in receivers]
    deliver()
    deliver(repository=open_repository(migrated_url))
    versions = [admin.create_version(model).rid for _ in range(50)]
    for receiver, (subscription, secret) in zip(receivers, subscriptions, strict=True):
        assert [receiver.next().event(secret)["modelVersionRid"] for _ in versions] == versions
        become(admin, subscription, *[DELIVERY_STATE_DELIVERED] * 50)
        assert receiver.is_idle


def test_a_deleted_subscription_gets_nothing_more(admin: User, deliver: Deliver, receive: Receive) -> None:
    receiver, other, model = receive(), receive(), admin.create_model("m")
    subscription, _ = subscribe(admin, model.rid, receiver)
    _, secret = subscribe(admin, model.rid, other, types=[CREATED])
    admin.create_version(model)
    admin("DeleteSubscription", subscription_rid=subscription.rid)
    deliver()
    other.next().event(secret)
    assert receiver.is_idle
    assert admin.failure("GetSubscription", subscription_rid=subscription.rid).name == "SubscriptionNotFound"
