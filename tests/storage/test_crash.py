"""Nothing that was acknowledged is lost to SIGKILL, of the registry's process or of every one of the database's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.storage.contract import Repository
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import OpenRepository, migrate
from tests.postgres import PostgresServer, create_database

THREADS = 4
ACKNOWLEDGED = 20


def promote_until_killed(url: str, model_rid: str, source_rid: str) -> None:
    """Append to one branch from several threads, and print each number once it is acknowledged."""
    repository = SqlRepository(database_of(url))
    source = repository.read(lambda reader: reader.find_version(source_rid, ADMIN))
    assert source is not None

    def promote() -> None:
        while True:
            new = builders.version(model_rid)
            appended = repository.write(lambda tx, new=new: tx.append_version(new, source.content_digest))
            os.write(sys.stdout.fileno(), f"{appended.version_number}\n".encode())

    for _ in range(THREADS):
        threading.Thread(target=promote).start()


@contextmanager
def promoting(url: str, model_rid: str, source_rid: str) -> Iterator[subprocess.Popen[str]]:
    """A process that promotes until it is killed."""
    command = [sys.executable, "-m", "tests.storage.test_crash", url, model_rid, source_rid]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def acknowledgements(process: subprocess.Popen[str], count: int) -> list[int]:
    """The next numbers that the process prints."""
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline() for _ in range(count)]
    assert all(line.endswith("\n") for line in lines), process.stderr.read()
    return [int(line) for line in lines]


def assert_nothing_is_lost(repository: Repository, model_rid: str, acknowledged: list[int]) -> None:
    """Every acknowledged version is there, complete, with no gap below the head; and the next one follows."""
    stored = repository.read(lambda reader: builders.all_versions(reader, model_rid))
    numbers = [version.version_number for version in stored]
    assert len(acknowledged) == len(set(acknowledged))
    assert numbers == list(range(len(numbers), 0, -1))
    assert set(acknowledged) <= set(numbers)
    # What was under way at the end may be there too, but no more than that.
    assert len(numbers) <= len(acknowledged) + THREADS
    assert {version.model_api.SerializeToString() for version in stored} == {
        builders.model_api().SerializeToString(deterministic=True)
    }
    branch = repository.read(lambda reader: reader.get_branch(model_rid, "master", ADMIN))
    assert (branch.head, branch.version_count) == (stored[0], len(stored))
    assert append(repository, builders.version(model_rid)).version_number == len(numbers) + 1


def test_sigkill_of_the_registry_loses_nothing_acknowledged(migrated_url: str, open_repository: OpenRepository) -> None:
    repository = open_repository(migrated_url)
    target, source = add_model(repository), append(repository, builders.version(add_model(repository).rid))

    with promoting(migrated_url, target.rid, source.rid) as process:
        acknowledged = acknowledgements(process, ACKNOWLEDGED)
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.communicate()[0].splitlines()]

    assert process.returncode == -signal.SIGKILL
    reopened = open_repository(migrated_url)
    assert_nothing_is_lost(reopened, target.rid, acknowledged)
    reopened.close()
    repository.ping()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of one's own, as durable as it is by default."""
    with PostgresServer() as server:
        yield server


def test_sigkill_of_every_process_of_the_database_loses_nothing_acknowledged(
    server: PostgresServer, open_repository: OpenRepository
) -> None:
    url = create_database(server.url())
    migrate(url)
    repository = open_repository(url)
    target, source = add_model(repository), append(repository, builders.version(add_model(repository).rid))

    with promoting(url, target.rid, source.rid) as process:
        acknowledged = acknowledgements(process, ACKNOWLEDGED)
        server.kill()
        # The database is gone: each thread was refused, and the process ends by itself.
        acknowledged += [int(line) for line in process.communicate(timeout=180)[0].splitlines()]

    server.start()
    # The same repository goes on, with the connections that it held before.
    assert_nothing_is_lost(repository, target.rid, acknowledged)


if __name__ == "__main__":
    promote_until_killed(*sys.argv[1:])
