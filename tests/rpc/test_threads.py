"""Threads that callers share: their lines take turns, and where all places are taken the longest line gives way."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from server.core.errors import Overloaded
from server.rpc import threads as call_threads
from server.rpc.threads import RECENT_SECONDS, SHARE, Callers, CallThreads, Submitted, run_on
from tests.processes import until

SECONDS = 60
GREEDY, OTHER = "user:greedy", "user:other"
WAITING = 3
WORK_SECONDS = 0.02


class Held:
    """A pool whose threads are at work until they are let go, and the order in which later calls were served."""

    def __init__(self, count: int = 1, callers: Callers | None = None) -> None:
        self.threads = CallThreads(count, "held", WAITING, callers)
        self.order: list[str] = []
        self.goes_on = threading.Event()
        self._begun = threading.Semaphore(0)

    def submit(self, caller: str, work: Callable[[], object]) -> Future[Any]:
        """Submit a call; its future is cancelled if it gives way."""
        doing: Future[Any] = Future()
        self.threads.submit_for(caller, lambda: doing.set_result(work()), doing.cancel)
        return doing

    def hold(self, caller: str) -> Future[Any]:
        """Let a call of this caller begin, and keep its thread."""

        def work() -> None:
            self._begun.release()
            assert self.goes_on.wait(SECONDS)

        held = self.submit(caller, work)
        assert self._begun.acquire(timeout=SECONDS)
        return held

    def add(self, caller: str, name: str = "") -> Future[Any]:
        """Let a call wait that notes when it is served."""
        return self.submit(caller, lambda: self.order.append(name or caller))


@pytest.fixture
def held() -> Iterator[Held]:
    """One thread, which is at work for the greedy caller."""
    held = Held()
    held.hold(GREEDY)
    yield held
    held.goes_on.set()
    held.threads.close()


def rests_of(name: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note for how long threads whose name begins so sleep."""
    rests: list[float] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        if threading.current_thread().name.startswith(name):
            rests.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    return rests


def work_for_a_while() -> None:
    """Keep a processor busy for WORK_SECONDS."""
    until_seconds = time.thread_time() + WORK_SECONDS
    while time.thread_time() < until_seconds:
        pass


def served(held: Held, *calls: Future[Any]) -> list[str]:
    """Let the threads go on, and return in which order calls were served that were not cancelled."""
    held.goes_on.set()
    assert not wait([call for call in calls if not call.cancelled()], SECONDS).not_done
    return held.order


def test_the_lines_take_turns_and_each_keeps_its_order(held: Held) -> None:
    calls = [held.add(GREEDY, f"greedy {number}") for number in range(3)]
    calls += [held.add(caller, f"{caller} {number}") for number in range(2) for caller in ("a", "b")]
    assert served(held, *calls) == ["a 0", "b 0", "greedy 0", "a 1", "b 1", "greedy 1", "greedy 2"]


def test_a_caller_whose_line_is_full_is_refused_alone(held: Held) -> None:
    calls = [held.add(GREEDY) for _ in range(WAITING)]
    with pytest.raises(Overloaded):
        held.add(GREEDY)
    calls.append(held.add(OTHER))
    assert len(held.threads) == 1 + WAITING + 1
    assert served(held, *calls).count(OTHER) == 1


def test_where_all_places_are_taken_the_newest_of_the_longest_line_gives_way(held: Held) -> None:
    longest = [held.add(GREEDY, f"greedy {number}") for number in range(WAITING)]
    others = [held.add(f"user:{number // 2}") for number in range((SHARE - 1) * WAITING)]
    newcomer = held.add(OTHER)
    assert [call.cancelled() for call in longest] == [False, False, True]
    # Now it is no longer than others': who has as many waiting is refused.
    held.add("user:late")
    with pytest.raises(Overloaded):
        held.add("user:0")
    order = served(held, newcomer, *longest, *others)
    assert OTHER in order
    assert "greedy 2" not in order


