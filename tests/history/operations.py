"""What a history is made of: operations of clients, from the instant of the call to that of its end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class Outcome(StrEnum):
    """What a client knows of an operation when it has ended."""

    OK = "ok"
    FAIL = "fail"  # certainly not carried out
    UNKNOWN = "unknown"  # carried out, or not, or not yet


class Place(NamedTuple):
    """A branch of a model."""

    model_rid: str
    branch: str

    def __str__(self) -> str:
        return f"{self.branch} of {self.model_rid}"


class Version(NamedTuple):
    """A version as somebody saw it; None is what was not told.

    `content` is a digest of what promotions copy. `source_rid` is empty if the version was not promoted. `tag` names
    the write that made it.
    """

    rid: str
    model_rid: str
    branch: str
    number: int
    created_ms: int | None = None
    content: str | None = None
    source_rid: str | None = None
    root_rid: str | None = None
    tag: str | None = None

    @property
    def place(self) -> Place:
        return Place(self.model_rid, self.branch)

    def agrees_with(self, other: Version) -> bool:
        """Whether both tell the same, as far as both tell."""
        return all(mine is None or its is None or mine == its for mine, its in zip(self, other, strict=True))


class Wanted(NamedTuple):
    """A version that a write is to append: of a source, or of an earlier number, or made anew.

    `expected_head` is the RID that the head before it must have; None if any will do.
    """

    model_rid: str
    branch: str
    source_rid: str | None = None
    source_number: int | None = None
    expected_head: str | None = None

    @property
    def place(self) -> Place:
        return Place(self.model_rid, self.branch)


class Failure(NamedTuple):
    """How one attempt failed: the gRPC code, and what the registry says if it was the registry that answered."""

    code: str
    name: str = ""
    retry_seconds: float | None = None
    # The head that BranchHeadChanged tells of; empty if the branch has none.
    actual_head: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of a client: an RPC, with its repetitions if it was repeated until its end was known.

    Instants are those of `time.monotonic_ns`, which is one clock for all processes of a machine. `completed` is None if
    the client never saw the end.
    """

    id: str
    client: str
    rpc: str
    invoked: int
    completed: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    # Of a write: what it is to append, all or nothing. Writes of one tag are one request that was sent again.
    tag: str = ""
    wanted: tuple[Wanted, ...] = ()
    # Of a read: the branch, or the version.
    model_rid: str = ""
    branch: str = ""
    version_rid: str = ""
    # What was answered: the versions made, or seen, in the order of the answer; and a branch's count.
    versions: tuple[Version, ...] = ()
    count: int | None = None
    # The attempts that failed, in order.
    failures: tuple[Failure, ...] = ()

    def __str__(self) -> str:
        return f"{self.id} ({self.rpc})"

    @property
    def place(self) -> Place:
        """The branch that a read asked for."""
        return Place(self.model_rid, self.branch)

    @property
    def failure(self) -> Failure | None:
        """How it failed in the end; None if it did not, or if nobody knows."""
        return self.failures[-1] if self.failures and self.outcome is not Outcome.OK else None


def operation_from_json(fields: dict[str, Any]) -> Operation:
    """Return the operation that `dataclasses.asdict` and JSON made these fields of."""
    return Operation(
        **fields
        | {
            "outcome": Outcome(fields.get("outcome", Outcome.UNKNOWN)),
            "wanted": tuple(Wanted(*each) for each in fields.get("wanted", ())),
            "versions": tuple(Version(*each) for each in fields.get("versions", ())),
            "failures": tuple(Failure(*each) for each in fields.get("failures", ())),
        }
    )
