"""Commits that wait for a standby, as those of deploy/ha do: what is acknowledged was waited for."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import psycopg
import pytest

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from server.core.cancellation import Call, CallOver, begin
from server.core.errors import StorageUnavailable
from server.rules.promotion import promote_version
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import NewDatabase, OpenRepository, migrate
from tests.postgres import PostgresServer, create_database
from tests.processes import until
from tests.storage.inspection import statements

DEADLINE_SECONDS = 180
INTERRUPTIONS = ["pg_cancel_backend", "pg_terminate_backend"]

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND xact_start > %s"


class Lonely:
    """A primary that waits for a standby which is not there, and a promotion on it of a version."""

    def __init__(
        self, url: str, repository: SqlRepository, source: ModelVersion, request: PromoteVersionRequest
    ) -> None:
        self.repository = repository
        self.source = source
        self._url = url
        self._request = request

    @contextlib.contextmanager
    def promoting(self, repeatable: bool) -> Iterator[Future[ModelVersion]]:
        """Promote in a thread, inside; what waits at the end waits no more."""

        def promote() -> ModelVersion:
            return self.repository.write(lambda tx: promote_version(tx, ADMIN, self._request), repeatable=repeatable)

        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(promote)
            finally:
                self.stop_waiting()

    @contextlib.contextmanager
    def promoting_for(self, call: Call, request: PromoteVersionRequest) -> Iterator[Future[ModelVersion]]:
        """Promote for a call, in a thread, inside; what waits at the end waits no more."""

        def run() -> ModelVersion:
            begin(call)
            return self.repository.write(lambda tx: promote_version(tx, ADMIN, request))

        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(contextvars.Context().run, run)
            finally:
                self.stop_waiting()

    def interrupt_another(self) -> None:
        """Return when a read was interrupted, since its call is over."""
        call = Call()

        def read(reader: Any) -> None:
            call.end()
            reader.session.run("SELECT pg_sleep(3600)")

        def run() -> None:
            begin(call)
            self.repository.read(read)

        with pytest.raises(CallOver):
            contextvars.Context().run(run)

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def await_waiting(self, running: Future[ModelVersion], since: datetime | None = None) -> int:
        """Return which backend waits for the standby, in a transaction that began after an instant."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := self.execute(WAITING, since or datetime.min)):
            assert not running.done(), f"it was not waited for: {running.exception() or running.result()}"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return found[0][0]

    def stop_waiting(self) -> None:
        """Want no standby any more, which lets everything go on."""
        self.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.execute("SELECT pg_reload_conf()")


@pytest.fixture
def lonely(open_repository: OpenRepository) -> Iterator[Lonely]:
    with PostgresServer(in_memory=True, fsync="off") as server:
        url = create_database(server.url())
        migrate(url)
        repository = open_repository(url)
        source = append(repository, builders.version(add_model(repository).rid))
        request = PromoteVersionRequest(
            model_rid=add_model(repository).rid,
            source_model_version_rid=source.rid,
            request_id="6a3e0c3f-8e7b-4b58-9d9c-0d3c3ff1a3a7",
            preview=True,
        )
        lonely = Lonely(server.url(), repository, source, request)
        lonely.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
        server.stop()
        server.start()
        yield lonely


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_request_whose_commit_was_not_waited_for_is_acknowledged_when_it_has_been(
    lonely: Lonely, interruption: str
) -> None:
    """It is done here all the same; but nobody may be told before the standby has it."""
    with lonely.promoting(repeatable=True) as running:
        waiting = lonely.await_waiting(running)
        [[before]] = lonely.execute("SELECT now()")
        lonely.execute(f"SELECT {interruption}(%s)", waiting)
        lonely.await_waiting(running, since=before)
        assert not running.done()
        lonely.stop_waiting()
        made = running.result(DEADLINE_SECONDS)
    stored = lonely.repository.read(lambda reader: builders.all_versions(reader, made.model_rid))
    assert [version.rid for version in stored] == [made.rid]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_change_whose_commit_was_not_waited_for_has_an_unknown_end(lonely: Lonely, interruption: str) -> None:
    with lonely.promoting(repeatable=False) as running:
        lonely.execute(f"SELECT {interruption}(%s)", lonely.await_waiting(running))
        error = running.exception(DEADLINE_SECONDS)
    assert isinstance(error, StorageUnavailable)
    assert error.retry_after is None


def test_what_the_database_warned_of_before_says_nothing_of_a_commit(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    repository = open_repository(new_database("postgresql", migrated=True), pool_size=1)
    warn = "DO $$ BEGIN RAISE WARNING 'of a collation, such as when a database is first used'; END $$"
    repository.read(lambda reader: reader.session.run(warn))  # type: ignore[attr-defined]
    assert repository.write(lambda tx: "changed") == "changed"


@pytest.mark.parametrize("branch", ["master", "new"])
def test_a_commit_waits_for_its_standby_though_its_call_is_over(lonely: Lonely, branch: str) -> None:
    """Otherwise others would see what may not last."""
    into, call = lonely.source.model_rid, Call()
    request = PromoteVersionRequest(
        model_rid=into, source_model_version_rid=lonely.source.rid, branch=branch, preview=True
    )

    def stored() -> list[str]:
        versions = lonely.repository.read(lambda reader: builders.all_versions(reader, into, branch))
        return [version.rid for version in versions]

    before = stored()
    with lonely.promoting_for(call, request) as running:
        waiting = lonely.await_waiting(running)
        call.end()
        # What would have come of it has come by then.
        lonely.interrupt_another()
        assert lonely.await_waiting(running) == waiting
        assert stored() == before
        lonely.stop_waiting()
        made = running.result(DEADLINE_SECONDS)
    assert stored() == [made.rid, *before]


def test_a_commit_waits_for_its_standby_for_longer_than_a_statement_may_take(lonely: Lonely) -> None:
    lonely.execute("ALTER SYSTEM SET statement_timeout = '300ms'")
    lonely.execute("SELECT pg_reload_conf()")
    until(lambda: lonely.execute("SHOW statement_timeout") == [("300ms",)])
    with lonely.promoting(repeatable=False) as running:
        waiting = lonely.await_waiting(running)
        with pytest.raises(psycopg.errors.QueryCanceled):
            lonely.execute("SELECT pg_sleep(3600)")
        assert lonely.await_waiting(running) == waiting
        lonely.stop_waiting()
        assert running.result(DEADLINE_SECONDS).version_number == 1


def test_a_change_of_what_decides_waits_for_a_promotion_that_waits_for_its_standby(lonely: Lonely) -> None:
    with lonely.promoting(repeatable=False) as running, ThreadPoolExecutor(1) as thread, statements() as sent:
        lonely.await_waiting(running)
        settling = thread.submit(lonely.repository.settle)
        until(lambda: settling.done() or sum("virtualtransaction" in each.statement for each in sent) >= 2)
        assert not settling.done()
        lonely.stop_waiting()
        settling.result(DEADLINE_SECONDS)
        assert running.result(DEADLINE_SECONDS).version_number == 1
