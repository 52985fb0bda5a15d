"""Opens the database: durable commits, bounded waits, and what differs between the two dialects."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, Table, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from server.core.cancellation import LOOK_SECONDS, require_wanted
from server.storage.sql.conflicts import is_busy, is_read_only
from server.storage.sql.prepared import run
from server.storage.unavailable import DatabaseUnsuitable

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

# How long a call waits for a connection or for a lock before it is told that the service is overloaded.
WAIT_SECONDS = 10
CONNECT_SECONDS = 5
# How long a statement may take at most, also for a call without a deadline, or whose end did not reach the database. It
# is more than any takes that is in order, those of commands included; and PostgreSQL does not count a COMMIT.
STATEMENT_SECONDS = 300

# What a connection's info has once the database has warned of something.
_WARNED = "modelregistry_warned"
# The settings of PostgreSQL that promises depend on, and what begins a transaction with them. They are set in each: a
# pooler may have every transaction carried out by another process, which knows nothing of what was set before.
_SETTINGS = "modelregistry_settings"
_BEGIN = "modelregistry_begin"
# And whether there is a pooler.
_IS_POOLED = "modelregistry_is_pooled"

_TIMEOUTS = {
    "statement_timeout": STATEMENT_SECONDS,
    "lock_timeout": WAIT_SECONDS,
    # A replica that dies in mid-transaction must not keep its locks.
    "idle_in_transaction_session_timeout": WAIT_SECONDS,
}

# What a URL does not say itself. A peer that vanished is noticed while a call waits for it, and while none does.
_LIBPQ_DEFAULTS = {
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": WAIT_SECONDS * 1000,
    "keepalives_idle": WAIT_SECONDS,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}

QUEUE_FILES = ("turn", "next")  # Beside an SQLite file: there, processes that write to it take turns.
_AUTOCOMMIT = "modelregistry_autocommit"
# One that began by reading could not always become a writing one.
_BEGIN_SQLITE = "BEGIN IMMEDIATE"
# What the SQL here is made for, whatever the database's default.
_READ_COMMITTED = "ISOLATION LEVEL READ COMMITTED"


def open_engine(url: str | URL, pool_size: int = 8) -> Engine:
    """Open `sqlite:///FILE` or `postgresql://…`, with at most `pool_size` connections.

    Raises ValueError for any other URL. Connects only when it is first used, and then raises DatabaseUnsuitable.
    """
    parsed = make_url(url)
    if parsed.drivername == "postgres":  # as many platforms write it
        parsed = parsed.set(drivername="postgresql")
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed, pool_size)
        case "postgresql":
            return _open_postgresql(parsed, pool_size)
        case other:
            raise ValueError(f"the database must be sqlite or postgresql, not {other!r}")


def embedded_database(file: Path) -> URL:
    """Return the URL of an SQLite file. As text it would be another's where the path has a question mark."""
    return URL.create("sqlite", database=str(file))


def autocommitting(engine: Engine) -> Engine:
    """The same engine and pool without transactions of its own: what begins one is `begin`."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_AUTOCOMMIT: True})
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def begin(connection: Connection) -> None:
    """Begin a transaction that changes something, on a connection of an autocommitting engine.

    Raises CallOver if nobody waits for it any more before it is its turn.
    """
    if connection.dialect.name != "sqlite":
        run(connection, connection.info[_BEGIN])
        return
    # SQLite cannot be interrupted while it waits for another program that writes, so it waits for a moment at a time.
    driver: Any = connection.connection.dbapi_connection
    until = time.monotonic() + WAIT_SECONDS
    _wait_for_others(driver, LOOK_SECONDS)
    try:
        while True:
            require_wanted()
            try:
                run(connection, _BEGIN_SQLITE)
                return
            except DBAPIError as error:
                if not is_busy(error) or time.monotonic() > until:
                    raise
    finally:
        _wait_for_others(driver, WAIT_SECONDS)


def interrupt(driver: Any) -> None:
    """Have what a driver's connection is doing for another thread fail, soon, if it does anything."""
    if isinstance(driver, sqlite3.Connection):
        driver.interrupt()
    else:
        driver.cancel_safe(timeout=CONNECT_SECONDS)


def is_embedded(engine: Engine) -> bool:
    """Whether the database is a file of this machine, which nobody else has prepared for us."""
    return engine.dialect.name == "sqlite"


def require_writable(engine: Engine) -> None:
    """Return if this process may write an embedded database, or make it. Raises DatabaseUnsuitable."""
    named = Path(engine.url.database or "")
    # Some of what lies beside a file lies beside the one that a link names.
    files = {named, named.resolve()}
    beside = [file.with_name(f"{file.name}-{name}") for file in files for name in ("wal", "shm", *QUEUE_FILES)]
    folders = {file.parent for file in files}
    for path in (*folders, *(each for each in (*files, *beside) if each.exists())):
        if not os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise DatabaseUnsuitable(
                f"{path} cannot be written by the user of this process: change its owner or mode, or name another place"
                " with --data-dir or --database-url"
            )


