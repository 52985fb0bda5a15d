"""Work for a call that is over: it ends wherever it is, but for a COMMIT; and nobody else's work ever does."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from server.core import cancellation as deadline
from server.core.cancellation import Call, CallOver
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from server.storage.sql.session import Session
from tests import builders
from tests.builders import ADMIN, add_model
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.inspection import waiting as changes_waiting

T = TypeVar("T")

DEADLINE_SECONDS = 180

ENDLESS = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}
Begin = Callable[[Call, Callable[[], T]], Future[T]]


@pytest.fixture
def begin() -> Iterator[Begin[Any]]:
    """Begins work for a call in a thread."""
    with ThreadPoolExecutor(8) as threads:

        def begin(call: Call, work: Callable[[], T]) -> Future[T]:
            def work_for_call() -> T:
                deadline.begin(call)
                return work()

            return threads.submit(contextvars.Context().run, work_for_call)

        yield begin


def endless(session: Session) -> None:
    """Do what ends only when it is interrupted."""
    session.run(ENDLESS[session.dialect.name])


def identity(repository: SqlRepository) -> object:
    """What tells one connection from another, of a repository that has one at a time."""
    return repository.read(lambda reader: id(reader.session.driver))


def test_a_read_ends_with_its_call_and_its_connection_serves_nobody_else(
    migrated_url: str, open_repository: OpenRepository, begin: Begin[Any]
) -> None:
    repository = open_repository(migrated_url, pool_size=1)
    kept: list[object] = []
    runs = threading.Event()

    def query(reader: Any) -> None:
        kept.append(reader.session.driver)
        runs.set()
        endless(reader.session)

    call = Call()
    running = begin(call, lambda: repository.read(query))
    assert runs.wait(DEADLINE_SECONDS)
    call.end()

    assert isinstance(running.exception(DEADLINE_SECONDS), CallOver)
    assert identity(repository) != id(kept[0])
    assert repository.connections() == (0, 1, 1)


def test_what_is_begun_while_the_interruption_is_on_its_way_ends_too(
    repository: SqlRepository, begin: Begin[Any]
) -> None:
    call = Call()

    def query(reader: Any) -> None:
        # Between two statements, when there is nothing to interrupt.
        call.end()
        endless(reader.session)

    assert isinstance(begin(call, lambda: repository.read(query)).exception(DEADLINE_SECONDS), CallOver)


def test_a_call_that_ended_is_not_begun(repository: SqlRepository, begin: Begin[Any]) -> None:
    begun: list[None] = []
    over = Call()
    over.end()
    for call in (over, Call(seconds=0)):
        for ask in (repository.read, repository.write):
            running = begin(call, lambda ask=ask: ask(lambda _: begun.append(None)))
            assert isinstance(running.exception(DEADLINE_SECONDS), CallOver)
    assert begun == []


def test_a_call_that_ends_after_its_work_disturbs_nobody(
    migrated_url: str, open_repository: OpenRepository, begin: Begin[Any]
) -> None:
    repository = open_repository(migrated_url, pool_size=1)
    done = Call()
    first = begin(done, lambda: identity(repository)).result(DEADLINE_SECONDS)
    done.end()
    assert identity(repository) == first


def test_who_waits_for_a_connection_waits_no_longer_than_the_call(
    migrated_url: str, open_repository: OpenRepository, begin: Begin[Any]
) -> None:
    repository = open_repository(migrated_url, pool_size=1)
    goes_on, runs = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        runs.set()
        assert goes_on.wait(DEADLINE_SECONDS)

    holding = begin(Call(), lambda: repository.read(hold))
    assert runs.wait(DEADLINE_SECONDS)
    cancelled = Call()
    waiting = [begin(call, lambda: repository.read(lambda _: None)) for call in (cancelled, Call(seconds=0.2))]
    cancelled.end()

    assert [type(each.exception(DEADLINE_SECONDS)) for each in waiting] == [CallOver, CallOver]
    goes_on.set()
    assert holding.exception(DEADLINE_SECONDS) is None


def test_a_change_is_not_committed_for_a_call_that_is_over(
    new_database: NewDatabase, open_repository: OpenRepository, begin: Begin[Any]
) -> None:
    repository = open_repository(new_database("postgresql", migrated=True))
    call = Call()

    def change(tx: Any) -> None:
        tx.add_model(builders.model("churn"))
        call.end()

    assert isinstance(begin(call, lambda: repository.write(change)).exception(DEADLINE_SECONDS), CallOver)
    assert add_model(repository, "churn")


def test_changes_that_go_together_on_sqlite_do_not_end_together(
    new_database: NewDatabase, open_repository: OpenRepository, begin: Begin[Any]
) -> None:
    """Each change waits as long as its own call, and the end of the leading call ends no other change."""
    repository = open_repository(new_database("sqlite", migrated=True))
    goes_on, runs = threading.Event(), threading.Event()

    def hold(tx: Any) -> None:
        runs.set()
        assert goes_on.wait(DEADLINE_SECONDS)

    calls = [Call() for _ in range(4)]
    holding = begin(calls[0], lambda: repository.write(hold))
    assert runs.wait(DEADLINE_SECONDS)
    names = [f"model-{number}" for number in range(1, 4)]
    waiting = [
        begin(call, lambda name=name: repository.write(lambda tx: tx.add_model(builders.model(name))))
        for call, name in zip(calls[1:], names, strict=True)
    ]
    until(lambda: changes_waiting(repository) == len(waiting))
    calls[2].end()
    assert isinstance(waiting[1].exception(DEADLINE_SECONDS), CallOver)
    calls[0].end()
    goes_on.set()

    assert isinstance(holding.exception(DEADLINE_SECONDS), CallOver)
    assert [waiting[number].result(DEADLINE_SECONDS).name for number in (0, 2)] == [names[0], names[2]]
    stored = repository.read(lambda reader: reader.list_models(ADMIN, None, PageRequest(builders.ALL))).items
    assert {model.name for model in stored} == {names[0], names[2]}
