"""What callers are told while the database cannot be reached, or is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Barrier

import pytest

from modelregistry.v1.model_pb2 import Model
from server.core.errors import Overloaded, StorageUnavailable
from server.storage.contract import Repository, Transaction
from server.storage.paging import PageRequest
from server.storage.sql import repository as sql_repository
from server.storage.sql import sqlite
from server.storage.sql.repository import ATTEMPTS
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import NewDatabase, OpenRepository, migrate
from tests.e2e.database_proxy import DatabaseProxy
from tests.postgres import PostgresServer, create_database
from tests.storage.conftest import at_once
from tests.storage.inspection import opened

SOON_SECONDS = 15
# More than a call has attempts.
CONNECTIONS = ATTEMPTS + 3

CALLS: dict[str, Callable[[Repository], object]] = {
    "ping": lambda repository: repository.ping(),
    "read": lambda repository: repository.read(lambda reader: reader.list_models(ADMIN, None, PageRequest(1))),
    "write": lambda repository: repository.write(lambda tx: tx.add_model(builders.model())),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("kind", ["refused", "no file"])
def test_an_unreachable_database_is_unavailable_at_once(
    call: Callable[[Repository], object], kind: str, open_repository: OpenRepository, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    urls = {
        "refused": "postgresql://postgres@127.0.0.1:1/registry",
        "no file": f"sqlite:///{tmp_path}/file/registry.db",
    }
    repository = open_repository(urls[kind])
    begin = time.monotonic()

    with pytest.raises(StorageUnavailable):
        call(repository)

    assert time.monotonic() - begin < SOON_SECONDS


def test_a_database_that_stops_is_unavailable_until_it_is_back(open_repository: OpenRepository) -> None:
    with PostgresServer(in_memory=True, fsync="off") as server:
        url = create_database(server.url())
        migrate(url)
        repository = open_repository(url)
        model = add_model(repository)
        append(repository, builders.version(model.rid))
        server.stop()
        for call in CALLS.values():
            with pytest.raises(StorageUnavailable):
                call(repository)
        server.start()
        repository.ping()
        assert append(repository, builders.version(model.rid)).version_number == 2


def test_a_call_after_an_interruption_meets_one_lost_connection_of_many(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    """Each that it met would be an attempt, and in a network that swallows packets a long wait."""
    url = new_database("postgresql", migrated=True)
    with DatabaseProxy(url) as proxy:
        repository = open_repository(proxy.url, pool_size=CONNECTIONS)
        together = Barrier(CONNECTIONS, timeout=180)
        # One connection for each, since all are asked for before one is given back.
        at_once(CONNECTIONS, lambda _: repository.read(lambda reader: together.wait()))
        proxy.close()
        proxy.open()

        repository.ping()


@pytest.mark.parametrize("how", ["read", "written to", "lost in the middle"])
def test_a_call_meets_one_lost_connection_of_many_however_it_is_met(
    new_database: NewDatabase, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url = new_database("postgresql", migrated=True)
    # What is met beside the one that was lost is one too many.
    monkeypatch.setattr(sql_repository, "ATTEMPTS", 2)
    with DatabaseProxy(url) as proxy:
        repository = open_repository(proxy.url, pool_size=CONNECTIONS)
        model = add_model(repository)
        together = Barrier(CONNECTIONS, timeout=180)
        at_once(CONNECTIONS, lambda _: repository.read(lambda reader: together.wait()))
        runs: list[object] = []

        def lose(tx: Transaction) -> Model:
            runs.append(tx)
            if len(runs) == 1:
                proxy.close()
                proxy.open()
            return tx.get_model(model.rid, ADMIN).model

        if how == "lost in the middle":
            assert repository.write(lose) == model
            assert len(runs) == 2
        else:
            proxy.close()
            proxy.open()
            if how == "read":
                assert repository.read(lambda reader: reader.get_model(model.rid, ADMIN)).model == model
            else:
                assert append(repository, builders.version(model.rid)).version_number == 1


def test_sqlite_answers_overloaded_where_another_process_holds_the_lock(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And certainly did nothing then."""
    monkeypatch.setattr(sqlite, "WAIT_SECONDS", 0.1)
    url = new_database("sqlite", migrated=True)
    with opened(url) as (other, repository):
        with other.begin(), pytest.raises(Overloaded):
            add_model(repository)
        assert repository.read(lambda reader: reader.list_models(ADMIN, None, PageRequest(1))).items == []
        add_model(repository)


def test_a_damaged_file_is_unavailable(new_database: NewDatabase, open_repository: OpenRepository) -> None:
    url = new_database("sqlite", migrated=True)
    Path(url.removeprefix("sqlite:///")).write_bytes(b"no database at all " * 1000)
    repository = open_repository(url)
    for call in CALLS.values():
        with pytest.raises(StorageUnavailable):
            call(repository)
