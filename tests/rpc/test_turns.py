"""Whoever has much to do waits for itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from server.rpc.turns import Turns
from tests.processes import DEADLINE_SECONDS

GREEDY = 10


def test_others_wait_for_one_thing_of_each_and_not_for_all_that_came_before() -> None:
    done: list[str] = []
    may_begin, is_done = threading.Event(), threading.Semaphore(0)

    def work(what: str) -> None:
        may_begin.wait()
        done.append(what)
        is_done.release()

    with ThreadPoolExecutor(1) as executor:
        turns = Turns(executor)
        for number in range(GREEDY):
            turns.add("greedy", partial(work, f"greedy {number}"))
        turns.add("modest", partial(work, "modest"))
        may_begin.set()
        for _ in range(GREEDY + 1):
            assert is_done.acquire(timeout=DEADLINE_SECONDS)
    assert done == ["greedy 0", "modest", *(f"greedy {number}" for number in range(1, GREEDY))]


def test_of_each_one_thing_is_done_at_a_time() -> None:
    under_way, most = 0, 0
    is_done, lock = threading.Semaphore(0), threading.Lock()

    def work() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        threading.Event().wait(0.001)
        with lock:
            under_way -= 1
        is_done.release()

    with ThreadPoolExecutor(4) as executor:
        turns = Turns(executor)
        for _ in range(GREEDY):
            turns.add("greedy", work)
        for _ in range(GREEDY):
            assert is_done.acquire(timeout=DEADLINE_SECONDS)
    assert most == 1
