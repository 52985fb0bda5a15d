"""`check` says what `promote` would do with the same options, and fails where that would."""

from __future__ import annotations

import json
import uuid

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.model_api_pb2 import ModelApi
from server.codec.json_form import from_json
from server.core.permissions import MODELS_READ
from tests.cli.stages import ERROR, Stages, parameter, table


def test_a_check_says_what_would_happen_and_changes_nothing(stages: Stages) -> None:
    checked = stages.server.json("check", stages.breaks, stages.production)
    assert checked["wouldSucceed"] is True
    assert [finding["path"] for finding in checked["findings"]] == [ERROR]
    assert (checked["headVersionRid"], checked["versionNumber"]) == (stages.live, 2)
    assert stages.numbers() == [1]


def test_a_check_of_what_would_fail_fails(stages: Stages) -> None:
    stages.admin("SetBranchPolicy", model_rid=stages.production, compatibility=COMPATIBILITY_MODE_ENFORCE)
    result = stages.server.run("check", stages.breaks, stages.production, "--expected-head", stages.breaks)
    assert (result.returncode, result.stderr) == (1, "")
    obstacles = [obstacle["errorName"] for obstacle in json.loads(result.stdout)["obstacles"]]
    assert obstacles == ["BranchHeadChanged", "ModelApiIncompatible"]


def test_a_check_for_people_says_what_it_would_become_what_stands_in_the_way_and_what_it_breaks(
    stages: Stages,
) -> None:
    options = ("--expected-head", stages.breaks, "--output", "table")
    result = stages.server.run("check", stages.breaks, stages.production, *options)
    assert (result.returncode, result.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in ("wouldSucceed False", "versionNumber 2", f"headVersionRid {stages.live}", "compatibility WARN"):
        assert line in lines
    (obstacle,) = (line for line in lines if line.startswith("BranchHeadChanged "))
    assert stages.live in obstacle
    assert any(line.startswith(f"REMOVED ERROR {ERROR} ") for line in lines)


def test_a_check_prints_no_name_that_a_terminal_would_not_show_on_one_line(stages: Stages) -> None:
    columns = table("Amount\n(EUR)", "\u202eage")
    columns["columns"] = [column | {"required": True} for column in columns["columns"]]
    api = from_json({"inputs": [columns], "outputs": [parameter("risk")]}, ModelApi)
    made = stages.admin("CreateModelVersion", model_rid=stages.staging, model_api=api)
    for output in ("table", "json"):
        printed = stages.server.run("check", made.rid, stages.production, "--output", output).stdout
        assert all(line.isprintable() for line in printed.splitlines())
        assert r"Amount\n(EUR)" in printed.replace("\\\\", "\\")
        assert r"\u202eage" in printed.replace("\\\\", "\\")


def test_a_check_says_what_the_same_request_has_made_before(stages: Stages) -> None:
    command = (stages.first, stages.production, "--request-id", str(uuid.uuid4()), "--reason", "because")
    made = stages.server.json("promote", *command)
    assert stages.server.json("check", *command)["repeatedVersionRid"] == made["rid"]


def test_a_check_takes_a_branch(stages: Stages) -> None:
    checked = stages.server.json("check", stages.breaks, stages.production, "--branch", "canary")
    assert checked["versionNumber"] == 1
    assert "headVersionRid" not in checked


def test_a_check_needs_no_more_than_reading(stages: Stages) -> None:
    reading = stages.server.token(scopes=[MODELS_READ])
    assert stages.server.json("check", stages.first, stages.production, token=reading)["wouldSucceed"] is True
