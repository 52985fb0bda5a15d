"""Runs closures over an engine: the one place that begins, commits, rolls back and tries again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import PromotionKind
from server.core.caller import Caller
from server.core.cancellation import current_call, require_wanted
from server.core.errors import Overloaded, StorageUnavailable
from server.core.logs import get_logger
from server.storage.contract import ConnectionUse, Plain, Reader, StatementWatch, StoredVersion, Transaction
from server.storage.sql import at_once
from server.storage.sql.cache import VersionCache
from server.storage.sql.conflicts import is_conflict, is_held, translate
from server.storage.sql.connections import Connections, OutcomeUnknown
from server.storage.sql.engine import one_writer_file
from server.storage.sql.one_writer import OneWriter
from server.storage.sql.promotions import SqlPromotionReader
from server.storage.sql.statements import unfailing, watch_statements
from server.storage.sql.tables import models
from server.storage.sql.transaction import SqlTransaction
from server.storage.unavailable import DatabaseUnsuitable

T = TypeVar("T")

ATTEMPTS = 5
BACKOFF_SECONDS = 0.01
# How long a promotion at once waits for another into the same branch.
PATIENCE_SECONDS = 1.0

log = get_logger(__name__)


def now_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class SqlRepository:
    """`server.storage.contract.Repository` over SQLite or PostgreSQL; safe to share between threads."""

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
            watch = unfailing(watch)
            watch_statements(engine, watch)
        self._engine = engine
        self._promoted = promoted
        self._connections = Connections(engine, watch)
        self._versions = VersionCache()
        self._max_message_bytes = max_message_bytes
        self._clock_ms = clock_ms
        file = one_writer_file(engine)
        self._one_writer = OneWriter(self._connections, file) if file else None

    def read(self, query: Callable[[Reader], T]) -> T:
        """See the contract."""
        return self._until_settled(lambda: self._read(query))

    def write(self, change: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        """See the contract."""
        return self._until_settled(lambda: self._write(change), repeatable)

    def promote_at_once(self, promotion: Plain, caller: Caller) -> ModelVersion | None:
        """See the contract."""
        return self._until_settled(lambda: self._promote(promotion, caller), promotion.claim is not None)

    def version_at_hand(self, model_version_rid: str) -> StoredVersion | None:
        """See the contract."""
        return self._versions.get(model_version_rid)

    def ping(self) -> None:
        """See the contract."""
        self._until_settled(lambda: self._read(lambda reader: reader.connection.execute(select(models.c.id).limit(1))))

    def connections(self) -> ConnectionUse:
        """See the contract."""
        return self._connections.use()

    def close(self) -> None:
        """See the contract."""
        if self._one_writer is not None:
            self._one_writer.close()
        self._connections.close()
        self._engine.dispose()

    def _read(self, query: Callable[[SqlPromotionReader], T]) -> T:
        return self._connections.read(
            lambda connection: query(SqlPromotionReader(connection, self._max_message_bytes, self._versions))
        )

    def _write(self, change: Callable[[Transaction], T]) -> T:
        def run(connection: Connection) -> tuple[T, list[PromotionKind.ValueType]]:
            transaction = SqlTransaction(connection, self._max_message_bytes, self._versions, self._clock_ms)
            return change(transaction), transaction.promoted

        if self._one_writer is not None:
            result, promoted = self._one_writer.run(run)
        else:
            with self._connections.transaction() as connection:
                result, promoted = run(connection)
        # Of a COMMIT whose answer was lost nobody is told, even if it turns out later that it was applied.
        self._tell(promoted)
        return result

    def _promote(self, promotion: Plain, caller: Caller) -> ModelVersion | None:
        if self._one_writer is not None:
            promoted = self._one_writer.run(
                lambda connection: at_once.in_steps(connection, promotion, caller, self._clock_ms())
            )
        else:
            promoted = self._promote_with_function(promotion, caller)
        if promoted is not None:
            self._tell([promotion.record.kind])
        return promoted

    def _promote_with_function(self, promotion: Plain, caller: Caller) -> ModelVersion | None:
        call = current_call()
        # What commits is not interrupted. So where others keep it waiting, it is left to what can be.
        seconds = min(PATIENCE_SECONDS, call.seconds_left) if call else PATIENCE_SECONDS
        try:
            with self._connections.statement() as connection:
                return at_once.with_function(connection, promotion, caller, self._clock_ms(), seconds)
        except DBAPIError as error:
            if is_held(error):
                return None
            raise

    def _tell(self, promoted: Iterable[PromotionKind.ValueType]) -> None:
        if self._promoted is None:
            return
        for kind in promoted:
            try:
                self._promoted(kind)
            except Exception:  # What is committed is no failure for its caller.
                log.warning("what counts promotions failed", exc_info=True)

    def _until_settled(self, run: Callable[[], T], repeatable: bool = False) -> T:
        """Run, and run again after a conflict or a lost connection: neither leaves anything behind.

        After a COMMIT that may have been applied, only what is repeatable is run again. Nothing is run for a call that
        is over.
        """
        may_be_done = False
        for attempt in range(1, ATTEMPTS + 1):
            require_wanted()
            try:
                return run()
            except DatabaseUnsuitable as error:
                raise StorageUnavailable(retry_after=None) from error
            except OutcomeUnknown as error:
                if not repeatable:
                    raise StorageUnavailable(retry_after=None) from error.__cause__
                if attempt == ATTEMPTS:
                    raise StorageUnavailable from error.__cause__
                may_be_done = True
                _pause(attempt, error.__cause__)
            except (DBAPIError, PoolTimeout, Overloaded) as error:
                passing = isinstance(error, DBAPIError) and (is_conflict(error) or error.connection_invalidated)
                if not passing or attempt == ATTEMPTS:
                    told = error if isinstance(error, Overloaded) else translate(error) or error
                    # That certainly nothing was done, this attempt can say of itself alone.
                    if may_be_done and isinstance(told, Overloaded):
                        raise StorageUnavailable from error
                    raise told from (None if told is error else error)
                _pause(attempt, error)
        raise AssertionError("the last attempt returns or raises")


def _pause(attempt: int, error: BaseException | None) -> None:
    log.info("running a transaction again after %s", error)
    time.sleep(random.uniform(0, BACKOFF_SECONDS * 2**attempt))  # noqa: S311 - it spreads retries
