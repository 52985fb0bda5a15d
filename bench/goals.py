"""What is aimed at. Every goal is here, and every table says of each whether it was met."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from bench.peer import COPY, GET
from bench.scenarios import BY_NAME

_HOLDS: dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Goal:
    """A bound for what is measured, which is the median of the rounds."""

    relation: str
    bound: float
    decimals: int = 0
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:.{self.decimals}f}{self.unit}"

    def judged(self, value: float) -> str:
        """The goal, and whether this value meets it. What is rounded for the table is compared before."""
        return f"{self}: {'met' if _HOLDS[self.relation](value, self.bound) else '**missed**'}"


def _ratio(bound: float) -> Goal:
    return Goal("≥", bound, decimals=2)


# Calls a second beside the ceiling, by scenario and kind of database.
RATIOS = {"get_version": {"sqlite": _ratio(0.62), "postgresql": _ratio(0.58)}}


def _microseconds(bound: float) -> Goal:
    return Goal("≤", bound, unit=" µs")


# What a call takes of the server's processor, beyond what an empty one does in the same round: a ratio to the ceiling
# would punish an empty call that is quick.
COSTS = {
    "get_version": {"sqlite": _microseconds(95), "postgresql": _microseconds(120)},
    "promote_many": {"sqlite": _microseconds(330), "postgresql": _microseconds(330)},
    "promote_hot": {"sqlite": _microseconds(380), "postgresql": _microseconds(380)},
}
# The p99 beside the p50, with 32 callers.
_TAIL = Goal("≤", 4)
TAILS = {"promote_many": _TAIL, "promote_hot": _TAIL}
# What a call takes of the processors of a fleet, and of the database, beside what it takes of one worker. On a machine
# whose processors the load and the database share, calls a second would say nothing of it.
SHARES = {name: Goal("≤", 1.1, decimals=1) for name, each in BY_NAME.items() if each.fleet.size > 1}
# Calls a second into branches with every rule, but approvals, beside those into branches without a policy.
RULES = {"promote_protected": _ratio(0.80)}
# The same with watchers of the branches, and how long it takes until 99 % of the events are with them.
WATCHED = {"promote_watched": _ratio(0.90)}
DELIVERY = Goal("≤", 500, unit=" ms")
# Over HTTP beside over gRPC, calls a second.
OVER_HTTP = {"get_version_http": _ratio(0.65), "promote_many_http": _ratio(0.65)}
# Ours beside the peer's, calls a second.
PEERS = {COPY: Goal("≥", 60, unit="×"), GET: Goal("≥", 25, unit="×")}
