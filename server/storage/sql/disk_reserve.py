"""Disk space that is held beside an SQLite database, for changes that must not wait until a full disk has room again.

A file takes it up. All processes of the database share it, and its size tells them how things stand: none is kept if
there is no such file, it was given up if the file is empty, and is held otherwise.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from server.storage.disk_space import FREE_PER_RESERVE, free_bytes
from server.storage.unavailable import no_room_for_database

_CHUNK = bytes(2**20)

log = logging.getLogger(__name__)


class DiskReserve:
    """The reserve of the database in a file."""

    def __init__(self, database: Path):
        self._path = database.with_name(f"{database.name}-reserve")
        self._size = 0

    def keep(self, size: int) -> None:
        """Hold so many bytes from now on, as soon as there is room for them; none, if it is 0. Raises OSError."""
        self._size = size
        if not size:
            self._path.unlink(missing_ok=True)
        elif self._is_given_up():
            self.take_back()
        elif not self._take():
            log.error(
                "there is no room for %s, of %d bytes, so only what may use it can be changed: make room, or choose"
                " another --disk-reserve",
                self._path,
                size,
            )

    def require_held(self) -> None:
        """Return unless the reserve was given up. Raises StorageUnavailable."""
        if self._is_given_up():
            raise no_room_for_database(
                "Until it has room again, only RevokeRole, DisablePrincipal, RollbackBranch, BatchRollback and"
                " YankVersion are carried out."
            ) from OSError(f"{self._path} was given up, and there is no room for it yet")

    def give_up(self) -> bool:
        """Make room, and return whether there is more by now, be it by another process."""
        try:
            if os.stat(self._path).st_size:
                os.truncate(self._path, 0)
                log.error(
                    "the disk is full, and %s was given up: until there is room again, only what may use it can be"
                    " changed",
                    self._path,
                )
        except OSError:
            return False
        return True

    def take_back(self) -> None:
        """Hold it again if it was given up and there is room by now."""
        if self._size and self._is_given_up() and self._has_room() and self._take():
            log.warning("there is room on the disk again, and %s is held again", self._path)

    def _is_given_up(self) -> bool:
        try:
            return os.stat(self._path).st_size == 0
        except OSError:
            return False

    def _has_room(self) -> bool:
        try:
            return free_bytes(self._path.parent) >= FREE_PER_RESERVE * self._size
        except OSError:
            return False

    def _take(self) -> bool:
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            _allocate(file, self._size)
            os.truncate(file, self._size)
        except OSError:
            os.truncate(file, 0)
            return False
        finally:
            os.close(file)
        return True


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    for offset in range(0, size, len(_CHUNK)):
        os.pwrite(file, _CHUNK[: size - offset], offset)
