"""A clock that tests set, what their changes raise, and threads that begin at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from server.storage.sql.repository import SqlRepository
from tests.conftest import OpenRepository

T = TypeVar("T")

NOW_MS = 1_700_000_000_123


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class GivenUp(Exception):
    """What a change raises to be rolled back."""


class Held:
    """A change that does nothing until it may go on."""

    def __init__(self) -> None:
        self._begun, self._goes_on = threading.Event(), threading.Event()

    def __call__(self, tx: object) -> None:
        self._begun.set()
        assert self._goes_on.wait(60)

    def wait_until_begun(self) -> None:
        assert self._begun.wait(60)

    def go_on(self) -> None:
        self._goes_on.set()


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """What `work` returns for each number, all of which begin at the same time."""
    start = threading.Barrier(count, timeout=180)

    def run(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return [done.result() for done in [threads.submit(run, number) for number in range(count)]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(migrated_url: str, open_repository: OpenRepository, clock: Clock) -> SqlRepository:
    """A repository that reads the test's clock."""
    return open_repository(migrated_url, clock_ms=clock)
