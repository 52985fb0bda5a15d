"""Histories as stories: what clients did and when, and what is stored in the end; each true unless it is bent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.history import Operation, Outcome, Promise, State, Violation, check
from tests.history.operations import Failure, Place, Version, Wanted
from tests.history.state import Record

MASTER = Place("target", "master")
RELEASE = Place("target", "release")
SOURCE = Version("source-1", "source", "master", 1, 0, "content", "", "source-1", "")
OTHER = Version("other-1", "other", "master", 1, 0, "other content", "", "other-1", "")
INITIAL = State((SOURCE, OTHER))
NO_RETRY = Failure("UNAVAILABLE")
REFUSED = Failure("FAILED_PRECONDITION", "ModelApiIncompatible")


def rid_of(place: Place, number: int) -> str:
    return f"{place.branch}-{number}" if number else ""


class Story:
    """Instants are small numbers. Each number of each branch is made by one write, of the tag that is its RID."""

    def __init__(self) -> None:
        self.history: list[Operation] = []
        self.stored: list[Version] = list(INITIAL.versions)
        self.records: list[Record] = []

    def promote(
        self, begin: int, end: int | None, *numbers: int, client: str = "writer", place: Place = MASTER, **changes: Any
    ) -> Operation:
        """A promotion that made this number, or a batch; it was acknowledged, unless its outcome is given."""
        return self.write(begin, end, *((place, number) for number in numbers), client=client, **changes)

    def write(
        self, begin: int, end: int | None, *made: tuple[Place, int], client: str = "writer", **changes: Any
    ) -> Operation:
        """A write of versions at these places with these numbers, which are stored unless `stored` is false."""
        stored, expected = changes.pop("stored", True), changes.pop("expected", None)
        tag = changes.pop("tag", rid_of(*made[0]))
        versions = tuple(copy(place, number, tag) for place, number in made)
        if stored:
            self.stored += versions
            self.records += map(record, versions)
        told = tuple(version._replace(tag=None) for version in versions)
        fields: dict[str, Any] = {
            "outcome": Outcome.OK,
            "tag": tag,
            "wanted": tuple(Wanted(*place, SOURCE.rid, expected_head=expected) for place, _ in made),
        }
        fields |= changes
        if fields["outcome"] is Outcome.OK:
            fields.setdefault("versions", told)
        return self._add("PromoteVersion", client, begin, end, **fields)

    def refused(self, begin: int, end: int, head: int, expected: str, **changes: Any) -> Operation:
        """A promotion that expected another head than this number."""
        failure = Failure("ABORTED", "BranchHeadChanged", None, rid_of(MASTER, head))
        fields = {"client": "careful", "outcome": Outcome.FAIL, "failures": (failure,), "tag": f"refused-{begin}"}
        return self.write(begin, end, (MASTER, 0), **fields | {"expected": expected, "stored": False} | changes)

    def read(
        self, begin: int, end: int | None, number: int, client: str = "reader", place: Place = MASTER
    ) -> Operation:
        """A read of the head of a branch, which had this number, or 0 for no version."""
        asked = {"model_rid": place.model_rid, "branch": place.branch}
        if not number:
            missing = (Failure("NOT_FOUND", "BranchNotFound"),)
            return self._add("GetBranch", client, begin, end, outcome=Outcome.FAIL, failures=missing, **asked)
        seen = (copy(place, number),)
        return self._add("GetBranch", client, begin, end, outcome=Outcome.OK, versions=seen, count=number, **asked)

    def listed(self, begin: int, end: int, *numbers: int, client: str = "lister") -> Operation:
        """A list of a branch."""
        seen = tuple(copy(MASTER, number) for number in numbers)
        asked = {"model_rid": MASTER.model_rid, "branch": MASTER.branch}
        return self._add("ListModelVersions", client, begin, end, outcome=Outcome.OK, versions=seen, **asked)

    def got(self, begin: int, end: int, number: int, client: str = "getter", found: bool = True) -> Operation:
        """A read of a version by its RID."""
        fields: dict[str, Any] = {"outcome": Outcome.OK, "versions": (copy(MASTER, number),)}
        if not found:
            fields = {"outcome": Outcome.FAIL, "failures": (Failure("NOT_FOUND", "ModelVersionNotFound"),)}
        asked = {"model_rid": MASTER.model_rid, "version_rid": rid_of(MASTER, number)}
        return self._add("GetModelVersion", client, begin, end, **asked, **fields)

    def bend(self, index: int, **changes: Any) -> None:
        """Change what is stored at an index."""
        self.stored[index] = self.stored[index]._replace(**changes)

    def lose(self, rid: str) -> None:
        """Remove what is stored of a version."""
        self.stored = [version for version in self.stored if version.rid != rid]
        self.records = [each for each in self.records if each.version_rid != rid]

    def tell_again(self, operation: Operation, **changes: Any) -> None:
        """Change an operation."""
        self.history[self.history.index(operation)] = replace(operation, **changes)

    def final(self) -> State:
        """What is stored in the end, as lists have it."""
        return State(tuple(sorted(self.stored, key=lambda version: -version.number)), tuple(self.records))

    def violations(self) -> list[Violation]:
        """What the checker finds."""
        return check(self.history, self.final(), INITIAL)

    def broken(self) -> set[Promise]:
        """The promises that it finds broken."""
        return {violation.promise for violation in self.violations()}

    def _add(self, rpc: str, client: str, begin: int, end: int | None, **fields: Any) -> Operation:
        name = f"{client}#{len(self.history) + 1}"
        operation = Operation(id=name, client=client, rpc=rpc, invoked=begin, completed=end, **fields)
        self.history.append(operation)
        return operation


def copy(place: Place, number: int, tag: str | None = None) -> Version:
    """The copy of the source that is a version with this number."""
    return Version(rid_of(place, number), *place, number, 10 * number, SOURCE.content, SOURCE.rid, SOURCE.rid, tag)


def record(version: Version) -> Record:
    """The record of a promotion that made a version."""
    assert version.source_rid is not None
    assert version.created_ms is not None
    replaced = rid_of(version.place, version.number - 1)
    fields = version.source_rid, replaced, version.created_ms, version.tag or ""
    return Record(f"record-{version.rid}", version.rid, *version.place, version.number, *fields)
