"""The commands that recall versions: yanked, found where they are live, rolled back."""

from __future__ import annotations

import json
import uuid

from tests.cli.stages import Stages
from tests.processes import failure

FAILED_PRECONDITION, NOT_FOUND = 73, 69


def test_a_version_is_yanked_and_the_yank_is_taken_back(stages: Stages) -> None:
    command = ("yank", stages.staging, stages.first, "--reason", "poisoned", "--request-id", str(uuid.uuid4()))
    yanked = stages.server.json(*command)
    assert (yanked["scope"], yanked["reason"], yanked["modelVersionRid"]) == ("VERSION", "poisoned", stages.first)
    assert stages.server.json(*command) == yanked
    refused = failure(stages.server.run("promote", stages.first, stages.production), FAILED_PRECONDITION)
    assert refused.startswith("VersionYanked: ")
    assert "reason: poisoned" in refused
    assert stages.server.json("yanks", stages.live)["data"] == [yanked]
    assert stages.server.json("get-version", stages.production, stages.live)["yanked"] is True

    taken_back = stages.server.json("unyank", yanked["rid"], "--reason", "a false alarm")
    assert (taken_back["unyankedBy"], taken_back["unyankReason"]) == ("user:admin", "a false alarm")
    stages.server.json("promote", stages.first, stages.production)
    absent = f"ri.models.main.yank.{uuid.uuid4()}"
    assert absent in failure(stages.server.run("unyank", absent), NOT_FOUND)


def test_a_lineage_is_yanked(stages: Stages) -> None:
    yanked = stages.server.json("yank", stages.production, stages.live, "--lineage", "--reason", "poisoned")
    assert yanked["scope"] == "LINEAGE"
    assert stages.server.json("get-version", stages.staging, stages.first)["yanked"] is True


def test_live_copies_are_shown_with_how_many_there_are(stages: Stages) -> None:
    canary = stages.promote(stages.live, branch="canary")
    listed = stages.server.json("live-copies", stages.first)
    assert [each["modelVersionRid"] for each in listed["data"]] == [stages.live, canary.rid]
    assert listed["totalCount"] == 2
    shown = stages.server.run("live-copies", stages.first, "--output", "table")
    assert (shown.returncode, shown.stderr) == (0, "live on 2 branches in all\n")
    assert all(text in shown.stdout for text in (stages.live, canary.rid, "production", "canary"))
    paged = stages.server.json("live-copies", stages.first, "--page-size", "1")
    rest = stages.server.json("live-copies", stages.first, "--page-token", paged["nextPageToken"])
    assert paged["data"] + rest["data"] == listed["data"]


def test_branches_are_rolled_back_from_a_file_or_a_pipe_all_or_none(stages: Stages) -> None:
    stages.promote(stages.warns)
    good = {"modelRid": stages.production, "toVersionNumber": 1, "reason": "poisoned"}
    result = stages.server.run(
        "rollback-batch", "--file", "-", stdin=json.dumps({"rollbacks": [good, {**good, "branch": "nope"}]})
    )
    assert "rollbacks[1]" in failure(result, NOT_FOUND)
    assert stages.numbers() == [2, 1]
    command = ("rollback-batch", "--file", "-", "--request-id", str(uuid.uuid4()))
    answers = [stages.server.json(*command, stdin=json.dumps({"rollbacks": [good]})) for _ in range(2)]
    assert answers[0] == answers[1]
    assert [each["versionNumber"] for each in answers[0]["data"]] == [3]
    assert stages.numbers() == [3, 2, 1]
