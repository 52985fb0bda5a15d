"""The benchmarks run, and count what was stored; how fast anything is, they alone tell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from bench.report import tables

ROOT = Path(__file__).parent.parent
SHORT = ("--rounds", "1", "--seconds", "0.3")


def run(module: str, *arguments: str | Path) -> str:
    """What a benchmark prints that must come to its end."""
    command = [sys.executable, "-m", module, *SHORT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_short_run_measures_reads_and_writes_on_both_databases_and_finds_stored_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    out = tmp_path / "bench.json"

    printed = run("bench", "--only", "get_version,promote_at_half", "--out", out)

    measured = json.loads(out.read_text())
    (only_round,) = measured["rounds"]
    assert list(only_round) == ["sqlite", "postgresql"]
    for results in only_round.values():
        assert list(results) == ["ceiling", "get_version", "promote_many", "promote_at_half"]
        assert all(result["calls"] > 0 and result["sampled"]["OK"] > 0 for result in results.values())
        for name in ("promote_many", "promote_at_half"):
            assert results[name]["stored"] >= results[name]["calls"] + results[name]["sampled"]["OK"]
        assert (
            results["get_version"]["ratio"] == results["get_version"]["per_second"] / results["ceiling"]["per_second"]
        )
    assert printed.strip() == tables(measured)


def test_a_short_run_measures_both_interfaces_and_finds_every_promotion_stored() -> None:
    printed = run("bench.http_against_grpc")

    rows = [line for line in printed.splitlines() if re.match(r"\| (get|promote) \|", line)]
    assert len(rows) == 2
    counted = re.search(r"(\d+) promotions acknowledged, (\d+) stored", printed)
    assert counted is not None
    assert counted[1] == counted[2]
    assert int(counted[1]) > 2
