"""Runs closures over an engine: the one place that begins, commits, rolls back and tries again."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from modelregistry.v1.promotion_pb2 import PromotionKind
from server.errors import Overloaded, StorageUnavailable
from server.storage.repository import ConnectionUse, Reader, Transaction
from server.storage.sql.cache import VersionCache
from server.storage.sql.conflicts import is_conflict, translate
from server.storage.sql.connections import Connections, OutcomeUnknown
from server.storage.sql.engine import WAIT_SECONDS, has_one_writer
from server.storage.sql.promotions import SqlPromotionReader
from server.storage.sql.statements import watch_statements
from server.storage.sql.tables import models
from server.storage.sql.transaction import SqlTransaction
from server.storage.values import StatementWatch

T = TypeVar("T")

ATTEMPTS = 5
BACKOFF_SECONDS = 0.01

log = logging.getLogger(__name__)


def now_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class SqlRepository:
    """`server.storage.repository.Repository` over SQLite or PostgreSQL; safe to share between threads."""

    def __init__(
        self,
        engine: Engine,
        max_message_bytes: int = 4 * 2**20,
        clock_ms: Callable[[], int] = now_ms,
        promoted: Callable[[PromotionKind.ValueType], None] | None = None,
        watch: StatementWatch | None = None,
    ):
        """Take an engine that is nobody else's.

        `promoted` is told of each promotion once it is committed, `watch` of each statement.
        """
        if watch is not None:
            watch_statements(engine, watch)
        self._engine = engine
        self._promoted = promoted
        self._connections = Connections(engine, watch)
        self._versions = VersionCache()
        self._max_message_bytes = max_message_bytes
        self._clock_ms = clock_ms
        self._writer = threading.Lock() if has_one_writer(engine) else None

    def read(self, query: Callable[[Reader], T]) -> T:
        """See the contract."""
        return self._until_settled(lambda: self._read(query))

    def write(self, change: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        """See the contract."""
        return self._until_settled(lambda: self._write(change), repeatable)

    def ping(self) -> None:
        """See the contract."""
        self._until_settled(lambda: self._read(lambda reader: reader.connection.execute(select(models.c.id).limit(1))))

    def connections(self) -> ConnectionUse:
        """See the contract."""
        return self._connections.use()

    def close(self) -> None:
        """See the contract."""
        self._connections.close()
        self._engine.dispose()

    def _read(self, query: Callable[[SqlPromotionReader], T]) -> T:
        connection, raised = self._connections.take(), None
        try:
            return query(SqlPromotionReader(connection, self._max_message_bytes, self._versions))
        except BaseException as error:
            raised = error
            raise
        finally:
            self._connections.give_back(connection, raised)

    def _write(self, change: Callable[[Transaction], T]) -> T:
        with self._turn_to_write(), self._connections.transaction() as connection:
            transaction = SqlTransaction(connection, self._max_message_bytes, self._versions, self._clock_ms)
            result = change(transaction)
        # Of a COMMIT whose answer was lost nobody is told, even if it turns out later that it was applied.
        if self._promoted is not None:
            for kind in transaction.promoted:
                self._promoted(kind)
        return result

    @contextlib.contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """Queue here rather than in the database, whose waiters poll."""
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=WAIT_SECONDS):
            raise Overloaded
        try:
            yield
        finally:
            self._writer.release()

    def _until_settled(self, run: Callable[[], T], repeatable: bool = False) -> T:
        """Run, and run again after a conflict or a lost connection: neither leaves anything behind.

        After a COMMIT that may have been applied, only what is repeatable is run again.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return run()
            except OutcomeUnknown as error:
                if not repeatable:
                    raise StorageUnavailable(retry_after=None) from error.__cause__
                if attempt == ATTEMPTS:
                    raise StorageUnavailable from error.__cause__
                _pause(attempt, error.__cause__)
            except (DBAPIError, PoolTimeout) as error:
                passing = isinstance(error, DBAPIError) and (is_conflict(error) or error.connection_invalidated)
                if not passing or attempt == ATTEMPTS:
                    raise translate(error) or error from error
                _pause(attempt, error)
        raise AssertionError("the last attempt returns or raises")


def _pause(attempt: int, error: BaseException | None) -> None:
    log.info("running a transaction again after %s", error)
    time.sleep(random.uniform(0, BACKOFF_SECONDS * 2**attempt))  # noqa: S311 - it spreads retries
