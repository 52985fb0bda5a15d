"""Runs closures over a database, and runs them again after a conflict or a lost connection."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from typing import TypeVar

from sqlalchemy import bindparam, select

from modelregistry.v1.promotion_pb2 import PromotionKind
from server.core.cancellation import LOOK_SECONDS, CallOver, require_wanted, within
from server.core.errors import Overloaded, RegistryError, StorageUnavailable
from server.core.freshness import current_freshness
from server.core.observers import unfailing
from server.storage.contract import ConnectionUse, LogEnd, Reader, StatementObserver, Transaction
from server.storage.sql.clock import SteadyClock
from server.storage.sql.database import Database
from server.storage.sql.decisions import Decision, mark, marked
from server.storage.sql.disk_reserve import DiskReserve
from server.storage.sql.event_log import newest_event
from server.storage.sql.group_commit import GroupCommit
from server.storage.sql.pool import ConnectionLost, OutcomeUnknown, Pool
from server.storage.sql.principals import disabled_principals
from server.storage.sql.promotions_in_order import newest_promotion
from server.storage.sql.replica import Replica
from server.storage.sql.session import Conflict, Failure, Session
from server.storage.sql.settling_events import SettlingEvents
from server.storage.sql.statements import Statement
from server.storage.sql.tables import promotions
from server.storage.sql.transaction import SqlReader, SqlTransaction
from server.storage.sql.version_cache import VersionCache
from server.storage.sql.writer_queue import WriterQueue
from server.storage.unavailable import DatabaseUnsuitable, no_room_for_database

T = TypeVar("T")

ATTEMPTS = 5
BACKOFF_SECONDS = 0.01
# How long after the first one it is asked again whether what was being decided has ended; then less and less often.
SETTLE_SECONDS = 0.002
# How often to try whether a file can be written, and how long to wait for others meanwhile: less than the server's call
# to itself does.
PROBE_SECONDS = 5.0
PROBE_PATIENCE_SECONDS = 1.0

_newest = Statement(
    select(promotions.c.created_time)
    .where(promotions.c.created_time <= bindparam("bound_ms"))
    .order_by(promotions.c.created_time.desc())
    .limit(1)
)

log = logging.getLogger(__name__)


def now_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class SqlRepository:
    """`server.storage.contract.Repository` over SQLite or PostgreSQL; safe to share between threads."""

    def __init__(
        self,
        database: Database,
        pool_size: int = 8,
        max_message_bytes: int = 4 * 2**20,
        clock_ms: Callable[[], int] = now_ms,
        promoted: Callable[[PromotionKind.ValueType], None] | None = None,
        observer: StatementObserver | None = None,
        disk_reserve: int | None = None,
        read_database: Database | None = None,
        max_lag_seconds: float = 1.0,
        standby_read: Callable[[bool], None] | None = None,
    ):
        """Open at most `pool_size` connections, when they are first used.

        `clock_ms` may go back: `SteadyClock`. `promoted` is told of each promotion once it is committed, `observer` of
        each statement. Of a database that is a file, `disk_reserve` bytes are held beside it; None leaves what is held
        as it is. `read_database` is a standby that may answer `read_recent`, and lag so long; of each such
        read, `standby_read` is told whether it did. Raises OSError.
        """
        self._database = database
        self._promoted = promoted
        self._observer = unfailing(observer) if observer else None
        self._standby_read = standby_read
        # One connection of each more, to ask how far both are.
        pool_size += read_database is not None
        self._pool = Pool(database, pool_size, self._observer, tells_positions=read_database is not None)
        self._replica: Replica | None = None
        if read_database is not None:
            self._replica = Replica(self._pool, Pool(read_database, pool_size, self._observer), max_lag_seconds)
        self._versions = VersionCache()
        self._max_message_bytes = max_message_bytes
        self._clock_ms = SteadyClock(clock_ms)
        self._queue = WriterQueue(database.file) if database.file else None
        self._reserve = DiskReserve(database.file) if database.file else None
        if self._reserve is not None and disk_reserve is not None:
            self._reserve.keep(disk_reserve)
        self._probed_at = -math.inf
        # By the question for the newest of something.
        self._settled: dict[Callable[[Session], LogEnd], LogEnd] = {}
        self._settling = SettlingEvents()
        self._group_commit = GroupCommit(self._pool, self._queue.turn if self._queue else nullcontext)

    def read(self, query: Callable[[Reader], T]) -> T:
        """See the contract."""
        return self._with_retries(lambda: self._read(query))

    def read_recent(self, query: Callable[[Reader], T]) -> T:
        """See the contract."""
        replica = self._replica
        if replica is None:
            return self.read(query)
        if replica.can_answer(current_freshness()):
            try:
                result = self._run_query(replica.read, query)
            except (RegistryError, ConnectionLost, self._database.errors) as error:
                # What is missing or forbidden there may be so no more.
                log.debug("asking the primary after %s", error)
            else:
                self._count_read(by_standby=True)
                return result
        self._count_read(by_standby=False)
        return self.read(query)

    def write(
        self,
        change: Callable[[Transaction], T],
        *,
        repeatable: bool = False,
        branch: tuple[str, str] | None = None,
        may_use_reserve: bool = False,
        settles: bool = False,
    ) -> T:
        """See the contract."""

        def decide_and_change(transaction: SqlTransaction) -> T:
            mark(transaction)
            return change(transaction)

        run = decide_and_change if settles else change
        result = self._with_retries(
            lambda: self._write(run, branch, may_use_reserve), repeatable, may_use_reserve=may_use_reserve
        )
        # Where one transaction at a time decides and commits, this one has waited for those before.
        if settles and self._queue is None:
            self.settle()
        return result

    def settle(self) -> None:
        """See the contract."""
        try:
            self._await_deciding()
        except StorageUnavailable as error:
            raise StorageUnavailable(retry_after=None) from error

    def _await_deciding(self) -> None:
        """Return once all have ended that are deciding now. Raises StorageUnavailable."""
        deciding: frozenset[Decision] | None = None
        pause = SETTLE_SECONDS
        while True:
            try:
                found = self._with_retries(self._deciding, repeatable=True)
                deciding = found if deciding is None else deciding & found
                if not deciding:
                    return
            except Overloaded:
                # That would say that nothing was changed.
                log.info("it is not known yet what is being decided, and asked again: others wait, too")
            time.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)

    def settled_event(self) -> LogEnd:
        """See the contract."""
        return self._newest_settled(newest_event)

    def settled_promotion(self) -> LogEnd:
        """See the contract."""
        return self._newest_settled(newest_promotion)

    def _newest_settled(self, newest_of: Callable[[Session], LogEnd]) -> LogEnd:
        """Return the newest of a table whose keys are drawn by transactions that are marked, once it is settled."""
        newest = self._with_retries(lambda: self._pool.read(newest_of))
        # What is settled stays so. Of two threads, either may write it down.
        if self._queue is None and newest != self._settled.get(newest_of, LogEnd()):
            self._await_deciding()
            self._settled[newest_of] = newest
        return newest

    def settled_event_by_now(self) -> LogEnd:
        """See the contract."""
        return self._with_retries(lambda: self._pool.read(self._settling.settled_by_now))

    def _deciding(self) -> frozenset[Decision]:
        """Return the transactions that are deciding now. Where there is one at a time, it has ended by then."""
        if self._queue is None:
            return self._pool.read(marked)
        # A change of nothing, in the line behind it.
        self._group_commit.run(lambda session: None)
        return frozenset()

    def disabled_principals(self) -> frozenset[str]:
        """See the contract."""
        return self._with_retries(lambda: self._pool.read(disabled_principals))

    def ping(self) -> None:
        """See the contract."""
        self._with_retries(lambda: self._pool.read(self._set_clock))
        if self._replica is not None:
            self._with_retries(self._replica.prepare)

    def require_writable(self) -> None:
        """See the contract."""
        if self._reserve is not None and time.monotonic() - self._probed_at >= PROBE_SECONDS:
            self._reserve.take_back()
            # Where others write for so long, it can be written.
            with suppress(Overloaded, CallOver):
                within(PROBE_PATIENCE_SECONDS, self._probe)
                self._probed_at = time.monotonic()

    def connections(self) -> ConnectionUse:
        """See the contract."""
        return self._pool.use()

    def standby_seen_at(self) -> float | None:
        """See the contract."""
        return None if self._replica is None else self._replica.seen_at

    def close(self) -> None:
        """See the contract."""
        if self._replica is not None:
            self._replica.close()
        if self._queue is not None:
            self._queue.close()
        self._pool.close()

    def _count_read(self, *, by_standby: bool) -> None:
        if self._standby_read is not None:
            self._standby_read(by_standby)

    def _set_clock(self, session: Session) -> None:
        """Let the clock go on from the newest promotion. Raises DatabaseUnsuitable, and the driver's errors."""
        newest = session.one_or_none(_newest, {"bound_ms": self._clock_ms.bound_ms()})
        session.require_connected()
        if newest is not None:
            self._clock_ms.not_before(newest.created_time)

    def _probe(self) -> None:
        self._with_retries(lambda: self._write(_leave_a_mark, None, False))

    def _read(self, query: Callable[[Reader], T]) -> T:
        return self._run_query(self._pool.read, query)

    def _run_query(self, run_on: Callable[[Callable[[Session], T]], T], query: Callable[[Reader], T]) -> T:
        def run(session: Session) -> T:
            reader = SqlReader(session, self._max_message_bytes, self._versions, self._clock_ms)
            try:
                return query(reader)
            finally:
                self._versions.put(reader.versions_read)

        return run_on(run)

    def _write(self, change: Callable[[SqlTransaction], T], branch: tuple[str, str] | None, may_use_reserve: bool) -> T:
        def run(session: Session) -> tuple[T, SqlTransaction]:
            if self._reserve is not None and not may_use_reserve:
                self._reserve.require_held()
            transaction = SqlTransaction(session, self._max_message_bytes, self._versions, self._clock_ms)
            result = change(transaction)
            session.extended |= transaction.extended
            session.is_marked |= transaction.is_marked
            return result, transaction

        if self._queue is None and branch is None:
            result, transaction = self._pool.write(run)
        else:
            # Where there is one writer at a time, all changes are one line.
            result, transaction = self._group_commit.run(run, branch if self._queue is None else None)
        self._versions.put(transaction.versions_read)
        self._note_position(transaction.session)
        # Of a COMMIT whose answer was lost nothing is told, even if it turns out later that it was applied.
        self._clock_ms.not_before(transaction.promoted_ms)
        self._tell(transaction.promoted)
        return result

    def _note_position(self, session: Session | None) -> None:
        """Let what its caller reads from now on be as new as what the call has changed; None if that is not known."""
        freshness = current_freshness()
        # Another change may have been committed on the session since then, which is later still.
        if self._replica is not None and freshness is not None:
            self._replica.note_change(freshness, None if session is None else session.position)

    def _tell(self, promoted: Iterable[PromotionKind.ValueType]) -> None:
        if self._promoted is None:
            return
        for kind in promoted:
            try:
                self._promoted(kind)
            except Exception:  # What is committed is no failure for its caller.
                log.warning("what counts promotions failed", exc_info=True)

    def _with_retries(self, run: Callable[[], T], repeatable: bool = False, may_use_reserve: bool = False) -> T:
        """Run, and run again after a conflict or a lost connection: neither leaves anything behind.

        What may use the reserve is run again where it has found no room, once that is given up. After a COMMIT that may
        have been applied, only what is repeatable is run again. Nothing is run for a call that is over.
        """
        may_be_done = False
        for attempt in range(1, ATTEMPTS + 1):
            require_wanted()
            try:
                return run()
            except DatabaseUnsuitable as error:
                raise StorageUnavailable(retry_after=None) from error
            except OutcomeUnknown as error:
                self._note_position(None)
                if not repeatable:
                    raise StorageUnavailable(retry_after=None) from error.__cause__
                if attempt == ATTEMPTS:
                    raise StorageUnavailable from error.__cause__
                may_be_done = True
                _pause(attempt, error.__cause__)
            except (Conflict, ConnectionLost, Overloaded, self._database.errors) as error:
                failure = self._classify(error)
                again = isinstance(error, ConnectionLost) or failure is Failure.CONFLICT
                if failure is Failure.FULL and may_use_reserve and self._reserve is not None:
                    again = self._reserve.give_up()
                if attempt == ATTEMPTS or not again:
                    told = _error_for_caller(failure)
                    if told is None:
                        raise
                    # Overloaded promises that nothing was done, which an earlier attempt may have been.
                    if may_be_done and isinstance(told, Overloaded):
                        told = StorageUnavailable()
                    raise told from (None if isinstance(error, Overloaded) else error)
                _pause(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    def _classify(self, error: Exception) -> Failure:
        match error:
            case Conflict():
                return Failure.CONFLICT
            case ConnectionLost():
                return Failure.AWAY
            case Overloaded():
                return Failure.BUSY
        return self._database.failure_of(error)


def _leave_a_mark(tx: SqlTransaction) -> None:
    """Write the one number that SQLite keeps in a file for its applications, and that this one does not read."""
    tx.session.run("PRAGMA user_version = 0")


def _error_for_caller(failure: Failure) -> RegistryError | None:
    """Return what to tell the caller; None of a defect."""
    match failure:
        case Failure.CONFLICT | Failure.BUSY:
            return Overloaded()
        case Failure.FULL:
            return no_room_for_database()
        case Failure.FORBIDDEN:
            return StorageUnavailable(retry_after=None)
        case Failure.AWAY:
            return StorageUnavailable()
    return None


def _pause(attempt: int, error: BaseException | None) -> None:
    log.info("running a transaction again after %s", error)
    time.sleep(random.uniform(0, BACKOFF_SECONDS * 2**attempt))  # noqa: S311 - it spreads retries
