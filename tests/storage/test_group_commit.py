"""Changes of a database with one writer go together, and yet each for itself; and whoever waits is served."""

from __future__ import annotations

import contextvars
import gc
import itertools
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from modelregistry.v1.model_pb2 import ModelVersion
from server.core import cancellation as deadline
from server.core.cancellation import Call, CallOver
from server.core.errors import Overloaded, StorageUnavailable
from server.storage.contract import Transaction
from server.storage.sql import postgres as postgres_driver
from server.storage.sql import writer_queue
from server.storage.sql.repository import SqlRepository
from server.storage.sql.sqlite import SqliteSession
from server.storage.sql.tables import contents
from tests import builders
from tests.builders import add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.conftest import GivenUp, Held
from tests.storage.inspection import at_commit, break_connection, rows, waiting

WRITERS = 12


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("sqlite", migrated=True)


def test_changes_that_wait_go_together_and_one_that_fails_takes_no_other_along(
    url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(url, pool_size=WRITERS + 1)
    models = [builders.model(str(number)) for number in range(WRITERS)]
    held, commits = Held(), []

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
        first = threads.submit(repository.write, held)
        held.wait_until_begun()
        added = [threads.submit(add, number) for number in range(WRITERS)]
        until(lambda: waiting(repository) == WRITERS)
        held.go_on()
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
    monkeypatch.setattr(writer_queue, "WAIT_SECONDS", 0.1)
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
    with ThreadPoolExecutor(2) as threads:
        with turn_held(url):
            call = Call()

            def lead() -> object:
                deadline.begin(call)
                return append(repository, builders.version(model.rid))

            leader = threads.submit(contextvars.Context().run, lead)
            until(lambda: bool(repository._group_commit._lines))
            follower = threads.submit(append, repository, builders.version(model.rid))
            until(lambda: waiting(repository) == 1)
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
    held = Held()

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(repository.write, held)
        held.wait_until_begun()
        shared = [threads.submit(append, repository, builders.version(model.rid)) for _ in range(3)]
        until(lambda: waiting(repository) == 3)
        with monkeypatch.context() as patched:
            patched.setattr(SqliteSession, "was_warned", lambda _: True)
            held.go_on()
            for outcome in (first, *shared):
                with pytest.raises(StorageUnavailable):
                    outcome.result(60)
    assert append(repository, builders.version(model.rid)).version_number == 4


def test_a_replica_whose_queue_was_removed_makes_it_anew(url: str, open_repository: OpenRepository) -> None:
    first: SqlRepository = open_repository(url)
    model = add_model(first)
    first.close()
    assert append(open_repository(url), builders.version(model.rid)).version_number == 1


# Changes of one branch on PostgreSQL


@pytest.fixture
def postgres(new_database: NewDatabase) -> str:
    return new_database("postgresql", migrated=True)


def extend(repository: SqlRepository, model_rid: str, then: Callable[[Any], None] = lambda tx: None) -> ModelVersion:
    """Append a version to a branch that is locked first."""

    def change(tx: Any) -> ModelVersion:
        builders.lock(tx, model_rid)
        version = builders.version(model_rid)
        appended: ModelVersion = tx.append_version(version, tx.put_content(version))
        then(tx)
        return appended

    return repository.write(change, branch=(model_rid, "master"))


def numbers_of(repository: SqlRepository, model_rid: str) -> list[int]:
    """The numbers of all versions of a branch, the newest first."""
    return [each.version_number for each in repository.read(lambda reader: builders.all_versions(reader, model_rid))]


def test_changes_of_one_branch_go_together_and_those_of_another_on_their_own(
    postgres: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(postgres)
    hot, other = add_model(repository), add_model(repository)
    append(repository, builders.version(hot.rid))
    held, commits = Held(), []

    def fail(tx: object) -> None:
        raise GivenUp

    with at_commit(commits.append), ThreadPoolExecutor(WRITERS) as threads:
        first = threads.submit(extend, repository, hot.rid, held)
        held.wait_until_begun()
        assert extend(repository, other.rid).version_number == 1
        extended = [threads.submit(extend, repository, hot.rid) for _ in range(4)]
        failing = threads.submit(extend, repository, hot.rid, fail)
        extended += [threads.submit(extend, repository, hot.rid) for _ in range(4)]
        until(lambda: waiting(repository) == 9)
        held.go_on()
        assert first.result(60).version_number == 2
        assert isinstance(failing.exception(60), GivenUp)
        assert sorted(each.result(60).version_number for each in extended) == [*range(3, 11)]
    assert len(commits) == 2
    assert numbers_of(repository, hot.rid) == [*range(10, 0, -1)]


def waits_between(tx: Any, model_rid: str, label: str) -> None:
    tx.put_content(builders.version(model_rid, label=label))
    builders.branch_end(tx, model_rid)
    tx.put_content(builders.version(model_rid, label=f"{label} again"))


def waits_last(tx: Any, model_rid: str, label: str) -> None:
    tx.put_content(builders.version(model_rid, label=label))
    builders.branch_end(tx, model_rid)


def waits_first(tx: Any, model_rid: str, label: str) -> None:
    end, version = builders.branch_end(tx, model_rid), builders.version(model_rid, label=label)
    tx.append_version(version, tx.put_content(version), branch=end)


def test_a_change_of_a_group_that_fails_is_undone_however_much_of_it_was_sent(
    postgres: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(postgres)
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    held, running = Held(), {}

    def change(tx: Any, do: Callable[[Any, str, str], None], label: str) -> None:
        builders.lock(tx, model.rid)
        do(tx, model.rid, label)
        if "fails" in label:
            raise GivenUp

    with ThreadPoolExecutor(WRITERS + 1) as threads:
        first = threads.submit(extend, repository, model.rid, held)
        held.wait_until_begun()
        for do, end in itertools.product((waits_between, waits_last, waits_first), ("fails", "ends", "fails again")):
            label = f"{do.__name__} and {end}"
            run = partial(change, do=do, label=label)
            running[label] = threads.submit(repository.write, run, branch=(model.rid, "master"))
        until(lambda: waiting(repository) == len(running))
        held.go_on()
        first.result(60)
        failed = {label for label, each in running.items() if isinstance(each.exception(60), GivenUp)}
    assert failed == {label for label in running if "fails" in label}
    stored = b"".join(row.payload for row in rows(postgres, contents))
    assert {label for label in running if label.encode() in stored} == running.keys() - failed
    assert numbers_of(repository, model.rid) == [3, 2, 1]


@pytest.mark.parametrize(("extends", "locks"), [(True, 1), (False, 2)], ids=["that extends it", "that does not"])
def test_a_branch_is_locked_again_behind_a_change_that_does_not_extend_it(
    postgres: str, open_repository: OpenRepository, extends: bool, locks: int
) -> None:
    """A request that is repeated has locked nothing, if its caller lost the role meanwhile."""
    statements: list[str] = []
    repository = open_repository(postgres, observer=statements.append)
    hot = add_model(repository)
    append(repository, builders.version(hot.rid))
    held = Held()

    def lead(tx: Transaction) -> None:
        builders.lock(tx, hot.rid)
        if extends:
            new = builders.version(hot.rid)
            tx.append_version(new, tx.put_content(new))
        held(tx)

    with ThreadPoolExecutor(WRITERS) as threads:
        leader = threads.submit(repository.write, lead, branch=(hot.rid, "master"))
        held.wait_until_begun()
        following = [threads.submit(extend, repository, hot.rid) for _ in range(3)]
        until(lambda: waiting(repository) == 3)
        held.go_on()
        for each in (leader, *following):
            each.result(60)
    assert sum("FOR UPDATE" in each for each in statements) == locks
    assert numbers_of(repository, hot.rid) == [*range(4 + extends, 0, -1)]


def test_each_change_of_a_group_works_for_its_own_call(url: str, open_repository: OpenRepository) -> None:
    """Not of the call that leads and runs it, which may be over while the others' are not."""
    repository = open_repository(url, pool_size=WRITERS + 1)
    calls = [Call() for _ in range(3)]
    held, seen = Held(), []

    def write(number: int) -> None:
        deadline.begin(calls[number])
        repository.write(lambda tx: held(tx) if number == 0 else seen.append(deadline.current_call()))

    with ThreadPoolExecutor(3) as threads:
        leader = threads.submit(contextvars.Context().run, write, 0)
        held.wait_until_begun()
        others = []
        for number in (1, 2):
            others.append(threads.submit(contextvars.Context().run, write, number))
            until(lambda: waiting(repository) == number)  # noqa: B023 - it is asked here and now
        held.go_on()
        for writing in (leader, *others):
            writing.result(60)
    assert seen == calls[1:]


class Line:
    """A branch with a version, and changes that wait in its line until the first one, which is held, goes on."""

    def __init__(self, repository: SqlRepository, threads: ThreadPoolExecutor):
        self.model_rid = add_model(repository).rid
        append(repository, builders.version(self.model_rid))
        self._repository = repository
        self._threads = threads
        self._held = Held()
        self._length = 0
        self.first = threads.submit(extend, repository, self.model_rid, self._held)
        self._held.wait_until_begun()

    def extend(self, then: Callable[[Any], None] = lambda tx: None) -> Future[ModelVersion]:
        """Let a change wait that extends the branch."""
        return self._waiting(lambda: extend(self._repository, self.model_rid, then))

    def write(self, change: Callable[[Any], None]) -> Future[None]:
        """Let any change wait."""
        return self._waiting(lambda: self._repository.write(change, branch=(self.model_rid, "master")))

    def go_on(self) -> None:
        self._held.go_on()

    def _waiting(self, run: Callable[[], Any]) -> Future[Any]:
        self._length += 1
        running = self._threads.submit(run)
        until(lambda: waiting(self._repository) == self._length)
        return running


def test_what_the_database_says_to_one_of_several_is_told_to_none_of_the_others(
    postgres: str, open_repository: OpenRepository
) -> None:
    """Statements are sent without waiting for their end, so an error comes when another change may be at work."""
    repository = open_repository(postgres)

    def break_it(tx: Any) -> None:
        tx.session.run("SELECT 1/0", wait=False)

    with ThreadPoolExecutor(WRITERS) as threads:
        line = Line(repository, threads)
        before = [line.extend() for _ in range(2)]
        broken = line.extend(break_it)
        after = [line.extend() for _ in range(2)]
        line.go_on()
        numbers = [each.result(60).version_number for each in (line.first, *before, *after)]
        assert isinstance(broken.exception(60), psycopg.errors.DivisionByZero)
    assert sorted(numbers) == [2, 3, 4, 5, 6]
    assert numbers_of(repository, line.model_rid) == [*range(6, 0, -1)]


def test_each_change_of_a_group_is_told_what_the_database_says_to_it_alone(
    postgres: str, open_repository: OpenRepository
) -> None:
    runs = []

    def find_no_room(tx: Any) -> None:
        runs.append(None)
        builders.lock(tx, line.model_rid)
        # So that others come to wait for it.
        tx.session.run("SELECT pg_sleep(0.05)")
        tx.session.run("DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$", wait=False)

    with ThreadPoolExecutor(WRITERS) as threads:
        line = Line(open_repository(postgres), threads)
        others = [line.write(find_no_room) for _ in range(WRITERS - 1)]
        line.go_on()
        assert line.first.result(60).version_number == 2
        assert {type(each.exception(60)) for each in others} == {StorageUnavailable}
    assert len(runs) <= 2 * len(others)


def test_a_change_that_loses_its_connection_takes_no_other_along(
    postgres: str, open_repository: OpenRepository
) -> None:
    def lose(tx: Any) -> None:
        builders.lock(tx, line.model_rid)
        break_connection(postgres, tx.session)
        builders.branch_end(tx, line.model_rid)

    with ThreadPoolExecutor(WRITERS) as threads:
        line = Line(open_repository(postgres), threads)
        losing = [line.write(lose) for _ in range(5)]
        extended = [line.extend() for _ in range(WRITERS - 6)]
        line.go_on()
        numbers = [each.result(60).version_number for each in (line.first, *extended)]
        assert {type(each.exception(60)) for each in losing} == {StorageUnavailable}
    assert sorted(numbers) == [*range(2, WRITERS - 3)]


def test_a_change_that_waits_for_too_long_lets_the_others_of_its_group_go_on(
    postgres: str, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_driver._TIMEOUTS, "lock_timeout", 1)
    runs = []

    def wait_for_a_lock(tx: Any) -> None:
        runs.append(None)
        tx.session.run("SELECT pg_advisory_xact_lock(1)")

    with ThreadPoolExecutor(WRITERS) as threads, psycopg.connect(postgres) as other:
        other.execute("SELECT pg_advisory_lock(1)")
        line = Line(open_repository(postgres), threads)
        late = line.extend(wait_for_a_lock)
        extended = [line.extend() for _ in range(4)]
        line.go_on()
        assert isinstance(late.exception(60), Overloaded)
        assert sorted(each.result(60).version_number for each in (line.first, *extended)) == [*range(2, 7)]
    assert len(runs) == 1


def test_a_change_that_failed_leaves_nothing_to_the_garbage_collector(
    url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(url)

    class Change:
        def __call__(self, tx: object) -> None:
            raise GivenUp

    gc.disable()
    try:
        change = Change()
        with pytest.raises(GivenUp):
            repository.write(change)
        gone = weakref.ref(change)
        del change
        assert gone() is None
    finally:
        gc.enable()


def test_a_call_that_is_over_while_it_waits_for_another_replica_leaves_the_lead(
    postgres: str, open_repository: OpenRepository
) -> None:
    ours, theirs = open_repository(postgres), open_repository(postgres)
    model = add_model(ours)
    append(ours, builders.version(model.rid))
    held, call = Held(), Call()

    def lead() -> ModelVersion:
        deadline.begin(call)
        return extend(ours, model.rid)

    with ThreadPoolExecutor(3) as threads:
        holding = threads.submit(extend, theirs, model.rid, held)
        held.wait_until_begun()
        leader = threads.submit(contextvars.Context().run, lead)
        until(lambda: bool(ours._group_commit._lines))
        follower = threads.submit(extend, ours, model.rid)
        until(lambda: waiting(ours) == 1)
        call.end()
        assert isinstance(leader.exception(60), CallOver)
        assert not follower.done()
        held.go_on()
        assert holding.result(60).version_number == 2
        assert follower.result(60).version_number == 3


def test_a_refusal_that_rests_on_what_was_rolled_back_is_not_told(
    postgres: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(postgres)
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    held, runs, breaks = Held(), [], []

    def lead(tx: Any) -> None:
        builders.lock(tx, model.rid)
        runs.append(1)
        if len(runs) == 1:
            version = builders.version(model.rid)
            tx.append_version(version, tx.put_content(version))
            held(tx)

    def refuse(tx: Any) -> int:
        builders.lock(tx, model.rid)
        number = builders.branch_end(tx, model.rid).next_number
        if number > 2:
            raise GivenUp
        return number

    def break_once(tx: Any) -> None:
        breaks.append(1)
        if len(breaks) == 1:
            break_connection(postgres, tx.session)
        builders.branch_end(tx, model.rid)

    branch = (model.rid, "master")
    with ThreadPoolExecutor(3) as threads:
        leader = threads.submit(repository.write, lead, branch=branch)
        held.wait_until_begun()
        refusing = threads.submit(repository.write, refuse, branch=branch)
        until(lambda: waiting(repository) == 1)
        breaking = threads.submit(repository.write, break_once, branch=branch)
        until(lambda: waiting(repository) == 2)
        held.go_on()
        leader.result(60)
        assert refusing.result(60) == 2
        breaking.result(60)
    assert numbers_of(repository, model.rid) == [1]
