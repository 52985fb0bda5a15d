"""The benchmarks run, and count what was stored; how fast anything is, they alone tell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from bench.growth.calls import CALLS
from bench.growth.report import tables as growth_tables
from bench.growth.report import write_readme as write_growth
from bench.h2load import Load, Measured
from bench.readme import write_readme
from bench.report import tables
from bench.sampler import Answer, Sample
from bench.scenarios import BY_NAME
from bench.void import Void, check
from tests.rpc.harness import METHODS

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG"
OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


def run(module: str, *arguments: str | Path) -> str:
    """What a benchmark prints that must come to its end."""
    command = [sys.executable, "-m", module, "--rounds", "1", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_short_run_measures_reads_and_writes_on_both_databases_and_finds_stored_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    out, readme = tmp_path / "bench.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")

    printed = run("bench", "--seconds", "0.3", "--only", "get_version,promote_at_half", "--out", out)

    measured = json.loads(out.read_text())
    (only_round,) = measured["rounds"]
    assert list(only_round) == ["sqlite", "postgresql"]
    for results in only_round.values():
        assert list(results) == ["ceiling", "get_version", "promote_many", "promote_at_half"]
        assert all(result["calls"] > 0 and result["sampled"]["OK"] > 0 for result in results.values())
        for name in ("promote_many", "promote_at_half"):
            assert results[name]["stored"] >= results[name]["calls"] + results[name]["sampled"]["OK"]
        rates = {name: result["per_second"] for name, result in results.items()}
        assert results["get_version"]["ratio"] == rates["get_version"] / rates["ceiling"]
    assert printed.strip() == tables(measured)
    write_readme(measured, readme)
    before, _, rest = readme.read_text().partition("<!-- bench: begin -->\n")
    assert (before, rest.endswith("<!-- bench: end -->\nafter\n")) == ("before\n", True)
    assert tables(measured) in rest
    assert "old" not in rest
    assert (tmp_path / "bench.png").read_bytes().startswith(PNG)


def test_a_short_run_makes_each_call_in_registries_of_two_sizes(tmp_path: Path) -> None:
    out, readme = tmp_path / "growth.json", tmp_path / "README.md"
    readme.write_text("<!-- growth: begin -->\n<!-- growth: end -->\n")

    printed = run("bench.growth", "--sizes", "1000,2000", "--calls", "1", "--starts", "1", "--out", out)

    measured = json.loads(out.read_text())
    assert list(measured["results"]) == ["sqlite", "postgresql"]
    for results in measured["results"].values():
        assert list(results) == [call.name for call in CALLS]
        assert all(list(by_size) == ["1000", "2000"] for by_size in results.values())
    assert printed.strip() == growth_tables(measured)
    write_growth(measured, readme)
    assert growth_tables(measured) in readme.read_text()
    assert (tmp_path / "growth.png").read_bytes().startswith(PNG)


def test_growth_makes_each_unary_rpc() -> None:
    streaming = {"UploadModelFiles", "DownloadModelFiles"}
    assert {call.rpc for call in CALLS} == set(METHODS) - streaming


def test_a_short_run_measures_both_interfaces_and_finds_every_promotion_stored() -> None:
    printed = run("bench.http_against_grpc", "--seconds", "0.2")

    rows = [line for line in printed.splitlines() if re.match(r"\| (get|promote) \|", line)]
    assert len(rows) == 2
    counted = re.search(r"(\d+) promotions acknowledged, (\d+) stored", printed)
    assert counted is not None
    assert counted[1] == counted[2]
    assert int(counted[1]) > 2


def judge(name: str, stored: int = 0, answered_bytes: int = 10_500, *answers: Answer) -> None:
    """Check a load of 100 calls by 32 callers, beside which one caller got these answers, of 100 bytes if good."""
    measured = Measured(100, 100.0, [1.0], answered_bytes, 0.1)
    check(BY_NAME[name], measured, Sample([*answers]), Load("", (b"",), 32), stored)


GOOD = Answer(OK, 1.0, b"." * 100)
BAD = Answer(REFUSED, 1.0, b"")


@pytest.mark.parametrize("stored", [102, 134])
def test_writes_count_if_all_that_was_acknowledged_is_stored_and_no_more_than_was_under_way(stored: int) -> None:
    judge("promote_many", stored, 10_500, GOOD, GOOD)


@pytest.mark.parametrize("stored", [101, 135])
def test_writes_are_void_if_more_or_fewer_are_stored(stored: int) -> None:
    with pytest.raises(Void, match="102 to 134 versions should have been stored"):
        judge("promote_many", stored, 10_500, GOOD, GOOD)


def test_a_load_is_void_if_the_caller_on_the_side_saw_a_failure() -> None:
    with pytest.raises(Void, match="RESOURCE_EXHAUSTED"):
        judge("get_version", 0, 10_500, GOOD, BAD)


def test_a_load_is_void_if_the_caller_on_the_side_saw_nothing() -> None:
    with pytest.raises(Void):
        judge("get_version")


@pytest.mark.parametrize("answered_bytes", [10_499, 14_000])
def test_reads_are_void_if_not_every_answer_was_as_long_as_a_good_one(answered_bytes: int) -> None:
    with pytest.raises(Void, match="bytes"):
        judge("get_version", 0, answered_bytes, GOOD)


def test_overload_counts_with_refusals_but_not_if_what_was_acknowledged_is_lost() -> None:
    judge("overload", 1, 0, GOOD, BAD)
    with pytest.raises(Void):
        judge("overload", 0, 0, GOOD, BAD)