def test_a_call_that_is_over_before_its_turn_frees_its_place_at_once(held: Held) -> None:
    first = held.add(GREEDY, "first")
    withdrawn = held.threads.submit_for(GREEDY, lambda: held.order.append("withdrawn"))
    last = held.add(GREEDY, "last")
    assert held.threads.withdraw(withdrawn)
    assert not held.threads.withdraw(withdrawn)
    assert len(held.threads) == WAITING
    assert served(held, first, last, held.add(GREEDY, "later")) == ["first", "last", "later"]


def test_a_caller_leaves_a_thread_to_the_others() -> None:
    held = Held(count=2, callers=Callers())
    greedy = [held.hold(GREEDY), held.add(GREEDY)]
    assert held.add(OTHER).result(SECONDS) is None
    assert held.order == [OTHER]
    assert not greedy[1].done()
    assert served(held, *greedy) == [OTHER, GREEDY]
    held.threads.close()
    assert len(held.threads) == 0


def test_beside_others_a_caller_has_a_part_of_the_threads() -> None:
    held = Held(count=4, callers=Callers())
    begun = [held.hold(GREEDY), held.hold(OTHER)]
    # Two threads are free, and the greedy caller has its part.
    waiting = held.add(GREEDY, "greedy")
    assert wait([held.add("user:late", "late")], SECONDS).done
    assert (held.order, waiting.done()) == (["late"], False)
    assert served(held, *begun, waiting) == ["late", "greedy"]
    held.threads.close()


def test_the_part_of_a_caller_grows_when_the_others_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    held = Held(count=4, callers=Callers())
    for number in range(8):
        held.submit(f"user:{number}", int).result(SECONDS)
    first = held.hold(GREEDY)
    meeting = threading.Barrier(3)
    waiting = [held.submit(GREEDY, lambda: meeting.wait(SECONDS)) for _ in range(3)]
    now += RECENT_SECONDS + 1
    held.goes_on.set()
    # All three are at work together, or none of them goes on.
    assert not wait([first, *waiting], SECONDS).not_done
    assert not any(call.exception() for call in waiting)
    held.threads.close()


def test_beside_others_a_caller_with_most_of_what_waits_leaves_the_processor_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a machine that is busy with other things, this process is idle anyway.
    monkeypatch.setattr(call_threads, "PACE", 1000)
    rests = rests_of("held_", monkeypatch)
    callers = Callers()
    held = Held(callers=callers)
    callers.note(OTHER)
    begun = held.hold(GREEDY)
    served(held, begun, *[held.submit(GREEDY, work_for_a_while) for _ in range(2)])
    held.threads.close()
    # Behind the last call nothing waits. The processor has worked for WORK_SECONDS and more before each rest.
    assert len(rests) == 2
    assert rests[1] > 0


@pytest.mark.parametrize("also", [(), (OTHER, OTHER, OTHER)], ids=["alone", "beside a longer line"])
def test_a_caller_that_is_alone_or_waits_no_more_than_others_is_served_without_rest(
    monkeypatch: pytest.MonkeyPatch, also: tuple[str, ...]
) -> None:
    rests = rests_of("held_", monkeypatch)
    held = Held(callers=Callers())
    begun = held.hold(GREEDY)
    calls = [held.submit(GREEDY, work_for_a_while) for _ in range(2)]
    calls += [held.submit(caller, int) for caller in also]
    served(held, begun, *calls)
    held.threads.close()
    assert rests == []


def test_work_for_a_call_that_gives_way_to_another_caller_is_overloaded(held: Held) -> None:
    calls = [held.add("user:a") for _ in range(WAITING - 1)]
    with ThreadPoolExecutor(1) as thread:
        doing = thread.submit(run_on, held.threads, "user:a", lambda: "done")
        until(lambda: len(held.threads) == 1 + WAITING)
        calls += [held.add(f"user:{number}") for number in range(SHARE - 1) for _ in range(WAITING)]
        # All places are taken, and of the longest lines that one is the first.
        calls.append(held.add("user:late"))
        assert isinstance(doing.exception(SECONDS), Overloaded)
    served(held, *calls)


