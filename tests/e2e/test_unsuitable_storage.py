"""Storage with which no server can work until an operator changes it: it does not start, and says why in a sentence."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql

from server.core.errors import StorageUnavailable
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model
from tests.conftest import NewDatabase, OpenRepository
from tests.postgres import create_database, database_name, drop_database
from tests.processes import COMMAND, Server, failure, run

SERVE = ("serve", "--workers", "1")
MIGRATE = ("migrate",)
NAME = "каса 🏦"

# PostgreSQL


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def not_unicode(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[tuple[str, str]]:
    """A database with another encoding than UTF8, and that encoding."""
    url = create_database(postgres_url, template="template0", encoding=request.param)
    yield url, request.param
    drop_database(postgres_url, url)


@pytest.mark.parametrize("command", [MIGRATE, SERVE], ids=["migrate", "serve"])
def test_a_database_without_unicode(not_unicode: tuple[str, str], command: tuple[str, ...], tmp_path: Path) -> None:
    url, encoding = not_unicode
    said = failure(run(*command, "--database-url", url, cwd=tmp_path))
    assert said.startswith(f"the database: its encoding is {encoding}, ")
    assert "ENCODING 'UTF8'" in said


def test_calls_are_told_that_no_retry_helps(not_unicode: tuple[str, str], open_repository: OpenRepository) -> None:
    repository = open_repository(not_unicode[0])
    with pytest.raises(StorageUnavailable) as refused:
        add_model(repository)
    assert refused.value.retry_after is None


def test_unicode_is_stored_whatever_encoding_clients_have_by_default(
    new_database: NewDatabase, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database("postgresql", migrated=True)
    with psycopg.connect(url, autocommit=True) as connection:
        alter = sql.SQL("ALTER DATABASE {} SET client_encoding = 'LATIN1'")
        connection.execute(alter.format(sql.Identifier(database_name(url))))
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    repository = open_repository(f"{url}?client_encoding=latin1")
    model = repository.write(lambda tx: tx.add_model(builders.model(NAME)))
    assert repository.read(lambda reader: reader.get_model(model.rid, ADMIN)).model.name == NAME


@pytest.mark.parametrize(
    "written", ["{}", "{}\n", "  {} ", '"{}"', "'{}'\n"], ids=["as it is", "line end", "blanks", "quotes", "both"]
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_urls_as_platforms_hand_them_out(new_database: NewDatabase, scheme: str, written: str, tmp_path: Path) -> None:
    url = written.format(new_database("postgresql").replace("postgresql:", f"{scheme}:"))
    result = run("migrate", cwd=tmp_path, MODELREGISTRY_DATABASE_URL=url)
    assert (result.returncode, result.stderr) == (0, "the schema is up to date\n")
    assert not any(tmp_path.iterdir())


def test_an_empty_url_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    for url in ("", " ", '""'):
        result = run("migrate", "--database-url", url, cwd=tmp_path)
        assert result.returncode == 2
        assert "is empty" in result.stderr
    assert not any(tmp_path.iterdir())


# SQLite, and the folder of the model files


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """The command as a user whom the modes of files bind, which root is not."""
    if os.geteuid() != 0:
        return COMMAND
    setpriv = shutil.which("setpriv")
    assert setpriv
    script = tmp_path / "modelregistry"
    script.write_text(
        f"#!/bin/sh\nexec {setpriv} --bounding-set=-dac_override,-dac_read_search"
        f' --inh-caps=-dac_override,-dac_read_search {shlex.quote(str(COMMAND))} "$@"\n'
    )
    script.chmod(0o700)
    return script


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a server that has served a while, and lies still."""
    with Server(tmp_path / "cwd") as server:
        data = server.data_dir
        # With the first change there are the places of those who wait to write.
        with grpc.insecure_channel(server.address) as channel:
            server.user(channel).create_model("m")
    yield data
    for path in (data, *data.rglob("*")):
        path.chmod(0o700)


@pytest.mark.parametrize(
    ("path", "mode"),
    [("modelregistry.db", 0o400), (".", 0o500), ("modelregistry.db-turn", 0o400), ("files/*", 0o500)],
    ids=["database", "folder", "turns", "files"],
)
def test_what_the_server_may_not_write_is_named(command: Path, data: Path, path: str, mode: int) -> None:
    [unwritable] = data.glob(path) if path != "." else [data]
    unwritable.chmod(mode)
    said = failure(run(*SERVE, "--data-dir", data, command=command))
    assert str(unwritable) in said
    assert "cannot be written" in said


def test_a_folder_that_cannot_be_made_is_named(command: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    said = failure(run(*MIGRATE, "--data-dir", tmp_path / "closed" / "data", command=command))
    assert str(tmp_path / "closed" / "data") in said


def test_a_file_that_lost_its_mode_in_service_gives_no_hope_for_a_retry(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    """As SQLite says it of a file system that was mounted again for reading."""
    url = new_database("sqlite", migrated=True)
    repository: SqlRepository = open_repository(url)

    def change(tx: object) -> None:
        tx.session.run("PRAGMA query_only = ON")  # type: ignore[attr-defined]
        tx.add_model(builders.model())  # type: ignore[attr-defined]

    with pytest.raises(StorageUnavailable) as refused:
        repository.write(change)
    assert refused.value.retry_after is None
