"""Promotions by the batch, the policies of branches, and what is created once however often it is asked for."""

from __future__ import annotations

import json
import uuid
from functools import partial
from pathlib import Path

from tests.cli.stages import Stages
from tests.processes import failure

NOT_FOUND, ALREADY_EXISTS = 69, 70


# Policies


def test_a_policy_is_set_and_printed(stages: Stages) -> None:
    model, branch = stages.production, ("--branch", "canary")
    assert stages.server.json("get-policy", model)["compatibility"] == "WARN"
    for policy in ("off", "warn", "enforce"):
        was_set = stages.server.json("set-policy", model, policy, *branch)
        assert (was_set["compatibility"], was_set["branch"]) == (policy.upper(), "canary")
        assert stages.server.json("get-policy", model, *branch) == was_set
    assert stages.server.json("get-policy", model)["compatibility"] == "WARN"


# Batches


def batch(stages: Stages, *sources: str) -> str:
    return json.dumps(
        {"promotions": [{"modelRid": stages.production, "sourceModelVersionRid": source} for source in sources]}
    )


def test_a_batch_is_promoted_from_a_file_or_a_pipe(stages: Stages, tmp_path: Path) -> None:
    file = tmp_path / "batch.json"
    file.write_text(batch(stages, stages.warns, stages.breaks))
    promoted = stages.server.json("promote-batch", "--file", file)["data"]
    assert [each["versionNumber"] for each in promoted] == [2, 3]
    piped = stages.server.json("promote-batch", "--file", "-", stdin=batch(stages, stages.first))["data"]
    assert [each["versionNumber"] for each in piped] == [4]


def test_a_batch_is_repeated_by_its_id(stages: Stages) -> None:
    command = partial(stages.server.json, "promote-batch", "--file", "-", "--request-id", str(uuid.uuid4()))
    content = batch(stages, stages.first, stages.first)
    assert command(stdin=content) == command(stdin=content)
    assert stages.numbers() == [3, 2, 1]


def test_a_batch_that_fails_promotes_nothing_and_names_the_entry(stages: Stages) -> None:
    absent = f"ri.models.main.model-version.{uuid.uuid4()}"
    result = stages.server.run("promote-batch", "--file", "-", stdin=batch(stages, stages.first, absent))
    assert "promotions[1]" in failure(result, NOT_FOUND)
    assert stages.numbers() == [1]


def test_a_file_that_is_no_batch_is_told_in_one_line(stages: Stages, tmp_path: Path) -> None:
    told = failure(stages.server.run("promote-batch", "--file", "-", stdin='{"promotions": [{"model": "x"}]}'))
    assert told == "--file -: promotions[0].model: is not a known key"
    absent = tmp_path / "absent"
    assert (
        failure(stages.server.run("promote-batch", "--file", absent)) == f"--file {absent}: No such file or directory"
    )


# Ids of other requests


def test_a_model_and_a_version_are_created_once_by_their_ids(stages: Stages) -> None:
    folder, request_id = f"ri.compass.main.folder.{uuid.uuid4()}", ("--request-id", str(uuid.uuid4()))
    create_model = partial(stages.server.json, "create-model", "once", "--folder", folder, *request_id)
    model = create_model()
    assert create_model() == model
    content = '{"modelApi": {"inputs": [], "outputs": []}}'
    create_version = partial(stages.server.run, "create-version", model["rid"], "--file", "-", *request_id)
    first, second = create_version(stdin=content), create_version(stdin=content)
    assert first.returncode == 0
    assert first.stdout == second.stdout
    other = create_version(stdin='{"modelApi": {"inputs": [], "outputs": []}, "condaRequirements": ["x"]}')
    assert failure(other, ALREADY_EXISTS).startswith("RequestIdAlreadyUsed: ")
