"""The benchmarks run, and count what was stored; how fast anything is, they alone tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_short_run_measures_both_interfaces_and_finds_every_promotion_stored() -> None:
    command = [sys.executable, "-m", "bench.http_against_grpc", "--rounds", "1", "--seconds", "0.2"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| (get|promote) \|", line)]
    assert len(rows) == 2
    counted = re.search(r"(\d+) promotions acknowledged, (\d+) stored", done.stdout)
    assert counted is not None
    assert counted[1] == counted[2]
    assert int(counted[1]) > 2
