"""Recalls over HTTP."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.gateway.registry import Registry, good
from tests.gateway.test_refusals import MODELS, Answer, ask


def test_a_version_is_yanked_found_and_rolled_back(registry: Registry) -> None:
    def yank(key: str = "", **body: Any) -> Answer:
        path = f"{MODELS}/{registry.source.model_rid}/yankVersion"
        request = {"modelVersionRid": registry.source.rid, "scope": "VERSION", "reason": "poisoned"}
        return ask(registry.server, "POST", path, json.dumps(request | body), Idempotency_Key=key)

    registry.promote(sourceModelVersionRid=registry.without_age().rid)
    live = good(registry.promote())
    assert "yanked" not in live
    key = str(uuid.uuid4())
    yanked = good(yank(key))
    assert good(yank(key)) == yanked
    assert yank(key, scope="LINEAGE").error["errorName"] == "RequestIdAlreadyUsed"
    assert (yank(scope="MODEL").status, yank(scope="MODEL").fields) == (400, {"scope"})

    refused = registry.promote()
    assert (refused.status, refused.error["errorCode"]) == (400, "FAILED_PRECONDITION")
    assert refused.error["errorName"] == "VersionYanked"
    assert refused.error["parameters"] == {
        "modelVersionRid": registry.source.rid,
        "yankRid": yanked["rid"],
        "yankedVersionRid": registry.source.rid,
        "yankedBy": "user:admin",
        "reason": "poisoned",
    }
    of_version = f"/api/v2/modelVersions/{registry.source.rid}"
    assert good(registry.get(f"{of_version}/yanks")) == {"data": [yanked]}
    copies = good(registry.get(f"{of_version}/liveCopies", pageSize=1))
    assert (copies["totalCount"], copies["data"][0]["modelVersionRid"]) == (2, registry.source.rid)
    rest = good(registry.get(f"{of_version}/liveCopies", pageToken=copies["nextPageToken"]))
    assert [each["modelVersionRid"] for each in rest["data"]] == [live["rid"]]

    rollback = {"rollbacks": [{"modelRid": registry.target.rid, "toVersionNumber": 1}]}
    key = str(uuid.uuid4())
    answers = [
        good(ask(registry.server, "POST", "/api/v2/batchRollback", json.dumps(rollback), Idempotency_Key=key))
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert [each["versionNumber"] for each in answers[0]["data"]] == [3]

    taken_back = good(ask(registry.server, "POST", f"/api/v2/yanks/{yanked['rid']}/unyank", "{}"))
    assert taken_back["unyankedBy"] == "user:admin"
    good(registry.promote())
    absent = f"ri.models.main.yank.{uuid.uuid4()}"
    answer = ask(registry.server, "POST", f"/api/v2/yanks/{absent}/unyank", "{}")
    assert (answer.status, answer.error["parameters"]) == (404, {"yankRid": absent})
