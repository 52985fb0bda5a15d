"""What a driver's error means: try again, or which RegistryError it is."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.errors import Overloaded, RegistryError, StorageUnavailable

# SQLSTATE: serialization_failure, deadlock_detected, unique_violation. The last happens where two transactions store
# the same RID at once; run again, the later one finds it.
_CONFLICTS = {"40001", "40P01", "23505"}
# lock_not_available; query_canceled by a timeout
_TIMEOUTS = {"55P03", "57014"}


def is_conflict(error: DBAPIError) -> bool:
    """Whether the database refused the transaction for what others did meanwhile: nothing was stored."""
    return _sqlstate(error) in _CONFLICTS or (
        isinstance(error, IntegrityError) and _sqlite_code(error) == sqlite3.SQLITE_CONSTRAINT_UNIQUE
    )


def translate(error: DBAPIError | PoolTimeout) -> RegistryError | None:
    """Return what to tell the caller; None if the error is a defect of ours."""
    if isinstance(error, PoolTimeout):
        return Overloaded()
    if _sqlstate(error) in _TIMEOUTS or _sqlite_code(error) & 0xFF == sqlite3.SQLITE_BUSY:
        return Overloaded()
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return StorageUnavailable()
    return None


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _sqlite_code(error: DBAPIError) -> int:
    return getattr(error.orig, "sqlite_errorcode", 0)
