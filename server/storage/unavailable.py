"""Storage that cannot be used: a caller is told to try again only if time can mend it."""

from __future__ import annotations

import errno

from server.core.errors import StorageUnavailable

# What stays until an operator changes it. A full disk, or too many open files, may pass.
_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DatabaseUnsuitable(Exception):
    """A database with which no server can work until its operator changes something; the text says what."""


def unavailable(error: Exception) -> StorageUnavailable:
    """Return what to tell of an error of a file system, with a hint to try again unless that cannot help."""
    if isinstance(error, OSError) and error.errno in _LASTING:
        return StorageUnavailable(retry_after=None)
    if isinstance(error, OSError) and error.errno in _FULL:
        return StorageUnavailable(explanation="The disk is full.")
    return StorageUnavailable()


def no_room_for_database(more: str = "") -> StorageUnavailable:
    """Return what to tell where the disk of the database is full; nothing was stored."""
    return StorageUnavailable(explanation=f"The disk of the database is full. {more}".rstrip())


def no_room_for_files() -> StorageUnavailable:
    """Return what to tell where the disk of the model files is nearly full; nothing was stored."""
    return StorageUnavailable(explanation="There is no room for model files.")
