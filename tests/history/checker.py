"""Holds a history against the promises of the registry, which `tests.history.violations` lists."""

from __future__ import annotations

from collections.abc import Sequence

from tests.history.ledger import Ledger, check_state
from tests.history.operations import Operation
from tests.history.order import check_branch_order, check_one_order
from tests.history.sightings import check_reads, sightings_of
from tests.history.state import State
from tests.history.violations import Violation
from tests.history.writes import check_writes, writes_of

MOST_SHOWN = 20
NOTHING = State()


def check(history: Sequence[Operation], final: State, initial: State = NOTHING) -> list[Violation]:
    """Return what a history breaks: `final` was read when all was over, `initial` before the first operation."""
    ledger, before = Ledger(final), Ledger(initial)
    writes = writes_of(history, ledger)
    sightings = sightings_of(history, writes, ledger)
    violations = [
        *check_state(final, initial),
        *check_writes(writes, ledger, before),
        *check_reads(history, ledger),
        *check_branch_order(sightings, before),
    ]
    return violations or list(check_one_order(sightings))


def assert_kept(history: Sequence[Operation], final: State, initial: State = NOTHING) -> None:
    """Fail with the violations of a history, if there are any."""
    violations = check(history, final, initial)
    shown = "\n".join(map(str, violations[:MOST_SHOWN]))
    assert not violations, f"{len(violations)} violations in {len(history)} operations:\n{shown}"
