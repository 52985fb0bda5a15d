"""What a driver's error means: try again, or which RegistryError it is."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.core.errors import Overloaded, RegistryError, StorageUnavailable

# SQLSTATE: serialization_failure, deadlock_detected, unique_violation. The last happens where two transactions store
# the same RID at once; run again, the later one finds it.
_CONFLICTS = {"40001", "40P01", "23505"}
# lock_not_available; query_canceled by a timeout
_TIMEOUTS = {"55P03", "57014"}
# deadlock_detected, lock_not_available: what a change of tables can run into while others use them.
_IN_USE = {"40P01", "55P03"}
# connection_exception, read_only_sql_transaction, insufficient_resources, operator_intervention, system_error
_AWAY = ("08", "25006", "53", "57", "58")
_INSUFFICIENT_PRIVILEGE = "42501"
# Of a file that may not be written, or is damaged: until an operator mends it.
_SQLITE_LASTING = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


def is_conflict(error: DBAPIError) -> bool:
    """Whether the database refused the transaction for what others did meanwhile: nothing was stored."""
    return _sqlstate(error) in _CONFLICTS or (
        isinstance(error, IntegrityError) and _sqlite_code(error) == sqlite3.SQLITE_CONSTRAINT_UNIQUE
    )


def is_in_use(error: DBAPIError) -> bool:
    """Whether the database gave up to change a table since others use it: nothing was changed."""
    return _sqlstate(error) in _IN_USE


def is_busy(error: DBAPIError) -> bool:
    """Whether SQLite gave up to wait for somebody else who writes: nothing was done."""
    return _sqlite_code(error) & 0xFF == sqlite3.SQLITE_BUSY


def is_held(error: DBAPIError) -> bool:
    """Whether PostgreSQL gave up to wait for a lock that somebody else holds: nothing was done."""
    return _sqlstate(error) == "55P03"


def is_read_only(error: BaseException | None) -> bool:
    """Whether the database has become a standby, so that a new connection may find the primary."""
    return getattr(error, "sqlstate", None) == "25006"


def translate(error: DBAPIError | PoolTimeout) -> RegistryError | None:
    """Return what to tell the caller; None if the error is a defect of ours."""
    if isinstance(error, PoolTimeout):
        return Overloaded()
    state, code = _sqlstate(error) or "", _sqlite_code(error) & 0xFF
    if state in _TIMEOUTS or is_busy(error) or is_conflict(error):
        return Overloaded()
    # Until an operator grants what is missing, or mends the file.
    if state == _INSUFFICIENT_PRIVILEGE or code in _SQLITE_LASTING:
        return StorageUnavailable(retry_after=None)
    if error.connection_invalidated or state.startswith(_AWAY):
        return StorageUnavailable()
    return StorageUnavailable() if isinstance(error, OperationalError | InterfaceError) else None


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _sqlite_code(error: DBAPIError) -> int:
    return getattr(error.orig, "sqlite_errorcode", 0)