def test_callers_are_there_for_a_while_after_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now, callers = 0.0, Callers()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [callers.note(caller) for caller in (GREEDY, OTHER, GREEDY)] == [1, 2, 2]
    now += RECENT_SECONDS
    assert callers.note("user:late") == 3
    now += 0.1
    assert callers.note("user:late") == 1


def test_what_a_call_raises_ends_no_thread(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("of a call")

    held.threads.submit_for(OTHER, fail)
    assert served(held, held.add(OTHER)) == [OTHER]
    assert "ValueError: of a call" in caplog.text


def test_what_work_for_a_call_raises_is_raised_where_the_call_waits() -> None:
    def fail() -> None:
        raise ValueError("of its work")

    threads = CallThreads(1, "working")
    with pytest.raises(ValueError, match="of its work"):
        run_on(threads, OTHER, fail)
    threads.close()


def test_the_end_waits_for_the_calls_that_are_there(held: Held) -> None:
    calls = [held.add(GREEDY), held.add(OTHER)]
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(held.threads.close)
        until(lambda: held.threads.is_closed)
        with pytest.raises(RuntimeError):
            held.add(OTHER)
        assert not closing.done()
        held.goes_on.set()
        closing.result(SECONDS)
    assert [call.done() for call in calls] == [True, True]
    assert len(held.threads) == 0


def test_where_no_more_threads_can_be_started_those_at_work_take_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    held = Held(count=3)
    begun = held.hold(GREEDY)
    monkeypatch.setattr(threading.Thread, "start", start)
    calls = [held.add(GREEDY), held.add(OTHER)]
    assert served(held, begun, *calls) == [GREEDY, OTHER]
    held.threads.close()


def test_the_end_comes_also_where_the_share_grows_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    held = Held(count=9, callers=Callers())
    for number in range(8):
        held.submit(f"user:{number}", int).result(SECONDS)
    begun = held.hold(GREEDY)
    calls = [held.add(GREEDY) for _ in range(WAITING)]
    now += RECENT_SECONDS + 1
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(held.threads.close)
        until(lambda: held.threads.is_closed)
        held.goes_on.set()
        closing.result(SECONDS)
    assert all(call.done() for call in (begun, *calls))
    assert len(held.threads) == 0


def test_a_call_that_was_served_or_has_left_is_not_held(held: Held) -> None:
    class Message:
        """What a call brings."""

    def submit(caller: str, done: Future[Any]) -> tuple[Submitted, weakref.ref[Message]]:
        message = Message()
        submitted = held.threads.submit_for(caller, lambda: done.set_result(message is None), done.cancel)
        return submitted, weakref.ref(message)

    outcomes: list[Future[Any]] = [Future() for _ in range(3)]
    withdrawn, served_one = (submit(OTHER, done) for done in outcomes[:2])
    displaced = submit(GREEDY, outcomes[2])
    others = [held.add(GREEDY) for _ in range(WAITING - 1)]
    assert held.threads.withdraw(withdrawn[0])
    assert withdrawn[1]() is None
    served(held, outcomes[1], outcomes[2], *others)
    until(lambda: served_one[1]() is None and displaced[1]() is None)


def test_what_work_raises_is_not_held_by_its_future() -> None:
    class Raised(Exception):
        """What the work raises, with all that its frames hold."""

    def fail() -> None:
        raise Raised

    threads, raised = CallThreads(1, "failing"), []
    gc.disable()
    try:
        for _ in range(3):
            try:
                run_on(threads, OTHER, fail)
            except Raised as error:
                raised.append(weakref.ref(error))
        threads.close()
        assert [each() for each in raised] == [None] * 3
    finally:
        gc.enable()
