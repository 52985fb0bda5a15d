"""The final state, indexed, and what must hold of it by itself, whatever led to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.history.operations import Place, Version
from tests.history.state import Record, State
from tests.history.violations import Promise, Violation


class Ledger:
    """The versions of a state by RID, by number on their branch, and by tag."""

    def __init__(self, state: State) -> None:
        self.by_rid = {version.rid: version for version in state.versions}
        self.branches: dict[Place, dict[int, Version]] = defaultdict(dict)
        self.by_tag: dict[str, list[Version]] = defaultdict(list)
        for version in state.versions:
            self.branches[version.place][version.number] = version
            if version.tag:
                self.by_tag[version.tag].append(version)

    def at(self, place: Place, number: int) -> Version | None:
        """The version of a number, if there is one."""
        return self.branches[place].get(number) if place in self.branches else None

    def number(self, place: Place, rid: str) -> int | None:
        """The number that a version has on a branch: 0 for no version, None if it is not there."""
        version = self.by_rid.get(rid)
        if version is None or version.place != place:
            return None if rid else 0
        return version.number


def check_state(final: State, initial: State) -> Iterator[Violation]:
    """What the final state breaks by itself, and beside the initial one."""
    ledger = Ledger(final)
    listed: dict[Place, list[Version]] = defaultdict(list)
    for version in final.versions:
        listed[version.place].append(version)
    for place, versions in listed.items():
        yield from _check_branch(place, versions)
    if len(ledger.by_rid) < len(final.versions):
        yield Violation(Promise.ONCE, f"{len(final.versions) - len(ledger.by_rid)} versions are listed again")
    for version in ledger.by_rid.values():
        yield from _check_copy(ledger, version)
    yield from _check_records(ledger, final.records)
    yield from _check_permanence(ledger, final, initial)


def _check_branch(place: Place, versions: list[Version]) -> Iterator[Violation]:
    """Check the versions of a branch, as they were listed."""
    numbers = [version.number for version in versions]
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        missing = sorted(set(range(1, max(numbers))) - set(numbers))
        again = sorted((Counter(numbers) - Counter(set(numbers))).keys())
        yield Violation(Promise.GAPLESS, f"the numbers of {place} lack {missing[:20]} and repeat {again[:20]}")
    elif numbers != sorted(numbers, reverse=True):
        yield Violation(Promise.LISTING, f"{place} is not listed by descending numbers")
    for older, newer in pairwise(sorted(versions, key=lambda version: version.number)):
        if older.created_ms is not None and newer.created_ms is not None and newer.created_ms < older.created_ms:
            yield Violation(Promise.TIMES, f"number {newer.number} of {place} is older than number {older.number}")


def _check_copy(ledger: Ledger, version: Version) -> Iterator[Violation]:
    """Check that a promoted version is like its source, and that another one is a root."""
    if not version.source_rid:
        if version.root_rid not in {version.rid, None}:
            yield Violation(Promise.COPY, f"{version.rid} was not promoted, but has the root {version.root_rid}")
        return
    source = ledger.by_rid.get(version.source_rid)
    if source is None:
        yield Violation(Promise.COPY, f"the source of {version.rid}, {version.source_rid}, is not there")
    elif (source.content, source.root_rid) != (version.content, version.root_rid):
        yield Violation(Promise.COPY, f"{version.rid} differs from its source, {source.rid}")
    elif source.place == version.place and source.number >= version.number:
        yield Violation(Promise.COPY, f"{version.rid} is not above its source, {source.rid}, on {version.place}")


def _check_records(ledger: Ledger, records: tuple[Record, ...]) -> Iterator[Violation]:
    """Check that the promoted versions, and no others, have one record each, which fits."""
    by_version = {record.version_rid: record for record in records}
    if len(by_version) < len(records) or len({record.rid for record in records}) < len(records):
        yield Violation(Promise.RECORD, "there are records with one RID, or of one version")
    for rid, version in ledger.by_rid.items():
        record = by_version.pop(rid, None)
        if (record is not None) != bool(version.source_rid):
            yield Violation(Promise.RECORD, f"{rid} was promoted and has no record, or has one and was not")
        elif record is not None:
            replaced = ledger.at(version.place, version.number - 1)
            fitting = record._replace(
                model_rid=version.model_rid,
                branch=version.branch,
                number=version.number,
                source_rid=version.source_rid or "",
                replaced_rid=replaced.rid if replaced else "",
                created_ms=record.created_ms if version.created_ms is None else version.created_ms,
            )
            if record != fitting:
                yield Violation(Promise.RECORD, f"the record of {rid} is {record}, and should be {fitting}")
    for rid in by_version:
        yield Violation(Promise.RECORD, f"there is a record of {rid}, which is not there")


def _check_permanence(ledger: Ledger, final: State, initial: State) -> Iterator[Violation]:
    """Check that what was there before is there as it was."""
    for version in initial.versions:
        now = ledger.by_rid.get(version.rid)
        if now is None:
            yield Violation(Promise.NOTHING_LOST, f"{version.rid}, which was there at first, is not there any more")
        elif now != version:
            yield Violation(Promise.PERMANENT, f"{version.rid} was {version} at first, and is {now}")
    for record in set(initial.records) - set(final.records):
        yield Violation(Promise.PERMANENT, f"the record {record.rid} of {record.version_rid} was lost or changed")
