"""A database file that can grow no more, and the reserve beside it. tests/siege fills a real disk."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER, Grant
from server.core.errors import StorageUnavailable
from server.storage.contract import Repository, Transaction
from server.storage.sql import disk_reserve
from server.storage.sql import repository as sql_repository
from server.storage.sql.repository import SqlRepository
from server.storage.sql.sqlite import SqliteSession
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.conftest import Held
from tests.storage.inspection import opened, waiting
from tests.storage.plans import each_opened

RESERVE = 2**20
LARGE = 2**20
WRITERS = 4
DISK_FULL = "The disk of the database is full"


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("sqlite", migrated=True)


@pytest.fixture
def file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@pytest.fixture
def reserve(file: Path) -> Path:
    return file.with_name(f"{file.name}-reserve")


@pytest.fixture
def repository(url: str, open_repository: OpenRepository) -> SqlRepository:
    return open_repository(url, disk_reserve=RESERVE)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes are said to be free; none at first."""

    def set_(size: int) -> None:
        monkeypatch.setattr(disk_reserve, "free_bytes", lambda _: size)

    set_(0)
    return set_


def set_grant(repository: Repository, role: Any, **options: Any) -> None:
    given = Grant(resource_rid=builders.FOLDER, principal="user:jane", role=role)
    repository.write(lambda tx: tx.set_grant(given, "user:admin"), **options)


def needs_room(tx: Transaction) -> None:
    """Store more than the pages that the file has."""
    for number in range(8):
        model = tx.add_model(builders.model())
        new = builders.version(model.rid, label=f"large {number}", size=LARGE // 8)
        tx.append_version(new, tx.put_content(new))


def assert_full(call: Callable[[], object]) -> None:
    with pytest.raises(StorageUnavailable, match=DISK_FULL) as refused:
        call()
    # Nothing was done, and there may be room later.
    assert refused.value.retry_after is not None


def growing_no_more() -> AbstractContextManager[None]:
    """A file that is opened meanwhile keeps the pages that it has: SQLite itself finds no room for more."""
    return each_opened(SqliteSession, lambda driver: driver.execute("PRAGMA max_page_count = 1"))


@pytest.fixture
def grows_no_more(url: str) -> Iterator[None]:
    with growing_no_more():
        yield


@pytest.mark.usefixtures("grows_no_more")
def test_a_change_that_finds_no_room_is_told_so_and_leaves_nothing(url: str, open_repository: OpenRepository) -> None:
    repository = open_repository(url)
    model = add_model(repository)
    assert_full(lambda: repository.write(needs_room))
    assert repository.read(lambda reader: reader.list_models(ADMIN, None, builders.PageRequest(10))).items == [model]
    set_grant(repository, ROLE_VIEWER)


@pytest.mark.usefixtures("grows_no_more")
def test_one_that_finds_no_room_takes_none_along_that_do(url: str, open_repository: OpenRepository) -> None:
    repository, held = open_repository(url, pool_size=WRITERS + 2), Held()
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    with ThreadPoolExecutor(WRITERS + 2) as threads:
        first = threads.submit(repository.write, held)
        held.wait_until_begun()
        large = threads.submit(repository.write, needs_room)
        small = [threads.submit(append, repository, builders.version(model.rid)) for _ in range(WRITERS)]
        until(lambda: waiting(repository) == WRITERS + 1)
        held.go_on()
        first.result()
        assert_full(large.result)
        assert sorted(done.result().version_number for done in small) == list(range(2, WRITERS + 2))


@pytest.mark.usefixtures("grows_no_more")
def test_the_reserve_is_given_up_for_what_may_use_it_and_kept_from_all_else(
    repository: SqlRepository, reserve: Path, free: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    assert reserve.stat().st_blocks * 512 >= RESERVE
    assert reserve.stat().st_mode & 0o777 == 0o600
    assert_full(lambda: repository.write(needs_room))
    assert reserve.stat().st_size == RESERVE

    # Here, it helps nothing; what finds room then is stored.
    assert_full(lambda: repository.write(needs_room, may_use_reserve=True))
    assert reserve.stat().st_size == 0
    assert [record.levelname for record in caplog.records if "was given up" in record.message] == ["ERROR"]
    set_grant(repository, ROLE_OWNER, may_use_reserve=True)
    for call in (lambda: set_grant(repository, ROLE_VIEWER), repository.require_writable):
        assert_full(call)
    assert repository.read(lambda reader: reader.get_role(builders.FOLDER, builders.caller("user:jane"))) == ROLE_OWNER

    free(2 * RESERVE - 1)
    assert_full(repository.require_writable)
    free(2 * RESERVE)
    repository.require_writable()
    assert reserve.stat().st_size == RESERVE
    assert [record.levelname for record in caplog.records if "is held again" in record.message] == ["WARNING"]
    set_grant(repository, ROLE_VIEWER)


def test_all_processes_share_the_reserve(
    url: str, repository: SqlRepository, reserve: Path, open_repository: OpenRepository
) -> None:
    """One that keeps none, such as the garbage collection, gives up that of the servers."""
    other = open_repository(url)
    with growing_no_more():
        assert_full(lambda: other.write(needs_room, may_use_reserve=True))
    assert reserve.stat().st_size == 0
    for each in (repository, other):
        assert_full(lambda each=each: add_model(each))  # type: ignore[misc]
    other.close()
    repository.require_writable()
    assert reserve.stat().st_size == RESERVE
    add_model(repository)


def test_there_may_be_no_reserve(url: str, open_repository: OpenRepository, reserve: Path) -> None:
    with growing_no_more():
        repository = open_repository(url)
        assert_full(lambda: repository.write(needs_room, may_use_reserve=True))
    assert not reserve.exists()
    set_grant(repository, ROLE_VIEWER)
    for size in (RESERVE, 2 * RESERVE, RESERVE // 2):
        open_repository(url, disk_reserve=size)
        assert reserve.stat().st_size == size
    open_repository(url, disk_reserve=0)
    assert not reserve.exists()


def test_a_reserve_for_which_there_is_no_room_counts_as_given_up(
    url: str,
    open_repository: OpenRepository,
    reserve: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def find_no_room(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", find_no_room)
    repository = open_repository(url, disk_reserve=RESERVE)
    assert reserve.stat().st_size == 0
    assert "--disk-reserve" in caplog.text
    assert_full(lambda: add_model(repository))
    monkeypatch.undo()
    repository.require_writable()
    add_model(repository)


def test_a_database_that_others_keep_busy_is_not_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_repository, "PROBE_PATIENCE_SECONDS", 0.1)
    with opened(url) as (other, repository), other.begin():
        repository.require_writable()


def test_a_database_that_cannot_be_written_is_not_ready(url: str, open_repository: OpenRepository) -> None:
    with each_opened(SqliteSession, lambda driver: driver.execute("PRAGMA query_only = ON")):
        repository = open_repository(url)
        with pytest.raises(StorageUnavailable):
            repository.require_writable()


def test_whether_it_can_be_written_is_tried_now_and_then(
    url: str, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_repository, "PROBE_SECONDS", math.inf)
    repository, log = open_repository(url), Path(f"{url.removeprefix('sqlite:///')}-wal")
    repository.require_writable()
    before = log.stat().st_size
    repository.require_writable()
    assert log.stat().st_size == before
    monkeypatch.setattr(sql_repository, "PROBE_SECONDS", 0)
    repository.require_writable()
    assert log.stat().st_size > before
