"""PromotionService over HTTP: its routes, their queries and JSON, and how its failures arrive."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest

from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.builders import model_api
from tests.gateway.test_refusals import MODELS, Answer, ask
from tests.processes import Server
from tests.rpc.harness import SOME_VERSION, User

PROMOTIONS = "/api/v2/promotions"
BATCH = "/api/v2/batchPromoteVersions"
AGE = 'inputs["churn"].columns["age"]'


@dataclass(frozen=True)
class Registry:
    """A server, an administrator who calls it over gRPC, and a version to promote into a model."""

    server: Server
    admin: User
    source: ModelVersion
    target: Model

    def get(self, path: str, **query: Any) -> Answer:
        return ask(self.server, "GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, rpc: str, **body: Any) -> Answer:
        return ask(self.server, "POST", f"{MODELS}/{self.target.rid}/{rpc}?preview=true", json.dumps(body))

    def promote(self, **body: Any) -> Answer:
        return self.post("promoteVersion", **{"sourceModelVersionRid": self.source.rid} | body)

    def set_policy(self, **body: Any) -> Answer:
        return ask(self.server, "PUT", f"{MODELS}/{self.target.rid}/branchPolicy", json.dumps(body))

    def without_age(self) -> ModelVersion:
        """A version that breaks those who call one like the source: the column `age` is of another type."""
        other = ModelApi()
        other.CopyFrom(model_api())
        other.inputs[0].tabular.columns[0].data_type.boolean.SetInParent()
        return self.admin.create_version(self.admin.create_model(f"broken {uuid.uuid4()}"), model_api=other)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("promotions") / "cwd") as server:
        yield server


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source = admin.create_version(admin.create_model(f"source {uuid.uuid4()}"))
        yield Registry(server, admin, source, admin.create_model(f"target {uuid.uuid4()}"))


def good(answer: Answer) -> Any:
    assert answer.status == 200, answer.content
    return json.loads(answer.content)


def made(answer: Answer) -> list[str]:
    """The RIDs of the versions that the promotions of a list made."""
    return [promotion["modelVersionRid"] for promotion in good(answer)["data"]]


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


# What a branch does about findings


def test_a_policy_is_put_and_got(registry: Registry) -> None:
    path = f"{MODELS}/{registry.target.rid}/branchPolicy"
    nobodys = {"modelRid": registry.target.rid, "branch": "release/1", "compatibility": "WARN"}

    assert good(registry.get(path, branch="release/1")) == nobodys
    put = good(registry.set_policy(branch="release/1", compatibility="ENFORCE"))
    assert put == nobodys | {
        "compatibility": "ENFORCE",
        "changedBy": "user:admin",
        "changedTime": put["changedTime"],
    }
    assert good(registry.get(path, branch="release/1")) == put
    assert good(registry.get(path)) == nobodys | {"branch": "master"}


@pytest.mark.parametrize("mode", [None, "", "COMPATIBILITY_MODE_WARN", "warn", 1, "UNSPECIFIED"])
def test_a_policy_that_is_none_is_told(registry: Registry, mode: Any) -> None:
    answer = registry.set_policy(compatibility=mode)

    assert (answer.status, answer.error["errorName"], answer.fields) == (400, "InvalidArgument", {"compatibility"})


def test_a_promotion_that_would_break_somebody_is_refused_with_what_it_would_break(registry: Registry) -> None:
    registry.promote()
    registry.set_policy(compatibility="ENFORCE")
    broken = registry.without_age()

    answer = registry.promote(sourceModelVersionRid=broken.rid)

    assert (answer.status, answer.error["errorCode"], answer.error["errorName"]) == (
        400,
        "FAILED_PRECONDITION",
        "ModelApiIncompatible",
    )
    parameters = answer.error["parameters"]
    (violation,) = parameters.pop("fieldViolations")
    assert parameters == {"modelRid": registry.target.rid, "branchName": "master", "errorCount": "1"}
    assert violation["field"].startswith(AGE)
    assert violation["description"]
    # A check says the same, by the same path.
    checked = good(registry.post("checkPromotion", sourceModelVersionRid=broken.rid))
    assert (checked["wouldSucceed"], checked["errorCount"], checked["compatibility"]) == (False, 1, "ENFORCE")
    assert [each["errorName"] for each in checked["obstacles"]] == ["ModelApiIncompatible"]
    (finding,) = checked["findings"]
    assert (finding["path"], finding["severity"]) == (violation["field"], "ERROR")


# Heads


def test_another_head_than_expected_is_told(registry: Registry) -> None:
    head = good(registry.promote())["rid"]

    answer = registry.promote(expectedHeadVersionRid=SOME_VERSION)

    assert (answer.status, answer.error["errorCode"], answer.error["errorName"]) == (
        409,
        "ABORTED",
        "BranchHeadChanged",
    )
    assert answer.error["parameters"] == {
        "modelRid": registry.target.rid,
        "branchName": "master",
        "expectedHeadVersionRid": SOME_VERSION,
        "actualHeadVersionRid": head,
    }
    assert good(registry.promote(expectedHeadVersionRid=head))["versionNumber"] == 2


def test_a_branch_is_rolled_back(registry: Registry) -> None:
    first = good(registry.promote())
    registry.promote(sourceModelVersionRid=registry.without_age().rid)

    back = good(registry.post("rollbackBranch", toVersionNumber=1, reason="it broke"))

    assert (back["versionNumber"], back["modelApi"]) == (3, first["modelApi"])
    assert back["source"] == {
        "type": "promoted",
        "previousModelRid": registry.target.rid,
        "previousModelVersionRid": first["rid"],
    }
    (record,) = good(registry.get(PROMOTIONS, modelVersionRid=back["rid"]))["data"]
    assert (record["kind"], record["reason"]) == ("ROLLBACK", "it broke")
    head = registry.post("rollbackBranch", toVersionNumber=3)
    assert (head.status, head.error["errorCode"], head.error["errorName"]) == (
        400,
        "FAILED_PRECONDITION",
        "VersionAlreadyHead",
    )
    absent = registry.post("rollbackBranch", toVersionNumber=9)
    assert (absent.status, absent.error["errorName"]) == (404, "VersionNumberNotFound")
    assert absent.error["parameters"]["versionNumber"] == "9"
    assert registry.post("rollbackBranch", toVersionNumber=0).fields == {"toVersionNumber"}


# Batches


def test_a_batch_is_promoted_in_its_order(registry: Registry) -> None:
    entry = {"modelRid": registry.target.rid, "sourceModelVersionRid": registry.source.rid}

    answer = good(ask(registry.server, "POST", BATCH, json.dumps({"promotions": [entry, entry | {"branch": "b"}]})))

    assert [(each["branch"], each["versionNumber"]) for each in answer["data"]] == [("master", 1), ("b", 1)]
    assert all(each["promotionRid"] and each["modelRid"] == registry.target.rid for each in answer["data"])


def test_an_entry_that_fails_is_named_and_nothing_is_promoted(registry: Registry) -> None:
    entry = {"modelRid": registry.target.rid, "sourceModelVersionRid": registry.source.rid}
    promotions = [entry, entry | {"sourceModelVersionRid": SOME_VERSION}]

    answer = ask(registry.server, "POST", BATCH, json.dumps({"promotions": promotions}))

    assert (answer.status, answer.error["errorName"]) == (404, "ModelVersionNotFound")
    parameters = answer.error["parameters"]
    assert (parameters["modelRid"], parameters["modelVersionRid"]) == (registry.target.rid, SOME_VERSION)
    assert answer.fields == {"promotions[1]"}
    assert made(registry.get(PROMOTIONS, modelRid=registry.target.rid)) == []


def test_an_entry_that_would_break_somebody_is_named_with_what_it_would_break(registry: Registry) -> None:
    registry.promote()
    registry.set_policy(compatibility="ENFORCE")
    entry = {"modelRid": registry.target.rid, "sourceModelVersionRid": registry.source.rid}
    promotions = [entry, entry | {"sourceModelVersionRid": registry.without_age().rid}]

    answer = ask(registry.server, "POST", BATCH, json.dumps({"promotions": promotions}))

    assert (answer.status, answer.error["errorName"]) == (400, "ModelApiIncompatible")
    entry_at_fault, finding = (each["field"] for each in answer.error["parameters"]["fieldViolations"])
    assert entry_at_fault == "promotions[1]"
    assert finding.startswith(AGE)


@pytest.mark.parametrize(
    ("promotions", "fields"),
    [
        ([], {"promotions"}),
        ([{}], {"promotions[0].modelRid", "promotions[0].sourceModelVersionRid"}),
        ([5], {"promotions[0]"}),
        ({}, {"promotions"}),
        ([{"modelRid": "x", "sourceModelVersionRid": SOME_VERSION}], {"promotions[0].modelRid"}),
        ([{"model_rid": "x"}], {"promotions[0].model_rid"}),
        ([{}] * 101, {"promotions"}),
    ],
    ids=["none", "empty", "a number", "an object", "no RID", "snake case", "too many"],
)
def test_a_batch_that_is_none_is_told_entry_by_entry(registry: Registry, promotions: Any, fields: set[str]) -> None:
    answer = ask(registry.server, "POST", BATCH, json.dumps({"promotions": promotions}))

    assert (answer.status, answer.error["errorName"]) == (400, "InvalidArgument")
    assert fields <= answer.fields


# Lineage


def test_a_lineage_is_traced_from_any_of_its_versions(registry: Registry) -> None:
    first = good(registry.promote())
    second = good(registry.promote(sourceModelVersionRid=first["rid"], branch="b"))

    lineages = [
        good(registry.get(f"/api/v2/modelVersions/{rid}/lineage"))
        for rid in (registry.source.rid, first["rid"], second["rid"])
    ]

    assert [lineage["tracedIndex"] for lineage in lineages] == [0, 1, 2]
    root, *copies = lineages[0]["data"]
    assert root["modelVersionRid"] == registry.source.rid
    assert not root.keys() & {"previousIndex", "promotionRid"}
    assert [(each["modelVersionRid"], each["previousIndex"]) for each in copies] == [
        (first["rid"], 0),
        (second["rid"], 1),
    ]
    assert lineages[0]["data"] == lineages[1]["data"] == lineages[2]["data"]
    page = good(registry.get(f"/api/v2/modelVersions/{first['rid']}/lineage", pageSize=2))
    assert (len(page["data"]), "nextPageToken" in page) == (2, True)
