"""Clients that promote and read on and on, at any of the servers, and when they succeeded."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from typing import Any, NamedTuple

import grpc

from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.ha.nodes import await_that
from tests.ha.replicas import Replica
from tests.history import Client, Recorder
from tests.rpc.harness import Failure, User, failure_of

CLIENTS = 6
# After so many rounds a client is replaced by a new one, with new connections, which begins at either server.
ROUNDS = 20
PAUSE_SECONDS = 0.05
ATTEMPT_SECONDS = 40
PATIENCE_SECONDS = 60


class Attempt(NamedTuple):
    """One call of a client, and how it failed if it did."""

    began: float
    ended: float
    rpc: str
    failure: Failure | None


@dataclass(frozen=True)
class Witness(User):
    """A caller who takes down how each call ends."""

    attempts: list[Attempt] = field(default_factory=list)

    def send(self, rpc: str, request_bytes: bytes, timeout: float = ATTEMPT_SECONDS) -> Any:
        began, failure = time.monotonic(), None
        try:
            return super().send(rpc, request_bytes, timeout)
        except grpc.RpcError as error:
            failure = failure_of(error)
            raise
        finally:
            self.attempts.append(Attempt(began, time.monotonic(), rpc, failure))


class Gap(NamedTuple):
    """How promotions were interrupted by an event."""

    event: str
    # From the event to the end of the first promotion that succeeded of those that were asked for after it.
    first_success_seconds: float
    # The longest time in which no promotion succeeded, from the event until all is as it was.
    longest_seconds: float
    # When the first server said NOT_SERVING, and when the last one said SERVING again, where that was looked at.
    not_serving_seconds: tuple[float, float] | None = None


class Load:
    """Some clients, each a thread, that promote one version into some models."""

    def __init__(
        self, replicas: Sequence[Replica], metadata: tuple[tuple[str, str], ...], source: ModelVersion, *targets: Model
    ) -> None:
        self.recorder = Recorder()
        self.attempts: list[Attempt] = []
        self._replicas = replicas
        self._metadata = metadata
        self._source = source
        self._targets = targets
        self._stopping = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, the clients are at work."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            threads = [pool.submit(self._work, f"client-{number}", number) for number in range(1, CLIENTS + 1)]
            try:
                yield
            finally:
                self._stopping.set()
        for thread in threads:
            thread.result()

    def await_successes(self, instant: float, number: int = 10 * CLIENTS) -> None:
        """Wait until so many promotions have succeeded that were asked for after an instant."""
        succeeded = partial(self._succeeded_after, instant)
        await_that(lambda: len(succeeded()) >= number, f"no {number} promotions succeed after {instant}")

    def gap(self, event: str, instant: float) -> Gap:
        """How promotions were interrupted, from an event at an instant until now."""
        before = max(attempt.ended for attempt in self._promoted() if attempt.ended <= instant)
        ends = sorted(attempt.ended for attempt in self._promoted() if attempt.ended > instant)
        return Gap(
            event,
            min(attempt.ended for attempt in self._succeeded_after(instant)) - instant,
            max(later - earlier for earlier, later in pairwise([before, *ends, time.monotonic()])),
        )

    def _promoted(self) -> list[Attempt]:
        return [each for each in list(self.attempts) if each.rpc == "PromoteVersion" and each.failure is None]

    def _succeeded_after(self, instant: float) -> list[Attempt]:
        return [attempt for attempt in self._promoted() if attempt.began > instant]

    def _work(self, name: str, seed: int) -> None:
        chance = random.Random(seed)
        for generation in count(1):
            with contextlib.ExitStack() as exits:
                channels = [exits.enter_context(replica.channel()) for replica in self._replicas]
                users = [Witness(channel, self._metadata, attempts=self.attempts) for channel in channels]
                chance.shuffle(users)
                client = Client(
                    self.recorder,
                    f"{name}.{generation}",
                    *users,
                    attempt_seconds=ATTEMPT_SECONDS,
                    patience_seconds=PATIENCE_SECONDS,
                )
                for _ in range(ROUNDS):
                    target = chance.choice(self._targets)
                    client.promote(self._source.rid, target.rid)
                    client.get_branch(target.rid)
                    if self._stopping.wait(PAUSE_SECONDS):
                        return
