"""Many at once: numbers stay gapless, names unique, nobody is turned away. On every backend."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER
from server.core.errors import ResourceNameAlreadyExists
from server.storage.contract import Transaction
from server.storage.sql import tables
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.storage.conftest import at_once
from tests.storage.inspection import row_counts, rows

THREADS = 32
PROMOTIONS = 20


@pytest.mark.parametrize(
    ("backend", "replicas"), [("sqlite", 1), ("postgresql", 1), ("sqlite", 2), ("postgresql", 4)], ids=str
)
@pytest.mark.parametrize("present", [0, 3], ids=["new branch", "present branch"])
def test_concurrent_promotions_get_gapless_numbers(
    backend: str, replicas: int, present: int, new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    url = new_database(backend, migrated=True)
    repositories = [open_repository(url) for _ in range(replicas)]
    target = add_model(repositories[0])
    source = append(repositories[0], builders.version(add_model(repositories[0]).rid))
    found = repositories[0].read(lambda reader: reader.find_version(source.rid, ADMIN))
    assert found is not None
    digest = found.content_digest
    builders.add_versions(repositories[0], target.rid, present)

    def promote(thread: int) -> list[int]:
        new = [builders.version(target.rid) for _ in range(PROMOTIONS)]
        repository = repositories[thread % replicas]
        return [repository.write(lambda tx, v=v: tx.append_version(v, digest)).version_number for v in new]

    numbers = at_once(THREADS, promote)

    total = present + THREADS * PROMOTIONS
    assert sorted(chain.from_iterable(numbers)) == list(range(present + 1, total + 1))
    assert all(own == sorted(own) for own in numbers)
    stored = repositories[0].read(lambda reader: builders.all_versions(reader, target.rid))
    assert [version.version_number for version in stored] == list(range(total, 0, -1))
    times = [version.created_time.ToMilliseconds() for version in stored]
    assert times == sorted(times, reverse=True)
    assert row_counts(url)["contents"] == 1


def test_concurrent_promotions_into_many_branches_do_not_mix(repository: SqlRepository) -> None:
    model = add_model(repository)

    def promote(thread: int) -> list[int]:
        return [append(repository, builders.version(model.rid, f"{thread % 4}")).version_number for _ in range(5)]

    numbers = at_once(16, promote)

    for branch in range(4):
        assert sorted(chain.from_iterable(numbers[branch::4])) == list(range(1, 21))


def test_of_many_who_create_a_name_at_once_exactly_one_succeeds(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    replicas = [open_repository(migrated_url), open_repository(migrated_url)]

    def create(thread: int) -> str | None:
        try:
            return add_model(replicas[thread % 2], "churn").rid
        except ResourceNameAlreadyExists:
            return None

    created = [rid for rid in at_once(16, create) if rid is not None]

    assert [row.rid for row in rows(migrated_url, tables.models)] == created
    assert len(created) == 1


def test_equal_content_that_many_store_at_once_is_stored_once(repository: SqlRepository, migrated_url: str) -> None:
    model = add_model(repository)

    at_once(16, lambda thread: append(repository, builders.version(model.rid, f"branch {thread}", size=100_000)))

    assert row_counts(migrated_url)["contents"] == 1
    assert row_counts(migrated_url)["versions"] == 16


def test_a_grant_that_many_change_at_once_is_recorded_each_time(repository: SqlRepository, migrated_url: str) -> None:
    def change(thread: int) -> None:
        if thread % 4 == 3:
            builders.revoke(repository, builders.FOLDER, "user:jane")
        else:
            role = (ROLE_VIEWER, ROLE_EDITOR, ROLE_OWNER)[thread % 4]
            builders.grant(repository, builders.FOLDER, "user:jane", role)

    at_once(16, change)

    recorded = [row.role for row in rows(migrated_url, tables.grant_changes)]
    assert (
        sorted(role for role in recorded if role is not None)
        == [ROLE_VIEWER] * 4 + [ROLE_EDITOR] * 4 + [ROLE_OWNER] * 4
    )
    assert [row.role for row in rows(migrated_url, tables.grants)] == [role for role in recorded[-1:] if role]


def test_one_who_waits_for_a_branch_goes_on_from_where_the_other_committed(
    repository: SqlRepository,
) -> None:
    """Not from what it saw before it waited: neither the number nor the time of the head."""
    model = add_model(repository)
    holding, asked = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> int:
        new = builders.version(model.rid)
        number = tx.append_version(new, tx.put_content(new)).version_number
        holding.set()
        assert asked.wait(30)
        return number

    def wait() -> int:
        assert holding.wait(30)
        asked.set()
        return append(repository, builders.version(model.rid)).version_number

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(repository.write, hold), threads.submit(wait)
        assert (first.result(), second.result()) == (1, 2)


def test_transactions_that_wait_for_each_other_in_a_circle_both_succeed(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    """On PostgreSQL alone: SQLite has one writer at a time."""
    repository = open_repository(new_database("postgresql", migrated=True))
    model = add_model(repository)
    digest = repository.write(lambda tx: tx.put_content(builders.version(model.rid)))
    both_hold_one = threading.Barrier(2, timeout=180)
    attempts = [0, 0]

    def append_to_both(thread: int) -> None:
        def change(tx: Transaction) -> None:
            attempts[thread] += 1
            for step, branch in enumerate(("a", "b") if thread else ("b", "a")):
                if step == 1 and attempts[thread] == 1:
                    both_hold_one.wait()
                tx.append_version(builders.version(model.rid, branch), digest)

        repository.write(change)

    at_once(2, append_to_both)

    assert max(attempts) > 1  # the database breaks the circle by refusing one of them, now and then both
    for branch in ("a", "b"):
        stored = repository.read(lambda reader, branch=branch: builders.all_versions(reader, model.rid, branch))
        assert [version.version_number for version in stored] == [2, 1]
