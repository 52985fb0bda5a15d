"""Changes of a database with one writer go together, and yet each for itself; and whoever waits is served."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.storage.conftest import GivenUp

WRITERS = 12


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("sqlite", migrated=True)


def test_changes_that_wait_go_together_and_one_that_fails_takes_no_other_along(
    url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(url, pool_size=WRITERS + 1)
    models = [builders.model(str(number)) for number in range(WRITERS)]
    begun, all_wait, commits = threading.Event(), threading.Event(), []

    def slow(tx: object) -> None:
        begun.set()
        assert all_wait.wait(30)

    def add(number: int) -> bool:
        def change(tx: object) -> None:
            tx.add_model(models[number])  # type: ignore[attr-defined]
            if number % 3 == 0:
                raise GivenUp

        try:
            repository.write(change)
        except GivenUp:
            return False
        return True

    with ThreadPoolExecutor(WRITERS + 1) as threads:
        first = threads.submit(repository.write, slow)
        assert begun.wait(30)
        event.listen(repository._engine, "commit", lambda connection: commits.append(connection))
        added = [threads.submit(add, number) for number in range(WRITERS)]
        while len(repository._one_writer._waiting) < WRITERS:  # type: ignore[union-attr]
            assert not all_wait.wait(0.001)
        all_wait.set()
        first.result()
        outcomes = [done.result() for done in added]
    assert outcomes == [number % 3 != 0 for number in range(WRITERS)]
    listed = repository.read(lambda reader: reader.list_models(builders.ADMIN, None, builders.PageRequest(100))).items
    assert {each.rid for each in listed} == {models[n].rid for n in range(WRITERS) if n % 3}
    assert len(commits) <= 2


def test_writers_of_several_processes_take_turns(url: str, open_repository: OpenRepository) -> None:
    replicas = [open_repository(url) for _ in range(2)]
    model, order = add_model(replicas[0]), []
    done = threading.Event()

    def write_on(number: int) -> None:
        while not done.is_set():
            append(replicas[number], builders.version(model.rid, f"b{number}"))
            order.append(number)
            if len(order) >= 200:
                done.set()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write_on, range(2)))
    # Each has about half; whoever just had the turn never keeps it for long.
    assert min(order.count(0), order.count(1)) > len(order) / 4


def test_a_replica_whose_queue_was_removed_makes_it_anew(url: str, open_repository: OpenRepository) -> None:
    first: SqlRepository = open_repository(url)
    model = add_model(first)
    first.close()
    assert append(open_repository(url), builders.version(model.rid)).version_number == 1
