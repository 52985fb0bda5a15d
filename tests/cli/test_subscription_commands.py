"""The commands that have events sent to URLs."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

from tests.cli.stages import Stages
from tests.processes import failure

NOT_FOUND, INVALID_ARGUMENT = 69, 67
URL = "https://hooks.example.com/models"
PROMOTED = "modelregistry.version.promoted.v1"


def test_a_subscription_is_created_changed_and_deleted(stages: Stages, tmp_path: Path) -> None:
    server, file = stages.server, tmp_path / "secret"
    file.write_text("whsec_" + base64.b64encode(b"k" * 32).decode() + "\n")
    command = ("create-subscription", stages.production, URL, "--type", "version.promoted", "--branch", "master")
    created = server.json(*command, "--secret-file", file)
    made = created["subscription"]
    assert "secret" not in created
    assert (made["url"], made["types"], made["branch"], made["state"]) == (URL, [PROMOTED], "master", "ACTIVE")
    assert server.json("get-subscription", made["rid"]) == made
    assert server.json("list-subscriptions", stages.production)["data"] == [made]
    paused = server.json("update-subscription", made["rid"], "--paused", "--clear", "branch", "--clear", "types")
    assert (paused["state"], paused["types"], "branch" in paused) == ("PAUSED", [], False)
    assert server.json("rotate-secret", made["rid"])["secret"].startswith("whsec_")
    assert server.json("update-subscription", made["rid"], "--active")["state"] == "ACTIVE"
    shown = server.run("events", "--type", "subscription.changed", "--output", "table").stdout
    assert f"rid={made['rid']} url={URL} state=ACTIVE" in shown
    assert server.json("deliveries", made["rid"], "--state", "dead") == {"data": []}
    server.json("delete-subscription", made["rid"])
    assert made["rid"] in failure(server.run("get-subscription", made["rid"]), NOT_FOUND)


def test_what_was_never_queued_is_not_sent_again(stages: Stages) -> None:
    made = stages.server.json("create-subscription", stages.production, URL)["subscription"]["rid"]
    event_id = str(uuid.uuid4())
    assert event_id in failure(stages.server.run("redeliver", made, event_id), NOT_FOUND)
    assert "after_cursor" in failure(stages.server.run("redeliver", made), INVALID_ARGUMENT)


def test_a_secret_that_is_no_secret_is_refused_without_being_shown(stages: Stages, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2")
    said = failure(
        stages.server.run("create-subscription", stages.production, URL, "--secret-file", file), INVALID_ARGUMENT
    )
    assert "secret" in said
    assert "hunter2" not in said
