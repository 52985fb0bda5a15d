"""The benchmarks run, and count what was stored; how fast anything is, they alone tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.databases import KINDS
from bench.goals import COSTS, DELIVERY, OVER_HTTP, PEERS, RATIOS, RULES, SHARES, TAILS, WATCHED
from bench.growth.calls import CALLS
from bench.growth.report import tables as growth_tables
from bench.growth.report import write_readme as write_growth
from bench.h2load import Call, Load, Measured, from_when_they_were_due
from bench.peer import COPY, GET, OURS, TITLES
from bench.quick import table as quick_table
from bench.readme import write_readme
from bench.report import COUNTED, capacity, tables
from bench.sampler import Answer, Sample
from bench.scenarios import BY_NAME, CALLERS, CEILING
from bench.void import Void, check
from tests.rpc.harness import METHODS

ROOT = Path(__file__).parents[2]
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

    printed = run(
        "bench", "--seconds", "0.3", "--only", "get_version_http,get_version_pgbouncer,promote_at_half", "--out", out
    )

    measured = json.loads(out.read_text())
    (only_round,) = measured["rounds"]
    assert list(only_round) == ["sqlite", "postgresql"]
    names = ["ceiling", "get_version", "promote_many", "get_version_http", "promote_at_half"]
    assert list(only_round["sqlite"]) == names
    assert list(only_round["postgresql"]) == [*names, "get_version_pgbouncer"]
    pooled, direct = (only_round["postgresql"][name] for name in ("get_version_pgbouncer", "get_version"))
    assert pooled["database_seconds"] > direct["database_seconds"] > 0
    for results in only_round.values():
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


def test_the_capacity_is_what_a_whole_core_would_do(tmp_path: Path) -> None:
    results = {name: {"per_second": 900.0, "server_share": 0.9, "database_seconds": 0.0002} for name in COUNTED}
    table = capacity({"rounds": [{"sqlite": results, "postgresql": results}]})
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    assert rows == [["1000", "1000"]] * 3 + [["900", "900"], ["in *R*", "0.20"], ["in *W*", "0.20"]]
    assert capacity({"rounds": [{"sqlite": {"get_version": results["get_version"]}}]}) == ""


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


def test_a_short_run_puts_two_trees_side_by_side(tmp_path: Path) -> None:
    out, names = tmp_path / "quick.json", "get_version,promote_hot"

    printed = run("bench.quick", "--since", ROOT, "--seconds", "0.3", "--only", names, "--out", out)

    measured = json.loads(out.read_text())
    assert printed.strip() == quick_table(measured)
    assert [(pair["name"], pair["kind"]) for pair in measured["pairs"]] == [
        (name, kind) for kind in KINDS for name in names.split(",")
    ]
    assert all(pair[tree]["calls"] > 0 for pair in measured["pairs"] for tree in ("before", "now"))
    assert printed.count("**") == 2 * 2 * len(measured["pairs"])


def test_growth_makes_each_unary_rpc() -> None:
    streaming = {name for name, method in METHODS.items() if method.client_streaming or method.server_streaming}
    assert {call.rpc for call in CALLS} == set(METHODS) - streaming


def judge(name: str, stored: int = 0, answered_bytes: int = 10_500, *answers: Answer, streams: int = 1) -> None:
    """Check a load of 100 calls by 32 callers, beside which one caller got these answers, of 100 bytes if good."""
    measured = Measured(100, 100.0, [1.0], answered_bytes, 0.1)
    check(BY_NAME[name], measured, Sample([*answers]), Load("", (b"",), 32, streams=streams), stored)


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


@pytest.mark.parametrize("stored", [48, 319])
def test_overload_counts_with_refusals_if_as_many_are_stored_as_there_were_good_answers(stored: int) -> None:
    judge("overload", stored, 52 * 105, GOOD, GOOD, BAD, streams=8)


@pytest.mark.parametrize("stored", [47, 320])
def test_overload_is_void_if_more_or_fewer_are_stored(stored: int) -> None:
    with pytest.raises(Void, match="48 to 319 versions should have been stored"):
        judge("overload", stored, 52 * 105, GOOD, GOOD, BAD, streams=8)


def test_overload_is_void_if_the_caller_on_the_side_saw_another_failure_than_a_refusal() -> None:
    with pytest.raises(Void, match="INTERNAL"):
        judge("overload", 53, 52 * 105, GOOD, BAD, Answer(grpc.StatusCode.INTERNAL, 1.0, b""), streams=8)


def test_at_a_fixed_rate_who_was_held_back_is_timed_from_when_the_call_was_due() -> None:
    # One every 10 ms. The second takes 35 ms, so that the next three are asked late; then all is well, and the last
    # one is 2 ms late because the load generator was.
    asked = [Call(0, 1_000), Call(10_000, 35_000), Call(45_010, 1_000), Call(46_020, 1_000), Call(47_030, 4_000)]
    calls = [*asked, Call(60_000, 1_000), Call(72_000, 1_000)]

    found = from_when_they_were_due(calls, interval=10_000)

    assert [call.start for call in found] == [0, 10_000, 20_000, 30_000, 40_000, 60_000, 72_000]
    assert [call.duration for call in found] == [1_000, 35_000, 26_010, 17_020, 11_030, 1_000, 1_000]


def found(ratio: float, beyond: float, share: float, tail: float, times: float) -> dict[str, Any]:
    """A run in which every line comes to the same, but that an empty call takes so much less of the processor."""
    alike = dict.fromkeys(("per_second", "p50", "p99.9", "server_share", "generator_share"), 1.0)
    alike |= dict.fromkeys(("asked_per_second", "stored_per_second", "recovered_milliseconds", "ours"), 1.0)
    refusals = {"refused": 1, "refused_p50": 1.0, "refused_p99": 1.0}
    told = {"told": 1, "told_p50": 1.0, "told_p99": DELIVERY.bound * tail / 4.0}
    delivered = {"delivered": 1, "delivered_p50": 1.0, "delivered_p99": 1.0}
    result = {**alike, **refusals, **told, **delivered, "ratio": ratio, "p99": tail, "times": times}
    result |= {"server_microseconds": 170.0 + beyond, "database_seconds": 0.001}
    costs = {name: share * result[name] for name in ("server_microseconds", "database_seconds")}
    of_fleet = {**result, **costs}
    results = dict.fromkeys((*BY_NAME, *TITLES), result) | dict.fromkeys(SHARES, of_fleet)
    results[CEILING] = {**result, "server_microseconds": 170.0}
    return {"rounds": [dict.fromkeys(KINDS, results)]}


def test_the_tables_say_of_each_goal_whether_it_is_met() -> None:
    good = tables(found(ratio=1.7, beyond=95, share=1.1, tail=4.0, times=60.0))
    bad = tables(found(ratio=0.36, beyond=381, share=1.11, tail=4.1, times=24.9))

    goals = sum(map(len, (*RATIOS.values(), *COSTS.values()))) + len(KINDS) * sum(
        map(len, (TAILS, RULES, WATCHED, WATCHED, OVER_HTTP, PEERS, SHARES))
    )
    # Of those with watchers, there are two goals; and of several workers, where the database is a process of its own.
    goals += len(SHARES)
    assert goals == 44
    assert (good.count(": met"), good.count(": **missed**")) == (goals, 0)
    assert (bad.count(": met"), bad.count(": **missed**")) == (0, goals)


def test_what_is_measured_is_what_the_goals_are_about() -> None:
    assert {*RATIOS, *COSTS, *TAILS, *SHARES, *RULES, *WATCHED, *OVER_HTTP, *PEERS} <= {*BY_NAME, *TITLES}
    ceiling = BY_NAME[CEILING]
    assert (ceiling.path, ceiling.fleet.size, CALLERS) == ("/grpc.health.v1.Health/Check", 1, 32)
    assert {BY_NAME[name].beside for name in (*RATIOS, *COSTS, *TAILS)} == {CEILING}
    assert {BY_NAME[BY_NAME[name].beside].fleet.size for name in SHARES} == {1}
    assert all(BY_NAME[name].over_http and BY_NAME[name].beside == name.removesuffix("_http") for name in OVER_HTTP)
    assert {OURS[COPY], OURS[GET]} == {"promote_many", "get_version"}
