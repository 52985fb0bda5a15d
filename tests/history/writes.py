"""Writes: which of them was carried out, and whether that fits what clients were told of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tests.history.ledger import Ledger
from tests.history.operations import Operation, Outcome, Place, Version, Wanted
from tests.history.violations import Promise, Violation


class Write(NamedTuple):
    """A request to append versions, and all operations that sent it, each of which may be the one that did.

    It took effect between `invoked` and `completed`, if it did: after the first operation that was not refused began,
    and before the first that was acknowledged ended. `made` is what is stored of it, in the order of `wanted`.
    """

    tag: str
    wanted: tuple[Wanted, ...]
    operations: tuple[Operation, ...]
    outcome: Outcome
    invoked: float
    completed: float
    made: tuple[Version, ...]

    def __str__(self) -> str:
        first, *others = self.operations
        return f"{first}, sent {len(others)} times more," if others else str(first)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(operation.id for operation in self.operations)

    @property
    def answers(self) -> list[Operation]:
        return [operation for operation in self.operations if operation.outcome is Outcome.OK]


def writes_of(history: Iterable[Operation], ledger: Ledger) -> list[Write]:
    """The writes of a history."""
    sent: dict[tuple[str, tuple[Wanted, ...]], list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.wanted:
            sent[operation.tag, operation.wanted].append(operation)
    # Where one request failed because another one had its id, the other one made what there is.
    may_be_done = {tag for (tag, _), operations in sent.items() if any(map(_may_be_done, operations))}
    writes = []
    for (tag, wanted), operations in sent.items():
        perhaps = [operation for operation in operations if _may_be_done(operation)]
        made = ledger.by_tag.get(tag, []) if perhaps or tag not in may_be_done else []
        answered = [operation for operation in perhaps if operation.outcome is Outcome.OK]
        writes.append(
            Write(
                tag,
                wanted,
                tuple(operations),
                Outcome.OK if answered else Outcome.UNKNOWN if perhaps else Outcome.FAIL,
                min(operation.invoked for operation in perhaps or operations),
                min((_end(operation) for operation in answered), default=math.inf),
                _in_order_of(wanted, made),
            )
        )
    return writes


def check_writes(writes: Sequence[Write], ledger: Ledger, initial: Ledger) -> Iterator[Violation]:
    """Check that what is stored is what the writes made, each once, and that answers and refusals are true."""
    for write in writes:
        yield from _check_stored(write)
        yield from _check_answers(write, ledger)
        yield from _check_refusals(write)
        if write.outcome is not Outcome.FAIL and len(write.made) == len(write.wanted):
            for wanted, version in zip(write.wanted, write.made, strict=True):
                yield from _check_made(write, wanted, version, ledger)
    tags = {write.tag for write in writes}
    for rid, version in ledger.by_rid.items():
        if rid not in initial.by_rid and version.tag not in tags:
            yield Violation(Promise.NOTHING_FROM_NOWHERE, f"no operation made {rid}, number {version.number}")


def _may_be_done(operation: Operation) -> bool:
    return operation.outcome is not Outcome.FAIL


def _end(operation: Operation) -> float:
    return math.inf if operation.completed is None else operation.completed


def _in_order_of(wanted: tuple[Wanted, ...], stored: list[Version]) -> tuple[Version, ...]:
    """Versions in the order of the entries that made them: on one branch, entries get their numbers in order.

    What no entry wants comes last.
    """
    by_place: dict[Place, list[Version]] = defaultdict(list)
    for version in sorted(stored, key=lambda version: version.number, reverse=True):
        by_place[version.place].append(version)
    ordered = [by_place[entry.place].pop() for entry in wanted if by_place[entry.place]]
    return (*ordered, *(version for versions in by_place.values() for version in reversed(versions)))


def _check_stored(write: Write) -> Iterator[Violation]:
    """Check how much is stored of a write."""
    made = [version.rid for version in write.made]
    if not made:
        return  # Whether it was acknowledged is looked at with the answers.
    if write.outcome is Outcome.FAIL:
        yield Violation(Promise.FAILED_IS_NOT_DONE, f"{write} failed, and made {made}", write.ids)
    elif len(made) > len(write.wanted):
        yield Violation(Promise.ONCE, f"{write} wanted {len(write.wanted)} versions, and made {made}", write.ids)
    elif [version.place for version in write.made] != [entry.place for entry in write.wanted]:
        sentence = f"{write} wanted versions at {[str(entry.place) for entry in write.wanted]}, and made {made}"
        yield Violation(Promise.ALL_OR_NOTHING, sentence, write.ids)


def _check_answers(write: Write, ledger: Ledger) -> Iterator[Violation]:
    """Check that what was acknowledged is stored, and is what the write made."""
    answers = write.answers
    for answer in answers:
        if answer.versions != answers[0].versions:
            sentence = f"{answer} was answered otherwise than {answers[0]}, which sent the same request"
            yield Violation(Promise.ANSWER, sentence, (answers[0].id, answer.id))
        if [version.place for version in answer.versions] != [entry.place for entry in answer.wanted]:
            yield Violation(Promise.ANSWER, f"{answer} was answered with versions elsewhere than wanted", (answer.id,))
        for version in answer.versions:
            stored = ledger.by_rid.get(version.rid)
            told = f"{answer} was answered with {version.rid}, number {version.number} of {version.place}"
            if stored is None:
                yield Violation(Promise.NOTHING_LOST, f"{told}, which is not there", (answer.id,))
            elif not version.agrees_with(stored):
                yield Violation(Promise.PERMANENT, f"{told}, which is stored as {stored}", (answer.id,))
        stored_all = all(version.rid in ledger.by_rid for version in answer.versions)
        if stored_all and [version.rid for version in answer.versions] != [version.rid for version in write.made]:
            sentence = f"{answer} was answered with other versions, or in another order, than those it made"
            yield Violation(Promise.ANSWER, sentence, (answer.id,))


def _check_made(write: Write, wanted: Wanted, version: Version, ledger: Ledger) -> Iterator[Violation]:
    """Check that a version is a copy of the source that was wanted, behind the head that was expected."""
    source_rid = wanted.source_rid or ""
    if wanted.source_number is not None:
        source = ledger.at(wanted.place, wanted.source_number)
        source_rid = source.rid if source else "?"
    if version.source_rid != source_rid:
        sentence = f"{write} wanted a copy of {source_rid or 'nothing'}, and made one of {version.source_rid}"
        yield Violation(Promise.COPY, sentence, write.ids)
    head = ledger.at(version.place, version.number - 1)
    if wanted.expected_head is not None and wanted.expected_head != (head.rid if head else ""):
        sentence = f"{write} made number {version.number} behind another head than {wanted.expected_head}"
        yield Violation(Promise.COMPARE_AND_SET, sentence, write.ids)


def _check_refusals(write: Write) -> Iterator[Violation]:
    """Check that no write was refused for its expected head if it had none, or had the one that was the head."""
    for operation in write.operations:
        for failure in operation.failures:
            if failure.actual_head is not None and all(
                entry.expected_head in {None, failure.actual_head} for entry in operation.wanted
            ):
                sentence = f"{operation} was refused for the head {failure.actual_head!r}, which it did not exclude"
                yield Violation(Promise.COMPARE_AND_SET, sentence, (operation.id,))
