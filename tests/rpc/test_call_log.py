"""The line that each call leaves in the log: enough to find it again, and nothing that is secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.core.logs import JsonFormatter
from tests.builders import FOLDER, model_api
from tests.conftest import OpenRepository
from tests.processes import until
from tests.rpc.harness import SOME_MODEL, Registry, User, serving

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE_PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def calling(user: User, trace_parent: str) -> User:
    return User(user.channel, (*user.metadata, ("traceparent", trace_parent)))


def line_of_call(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The one line that a call has left, as it is written; it may come a little later than the answer."""

    def lines() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "modelregistry.calls"]
        return [json.loads(JsonFormatter().format(record)) for record in records]

    until(lambda: len(lines()) == 1)
    return lines()[0]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def test_a_call_that_went_well_tells_method_caller_and_trace(admin: User, caplog: pytest.LogCaptureFixture) -> None:
    calling(admin, TRACE_PARENT)("ListModels")

    line = line_of_call(caplog)
    assert line["method"] == "/modelregistry.v1.ModelService/ListModels"
    assert (line["code"], line["user"], line["trace_id"]) == ("OK", "user:admin", TRACE_ID)
    assert "error_instance_id" not in line


def test_a_failed_call_tells_the_instance_id_that_its_caller_was_told(
    jane: User, caplog: pytest.LogCaptureFixture
) -> None:
    failure = calling(jane, TRACE_PARENT).failure("GetModel", model_rid=SOME_MODEL)

    line = line_of_call(caplog)
    assert (line["code"], line["user"], line["trace_id"]) == ("NOT_FOUND", "user:jane", TRACE_ID)
    assert line["error_instance_id"] == failure.instance_id


@pytest.mark.parametrize(
    "trace_parent",
    [
        "",
        TRACE_ID,
        f"00-{TRACE_ID}-00f067aa0ba902b7",
        f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-00f067aa0ba902b7-01",
        f"{TRACE_PARENT}-more",
    ],
)
def test_what_names_no_trace_is_not_taken_for_one(
    admin: User, caplog: pytest.LogCaptureFixture, trace_parent: str
) -> None:
    calling(admin, trace_parent)("ListModels")

    assert line_of_call(caplog)["trace_id"] is None


def test_a_later_version_may_say_more(admin: User, caplog: pytest.LogCaptureFixture) -> None:
    calling(admin, f"01-{TRACE_ID}-00f067aa0ba902b7-01-more")("ListModels")

    assert line_of_call(caplog)["trace_id"] == TRACE_ID


def test_no_line_has_a_token_or_what_was_stored(
    registry: Registry, admin: User, caplog: pytest.LogCaptureFixture
) -> None:
    token = dict(admin.metadata)["authorization"].removeprefix("Bearer ")
    version = admin.create_version(admin.create_model("a-secret-name"), model_api=model_api("a-secret-column"))
    admin.promote(version, admin.create_model("production"), reason="a-secret-reason")
    registry.bearing(f"{token}x").failure("GetModel", model_rid=SOME_MODEL)
    registry.bearing(token.replace(".", "")).failure("GetModel", model_rid=SOME_MODEL)

    until(lambda: len(caplog.records) >= 6)
    written = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    secrets = [*token.split("."), "a-secret-name", "a-secret-column", "a-secret-reason"]
    assert [secret for secret in secrets if secret in written] == []


def test_a_database_that_fails_is_explained_with_the_trace_and_without_values(
    migrated_url: str, open_repository: OpenRepository, caplog: pytest.LogCaptureFixture
) -> None:
    repository = open_repository(migrated_url)
    with serving(repository) as registry:
        admin = registry.user("admin")
        repository.write(lambda tx: tx.session.run("ALTER TABLE models RENAME TO lost"))
        caplog.clear()

        failure = calling(admin, TRACE_PARENT).failure("CreateModel", name="a-secret-name", parent_folder_rid=FOLDER)

    explained = [record for record in caplog.records if record.name == "server.rpc.chain"]
    [line] = [json.loads(JsonFormatter().format(record)) for record in explained]
    assert (line["error_instance_id"], line["trace_id"]) == (failure.instance_id, TRACE_ID)
    assert "INSERT INTO models" in line["exception"]
    assert "a-secret-name" not in "\n".join(JsonFormatter().format(record) for record in caplog.records)
