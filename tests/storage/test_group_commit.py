"""Changes of a database with one writer go together, and yet each for itself; and whoever waits is served."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from server.core import cancellation as deadline
from server.core.cancellation import Call, CallOver
from server.core.errors import Overloaded, StorageUnavailable
from server.storage.sql import file_queue
from server.storage.sql.repository import SqlRepository
from server.storage.sql.sqlite import SqliteSession
from tests import builders
from tests.builders import add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.conftest import GivenUp
from tests.storage.inspection import at_commit

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

    with at_commit(commits.append), ThreadPoolExecutor(WRITERS + 1) as threads:
        first = threads.submit(repository.write, slow)
        assert begun.wait(30)
        added = [threads.submit(add, number) for number in range(WRITERS)]
        while len(repository._group_commit._waiting) < WRITERS:  # type: ignore[union-attr]
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


@contextmanager
def turn_held(url: str) -> Iterator[None]:
    """Another process has the turn meanwhile."""
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.flock(file, fcntl.LOCK_EX);"
        " print(flush=True); sys.stdin.read()"
    )
    file = f"{url.removeprefix('sqlite:///')}-turn"
    with subprocess.Popen(
        [sys.executable, "-c", holder, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.communicate()


def test_who_waits_for_the_turn_of_another_process_does_not_do_so_for_ever(
    url: str, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_queue, "WAIT_SECONDS", 0.1)
    repository = open_repository(url)
    model = add_model(repository)
    with turn_held(url):
        for _ in range(2):
            with pytest.raises(Overloaded):
                append(repository, builders.version(model.rid))
    # The place in the queue that was left is not in anybody's way, neither in ours nor in another's.
    assert append(repository, builders.version(model.rid)).version_number == 1
    assert append(open_repository(url), builders.version(model.rid)).version_number == 2
    assert append(repository, builders.version(model.rid)).version_number == 3


def test_a_call_that_is_over_leaves_the_lead_to_who_still_waits_for_the_turn(
    url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(url)
    model = add_model(repository)
    writer = repository._group_commit
    assert writer
    with ThreadPoolExecutor(2) as threads:
        with turn_held(url):
            call = Call()

            def lead() -> object:
                deadline.begin(call)
                return append(repository, builders.version(model.rid))

            leader = threads.submit(contextvars.Context().run, lead)
            until(lambda: len(writer._waiting) == 1)
            follower = threads.submit(append, repository, builders.version(model.rid))
            until(lambda: len(writer._waiting) == 2)
            call.end()
            with pytest.raises(CallOver):
                leader.result(60)
            assert not follower.done()
        assert follower.result(60).version_number == 1


def test_a_commit_that_fails_fails_for_all_who_share_it(
    url: str, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = open_repository(url, pool_size=WRITERS + 1)
    model = add_model(repository)
    begun, all_wait = threading.Event(), threading.Event()

    def slow(tx: object) -> None:
        begun.set()
        assert all_wait.wait(60)

    writer = repository._group_commit
    assert writer
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(repository.write, slow)
        assert begun.wait(60)
        shared = [threads.submit(append, repository, builders.version(model.rid)) for _ in range(3)]
        until(lambda: len(writer._waiting) == 3)
        with monkeypatch.context() as patched:
            patched.setattr(SqliteSession, "was_warned", lambda _: True)
            all_wait.set()
            for outcome in (first, *shared):
                with pytest.raises(StorageUnavailable):
                    outcome.result(60)
    assert append(repository, builders.version(model.rid)).version_number == 4


def test_a_replica_whose_queue_was_removed_makes_it_anew(url: str, open_repository: OpenRepository) -> None:
    first: SqlRepository = open_repository(url)
    model = add_model(first)
    first.close()
    assert append(open_repository(url), builders.version(model.rid)).version_number == 1
