"""Who may have events sent where, and what is told of it to whom."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.subscription_pb2 import SUBSCRIPTION_STATE_ACTIVE, Subscription
from server.core.webhooks import secret_bytes
from server.rules.subscriptions import MOST_OF_A_RESOURCE
from server.storage.sql.tables import requests, subscriptions
from tests.rpc.harness import SOME_MODEL, Registry, User
from tests.storage.inspection import rows

pytestmark = pytest.mark.database("shared")

URL = "https://hooks.example.com/models"
ABSENT = "ri.models.main.subscription.99999999-9999-4999-8999-999999999999"


def create(user: User, resource_rid: str, **fields: Any) -> Subscription:
    return user("CreateSubscription", **{"resource_rid": resource_rid, "url": URL} | fields).subscription


def types_told(user: User, model_rid: str) -> list[str]:
    told = user("ListEvents", model_rid=model_rid).events
    return [each.type.split(".")[2] for each in told if ".subscription." in each.type]


def test_an_owner_creates_reads_changes_and_deletes_a_subscription(admin: User, registry: Registry) -> None:
    model, owner = admin.create_model("m"), registry.user("olga")
    admin("GrantRole", resource_rid=model.rid, principal="user:olga", role=ROLE_OWNER)
    made = create(owner, model.rid, branch="prod", types=["modelregistry.version.promoted.v1"], description="fleet")
    assert (made.resource_rid, made.url, made.branch, made.description) == (model.rid, URL, "prod", "fleet")
    assert list(made.types) == ["modelregistry.version.promoted.v1"]
    assert (made.created_by, made.state) == ("user:olga", SUBSCRIPTION_STATE_ACTIVE)
    assert owner("GetSubscription", subscription_rid=made.rid) == made
    assert list(owner("ListSubscriptions", resource_rid=model.rid).subscriptions) == [made]

    moved = f"{URL}/elsewhere"
    changed = owner("UpdateSubscription", subscription_rid=made.rid, url=moved, clear_fields=["branch", "types"])
    assert (changed.url, changed.HasField("branch"), list(changed.types)) == (moved, False, [])
    assert changed.description == "fleet"
    assert admin("GetSubscription", subscription_rid=made.rid) == changed
    # Nothing changes, and nothing is told.
    assert owner("UpdateSubscription", subscription_rid=made.rid, url=moved) == changed

    owner("DeleteSubscription", subscription_rid=made.rid)
    assert types_told(admin, model.rid) == ["deleted", "changed", "created"]
    assert owner.failure("DeleteSubscription", subscription_rid=made.rid).name == "SubscriptionNotFound"


def test_lists_come_in_pages(admin: User) -> None:
    model = admin.create_model("m")
    made = [create(admin, model.rid) for _ in range(3)]
    first = admin("ListSubscriptions", resource_rid=model.rid, page_size=2)
    rest = admin("ListSubscriptions", resource_rid=model.rid, page_size=2, page_token=first.next_page_token)
    assert [*first.subscriptions, *rest.subscriptions] == made[::-1]
    assert not rest.HasField("next_page_token")


def test_to_others_than_owners_they_do_not_exist(admin: User, jane: User) -> None:
    model = admin.create_model("m")
    made = create(admin, model.rid)
    for is_viewer in (False, True):
        if is_viewer:
            admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
        for rid in (made.rid, ABSENT):
            of_it = {"subscription_rid": rid}
            for rpc, fields in {
                "GetSubscription": {},
                "UpdateSubscription": {"paused": True},
                "DeleteSubscription": {},
                "RotateSubscriptionSecret": {},
                "ListDeliveries": {},
                "RedeliverEvents": {"event_ids": [str(uuid.uuid4())]},
            }.items():
                failure = jane.failure(rpc, **of_it, **fields)
                assert (failure.name, failure.parameters) == ("SubscriptionNotFound", {"subscriptionRid": rid}), rpc
        name = "AccessPermissionDenied" if is_viewer else "ModelNotFound"
        assert jane.failure("CreateSubscription", resource_rid=model.rid, url=URL).name == name
        assert jane.failure("ListSubscriptions", resource_rid=model.rid).name == name
    assert types_told(jane, model.rid) == []


def test_another_owner_neither_redirects_it_nor_gets_its_secret(admin: User, jane: User, registry: Registry) -> None:
    model, olga = admin.create_model("m"), registry.user("olga")
    for name in ("jane", "olga"):
        admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_OWNER)
    made = create(jane, model.rid)
    for rpc, fields in {"UpdateSubscription": {"url": f"{URL}/x"}, "RotateSubscriptionSecret": {}}.items():
        failure = olga.failure(rpc, subscription_rid=made.rid, **fields)
        assert failure.name == "SubscriptionPermissionDenied"
        assert failure.parameters == {"subscriptionRid": made.rid, "createdBy": "user:jane"}
    olga("UpdateSubscription", subscription_rid=made.rid, paused=True)
    olga("DeleteSubscription", subscription_rid=made.rid)


def test_a_secret_that_is_made_up_is_told_once(admin: User) -> None:
    model, request_id = admin.create_model("m"), str(uuid.uuid4())
    request = {"resource_rid": model.rid, "url": URL, "request_id": request_id}
    first = admin("CreateSubscription", **request)
    assert len(secret_bytes(first.secret)) == 32
    again = admin("CreateSubscription", **request)
    assert again.subscription == first.subscription
    assert not again.HasField("secret")
    assert admin.failure("CreateSubscription", **request | {"branch": "b"}).name == "RequestIdAlreadyUsed"

    rotation = {"subscription_rid": first.subscription.rid, "request_id": request_id}
    rotated = admin("RotateSubscriptionSecret", **rotation)
    assert rotated.secret not in {"", first.secret}
    assert rotated.subscription.HasField("previous_secret_expire_time")
    repeated = admin("RotateSubscriptionSecret", **rotation)
    assert (repeated.subscription, repeated.secret) == (rotated.subscription, "")


def test_a_secret_is_nowhere_in_the_database(admin: User, migrated_url: str) -> None:
    model, key = admin.create_model("m"), b"k" * 24
    secret = "whsec_" + base64.b64encode(key).decode()
    answer = admin("CreateSubscription", resource_rid=model.rid, url=URL, secret=secret, request_id=str(uuid.uuid4()))
    assert not answer.HasField("secret")
    for table in (subscriptions, requests):
        for row in rows(migrated_url, table):
            for value in row:
                stored = value.encode() if isinstance(value, str) else value
                assert not isinstance(stored, bytes) or (key not in stored and secret.encode() not in stored)


def test_a_resource_has_no_more_than_so_many(admin: User) -> None:
    model = admin.create_model("m")
    made = [create(admin, model.rid) for _ in range(MOST_OF_A_RESOURCE)]
    failure = admin.failure("CreateSubscription", resource_rid=model.rid, url=URL)
    assert failure.name == "TooManySubscriptions"
    assert failure.parameters == {"resource": model.rid, "limit": str(MOST_OF_A_RESOURCE)}
    for each in made:
        admin("DeleteSubscription", subscription_rid=each.rid)
    create(admin, model.rid)


def test_whoever_made_one_deletes_it_without_being_an_owner_any_more(admin: User, jane: User) -> None:
    model = admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    made, other = create(jane, model.rid), create(admin, model.rid)
    admin("RevokeRole", resource_rid=model.rid, principal="user:jane")
    for rid in (made.rid, other.rid):
        assert jane.failure("GetSubscription", subscription_rid=rid).name == "SubscriptionNotFound"
    assert jane.failure("DeleteSubscription", subscription_rid=other.rid).name == "SubscriptionNotFound"
    jane("DeleteSubscription", subscription_rid=made.rid)
    assert list(admin("ListSubscriptions", resource_rid=model.rid).subscriptions) == [other]


def test_what_is_redelivered_is_named_once_and_known(admin: User) -> None:
    model = admin.create_model("m")
    made = create(admin, model.rid)
    event_id = str(uuid.uuid4())
    failure = admin.failure("RedeliverEvents", subscription_rid=made.rid, event_ids=[event_id])
    assert (failure.name, failure.parameters["eventId"]) == ("DeliveryNotFound", event_id)
    for fields in ({}, {"event_ids": [event_id], "after_cursor": "x"}):
        failure = admin.failure("RedeliverEvents", subscription_rid=made.rid, **fields)
        assert (failure.name, failure.violations[0][0]) == ("InvalidArgument", "after_cursor")
    assert admin.failure("RedeliverEvents", subscription_rid=made.rid, after_cursor="x").name == "CursorUnknown"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("url", url) for url in ("", "ftp://a.example/", "https://user@a.example/", "https://127.1/", "x" * 3000)),
        # What is not public, and what looks like an address.
        *(("url", f"https://{host}/") for host in ("10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "[v1.a]", "a[::1]:8443")),
        *(("secret", secret) for secret in ("", "whsec_", "whsec_c2hvcnQ=")),
        ("types", ["modelregistry.unknown.v1"]),
        ("description", "\0"),
        ("request_id", "1"),
    ],
)
def test_bad_fields_are_told(any_admin: User, field: str, value: Any) -> None:
    request = {"resource_rid": SOME_MODEL, "url": URL} | {field: value}
    failure = any_admin.failure("CreateSubscription", **request)
    assert failure.name == "InvalidArgument"
    [(path, description)] = failure.violations
    assert path.partition("[")[0] == field
    assert field != "secret" or "c2hvcnQ" not in description
