"""PostgreSQL, and all that differs from SQLite: connections and their settings, statements, transactions, errors.

Statements go to libpq through `psycopg.pq`. All but pages are prepared once on each connection that has no pooler. In
the worker, a promotion takes 0.22 ms of processor time this way, and 0.60 through psycopg's cursors, which adapt types
that these statements do not have.

In a transaction, statements that need no answer go to the database with the next one that does, as one string: a
promotion takes two round trips, and its COMMIT is part of the second. libpq's pipeline takes as many, but a fifth more
of the worker's time, and holds the interpreter's lock while it sends.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import psycopg
from psycopg import pq
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.engine import Dialect

from server.storage.contract import StatementObserver
from server.storage.sql.session import WAIT_SECONDS, Failure, Session
from server.storage.sql.statements import Compiled
from server.storage.unavailable import DatabaseUnsuitable

CONNECT_SECONDS = 5
# The limit for statements of calls without a deadline, and of calls whose end did not reach the database. No sound
# statement takes so long, not even those of `import` and `gc`. PostgreSQL does not apply it to a COMMIT.
STATEMENT_SECONDS = 300

_TIMEOUTS = {
    "statement_timeout": STATEMENT_SECONDS,
    "lock_timeout": WAIT_SECONDS,
    # A replica that dies in mid-transaction must not keep its locks.
    "idle_in_transaction_session_timeout": WAIT_SECONDS,
}
# What PostgreSQL takes a page to cost that is found by an index, beside one of a table that it reads as a whole. By its
# default of 4, it would read a table of some hundred rows rather than look one up, and so for each row of a page: pages
# take 1.3 to 1.6 times as long in a registry of 10⁴ versions as in one of 10³ or of 10⁵.
_RANDOM_PAGE_COST = 1.1
# What a URL does not say itself. A peer that vanished is noticed while a call waits for it, and while none does.
_LIBPQ_DEFAULTS = {
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": WAIT_SECONDS * 1000,
    "keepalives_idle": WAIT_SECONDS,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}

# SQLSTATE: serialization_failure, deadlock_detected, unique_violation, foreign_key_violation. The last two happen where
# two transactions store the same RID at once, and where one removes what the other is about to name; run again, the
# later one finds it as it is.
_CONFLICTS = {"40001", "40P01", "23505", "23503"}
# lock_not_available; query_canceled by a timeout
_TIMED_OUT = {"55P03", "57014"}
# connection_exception, read_only_sql_transaction, insufficient_resources, operator_intervention, system_error
_AWAY = ("08", "25006", "53", "57", "58")
_INSUFFICIENT_PRIVILEGE = "42501"
# The database has become a standby: a new connection may find the primary.
_READ_ONLY = "25006"

_PLACEHOLDER = re.compile(rb"\$(\d+)")

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

    def __init__(self, driver: psycopg.Connection[Any], observer: StatementObserver | None):
        super().__init__(driver, observer)
        self._pg = driver.pgconn
        self._escaping = pq.Escaping(self._pg)
        # Of a transaction: what goes to the database with the next statement that is waited for.
        self._unsent: list[bytes] | None = None
        # Where among what is not sent a savepoint was wanted that is not set; it is before something has to be sent.
        self._savepoint: int | None = None
        self._has_savepoint = False
        # Whether something has been changed since it was wanted.
        self._has_changed = False
        self._was_warned = False
        driver.add_notice_handler(self._note)
        _require_unicode(driver)
        settings = _needed_settings(driver)
        row = driver.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        # Behind a pooler, another process may carry out each transaction. It knows nothing of what was prepared in the
        # one before, nor of what was set.
        self._is_behind_pooler: bool = row[0] != driver.info.backend_pid
        self._prepared: set[bytes] = set()
        # Of statements that have had rows: their columns, each with what decodes it.
        self._decoders: dict[bytes | None, list[tuple[int, Callable[[bytes], Any]]]] = {}
        self._settings = "SELECT " + ", ".join(
            f"set_config('{name}', '{value}', {str(self._is_behind_pooler).lower()})"
            for name, value in settings.items()
        )
        if not self._is_behind_pooler:
            # For what is prepared one plan will do, whatever the values. Pages are not: see `_is_prepared`.
            driver.execute("SET plan_cache_mode = force_generic_plan")
            driver.execute(self._settings.encode())

    @property
    def is_behind_pooler(self) -> bool:
        """Whether a pooler stands before the database, so that nothing that is set lasts longer than a transaction."""
        return self._is_behind_pooler

    def begin(self) -> None:
        """Begin a transaction; others' locks are waited for by its first statement that has to."""
        self._unsent = []
        # The statements here are made for it, whatever the database's default.
        self.run("BEGIN ISOLATION LEVEL READ COMMITTED", wait=False)
        if self._is_behind_pooler:
            self.run(self._settings, wait=False)

    def begin_snapshot(self) -> None:
        """Begin a transaction that changes nothing and sees one moment, for as long as it lasts."""
        self._unsent = []
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", wait=False)
        if self._is_behind_pooler:
            self.run(self._settings, wait=False)
        for timeout in ("statement_timeout", "idle_in_transaction_session_timeout"):
            self.run(f"SET LOCAL {timeout} = 0", wait=False)

    def require_connected(self) -> None:
        """Return if the connection has not ended before the COMMIT to come, which would have an unknown outcome."""
        if self._unsent and not self.has_transaction:
            self._send(b"")

    def commit(self) -> None:
        """Commit, and wait until what was sent has been done."""
        self._was_warned = False
        told = self.run("COMMIT")
        self.position = told[0][0] if told else None
        self._unsent = None

    def roll_back(self) -> None:
        """Roll back, if there is a transaction."""
        self._unsent = self._savepoint = None
        self._has_savepoint = False
        super().roll_back()

    def set_savepoint(self) -> None:
        """Let what is changed from now on be undone by itself, until `release_savepoint`.

        What was not sent is undone by not sending it. So the database has a savepoint only if a change waits for
        something once it has changed something: without, promotions in a group take a thirtieth less time.
        """
        assert self._unsent is not None
        self._savepoint, self._has_savepoint, self._has_changed = len(self._unsent), False, False

    def roll_back_to_savepoint(self) -> None:
        """Undo what was changed since the savepoint, which stays; what was locked stays locked without one."""
        assert self._unsent is not None
        if self._has_savepoint:
            super().roll_back_to_savepoint()
        else:
            del self._unsent[self._savepoint :]

    def release_savepoint(self) -> None:
        """Let what was changed since the savepoint belong to the transaction."""
        if self._has_savepoint:
            super().release_savepoint()
        self._savepoint, self._has_savepoint = None, False

    @property
    def has_transaction(self) -> bool:
        """Whether the database has begun a transaction and not ended it; of a lost connection, it is not known."""
        return self._pg.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection has ended, or leads to a standby."""
        return self._pg.status != pq.ConnStatus.OK or getattr(error, "sqlstate", None) == _READ_ONLY

    def wait_for_standbys(self) -> None:
        """Let the COMMIT to come wait until standbys, if there are any, have all that is committed by now."""
        # Only what has written something waits.
        self.run("SELECT pg_logical_emit_message(true, '', '')")

    def was_warned(self) -> bool:
        """Whether the database warned of something at the last COMMIT.

        It does where the wait for a standby was cancelled, which is a success for it.
        """
        return self._was_warned

    def interrupt(self) -> None:
        """Have what the connection does for another thread fail, soon, if it does anything."""
        self.driver.cancel_safe(timeout=CONNECT_SECONDS)

    def break_off(self) -> None:
        """Have what the connection does for another thread fail now, though the database may not answer at all."""
        # As if the other end had closed it.
        with (
            contextlib.suppress(OSError, Error),
            socket.socket(fileno=os.dup(self._pg.socket)) as connection,
        ):
            connection.shutdown(socket.SHUT_RDWR)

    def _execute(
        self, text: str, compiled: Compiled | None, values: Sequence[Any], wait: bool
    ) -> tuple[Sequence[Sequence[Any]], int]:
        if self._unsent is None:
            result = self._execute_alone(text, compiled, values)
            return self._rows(compiled, result), result.command_tuples or 0
        self._has_changed |= compiled is None or compiled.is_change
        if self.tells_position and text == "COMMIT":
            return self._commit_and_locate(), 0
        if wait:
            result = self._send(self._command(text, compiled, values))
        else:
            self._unsent.append(self._command(text, compiled, values))
            return (), 0
        return self._rows(compiled, result), result.command_tuples or 0

    def _rows(self, compiled: Compiled | None, result: pq.abc.PGresult) -> Sequence[Sequence[Any]]:
        if result.status != pq.ExecStatus.TUPLES_OK:
            return ()
        name = None if compiled is None else compiled.name
        decoders = self._decoders.get(name)
        if decoders is None:
            types = [result.ftype(column) for column in range(result.nfields)]
            decoders = [(column, _DECODERS.get(oid, bytes.decode)) for column, oid in enumerate(types)]
            if name is not None:
                self._decoders[name] = decoders
        get = result.get_value
        return [
            [None if (value := get(row, column)) is None else decode(value) for column, decode in decoders]
            for row in range(result.ntuples)
        ]

    def _execute_alone(self, text: str, compiled: Compiled | None, values: Sequence[Any]) -> pq.abc.PGresult:
        given: list[Any] = [value if value is None or type(value) is bytes else _text(value) for value in values]
        # Bytes as they are, and everything else as text.
        formats = [type(value) is bytes for value in values]
        if compiled is None or not self._is_prepared(compiled):
            return _checked(self._pg.exec_params(text.encode(), given, param_formats=formats))
        return _checked(self._pg.exec_prepared(compiled.name, given, formats))

    def _send(self, command: bytes) -> pq.abc.PGresult:
        """Run what was not sent yet and then a command, in one round trip, and return the result of that."""
        assert self._unsent is not None
        if self._savepoint is not None and self._has_changed:
            self._unsent.insert(self._savepoint, b"SAVEPOINT change")
            self._savepoint, self._has_savepoint = None, True
        elif self._savepoint is not None:
            self._savepoint = 0
        commands = b";".join([*self._unsent, command])
        self._unsent = []
        return _checked(self._pg.exec_(commands))

    def _commit_and_locate(self) -> Sequence[Sequence[Any]]:
        """Commit, and return a row with where that is stored, if it could be asked for in the same round trip.

        Whether it is committed is for the result of the COMMIT alone to say.
        """
        assert self._unsent is not None
        # Nothing is shown to others before it is flushed, so by then this is.
        commands = [*self._unsent, b"COMMIT", b"SELECT pg_current_wal_flush_lsn()"]
        self._unsent = []
        self._pg.send_query(b";".join(commands))
        results = list(iter(self._pg.get_result, None))
        if all(result.command_status != b"COMMIT" for result in results):
            for result in results:
                _checked(result)
            raise psycopg.OperationalError("the transaction has ended without a COMMIT")
        last = results[-1]
        return self._rows(None, last) if last.status == pq.ExecStatus.TUPLES_OK else ()

    def _command(self, text: str, compiled: Compiled | None, values: Sequence[Any]) -> bytes:
        """Return a statement with its values in it."""
        if compiled is None:
            return text.encode()
        literals = [self._literal(value) for value in values]
        if not self._is_prepared(compiled):
            return _PLACEHOLDER.sub(lambda found: literals[int(found[1]) - 1], text.encode())
        return b"EXECUTE %b(%b)" % (compiled.name, b",".join(literals)) if literals else b"EXECUTE " + compiled.name

    def _literal(self, value: Any) -> bytes:
        if value is None:
            return b"NULL"
        if type(value) is bytes:
            return b"E'\\\\x%b'" % value.hex().encode()
        return bytes(self._escaping.escape_literal(_text(value)))

    def _is_prepared(self, compiled: Compiled) -> bool:
        """Return whether a statement is prepared, which is done here if it is not yet; a pooler has none."""
        # The plan of a page depends on how long it is.
        if self._is_behind_pooler or compiled.is_page:
            return False
        if compiled.name not in self._prepared:
            _checked(self._pg.prepare(compiled.name, compiled.text.encode()))
            self._prepared.add(compiled.name)
        return True

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._was_warned = True


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


def opener(url: URL) -> Callable[[StatementObserver | None], PostgresSession]:
    """Return what connects to a database."""
    defaults = {name: str(value) for name, value in _LIBPQ_DEFAULTS.items() if name not in url.query}
    _, arguments = PostgresSession.dialect.create_connect_args(url)
    # Whatever the URL, the role, the database or the environment says: what is stored is Unicode.
    arguments = {**arguments, **defaults, "client_encoding": "utf8"}
    return lambda observer: PostgresSession.over(psycopg.connect(autocommit=True, **arguments), observer)


def _needed_settings(connection: psycopg.Connection[Any]) -> dict[str, str | float]:
    """Return what settings have to be; a stronger synchronous_commit, cheaper pages and other timeouts are a choice."""
    names = ["synchronous_commit", "random_page_cost", *_TIMEOUTS]
    found = dict(connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [names]).fetchall())
    lasting = found["synchronous_commit"] if found["synchronous_commit"] in ("on", "remote_apply") else "on"
    timeouts = {name: int(found[name]) or seconds * 1000 for name, seconds in _TIMEOUTS.items()}
    return {
        "synchronous_commit": lasting,
        # As `_DECODERS` reads it.
        "bytea_output": "hex",
        "random_page_cost": min(float(found["random_page_cost"]), _RANDOM_PAGE_COST),
        **timeouts,
    }


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


def _text(value: Any) -> bytes:
    """Return a value as PostgreSQL reads it. Raises ValueError for a NUL, where libpq would end it without a word."""
    text = str(value).encode()
    if b"\0" in text:
        raise ValueError("text for PostgreSQL has a NUL")
    return text


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    """Return a result. Raises the error that it is, if it is one."""
    if result.status != pq.ExecStatus.FATAL_ERROR:
        return result
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.get_error_message("utf8")
    try:
        raise psycopg.errors.lookup(state)(message)
    except KeyError:
        # libpq's own have no state: the connection has ended.
        raise psycopg.OperationalError(message) from None
