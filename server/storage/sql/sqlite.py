"""SQLite, and all that differs from PostgreSQL: a file, its connections, statements, transactions, errors."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine import Dialect

from server.core.cancellation import LOOK_SECONDS, require_wanted
from server.storage.contract import StatementObserver
from server.storage.sql.database_file import DatabaseFile, FilesBeside
from server.storage.sql.disk_reserve import DiskReserve
from server.storage.sql.session import WAIT_SECONDS, Failure, Session
from server.storage.sql.statements import Compiled
from server.storage.unavailable import DatabaseUnsuitable

# Beside a database's file: locks at which processes that write to it queue.
QUEUE_FILES = ("turn", "next")

# A transaction that began by reading could not always become a writing one.
_BEGIN = "BEGIN IMMEDIATE"
# Of a file that may not be written, or is damaged: until an operator mends it.
_LASTING = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}

Error = sqlite3.Error


class SqliteSession(Session):
    """A session over a new connection to a file."""

    dialect: ClassVar[Dialect] = sqlite_dialect()
    has_row_locks = False

    def __init__(self, driver: sqlite3.Connection, observer: StatementObserver | None, file: DatabaseFile):
        super().__init__(driver, observer)
        _log_ahead(driver)
        driver.execute("PRAGMA synchronous = FULL")
        driver.execute("PRAGMA foreign_keys = ON")
        self._file = file
        self._beside = FilesBeside(driver)
        # SQLite cannot be interrupted while it waits for another program, so it waits for a moment at a time.
        driver.execute(f"PRAGMA busy_timeout = {int(LOOK_SECONDS * 1000)}")

    def begin(self) -> None:
        """Begin a transaction that writes."""
        self.run(_BEGIN)

    def begin_snapshot(self) -> None:
        """Begin a transaction that changes nothing and sees one moment, which its first statement settles."""
        self.run("BEGIN")

    def require_connected(self) -> None:
        """Return if the file is the one that was opened. Raises DatabaseUnsuitable."""
        self._file.require_same()

    def commit(self) -> None:
        """Commit, to a file that can be found again. Raises DatabaseUnsuitable."""
        self.run("COMMIT")
        # What went to a file without a name is lost, whatever SQLite says.
        self._file.require_same()
        self._beside.require_same()

    @property
    def has_transaction(self) -> bool:
        """Whether the database has begun a transaction and not ended it."""
        in_transaction: bool = self.driver.in_transaction
        return in_transaction

    def wait_for_standbys(self) -> None:
        """There are none."""

    def interrupt(self) -> None:
        """Have what the connection does for another thread fail, if it does anything."""
        self.driver.interrupt()

    def break_off(self) -> None:
        """There is nothing at the other end."""

    def _execute(
        self, text: str, compiled: Compiled | None, values: Sequence[Any], wait: bool
    ) -> tuple[Sequence[Sequence[Any]], int]:
        until = math.inf
        while True:
            try:
                cursor = self.driver.execute(text, values)
                return cursor.fetchall(), cursor.rowcount
            except sqlite3.Error as error:
                now = time.monotonic()
                until = min(until, now + WAIT_SECONDS)
                if not _is_busy(error) or now > until:
                    raise
            require_wanted()


def failure_of(error: Exception) -> Failure:
    """Return what an error of the driver means."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
        return Failure.CONFLICT
    if _is_busy(error):
        return Failure.BUSY
    if code == sqlite3.SQLITE_FULL:
        return Failure.FULL
    if code & 0xFF in _LASTING:
        return Failure.FORBIDDEN
    return Failure.AWAY if isinstance(error, sqlite3.OperationalError | sqlite3.InterfaceError) else Failure.DEFECT


def file_of(url: URL) -> Path:
    """Return the file of a URL. Raises ValueError for a URL that names none."""
    file = url.database
    if not file or file == ":memory:" or url.query:
        raise ValueError("an SQLite database must be a file, without parameters: sqlite:///FILE")
    return Path(file)


def opener(file: DatabaseFile) -> Callable[[StatementObserver | None], SqliteSession]:
    """Return what opens a database. On a disk that has no room for the index of its log, it gives up the reserve."""

    def open_file(observer: StatementObserver | None) -> SqliteSession:
        try:
            return SqliteSession.over(file.connect(), observer, file)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHMSIZE or not DiskReserve(file.path).give_up():
                raise
        return SqliteSession.over(file.connect(), observer, file)

    return open_file


class ReadingSession(SqliteSession):
    """A session over a connection that writes nothing, and so cannot set how others write."""

    def __init__(self, driver: sqlite3.Connection, observer: StatementObserver | None):
        Session.__init__(self, driver, observer)


def reader(file: Path) -> Callable[[StatementObserver | None], ReadingSession]:
    """Return what opens a database that is only read, and may be where nothing can be written, such as a backup."""

    def open_file(observer: StatementObserver | None) -> ReadingSession:
        # What a log has that lies beside the file is part of the database, and to read a log takes a file beside it.
        # Where that cannot be, and there is no log, the file does not change either.
        can_change = os.access(file.parent, os.W_OK) or file.with_name(f"{file.name}-wal").exists()
        url = f"{file.absolute().as_uri()}?mode=ro{'' if can_change else '&immutable=1'}"
        driver = sqlite3.connect(url, uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        return ReadingSession.over(driver, observer)

    return open_file


def require_writable(file: Path) -> None:
    """Return if this process may write a database, or make it. Raises DatabaseUnsuitable."""
    # Some of what lies beside a file lies beside the one that a link names.
    files = {file, file.resolve()}
    beside = [each.with_name(f"{each.name}-{name}") for each in files for name in ("wal", "shm", *QUEUE_FILES)]
    folders = {each.parent for each in files}
    for path in (*folders, *(each for each in (*files, *beside) if each.exists())):
        if not os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise DatabaseUnsuitable(
                f"{path} cannot be written by the user of this process: change its owner or mode, or name another place"
                " with --data-dir or --database-url"
            )


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; whatever its timeout, SQLite does not wait here for another who does."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
