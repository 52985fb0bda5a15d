"""Promotions over HTTP: the policies and heads of branches, rollbacks and batches, and how what fails arrives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.registry import PROMOTIONS, Registry, good, made
from tests.gateway.test_refusals import MODELS, ask
from tests.rpc.harness import SOME_VERSION

BATCH = "/api/v2/batchPromoteVersions"
AGE = 'inputs["churn"].columns["age"]'


def test_names_of_columns_are_kept_as_they_come_from_spreadsheets(registry: Registry) -> None:
    columns = [{"name": name, "dataType": {"type": "double"}} for name in ("Amount\n(EUR)", "\tamount\r\n", "\xa0a ")]
    described = {"inputs": [{"type": "tabular", "name": "t", "columns": columns}]}

    created = good(registry.post("versions", modelApi=described))
    assert [column["name"] for column in created["modelApi"]["inputs"][0]["columns"]] == [c["name"] for c in columns]
    columns[1]["name"] += "\x1b"
    answer = registry.post("versions", modelApi=described)
    assert (answer.status, answer.error["errorName"]) == (400, "InvalidModelApi")
    assert answer.error["parameters"]["errorType"] == "INVALID_NAME"
    assert answer.fields == {"modelApi.inputs[0].columns[1].name"}


# What a branch does about findings


def test_a_policy_is_put_and_got(registry: Registry) -> None:
    path = f"{MODELS}/{registry.target.rid}/branchPolicy"
    nobodys = {
        "modelRid": registry.target.rid,
        "branch": "release/1",
        "compatibility": "WARN",
        "revision": 0,
        "promotionOnly": False,
        "warnings": [],
        "compatibilitySinceRevision": 0,
    }

    assert good(registry.get(path, branch="release/1")) == nobodys
    put = good(registry.set_policy(branch="release/1", compatibility="ENFORCE_TRANSITIVE"))
    assert put == nobodys | {
        "compatibility": "ENFORCE_TRANSITIVE",
        "changedBy": "user:admin",
        "changedTime": put["changedTime"],
        "revision": 1,
        "compatibilitySinceRevision": 1,
    }
    assert good(registry.get(path, branch="release/1")) == put
    assert good(registry.get(path)) == nobodys | {"branch": "master"}


@pytest.mark.parametrize("mode", ["", "COMPATIBILITY_MODE_WARN", "warn", 1, "UNSPECIFIED"])
def test_a_policy_that_is_none_is_told(registry: Registry, mode: Any) -> None:
    answer = registry.set_policy(compatibility=mode)

    assert (answer.status, answer.error["errorName"], answer.fields) == (400, "InvalidArgument", {"compatibility"})


def test_a_branch_is_locked_and_unlocked(registry: Registry) -> None:
    locked = good(registry.post("lockBranch", reason="incident 42", branch="locked"))
    assert (locked["lock"]["reason"], locked["lock"]["lockedBy"]) == ("incident 42", "user:admin")
    over = registry.post("lockBranch", reason="late", expireTime="2003-05-06T12:34:56.789Z")
    assert (over.status, over.error["errorName"], over.fields) == (400, "InvalidArgument", {"expireTime"})
    assert "lock" not in good(registry.post("unlockBranch", branch="locked"))


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
    place = {"modelRid": registry.target.rid, "branchName": "master"}
    assert parameters == {**place, "errorCount": "1", "comparedVersionNumber": "1"}
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
