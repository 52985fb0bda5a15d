"""PostgreSQL, and all that differs from SQLite: connections and their settings, statements, transactions, errors.

Statements go to libpq through `psycopg.pq`, prepared once on each connection. In the worker, a promotion takes 0.22 ms
of processor time this way, and 0.60 through psycopg's cursors, which adapt types that these statements do not have. In
a transaction the statements are pipelined: a promotion takes two round trips, and its COMMIT is part of the second.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import psycopg
from psycopg import pq
from sqlalchemy import URL, PoolProxiedConnection
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.engine import Dialect

from server.storage.contract import StatementWatch
from server.storage.sql.session import WAIT_SECONDS, Failure, Session
from server.storage.sql.statements import Compiled
from server.storage.unavailable import DatabaseUnsuitable

CONNECT_SECONDS = 5
# How long a statement may take at most, also for a call without a deadline, or whose end did not reach the database. It
# is more than any takes that is in order, those of commands included; and PostgreSQL does not count a COMMIT.
STATEMENT_SECONDS = 300

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

# In the info of a pooled connection: whether the database has warned, which statements are prepared, and, where a
# pooler stands before the database, the settings that each transaction needs.
_WARNED = "warned"
_PREPARED = "prepared"
_SETTINGS = "settings"

# SQLSTATE: serialization_failure, deadlock_detected, unique_violation. The last happens where two transactions store
# the same RID at once; run again, the later one finds it.
_CONFLICTS = {"40001", "40P01", "23505"}
# lock_not_available; query_canceled by a timeout
_TIMED_OUT = {"55P03", "57014"}
# connection_exception, read_only_sql_transaction, insufficient_resources, operator_intervention, system_error
_AWAY = ("08", "25006", "53", "57", "58")
_INSUFFICIENT_PRIVILEGE = "42501"
# The database has become a standby: a new connection may find the primary.
_READ_ONLY = "25006"

# The types of columns, by OID. Statements have no others.
_DECODERS: dict[int, Callable[[bytes], Any]] = {
    16: lambda value: value == b"t",  # bool
    17: lambda value: bytes.fromhex(value[2:].decode()),  # bytea
    20: int,  # bigint
    21: int,  # smallint
    23: int,  # integer
    1700: int,  # numeric: sums of bigint
}

Error = psycopg.Error


class PostgresSession(Session):
    """A session over a connection of psycopg in autocommit mode."""

    # SQLAlchemy's stubs lack its parameters.
    dialect: ClassVar[Dialect] = psycopg_dialect.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

    has_row_locks = True

    def __init__(self, pooled: PoolProxiedConnection, watch: StatementWatch | None):
        super().__init__(pooled, watch)
        self._pg: pq.abc.PGconn = self.driver.pgconn
        self._info = pooled.info
        self._prepared: set[bytes] | None = self._info[_PREPARED]
        # Of a pipeline, what each result to come is that of: the name of a statement that was to be prepared, or None.
        # None without a pipeline.
        self._unread: deque[bytes | None] | None = None
        # Whether the transaction has had an answer, and so a connection that works.
        self._was_answered = False

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler stands before the database, so that nothing that is set lasts longer than a transaction."""
        return self._prepared is None

    def begin(self) -> None:
        """Begin a transaction; others' locks are waited for by its first statement that has to."""
        self._pg.enter_pipeline_mode()
        self._unread = deque()
        self._was_answered = False
        # The statements here are made for it, whatever the database's default.
        self._watched("BEGIN ISOLATION LEVEL READ COMMITTED", None, (), wait=False)
        if self.is_pooled:
            self._watched(self._info[_SETTINGS], None, (), wait=False)

    def commit(self) -> None:
        """Commit, and wait until what was sent has been done."""
        if self._unread and not self._was_answered:
            # Of a connection that had ended before, a lost COMMIT would have an unknown outcome.
            self._last_result()
        self._watched("COMMIT", None, ())
        self._end_pipeline()

    def roll_back(self) -> None:
        """Roll back; a connection on which that fails is closed, and so has nothing to undo."""
        if self._unread is not None:
            self._end_pipeline()
        if self._pg.transaction_status != pq.TransactionStatus.IDLE:
            self.run("ROLLBACK")

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection has ended, or leads to a standby."""
        return self._pg.status != pq.ConnStatus.OK or getattr(error, "sqlstate", None) == _READ_ONLY

    def wait_for_standbys(self) -> None:
        """Let the COMMIT to come wait until standbys, if there are any, have all that is committed by now."""
        # Only what has written something waits.
        self.run("SELECT pg_logical_emit_message(true, '', '')")

    def was_warned(self) -> bool:
        """Whether the database warned of something since the last question.

        It does where the wait of a COMMIT for a standby was cancelled, which is a success for it.
        """
        return bool(self._info.pop(_WARNED, False))

    def interrupt(self) -> None:
        """Have what the connection does for another thread fail, soon, if it does anything."""
        self.driver.cancel_safe(timeout=CONNECT_SECONDS)

    def _execute(
        self, text: str, compiled: Compiled | None, values: Sequence[Any], wait: bool
    ) -> tuple[Sequence[Sequence[Any]], int]:
        given = [_encoded(value) for value in values]
        # Bytes as they are, and everything else as text.
        formats = [type(value) is bytes for value in values]
        if self._unread is None:
            result = self._execute_alone(text, compiled, given, formats)
        else:
            self._send_to_pipeline(text, compiled, given, formats)
            if not wait:
                return (), 0
            result = self._last_result()
        return _rows_of(result), result.command_tuples or 0

    def _execute_alone(self, text: str, compiled: Compiled | None, given: Any, formats: Any) -> pq.abc.PGresult:
        if compiled is None or compiled.is_page or self._prepared is None:
            return _checked(self._pg.exec_params(text.encode(), given, param_formats=formats))
        if compiled.name not in self._prepared:
            _checked(self._pg.prepare(compiled.name, text.encode()))
            self._prepared.add(compiled.name)
        return _checked(self._pg.exec_prepared(compiled.name, given, formats))

    def _send_to_pipeline(self, text: str, compiled: Compiled | None, given: Any, formats: Any) -> None:
        assert self._unread is not None
        if compiled is None or compiled.is_page or self._prepared is None:
            self._pg.send_query_params(text.encode(), given, param_formats=formats)
        else:
            if compiled.name not in self._prepared and compiled.name not in self._unread:
                self._pg.send_prepare(compiled.name, text.encode())
                self._unread.append(compiled.name)
            self._pg.send_query_prepared(compiled.name, given, formats)
        self._unread.append(None)

    def _last_result(self) -> pq.abc.PGresult:
        """Return the result of the last statement that was sent. Raises what the first one that failed failed with."""
        self._pg.send_flush_request()
        self._flush()
        result = None
        while self._unread:
            result = _checked(self._next_result())
        assert result is not None
        self._was_answered = True
        return result

    def _end_pipeline(self) -> None:
        """Leave the pipeline; what is left in it has been told, or is rolled back."""
        if self._pg.status == pq.ConnStatus.OK:
            self._pg.pipeline_sync()
            self._flush()
            while self._next_result().status != pq.ExecStatus.PIPELINE_SYNC:
                pass
            self._pg.exit_pipeline_mode()
        self._unread = None

    def _flush(self) -> None:
        """Send all there is to send; answers are taken in meanwhile, so that the database need not stop for them."""
        while self._pg.flush():
            self._wait(select.POLLIN | select.POLLOUT)

    def _wait(self, events: int) -> None:
        """Wait for the socket, and take in what is there. libpq would wait with the interpreter's lock held."""
        waiting = select.poll()
        waiting.register(self._pg.socket, events)
        waiting.poll()
        self._pg.consume_input()

    def _next_result(self) -> pq.abc.PGresult:
        """Return the next result of the pipeline."""
        while True:
            while self._pg.is_busy():
                self._wait(select.POLLIN)
            result = self._pg.get_result()
            # None stands between the results of two statements.
            if result is not None:
                break
        prepared = self._unread.popleft() if self._unread else None
        if prepared is not None and self._prepared is not None and result.status == pq.ExecStatus.COMMAND_OK:
            self._prepared.add(prepared)
        return result


