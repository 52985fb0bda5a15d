"""The promises that a history is held against, and how a breach is told."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Promise(StrEnum):
    """What the registry promises; docs/contract.md and the comments of protos/ have the words."""

    NOTHING_LOST = "nothing acknowledged is lost"
    ONCE = "a request is carried out at most once"
    NOTHING_FROM_NOWHERE = "each version comes from one operation that may have made it"
    FAILED_IS_NOT_DONE = "what failed was not carried out"
    ALL_OR_NOTHING = "a write makes the versions that it wanted, all or none"
    ANSWER = "an answer is what was asked for, and the same when the request is repeated"
    GAPLESS = "numbers are 1, 2, 3 … without gaps"
    TIMES = "created times never go back along a branch"
    COPY = "a promoted version is a copy of its source"
    RECORD = "there is one fitting record for each promoted version"
    PERMANENT = "what was seen stays as it was"
    LISTING = "a list has all versions below its first one, newest first, and a branch counts them"
    WRITE_ORDER = "writes get their numbers in the order of real time"
    NOT_STALE = "a read sees every write that was answered before it"
    NOT_FROM_FUTURE = "a read sees no write that was asked for after it"
    NO_WAY_BACK = "reads never go back, whoever asks"
    MONOTONIC = "reads on one connection never go back"
    COMPARE_AND_SET = "a write with an expected head succeeds if and only if that is the head"
    ONE_ORDER = "all operations on all branches have one order that fits real time"


class Violation(NamedTuple):
    """A promise that was broken, in a sentence, and the ids of the operations that show it."""

    promise: Promise
    sentence: str
    operations: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.promise}: {self.sentence}"
