"""Sends what waits in the queues of subscriptions, on a thread of its own with an event loop.

There is one in each worker process of each replica. They agree by the database: one at a time queues events, and each
queue is leased by one, which sends what is in it one after the other. A process that is killed leaves its leases, and
another one goes on when they have run out. No transaction is open while something is sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from server.core.caller import Caller
from server.core.errors import RegistryError, SecretsUnavailable
from server.delivery.envelope import CONTENT_TYPE, body_of, signed_headers
from server.delivery.sender import ANSWER_SECONDS, ReceiverConnection, WebhookSender
from server.rules.deliveries import Attempt, Retries, fan_out, finish, take
from server.storage.contract import AttemptEnd, QueueLease, Repository, Transaction

T = TypeVar("T")

# Threads that ask the database, each with a connection.
STORAGE_THREADS = 2
# How many receivers are sent to at a time.
MOST_AT_A_TIME = 64
# How often it is looked whether there is something to do.
POLL_SECONDS = 0.25
# For how long one receiver is sent to before it is another one's turn.
TURN_SECONDS = 5.0
# Longer than an attempt takes.
LEASE = timedelta(seconds=ANSWER_SECONDS + 5)

log = logging.getLogger(__name__)


class Deliverer:
    """Delivers the events of a repository to the URLs of its subscriptions.

    `acting_for` returns the caller for whom a principal's subscriptions act, `unseal` decrypts a secret.
    """

    def __init__(
        self,
        repository: Repository,
        acting_for: Callable[[str], Caller],
        unseal: Callable[[bytes], bytes],
        make_sender: Callable[[], WebhookSender],
        retries: Retries = Retries(),  # noqa: B008, as it is immutable
        lease: timedelta = LEASE,
        tried: Callable[[bool], None] = lambda _: None,
    ):
        """`tried` is told of each attempt whether it succeeded."""
        self._repository = repository
        self._acting_for = acting_for
        self._unseal = unseal
        self._make_sender = make_sender
        self._retries = retries
        self._lease = lease
        self._tried = tried
        self._storage = ThreadPoolExecutor(STORAGE_THREADS, thread_name_prefix="deliveries")
        self._running: set[asyncio.Task[None]] = set()
        self._registry_id = ""
        self._thread = threading.Thread(target=self._run, name="deliverer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Begin no further attempt."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self, seconds: float) -> None:
        """Stop, wait so long for the attempts that are under way, and give up those that take longer."""
        self.stop()
        if self._loop is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._deliver())
        except asyncio.CancelledError:
            log.info("stopped before all receivers had answered; they are sent to again")
        finally:
            self._ready.set()
            self._storage.shutdown(wait=False)

    async def _deliver(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "this runs in a task"
        self._main = task
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._ready.set()
        self._sender = self._make_sender()
        try:
            await asyncio.gather(
                self._repeat(self._look, self._until_next_look), self._repeat(self._lease_queues, self._wake.wait)
            )
            await asyncio.gather(*self._running)
        finally:
            self._sender.close()

    async def _repeat(self, step: Callable[[], Awaitable[bool]], pause: Callable[[], Awaitable[object]]) -> None:
        """Take a step again and again; at once where it says so, else after a pause."""
        failed = False
        while not self._stopping.is_set():
            again = False
            try:
                again = await step()
                failed = False
            except Exception as error:
                # One that the storage is not there for is told of elsewhere, and once.
                if not isinstance(error, RegistryError):
                    log.exception("webhooks cannot be delivered, and it is tried again")
                elif not failed:
                    log.info("webhooks wait for the storage: %s", error.__cause__ or error)
                failed = True
            if not again:
                await pause()

    async def _until_next_look(self) -> None:
        seconds = POLL_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - it spreads the looks of processes
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _look(self) -> bool:
        """Queue events for subscriptions, and wake what sends; return whether there are more."""
        work = await self._asking(lambda: self._repository.read(lambda reader: reader.delivery_work()))
        if work.is_due:
            self._wake.set()
        if not work.is_behind:
            return False
        settled = await self._asking(self._repository.settled_event_by_now)
        more = await self._changing(lambda tx: fan_out(tx, settled))
        self._wake.set()
        return more

    async def _lease_queues(self) -> bool:
        """Begin to send what is due."""
        self._wake.clear()
        free = MOST_AT_A_TIME - len(self._running)
        if free:
            for lease in await self._changing(lambda tx: tx.lease_queues(free, self._lease)):
                task = asyncio.create_task(self._serve(lease))
                self._running.add(task)
                task.add_done_callback(self._end)
        return False

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # What waited for a place has one, and what was given back can be due.
        self._wake.set()

    async def _serve(self, lease: QueueLease) -> None:
        """Send what is due of one queue, for a while."""
        began = time.monotonic()
        try:
            attempt = await self._changing(lambda tx: take(tx, lease, self._acting_for, self._lease))
            async with self._sender.connection() as receiver:
                while attempt is not None:
                    end = await self._try(attempt, receiver)
                    self._tried(end.is_success)
                    is_over = self._stopping.is_set() or time.monotonic() - began > TURN_SECONDS
                    attempt = await self._changing(
                        lambda tx, done=attempt, end=end, is_over=is_over: self._go_on(  # type: ignore[misc]
                            tx, done, end, is_over
                        )
                    )
        except RegistryError as error:
            log.info("a lease of deliveries is left to run out: %s", error.__cause__ or error)
        except Exception:
            log.exception("a lease of deliveries is left to run out")

    def _go_on(self, tx: Transaction, done: Attempt, end: AttemptEnd, is_over: bool) -> Attempt | None:
        """Record how an attempt ended, and return the next one; None if the lease was given back."""
        if not finish(tx, done, end, self._retries):
            return None
        if is_over:
            tx.give_back(done.lease)
            return None
        return take(tx, done.lease, self._acting_for, self._lease)

    async def _try(self, attempt: Attempt, receiver: ReceiverConnection) -> AttemptEnd:
        subscription, event = attempt.delivery.subscription, attempt.event
        secrets = attempt.delivery.secrets
        try:
            keys = [self._unseal(secrets.newest)]
        except SecretsUnavailable:
            return AttemptEnd(error="the server does not have the key that its secret is encrypted under")
        if secrets.previous is not None:
            with suppress(SecretsUnavailable):
                keys.append(self._unseal(secrets.previous))
        if not self._registry_id:
            self._registry_id = await self._asking(lambda: self._repository.read(lambda reader: reader.registry_id()))
        body = body_of(event, self._registry_id)
        headers = {
            "content-type": CONTENT_TYPE,
            "user-agent": "modelregistry",
            **signed_headers(event.id, int(time.time()), body, keys),
        }
        end = await receiver.send(subscription.url, headers, body, subscription.created_by)
        if end.error is not None:
            log.info("event %s was not delivered to %s: %s", event.id, subscription.rid, end.error)
        return end

    async def _changing(self, change: Callable[[Transaction], T]) -> T:
        return await self._asking(lambda: self._repository.write(change, repeatable=True))

    async def _asking(self, ask: Callable[[], T]) -> T:
        """Ask the storage, on another thread. Raises RegistryError."""
        return await asyncio.get_running_loop().run_in_executor(self._storage, ask)