def failure_of(error: Exception) -> Failure:
    """Return what an error of the driver means."""
    state = getattr(error, "sqlstate", None) or ""
    if state in _CONFLICTS:
        return Failure.CONFLICT
    if state in _TIMED_OUT:
        return Failure.BUSY
    if state == _INSUFFICIENT_PRIVILEGE:
        return Failure.FORBIDDEN
    if state.startswith(_AWAY) or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Failure.AWAY
    return Failure.DEFECT


def connector(url: URL) -> Callable[[], psycopg.Connection[Any]]:
    """Return what connects to a database."""
    defaults = {name: str(value) for name, value in _LIBPQ_DEFAULTS.items() if name not in url.query}
    _, arguments = PostgresSession.dialect.create_connect_args(url)
    # Whatever the URL, the role, the database or the environment says: what is stored is Unicode.
    arguments = {**arguments, **defaults, "client_encoding": "utf8"}
    return lambda: psycopg.connect(autocommit=True, **arguments)


def prepare(connection: psycopg.Connection[Any], info: dict[Any, Any]) -> None:
    """Bring a new connection into order. Raises DatabaseUnsuitable."""

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            info[_WARNED] = True

    connection.add_notice_handler(note)
    _require_unicode(connection)
    settings = _needed_settings(connection)
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    if row[0] == connection.info.backend_pid:
        # What is prepared looks along unique indexes, for which one plan is right, whatever the values.
        settings["plan_cache_mode"] = "force_generic_plan"
        connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()).encode())
        info[_PREPARED] = set()
    else:
        # A pooler: prepared in one server process, a statement would be missed in the next. And each transaction may
        # be carried out by another process, which knows nothing of what was set before.
        info[_PREPARED] = None
        info[_SETTINGS] = "SELECT " + ", ".join(
            f"set_config('{name}', '{value}', true)" for name, value in settings.items()
        )


