"""What is held back: done in its order, no more than so much of it, and at the end without delay."""

from __future__ import annotations

import threading

from server.rpc.admission.delayed_refusals import DelayedRefusals

SECONDS = 180


def test_what_is_delayed_is_done_later_in_its_order() -> None:
    delayed, done, last = DelayedRefusals(0.01, 0, 10), [], threading.Event()
    for number in range(3):
        assert delayed.add(lambda number=number: done.append(number))  # type: ignore[misc]
    assert delayed.add(last.set)
    assert last.wait(SECONDS)
    assert done == [0, 1, 2]
    delayed.close()


def test_no_more_than_so_much_waits_and_the_end_waits_for_nothing() -> None:
    delayed, done = DelayedRefusals(SECONDS, SECONDS, 2), list[int]()
    begun = [delayed.add(lambda number=number: done.append(number)) for number in range(4)]  # type: ignore[misc]
    assert begun[:2] == [True, True]
    assert begun[3] is False  # One may be in hand already.
    assert done == []
    delayed.close()
    assert done == list(range(sum(begun)))
