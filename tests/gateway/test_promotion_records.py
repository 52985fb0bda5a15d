"""What HTTP tells of promotions that were made: their records, filters and times in the query, and lineage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any
from urllib.parse import urlencode

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from tests.gateway.registry import PROMOTIONS, Registry, good, made
from tests.gateway.test_refusals import MODELS, ask
from tests.processes import Server

# Records


def test_a_promotion_is_on_record(registry: Registry) -> None:
    version = good(registry.promote(reason="two\nlines"))

    (promotion,) = good(registry.get(PROMOTIONS, modelVersionRid=version["rid"]))["data"]

    assert promotion == {
        "rid": promotion["rid"],
        "kind": "PROMOTION",
        "sourceModelRid": registry.source.model_rid,
        "sourceModelVersionRid": registry.source.rid,
        "modelRid": registry.target.rid,
        "branch": "master",
        "modelVersionRid": version["rid"],
        "versionNumber": 1,
        "createdBy": "user:admin",
        "reason": "two\nlines",
        "findings": [],
        "errorCount": 0,
        "warningCount": 0,
        "createdTime": version["createdTime"],
    }
    assert good(registry.get(f"{PROMOTIONS}/{promotion['rid']}")) == promotion


def test_a_version_has_empty_rids_in_place_of_origins_that_its_caller_may_not_see(registry: Registry) -> None:
    made = good(registry.promote())
    registry.admin("GrantRole", resource_rid=registry.target.rid, principal="user:jane", role=ROLE_VIEWER)
    path = f"{MODELS}/{registry.target.rid}/versions/{made['rid']}"

    seen = good(ask(registry.server, "GET", path, token=registry.server.token("jane")))

    nothing = {"type": "promoted", "previousModelRid": "", "previousModelVersionRid": ""}
    assert seen == {**made, "source": nothing, "rootModelVersionRid": ""}
    assert made["source"] == nothing | {
        "previousModelRid": registry.source.model_rid,
        "previousModelVersionRid": registry.source.rid,
    }


def test_oldest_first_each_page_has_a_token_to_go_on_from(registry: Registry) -> None:
    found: list[str] = []
    token: dict[str, str] = {}
    expected = []
    for _ in range(3):
        page = good(registry.get(PROMOTIONS, modelRid=registry.target.rid, order="OLDEST_FIRST", **token))
        found += [promotion["modelVersionRid"] for promotion in page["data"]]
        assert found == expected
        token = {"pageToken": page["nextPageToken"]}
        expected += [good(registry.promote())["rid"]]


def test_a_promotion_that_is_not_there_is_told_by_its_rid(registry: Registry) -> None:
    answer = registry.get(f"{PROMOTIONS}/ri.models.main.promotion.none")

    assert (answer.status, answer.error["errorName"]) == (404, "PromotionNotFound")
    assert answer.error["parameters"] == {"promotionRid": "ri.models.main.promotion.none"}


def test_every_filter_of_the_list_is_a_parameter_of_the_query(registry: Registry) -> None:
    first, second = good(registry.promote()), good(registry.promote(branch="a b/ü"))
    both = [second["rid"], first["rid"]]
    of_target = {"modelRid": registry.target.rid}

    assert made(registry.get(PROMOTIONS, **of_target)) == both
    assert made(registry.get(PROMOTIONS, **of_target, branch="a b/ü")) == [second["rid"]]
    assert made(registry.get(PROMOTIONS, sourceModelVersionRid=registry.source.rid)) == both
    assert made(registry.get(PROMOTIONS, sourceModelVersionRid=first["rid"])) == []
    assert made(registry.get(PROMOTIONS, modelVersionRid=first["rid"])) == [first["rid"]]
    assert made(registry.get(PROMOTIONS, **of_target, createdBy="user:admin")) == both
    assert made(registry.get(PROMOTIONS, **of_target, createdBy="user:jane")) == []


def test_the_times_of_the_list_are_from_and_until_before(registry: Registry) -> None:
    version = good(registry.promote())
    at = version["createdTime"]
    moment = datetime.fromisoformat(at)
    later = (moment + timedelta(milliseconds=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    elsewhere = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+00:00"
    of_target = {"modelRid": registry.target.rid}

    assert made(registry.get(PROMOTIONS, **of_target, startTime=at, endTime=later)) == [version["rid"]]
    assert made(registry.get(PROMOTIONS, **of_target, startTime=elsewhere)) == [version["rid"]]
    assert made(registry.get(PROMOTIONS, **of_target, startTime=f"{at[:-1]}000000Z")) == [version["rid"]]
    assert made(registry.get(PROMOTIONS, **of_target, startTime=later)) == []
    assert made(registry.get(PROMOTIONS, **of_target, endTime=at)) == []
    assert made(registry.get(PROMOTIONS, **of_target, startTime=later, endTime=at)) == []


@pytest.mark.parametrize("key", ["startTime", "endTime"])
@pytest.mark.parametrize(
    "time",
    [
        *("", "0", "1764028800", "null", "nonsense", "x" * 5000, "\x00", "é", "2026-11-25T00:00:00Z\n"),
        *("2026-11-25", "2026-11-25T00:00:00", "2026-11-25 00:00:00Z", "2026-11-25T00:00:00 01:00"),
        *("2026-11-25T00:00:00.123456789Z", "2026-11-25T00:00:00.1234Z", "2026-11-25T00:00:00.Z"),
        *("2026-02-30T00:00:00Z", "2026-11-25T24:00:00Z", "2016-12-31T23:59:60Z", "2026-11-25T00:00:00+24:00"),
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "10000-01-01T00:00:00Z"),
    ],
    ids=lambda time: repr(time[:40]),
)
def test_a_time_that_is_none_is_told(server: Server, key: str, time: str) -> None:
    answer = ask(server, "GET", f"{PROMOTIONS}?{urlencode({key: time})}")

    assert (answer.status, answer.error["errorName"], answer.fields) == (400, "InvalidArgument", {key})


def test_the_list_is_read_page_by_page(registry: Registry) -> None:
    versions = [good(registry.promote())["rid"] for _ in range(3)]
    query: dict[str, Any] = {"modelRid": registry.target.rid, "pageSize": 2}

    first = good(registry.get(PROMOTIONS, **query))
    second = good(registry.get(PROMOTIONS, **query, pageToken=first["nextPageToken"]))

    assert [each["modelVersionRid"] for each in first["data"] + second["data"]] == versions[::-1]
    assert "nextPageToken" not in second


# Lineage


def test_a_lineage_is_traced_from_any_of_its_versions(registry: Registry) -> None:
    first = good(registry.promote())
    second = good(registry.promote(sourceModelVersionRid=first["rid"], branch="b"))

    lineages = [
        good(registry.get(f"/api/v2/modelVersions/{rid}/lineage"))
        for rid in (registry.source.rid, first["rid"], second["rid"])
    ]

    for traced, lineage in enumerate(lineages):
        assert lineage["tracedNodeId"] == lineage["data"][0]["nodeId"]
        assert [each["depth"] for each in lineage["data"]] == [*range(0, -traced - 1, -1), *range(1, 3 - traced)]
        root, one, two = sorted(lineage["data"], key=itemgetter("depth"))
        assert [each["modelVersionRid"] for each in (root, one, two)] == [
            registry.source.rid,
            first["rid"],
            second["rid"],
        ]
        assert not root.keys() & {"previousNodeId", "promotionRid"}
        assert [one["previousNodeId"], two["previousNodeId"]] == [root["nodeId"], one["nodeId"]]
    page = good(registry.get(f"/api/v2/modelVersions/{first['rid']}/lineage", pageSize=2))
    assert (len(page["data"]), "nextPageToken" in page) == (2, True)