def one_writer_file(engine: Engine) -> Path | None:
    """Return the file of a database that takes one writer at a time; None if this one takes many."""
    return Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None


def upsert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows ON CONFLICT, which SQLAlchemy has for each dialect but not for all."""
    # Of a dialect, SQLAlchemy loads all drivers. A server needs one, and starts sooner without the others.
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.Insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.Insert(table)


def was_warned(connection: Connection) -> bool:
    """Whether the database warned of something on this connection since the last question.

    It does where the wait of a COMMIT for a standby was cancelled, which is a success for it.
    """
    return bool(connection.info.pop(_WARNED, False))


def settings_of(connection: Connection) -> Mapping[str, str | int]:
    """Return the settings of PostgreSQL that promises depend on, by name; times are in milliseconds."""
    settings: Mapping[str, str | int] = connection.info[_SETTINGS]
    return settings


def is_pooled(connection: Connection) -> bool:
    """Whether a pooler stands before the database, so that nothing that is set lasts longer than a transaction."""
    return bool(connection.info.get(_IS_POOLED))


def wait_for_standbys(connection: Connection) -> None:
    """Let the COMMIT to come wait until a standby has all that is committed by now, where there are any to wait for."""
    if connection.dialect.name == "postgresql":
        # Only what has written something waits.
        connection.exec_driver_sql("SELECT pg_logical_emit_message(true, '', '')")


def _open_sqlite(url: URL, pool_size: int) -> Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise ValueError("an SQLite database must be a file, without parameters: sqlite:///FILE")
    engine = create_engine(
        url.set(drivername="sqlite"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        connect_args={"timeout": WAIT_SECONDS},
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def configure(dbapi_connection: Any, _: Any) -> None:
        # The driver's own BEGINs come too late for BEGIN IMMEDIATE, and commit DDL behind our back.
        dbapi_connection.isolation_level = None
        _log_ahead(dbapi_connection)
        dbapi_connection.execute("PRAGMA synchronous = FULL")
        dbapi_connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(_AUTOCOMMIT):
            connection.exec_driver_sql(_BEGIN_SQLITE)

    return engine


def _needed_settings(dbapi_connection: Any) -> dict[str, str | int]:
    """Return what the settings have to be; other timeouts, and a stronger synchronous_commit, are a choice."""
    names = ["synchronous_commit", *_TIMEOUTS]
    found = dict(
        dbapi_connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [names]).fetchall()
    )
    lasting = found["synchronous_commit"] if found["synchronous_commit"] in ("on", "remote_apply") else "on"
    timeouts = {name: int(found[name]) or seconds * 1000 for name, seconds in _TIMEOUTS.items()}
    return {"synchronous_commit": lasting, **timeouts}


def _require_unicode(dbapi_connection: Any) -> None:
    """Return if the database can hold every name. Raises DatabaseUnsuitable."""
    [encoding] = dbapi_connection.execute("SHOW server_encoding").fetchone()
    encoding = encoding.decode() if isinstance(encoding, bytes) else encoding
    if encoding != "UTF8":
        raise DatabaseUnsuitable(
            f"its encoding is {encoding}, in which not every name can be stored: take a database that was made with"
            " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def _wait_for_others(dbapi_connection: sqlite3.Connection, seconds: float) -> None:
    dbapi_connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _log_ahead(dbapi_connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; whatever its timeout, SQLite does not wait here for another who does."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            dbapi_connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _open_postgresql(url: URL, pool_size: int) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        connect_args={
            **{name: value for name, value in _LIBPQ_DEFAULTS.items() if name not in url.query},
            # Whatever the URL, the role, the database or the environment says: what is stored is Unicode.
            "client_encoding": "utf8",
        },
        isolation_level="READ COMMITTED",
        hide_parameters=True,
    )

    # Before SQLAlchemy asks anything, which fails in riddles with an encoding of bytes.
    @event.listens_for(engine, "connect", insert=True)
    def configure(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        def heed(diagnostic: Any) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                record.info[_WARNED] = True

        dbapi_connection.add_notice_handler(heed)
        dbapi_connection.autocommit = True
        _require_unicode(dbapi_connection)
        settings = _needed_settings(dbapi_connection)
        local = "".join(f"; SET LOCAL {name} = {value}" for name, value in settings.items())
        [backend_pid] = dbapi_connection.execute("SELECT pg_backend_pid()").fetchone()
        is_pooled = backend_pid != dbapi_connection.info.backend_pid
        record.info.update({_SETTINGS: settings, _BEGIN: f"BEGIN {_READ_COMMITTED}{local}", _IS_POOLED: is_pooled})
        if is_pooled:
            # Prepared in one server process, a statement would be missed in the next.
            dbapi_connection.prepare_threshold = None
        else:
            # For reads, which need no transaction then.
            dbapi_connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))
        dbapi_connection.autocommit = False

    @event.listens_for(engine, "handle_error")
    def leave_standby(context: ExceptionContext) -> None:
        if is_read_only(context.original_exception):
            context.is_disconnect = True

    return engine
