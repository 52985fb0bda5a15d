"""Events over HTTP: listed by each parameter, and told with the address that a request came from."""

from __future__ import annotations

import json
from pathlib import Path

from tests.gateway.registry import Registry, good, new_registry
from tests.gateway.test_refusals import MODELS, ask
from tests.processes import Server

EVENTS = "/api/v2/events"


def test_events_are_listed_by_parameters_of_which_types_may_be_several(registry: Registry) -> None:
    made = good(registry.promote())
    wanted = {"modelRid": registry.target.rid}
    listed = good(registry.get(EVENTS, **wanted))
    assert [event["type"] for event in listed["data"]] == [
        "modelregistry.version.promoted.v1",
        "modelregistry.grant.changed.v1",
        "modelregistry.model.created.v1",
    ]
    [promoted, _, created] = listed["data"]
    assert promoted["subject"]["type"] == "promotion"
    assert (promoted["modelVersionRid"], promoted["subject"]["modelVersionRid"]) == (made["rid"], made["rid"])
    types = "&".join(f"types={each['type']}" for each in (promoted, created))
    two = good(registry.get(f"{EVENTS}?modelRid={registry.target.rid}&{types}"))
    assert [event["id"] for event in two["data"]] == [promoted["id"], created["id"]]
    ordered = good(registry.get(EVENTS, **wanted, order="OLDEST_FIRST", pageSize=2))
    assert [event["id"] for event in ordered["data"]][::-1] == [event["id"] for event in listed["data"][1:]]
    rest = good(registry.get(EVENTS, **wanted, order="OLDEST_FIRST", pageSize=2, pageToken=ordered["nextPageToken"]))
    assert [event["id"] for event in rest["data"]] == [promoted["id"]]
    assert good(registry.get(EVENTS, **wanted, afterCursor=rest["cursor"]))["data"] == []


def test_what_is_wrong_with_a_list_of_events_is_told(registry: Registry) -> None:
    twice = registry.get(f"{EVENTS}?branch=a&branch=b")
    assert (twice.status, twice.fields) == (400, {"branch"})
    types = registry.get(f"{EVENTS}?types=promoted&types=")
    assert (types.status, types.fields) == (400, {"types[0]", "types[1]"})
    unknown = registry.get(EVENTS, afterCursor="x")
    assert (unknown.status, unknown.error["errorCode"], unknown.error["errorName"]) == (
        400,
        "OUT_OF_RANGE",
        "CursorUnknown",
    )


def address_of_last(registry: Registry, forwarded_for: str) -> str:
    """The address that the newest event says that it came from."""
    path = f"{MODELS}/{registry.target.rid}/branchPolicy"
    good(ask(registry.server, "PUT", path, json.dumps({"promotionOnly": True}), X_Forwarded_For=forwarded_for))
    address: str = good(registry.get(EVENTS, modelRid=registry.target.rid, pageSize=1))["data"][0]["peer"]
    return address


def test_an_event_tells_the_address_of_a_client_and_not_what_the_client_says(registry: Registry) -> None:
    assert address_of_last(registry, "203.0.113.1") == "127.0.0.1"


def test_an_event_tells_the_address_that_a_trusted_proxy_says(tmp_path: Path) -> None:
    with Server(tmp_path, "--trusted-proxy", "127.0.0.1/32") as server, new_registry(server) as registry:
        assert address_of_last(registry, "198.51.100.1, 2001:db8:1:2:3::4") == "2001:db8:1:2:3::4"
