"""The bounds for messages on their way, without a server: who may receive, who waits, and who makes room."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from server.core.errors import Overloaded, RegistryError, RequestTimeout
from server.rpc import streams
from server.rpc.admission.receiving import (
    ALL_WAITING,
    LARGE_BYTES,
    MAX_BYTES,
    PLACES,
    PLACES_OF_EACH,
    SHARE_OF_BYTES,
    STRANGERS,
    WAITING,
    Receiving,
)

SECONDS = 180
MESSAGE_BYTES = 4 * 2**20


class Call:
    """A call that notes what is done with it."""

    def __init__(self, caller: str | None, connection: str = "ipv4:127.0.0.1:50000") -> None:
        self.caller = caller
        self.connection = connection
        self.has_begun = False
        self.error: RegistryError | None = None
        self.refused = threading.Event()
        self.is_dropped = False
        self.is_gone = False

    def begin(self) -> bool:
        assert not self.has_begun
        self.has_begun = True
        return not self.is_gone

    def refuse(self, error: RegistryError) -> None:
        assert self.error is None
        self.error = error
        self.refused.set()

    def drop(self) -> None:
        self.is_dropped = True


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    receiving = Receiving(SECONDS, MESSAGE_BYTES)
    yield receiving
    receiving.close()


def enter(receiving: Receiving, caller: str | None, count: int) -> list[Call]:
    calls = [Call(caller) for _ in range(count)]
    for call in calls:
        receiving.enter(call)
    return calls


def test_a_caller_has_its_share_of_the_places_and_its_others_wait_in_order(receiving: Receiving) -> None:
    calls = enter(receiving, "jane", PLACES_OF_EACH + WAITING + 1)
    assert [call.has_begun for call in calls] == [True] * PLACES_OF_EACH + [False] * (WAITING + 1)
    assert isinstance(calls[-1].error, Overloaded)
    assert receiving.arrived(calls[3])
    assert [call.has_begun for call in calls] == [True] * (PLACES_OF_EACH + 1) + [False] * WAITING
    # Another one's place is no matter of hers.
    [other] = enter(receiving, "joe", 1)
    assert other.has_begun


def test_places_that_become_free_go_round_those_who_wait(receiving: Receiving) -> None:
    takers = [enter(receiving, str(number), PLACES_OF_EACH) for number in range(PLACES // PLACES_OF_EACH)]
    assert all(call.has_begun for calls in takers for call in calls)
    jane, joe = enter(receiving, "jane", 3), enter(receiving, "joe", 3)
    for call in takers[0][:4]:
        receiving.arrived(call)
    assert [call.has_begun for call in jane] == [True, True, False]
    assert [call.has_begun for call in joe] == [True, True, False]


def test_the_oldest_stranger_makes_room_for_the_next(receiving: Receiving) -> None:
    calls = enter(receiving, None, STRANGERS + 2)
    assert all(call.has_begun for call in calls)
    assert [call.is_dropped for call in calls] == [True] * 2 + [False] * STRANGERS
    assert not receiving.arrived(calls[0])
    assert receiving.arrived(calls[2])
    assert enter(receiving, None, 1)[0].has_begun
    assert not calls[3].is_dropped


def test_of_young_strangers_those_on_the_connection_with_most_make_room(
    receiving: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "YOUNG_SECONDS", SECONDS)
    slow = Call(None, "ipv4:127.0.0.1:50001")
    receiving.enter(slow)
    greedy = enter(receiving, None, 2 * STRANGERS)
    assert not slow.is_dropped
    assert sum(call.is_dropped for call in greedy) == STRANGERS + 1
    assert receiving.arrived(slow)


def test_of_strangers_that_are_not_young_the_oldest_makes_room(
    receiving: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    squatters = [Call(None, f"ipv4:127.0.0.1:{50001 + number}") for number in range(STRANGERS)]
    for call in squatters:
        receiving.enter(call)
    monkeypatch.setattr(streams, "YOUNG_SECONDS", -1)
    behind_a_proxy = enter(receiving, None, STRANGERS // 2)
    assert [call.is_dropped for call in squatters] == [True] * (STRANGERS // 2) + [False] * (STRANGERS // 2)
    assert not any(call.is_dropped for call in behind_a_proxy)


def test_large_messages_of_a_caller_are_bounded_together_until_they_are_done(receiving: Receiving) -> None:
    size = SHARE_OF_BYTES // 2
    first, second, third = enter(receiving, "jane", 3)
    assert receiving.arrived(first)
    receiving.take(first.caller, size)
    assert receiving.arrived(second)
    receiving.take(second.caller, size)
    with pytest.raises(Overloaded):
        receiving.take(third.caller, LARGE_BYTES)
    # Small ones do not count, and those of others have room of their own.
    [small] = enter(receiving, "jane", 1)
    assert receiving.arrived(small)
    receiving.take(small.caller, LARGE_BYTES - 1)
    [other] = enter(receiving, "joe", 1)
    assert receiving.arrived(other)
    receiving.take(other.caller, size)
    receiving.done(first.caller, size)
    [fourth] = enter(receiving, "jane", 1)
    assert receiving.arrived(fourth)
    receiving.take(fourth.caller, size)


def test_large_messages_of_all_are_bounded_together(receiving: Receiving) -> None:
    for number in range(MAX_BYTES // SHARE_OF_BYTES):
        [call] = enter(receiving, str(number), 1)
        assert receiving.arrived(call)
        receiving.take(call.caller, SHARE_OF_BYTES)
    [call] = enter(receiving, "late", 1)
    with pytest.raises(Overloaded):
        receiving.take(call.caller, LARGE_BYTES)


def test_nothing_is_kept_of_callers_whose_calls_are_done(receiving: Receiving) -> None:
    calls = enter(receiving, "jane", PLACES_OF_EACH + 2)
    for call in calls:
        receiving.arrived(call)
        receiving.take(call.caller, LARGE_BYTES)
        receiving.done(call.caller, LARGE_BYTES)
    assert (receiving._lines, receiving._with_waiting, receiving._due) == ({}, {}, {})
    assert (receiving._free, receiving._bytes, receiving._waiting) == (PLACES, 0, 0)


def test_time_is_up_for_those_that_receive_and_those_that_wait() -> None:
    receiving = Receiving(0.2, MESSAGE_BYTES)
    try:
        strangers, calls = enter(receiving, None, 1), enter(receiving, "jane", PLACES_OF_EACH + 2)
        for call in (*strangers, *calls):
            assert call.refused.wait(SECONDS)
            assert isinstance(call.error, RequestTimeout)
            assert not receiving.arrived(call)
        assert (receiving._lines, receiving._due, receiving._free) == ({}, {}, PLACES)
        [later] = enter(receiving, "jane", 1)
        assert receiving.arrived(later)
    finally:
        receiving.close()


def test_no_more_wait_than_all_may_and_nothing_is_kept_of_the_others(receiving: Receiving) -> None:
    callers = [str(number) for number in range(ALL_WAITING // WAITING)]
    for caller in callers:
        enter(receiving, caller, PLACES_OF_EACH + WAITING)
    [late] = enter(receiving, "late", 1)
    assert isinstance(late.error, Overloaded)
    assert set(receiving._lines) == set(callers)


def test_clients_that_are_gone_leave_their_places_to_the_next(receiving: Receiving) -> None:
    calls = enter(receiving, "jane", PLACES_OF_EACH)
    gone = [Call("jane") for _ in range(WAITING - 1)]
    for call in gone:
        call.is_gone = True
        receiving.enter(call)
    [last] = enter(receiving, "jane", 1)
    assert receiving.arrived(calls[0])
    assert last.has_begun
    assert all(call.has_begun for call in gone)


def test_one_message_may_always_be_as_large_as_any() -> None:
    receiving = Receiving(SECONDS, 2 * MAX_BYTES)
    try:
        [call] = enter(receiving, "jane", 1)
        assert receiving.arrived(call)
        receiving.take(call.caller, 2 * MAX_BYTES)
    finally:
        receiving.close()


def test_a_call_that_cannot_be_answered_keeps_no_other_from_its_end() -> None:
    receiving = Receiving(0.2, MESSAGE_BYTES)

    class Broken(Call):
        def refuse(self, error: RegistryError) -> None:
            raise RuntimeError("can't start new thread")

    try:
        receiving.enter(Broken("jane"))
        [call] = enter(receiving, "jane", 1)
        assert call.refused.wait(SECONDS)
    finally:
        receiving.close()
