"""A caller with 300 calls under way, who asks again at once, refused or not: no other caller is refused a call."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.greed import MIXES, measure


@pytest.mark.parametrize("mix", MIXES)
def test_three_hundred_calls_of_one_caller_cost_no_other_a_call(tmp_path: Path, mix: str) -> None:
    found = measure(tmp_path, mix, rounds=1, seconds=3)
    assert {rpc: greedy.refused for rpc, (_, greedy) in found.items()} == dict.fromkeys(found, 0)
    assert all(greedy.codes["OK"] for _, greedy in found.values())
