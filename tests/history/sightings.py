"""What operations tell of how far a branch had come: each read, write and refusal as an interval of positions.

A branch only grows, and its versions are numbered. Let the write of number n have position 2n, and the time in which n
is the head position 2n + 1. Then what an operation tells is that its place in the order of things is between `lowest`
and `highest`: for a write both are 2n; for a read of the head both are 2n + 1; who found number n was at 2n + 1 or
later, and who did not was at 2n - 1 or earlier.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.history.ledger import Ledger
from tests.history.operations import Operation, Outcome, Place, Version
from tests.history.violations import Promise, Violation
from tests.history.writes import Write


class Sighting(NamedTuple):
    """What an event, that is an operation or a write of several, tells of one branch."""

    event: str
    ids: tuple[str, ...]
    client: str  # of a read; empty for what is none
    place: Place
    invoked: float
    completed: float
    lowest: float
    highest: float
    says: str

    @property
    def is_write(self) -> bool:
        return self.lowest == self.highest and self.lowest % 2 == 0


def sightings_of(history: Iterable[Operation], writes: Iterable[Write], ledger: Ledger) -> list[Sighting]:
    """All that a history tells. What cannot be, since it is of versions that are not there, is left to check_reads."""
    found: list[Sighting] = []
    for write in writes:
        if write.outcome is not Outcome.FAIL:
            found += _of_write(write, ledger)
    for operation in history:
        found += _of_answer(operation, ledger) if operation.outcome is Outcome.OK else _of_refusal(operation, ledger)
    return found


def check_reads(history: Iterable[Operation], ledger: Ledger) -> Iterator[Violation]:
    """Check that what was seen is what is there, that lists are whole, and that branches count their versions."""
    for operation in history:
        seen = () if operation.wanted else operation.versions
        for version in seen:
            stored = ledger.by_rid.get(version.rid)
            if stored is None or not version.agrees_with(stored):
                sentence = f"{operation} saw {version}, which is {stored or 'not there'} in the end"
                yield Violation(Promise.PERMANENT, sentence, (operation.id,))
            if operation.version_rid not in {"", version.rid} or (
                operation.branch and operation.place != version.place
            ):
                yield Violation(Promise.ANSWER, f"{operation} was answered with {version}", (operation.id,))
        if operation.rpc == "ListModelVersions":
            numbers = [version.number for version in seen]
            if numbers != list(range(len(numbers), 0, -1)):
                yield Violation(Promise.LISTING, f"{operation} listed the numbers {numbers[:20]}…", (operation.id,))
        elif operation.count is not None and [operation.count] != [version.number for version in seen]:
            sentence = f"{operation} counted {operation.count} versions, and saw {seen}"
            yield Violation(Promise.LISTING, sentence, (operation.id,))
        for failure in operation.failures:
            if failure.actual_head and failure.actual_head not in ledger.by_rid and len(operation.wanted) == 1:
                sentence = f"{operation} was told of the head {failure.actual_head}, which is not there"
                yield Violation(Promise.PERMANENT, sentence, (operation.id,))


def _of_write(write: Write, ledger: Ledger) -> Iterator[Sighting]:
    """Where a write took effect, and that its sources were there."""
    event, ids, interval = str(write), write.ids, (write.invoked, write.completed)
    for version in write.made:
        position = 2 * version.number
        says = f"made number {version.number}"
        yield Sighting(event, ids, "", version.place, *interval, position, position, says)
        source = ledger.by_rid.get(version.source_rid or "")
        if source is not None:
            says = f"copied number {source.number}"
            yield Sighting(event, ids, "", source.place, *interval, 2 * source.number + 1, math.inf, says)


def _of_answer(operation: Operation, ledger: Ledger) -> Iterator[Sighting]:
    """What the answer to a read tells."""
    if operation.wanted:
        return
    head: Version | None = next(iter(operation.versions), None)
    number = 0 if head is None else ledger.number(head.place, head.rid)
    if number is None:
        return
    if head is not None and operation.rpc == "GetModelVersion":
        yield _seen(operation, head.place, 2 * number + 1, math.inf, f"found number {number}")
    else:
        yield _head(operation, operation.place, number)


def _of_refusal(operation: Operation, ledger: Ledger) -> Iterator[Sighting]:
    """What the last refusal of an operation tells of the time of that refusal, if it tells anything."""
    failure, wanted = operation.failure, operation.wanted[0] if len(operation.wanted) == 1 else None
    if failure is None:
        return
    if failure.name == "BranchNotFound":
        yield _head(operation, wanted.place if wanted else operation.place, 0)
    elif failure.name == "ModelVersionNotFound":
        missing = ledger.by_rid.get((wanted.source_rid or "") if wanted else operation.version_rid)
        if missing is not None:
            says = f"did not find number {missing.number}"
            yield _seen(operation, missing.place, 0, 2 * missing.number - 1, says)
    elif wanted is not None and failure.name == "BranchHeadChanged":
        number = ledger.number(wanted.place, failure.actual_head or "")
        if number is not None:
            yield _head(operation, wanted.place, number)
    elif wanted is not None and wanted.source_number is not None:
        if failure.name == "VersionAlreadyHead":
            yield _head(operation, wanted.place, wanted.source_number)
        elif failure.name == "VersionNumberNotFound":
            says = f"did not find number {wanted.source_number}"
            yield _seen(operation, wanted.place, 0, 2 * wanted.source_number - 1, says)


def _head(operation: Operation, place: Place, number: int) -> Sighting:
    says = f"saw number {number} as the head" if number else "saw no version"
    return _seen(operation, place, 2 * number + 1, 2 * number + 1, says)


def _seen(operation: Operation, place: Place, lowest: float, highest: float, says: str) -> Sighting:
    end = math.inf if operation.completed is None else operation.completed
    # The refusal of a write is another event than the write, which may have been carried out by another attempt.
    event, client = (f"{operation}, refused,", "") if operation.wanted else (str(operation), operation.client)
    return Sighting(event, (operation.id,), client, place, operation.invoked, end, lowest, highest, says)