def _needed_settings(connection: psycopg.Connection[Any]) -> dict[str, str | int]:
    """Return what the settings have to be; other timeouts, and a stronger synchronous_commit, are a choice."""
    names = ["synchronous_commit", *_TIMEOUTS]
    found = dict(connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [names]).fetchall())
    lasting = found["synchronous_commit"] if found["synchronous_commit"] in ("on", "remote_apply") else "on"
    timeouts = {name: int(found[name]) or seconds * 1000 for name, seconds in _TIMEOUTS.items()}
    return {"synchronous_commit": lasting, **timeouts}


def _require_unicode(connection: psycopg.Connection[Any]) -> None:
    """Return if the database can hold every name. Raises DatabaseUnsuitable."""
    row = connection.execute("SHOW server_encoding").fetchone()
    assert row is not None
    encoding = row[0].decode() if isinstance(row[0], bytes) else row[0]
    if encoding != "UTF8":
        raise DatabaseUnsuitable(
            f"its encoding is {encoding}, in which not every name can be stored: take a database that was made with"
            " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def _encoded(value: Any) -> bytes | None:
    if value is None or type(value) is bytes:
        return value
    return str(value).encode()


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    """Return a result. Raises the error that it is, if it is one."""
    if result.status not in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
        return result
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.get_error_message("utf8")
    try:
        raise psycopg.errors.lookup(state)(message)
    except KeyError:
        # libpq's own have no state: the connection has ended.
        raise psycopg.OperationalError(message) from None


def _rows_of(result: pq.abc.PGresult) -> Sequence[Sequence[Any]]:
    if result.status != pq.ExecStatus.TUPLES_OK:
        return ()
    columns = [(column, _DECODERS.get(result.ftype(column), bytes.decode)) for column in range(result.nfields)]
    get = result.get_value
    return [
        [None if (value := get(row, column)) is None else decode(value) for column, decode in columns]
        for row in range(result.ntuples)
    ]
