"""The file of an SQLite database that is moved, removed or replaced under a server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Barrier

import pytest

from server.core.errors import StorageUnavailable
from server.storage.file_identity import FileIdentity
from server.storage.sql import repository as sql_repository
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from server.storage.unavailable import DatabaseUnsuitable
from tests.builders import add_model
from tests.conftest import OpenRepository
from tests.storage.conftest import at_once
from tests.storage.inspection import at_commit


def put_another_in_place(file: Path) -> None:
    """As a restore does that a server did not wait for."""
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    os.replace(copy, file)


# By what is done to the file.
LOSSES: dict[str, Callable[[Path], object]] = {
    "removed": lambda file: file.unlink(),
    "moved": lambda file: file.rename(file.with_name("elsewhere.db")),
    "replaced": put_another_in_place,
    "folder renamed": lambda file: file.parent.rename(file.parent.with_name("elsewhere")),
    "log removed": lambda file: file.with_name(f"{file.name}-wal").unlink(),
    "log replaced": lambda file: put_another_in_place(file.with_name(f"{file.name}-wal")),
    "index of the log removed": lambda file: file.with_name(f"{file.name}-shm").unlink(),
}
loses = pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture
def file(tmp_path: Path, migrated_sqlite: Path) -> Path:
    """A database in a folder of its own."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(migrated_sqlite, tmp_path / "data/registry.db"))


@pytest.fixture
def repository(file: Path, open_repository: OpenRepository) -> SqlRepository:
    return open_repository(f"sqlite:///{file}")


def refused(call: Callable[[], object]) -> StorageUnavailable:
    """How a call was refused that must not be repeated."""
    with pytest.raises(StorageUnavailable) as caught:
        call()
    assert caught.value.retry_after is None
    return caught.value


@loses
def test_no_change_is_acknowledged_and_the_server_is_not_ready(
    lose: Callable[[Path], object], file: Path, repository: SqlRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_repository, "PROBE_SECONDS", 0)
    add_model(repository)
    repository.require_writable()
    lose(file)
    for _ in range(2):
        assert "was" in str(refused(lambda: add_model(repository)).__cause__)
        refused(repository.require_writable)


@loses
def test_a_change_is_not_acknowledged_if_the_file_goes_away_before_it_is_committed(
    lose: Callable[[Path], object], file: Path, repository: SqlRepository
) -> None:
    add_model(repository)
    with at_commit(lambda _: lose(file), once=True):
        refused(lambda: add_model(repository))


def test_a_file_that_is_put_back_goes_on(file: Path, repository: SqlRepository) -> None:
    add_model(repository)
    elsewhere = file.rename(file.with_name("elsewhere.db"))
    refused(lambda: add_model(repository))
    elsewhere.rename(file)
    repository.ping()
    add_model(repository)


@pytest.mark.parametrize("lose", [LOSSES["removed"], LOSSES["folder renamed"]], ids=["removed", "folder renamed"])
def test_no_connection_makes_a_file_where_there_was_one(
    lose: Callable[[Path], object], file: Path, repository: SqlRepository
) -> None:
    repository.ping()
    lose(file)
    together = Barrier(2, timeout=180)

    def read(_: int) -> bool:
        try:
            # The one that has a connection waits for the other, which needs a new one.
            repository.read(lambda reader: together.wait())
        except StorageUnavailable:
            together.abort()
            return False
        except RuntimeError:  # the barrier is broken
            return True
        return True

    assert sorted(at_once(2, read)) == [False, True]
    assert not file.exists()


def test_a_new_database_is_for_its_owner_alone(file: Path) -> None:
    new = file.with_name("new.db")
    session = database_of(f"sqlite:///{new}").open(None)
    session.run("CREATE TABLE made (id INTEGER)")
    made = sorted(file.parent.glob("new.db*"))
    assert [(each.name, each.stat().st_mode & 0o777) for each in made] == [
        (f"new.db{suffix}", 0o600) for suffix in ("", "-shm", "-wal")
    ]
    session.close()


def test_a_database_that_must_be_a_certain_file_is_no_other(file: Path) -> None:
    url, identity = f"sqlite:///{file}", FileIdentity.of(file)
    database_of(url, identity).open(None).close()
    put_another_in_place(file)
    with pytest.raises(DatabaseUnsuitable, match=r"registry\.db is not the file that this server opened"):
        database_of(url, identity)
    file.unlink()
    with pytest.raises(DatabaseUnsuitable):
        database_of(url, identity)
    assert not file.exists()


def test_a_database_is_opened_by_a_link_and_known_by_what_it_names(
    file: Path, tmp_path: Path, open_repository: OpenRepository
) -> None:
    other, link = tmp_path / "other.db", tmp_path / "link.db"
    shutil.copy(file, other)
    link.symlink_to(file)
    repository = open_repository(f"sqlite:///{link}")
    add_model(repository)
    link.unlink()
    link.symlink_to(other)
    refused(lambda: add_model(repository))
