"""What watchers ask of storage: which events are settled by now, and who sees what they are about."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from server.storage.contract import LogEnd, Transaction
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import FOLDER, add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.conftest import Held


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def test_every_event_is_settled_by_now_before_long(repository: SqlRepository) -> None:
    assert repository.settled_event_by_now() == LogEnd()
    for _ in range(3):
        append(repository, builders.version(add_model(repository).rid))
        newest = repository.settled_event()
        until(lambda: repository.settled_event_by_now() == newest)  # noqa: B023 - it is called at once


def test_no_event_is_settled_while_one_with_a_smaller_key_can_come_and_nothing_waits_for_it(
    new_database: NewDatabase, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    # On SQLite nothing is written beside another change.
    url = new_database("postgresql", migrated=True)
    repository, watching = open_repository(url), open_repository(url)
    first, second = add_model(repository), add_model(repository)
    before = repository.settled_event()
    until(lambda: watching.settled_event_by_now() == before)
    held = Held()

    def change(tx: Transaction) -> None:
        tx.add_policy(builders.policy(first.rid, COMPATIBILITY_MODE_OFF), "user:jane")
        # What is sent goes to the database with the next question.
        tx.get_policy(first.rid, "master")
        held(tx)

    changing = threads.submit(repository.write, change)
    held.wait_until_begun()
    append(watching, builders.version(second.rid))
    # However often it looks.
    assert {watching.settled_event_by_now() for _ in range(20)} == {before}
    held.go_on()
    changing.result(60)
    newest = repository.settled_event()
    until(lambda: watching.settled_event_by_now() == newest)


def test_grantees_have_the_higher_of_their_roles_on_a_model_and_on_its_folder(repository: SqlRepository) -> None:
    model, other = add_model(repository), add_model(repository)
    given = [
        (model.rid, "user:a", ROLE_OWNER),
        (FOLDER, "user:a", ROLE_VIEWER),
        (model.rid, "user:b", ROLE_VIEWER),
        (FOLDER, "user:b", ROLE_EDITOR),
        (FOLDER, "group:c", ROLE_VIEWER),
        (other.rid, "user:d", ROLE_VIEWER),
    ]
    for rid, principal, role in given:
        builders.grant(repository, rid, principal, role)

    missing = "ri.models.main.model.00000000-0000-0000-0000-000000000000"
    found = repository.read(lambda reader: reader.grantees([model.rid, FOLDER, missing]))
    assert {*found} == {model.rid, FOLDER}
    assert (found[model.rid].folder_rid, found[FOLDER].folder_rid) == (FOLDER, None)
    on_folder = {"user:a": ROLE_VIEWER, "user:b": ROLE_EDITOR, "group:c": ROLE_VIEWER}
    assert {to: role for to, role in found[FOLDER].roles.items() if to in on_folder} == on_folder
    on_model = {"user:a": ROLE_OWNER, "user:b": ROLE_EDITOR, "group:c": ROLE_VIEWER}
    assert {to: role for to, role in found[model.rid].roles.items() if to in on_model} == on_model
    assert "user:d" not in found[model.rid].roles
