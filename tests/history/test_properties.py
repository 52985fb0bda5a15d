"""Whatever a registry that keeps its promises does is accepted; whatever breaks one in such a history is refused."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.history import Operation, Outcome, State, check
from tests.history.operations import Version, Wanted
from tests.history.simulated import Simulation
from tests.history.stories import INITIAL, record


class Told(NamedTuple):
    """A history and the state that it led to."""

    history: tuple[Operation, ...]
    final: State

    def changed(self, old: Operation, new: Operation) -> Told:
        return self._replace(history=tuple(new if each is old else each for each in self.history))

    def stored(self, *changes: tuple[Version, Version | None]) -> Told:
        """With versions replaced, or removed, and the records that go with them."""
        now = dict(changes)
        kept = (now.get(version, version) for version in self.final.versions)
        versions = tuple(version for version in kept if version is not None)
        return self._replace(final=State(versions, tuple(record(each) for each in versions if each.source_rid)))

    @property
    def acknowledged(self) -> list[Operation]:
        """The writes that were acknowledged, of requests that were sent once."""
        sent = Counter(each.tag for each in self.history if each.wanted)
        return [each for each in self.history if each.outcome is Outcome.OK and sent[each.tag] == 1]

    @property
    def singles(self) -> list[tuple[Operation, Version]]:
        """Those of one version, with what is stored of it."""
        by_rid = {version.rid: version for version in self.final.versions}
        return [(each, by_rid[each.versions[0].rid]) for each in self.acknowledged if len(each.wanted) == 1]

    @property
    def heads(self) -> list[Operation]:
        """The reads of heads that found one."""
        return [each for each in self.history if each.count]


@st.composite
def true_histories(draw: st.DrawFn, steps: st.SearchStrategy[int] = st.integers(0, 150)) -> Told:  # noqa: B008 - immutable
    simulation = Simulation(draw(st.randoms(use_true_random=True)), draw(st.integers(1, 5)))
    simulation.run(draw(steps))
    return Told(tuple(simulation.history.values()), simulation.final())


@given(true_histories())
@settings(max_examples=300)
def test_true_histories_are_accepted(told: Told) -> None:
    assert check(told.history, told.final, INITIAL) == []


# Each yields broken variants of a true history.


def a_lost_version(told: Told) -> Iterator[Told]:
    for _, version in told.singles:
        yield told.stored((version, None))


def two_versions_in_each_others_place(told: Told) -> Iterator[Told]:
    for _, one in told.singles:
        for other in told.final.versions:
            if one.place == other.place and one.number != other.number:
                swapped = one._replace(number=other.number), other._replace(number=one.number)
                yield told.stored((one, swapped[0]), (other, swapped[1]))


def a_version_made_twice(told: Told) -> Iterator[Told]:
    for operation in told.history:
        made = [version for version in told.final.versions if operation.tag and version.tag == operation.tag]
        if made:
            last = max(version.number for version in told.final.versions if version.place == made[0].place)
            again = made[0]._replace(rid="again", number=last + 1, created_ms=10**6)
            final = State((again, *told.final.versions), (*told.final.records, record(again)))
            yield told._replace(final=final)


def a_write_called_failed(told: Told) -> Iterator[Told]:
    for operation in told.acknowledged:
        if operation.wanted:
            yield told.changed(operation, replace(operation, outcome=Outcome.FAIL, versions=()))


def a_write_that_nobody_sent(told: Told) -> Iterator[Told]:
    for operation in told.acknowledged:
        if operation.wanted:
            yield told._replace(history=tuple(each for each in told.history if each is not operation))


def an_older_head_than_was_acknowledged(told: Told) -> Iterator[Told]:
    by_rid = {version.rid: version for version in told.final.versions}
    by_number = {(version.place, version.number): version for version in told.final.versions}
    for read in told.heads:
        head = by_rid[read.versions[0].rid]
        older = by_number.get((head.place, head.number - 1))
        acknowledged = any(
            write.wanted and head.rid in {each.rid for each in write.versions} and (write.completed or 0) < read.invoked
            for write in told.acknowledged
        )
        if older and acknowledged:
            yield told.changed(read, replace(read, versions=(older._replace(tag=None),), count=older.number))


def a_head_that_was_asked_for_later(told: Told) -> Iterator[Told]:
    for read in told.heads:
        for write, version in told.singles:
            later = read.completed is not None and write.invoked > read.completed
            if write.wanted and later and version.place == read.place:
                seen = version._replace(tag=None)
                yield told.changed(read, replace(read, versions=(seen,), count=seen.number))


def two_writes_at_each_others_time(told: Told) -> Iterator[Told]:
    for one, earlier in told.singles:
        for other, later in told.singles:
            if earlier.place == later.place and one.completed is not None and one.completed < other.invoked:
                moved = told.changed(one, replace(one, invoked=other.invoked, completed=other.completed))
                yield moved.changed(other, replace(other, invoked=one.invoked, completed=one.completed))


def an_expected_head_that_was_none(told: Told) -> Iterator[Told]:
    for write, version in told.singles:
        if write.wanted[0].source_rid:
            wanted: Wanted = write.wanted[0]._replace(expected_head=version.rid)
            yield told.changed(write, replace(write, wanted=(wanted,)))


def a_refusal_of_the_expected_head(told: Told) -> Iterator[Told]:
    for operation in told.history:
        if operation.failure and operation.failure.actual_head is not None:
            wanted = operation.wanted[0]._replace(expected_head=operation.failure.actual_head)
            yield told.changed(operation, replace(operation, wanted=(wanted,)))


def other_content(told: Told) -> Iterator[Told]:
    for version in told.final.versions:
        if version.source_rid:
            yield told.stored((version, version._replace(content="another")))


def a_time_that_goes_back(told: Told) -> Iterator[Told]:
    for version in told.final.versions:
        if version.number > 1:
            yield told.stored((version, version._replace(created_ms=-1)))


MUTATIONS: list[Callable[[Told], Iterator[Told]]] = [
    a_lost_version,
    two_versions_in_each_others_place,
    a_version_made_twice,
    a_write_called_failed,
    a_write_that_nobody_sent,
    an_older_head_than_was_acknowledged,
    a_head_that_was_asked_for_later,
    two_writes_at_each_others_time,
    an_expected_head_that_was_none,
    a_refusal_of_the_expected_head,
    other_content,
    a_time_that_goes_back,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_history_is_refused(mutation: Callable[[Told], Iterator[Told]]) -> None:
    refused = 0

    @given(true_histories(steps=st.integers(100, 200)), st.randoms(use_true_random=True))
    @settings(max_examples=50)
    def run(told: Told, chance: random.Random) -> None:
        nonlocal refused
        variants = list(mutation(told))
        assume(variants)
        broken = chance.choice(variants)
        assert check(broken.history, broken.final, INITIAL)
        refused += 1

    run()
    assert refused > 10
