"""The file of an SQLite database: a server that has opened it takes no other for it, whatever its path names later."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from server.storage.file_identity import FileIdentity
from server.storage.sql.session import WAIT_SECONDS
from server.storage.unavailable import DatabaseUnsuitable, unavailable

# What SQLite keeps beside a file while a connection is open. A new one in its place is another database, too: those who
# have the old one open would write what is not found in the file by those who open it.
_BESIDE = ("-wal", "-shm")


class DatabaseFile:
    """The file that is found, or made, when it is first opened; and no other from then on."""

    def __init__(self, path: Path, identity: FileIdentity | None = None):
        """`identity` is that of the file that must be there; then none is made. Raises DatabaseUnsuitable."""
        self.path = path.absolute()
        # It is asked for several times for each change.
        self._name = str(self.path)
        self._identity = identity
        if identity is not None:
            self.require_same()

    def connect(self) -> sqlite3.Connection:
        """Return a connection that begins no transactions of its own.

        Raises DatabaseUnsuitable if the path names another file by now, StorageUnavailable and the driver's errors.
        """
        if self._identity is None:
            self._identity = self._found_or_made()
        # SQLite opens by name, so the file must be the same before and after. It must not make one.
        self.require_same()
        driver = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=WAIT_SECONDS,
            # The driver's own BEGINs come too late for BEGIN IMMEDIATE, and commit DDL behind our back.
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self.require_same()
        except DatabaseUnsuitable:
            driver.close()
            raise
        return driver

    def require_same(self) -> None:
        """Return if the path names the file that was opened. Raises DatabaseUnsuitable."""
        if not _is_at(self._name, self._identity):
            raise DatabaseUnsuitable(
                f"{self.path} is not the file that this server opened: that one was moved, removed or replaced. Stop"
                " the server, and start it again when the right file is there"
            )

    def _found_or_made(self) -> FileIdentity:
        try:
            # It is closed again, which costs a process its locks on a file: so never on one that it may have open.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return FileIdentity.of(self.path)
        except OSError as error:
            raise unavailable(error) from error


class FilesBeside:
    """What SQLite keeps beside the file for a connection: as long as that is open, it stays as it is."""

    def __init__(self, driver: sqlite3.Connection):
        """Raises the driver's errors."""
        # They are there once something was read, beside the file that a link names. Where a file system does not let
        # SQLite log ahead, there are none.
        driver.execute("PRAGMA schema_version").fetchall()
        [[_, _, path]] = driver.execute("PRAGMA database_list").fetchall()
        self._opened: dict[str, FileIdentity] = {}
        for beside in (f"{path}{suffix}" for suffix in _BESIDE):
            with contextlib.suppress(FileNotFoundError):
                self._opened[beside] = FileIdentity.of(beside)

    def require_same(self) -> None:
        """Return if they are those that the connection works with. Raises DatabaseUnsuitable."""
        for path, opened in self._opened.items():
            if not _is_at(path, opened):
                raise DatabaseUnsuitable(
                    f"{path}, a part of the database, was removed or replaced while a server had it open. Stop all"
                    " servers of the database, restore it from a backup, and start them again"
                )


def _is_at(path: str, identity: FileIdentity | None) -> bool:
    # It makes no identity, which takes as long as the question.
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity
