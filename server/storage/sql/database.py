"""Which database a URL means, and what of `postgres` or `sqlite` goes with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from server.storage.contract import StatementObserver
from server.storage.file_identity import FileIdentity
from server.storage.sql.database_file import DatabaseFile
from server.storage.sql.session import Failure, Session


@dataclass(frozen=True)
class Database:
    """A database: how to open a connection, and what its driver's errors mean."""

    url: URL
    # Opens a connection. Raises DatabaseUnsuitable, and the driver's errors.
    open: Callable[[StatementObserver | None], Session]
    errors: type[Exception]
    failure_of: Callable[[Exception], Failure]
    # Of a database that is a file of this machine, which takes one writer at a time.
    file: Path | None = None


def database_of(url: str | URL, identity: FileIdentity | None = None) -> Database:
    """Return the database of `sqlite:///FILE` or `postgresql://…`. Connects not yet.

    `identity` is that of the file that it must be, if it is a file. Raises DatabaseUnsuitable if that is not there, and
    ValueError for any other URL.
    """
    parsed = _parsed(url)
    # Of the two drivers, a server needs one, and starts sooner without the other.
    match parsed.get_backend_name():
        case "sqlite":
            from server.storage.sql import sqlite

            file = sqlite.file_of(parsed)
            opener = sqlite.opener(DatabaseFile(file, identity))
            return Database(parsed, opener, sqlite.Error, sqlite.failure_of, file)
        case "postgresql" | "postgres":  # as many platforms write it
            from server.storage.sql import postgres

            return Database(parsed, postgres.opener(parsed), postgres.Error, postgres.failure_of)
        case other:
            raise ValueError(f"the database must be sqlite or postgresql, not {other!r}")


def kept_database(url: str | URL) -> Database:
    """Return the database of a URL to be read only: an SQLite file may be where nothing can be written."""
    database = database_of(url)
    if database.file is None:
        return database
    from server.storage.sql import sqlite

    return dataclasses.replace(database, open=sqlite.reader(database.file))


def embedded_database(file: Path) -> URL:
    """Return the URL of an SQLite file. As text it would be another's where the path has a question mark."""
    return URL.create("sqlite", database=str(file))


def _parsed(url: str | URL) -> URL:
    """Return a URL in its parts. Raises ValueError, which repeats none of it: a part of it may be one of a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise ValueError(
            "what is given is no URL like postgresql://USER:PASSWORD@HOST:PORT/NAME or sqlite:///FILE; in a password, @"
            " is written %40, and % is %25"
        )
    return parsed
