"""All kinds of attackers at once, without a token, while others are served as if there were none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.siege import measure, tables
from tests.siege.honest import ALL_SERVED
from tests.siege.memory import MOST, is_back


@pytest.mark.timeout(600)
def test_twenty_thousand_strangers_stop_no_call_and_take_no_memory(tmp_path: Path) -> None:
    measured = measure(tmp_path, rounds=2)
    print(tables(measured))
    for calls in (*measured.besieged, *measured.quiet):
        assert {kind: str(served) for kind, served in calls.items()} == ALL_SERVED
    assert max(measured.peak) < MOST
    assert is_back(measured.after, measured.before), (measured.before, measured.after)
