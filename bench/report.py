"""What a run says: its tables, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from bench.databases import SQLITE
from bench.goals import COSTS, DELIVERY, OVER_HTTP, PEERS, RATIOS, RULES, SHARES, TAILS, WATCHED
from bench.peer import TITLES
from bench.scenarios import BY_NAME, CEILING, ONE_WORKER

# What machines are counted by.
COUNTED = ("get_version", "get_branch", "promote_many", "promote_hot")
KIND_TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

Result = dict[str, Any]


def tables(measured: dict[str, Any]) -> str:
    """All tables of a run; those alone that it measured something for."""
    parts = (_ceiling, _rules, _watched, _http, _fixed, _fleets, _overload, _peer)
    said = [part(measured) for part in parts]
    return "\n\n".join(filter(None, said))


def capacity(measured: dict[str, Any]) -> str:
    """What a core of a server does, and what that takes of the database: the table by which machines are counted.

    Nothing if not all of it was measured.
    """
    kinds = list(measured["rounds"][0])
    if not all(series(measured, kind, name) for kind in kinds for name in COUNTED):
        return ""

    def row(title: str, name: str, value: Callable[[Result], float], decimals: str, own: str = "") -> list[str]:
        found = {kind: series(measured, kind, name) for kind in kinds}
        # SQLite is a part of the server.
        return [
            title,
            *(own if own and kind == SQLITE else format(_median_of(found[kind], value), decimals) for kind in kinds),
        ]

    def per_core(result: Result) -> float:
        return float(result["per_second"] / result["server_share"])

    def milliseconds(result: Result) -> float:
        return float(result["database_seconds"] * 1000)

    return markdown(
        ["", *(KIND_TITLES[kind] for kind in kinds)],
        [
            row("reads (GetModelVersion) per second and core of a server, *R*", "get_version", per_core, ".0f"),
            row("reads (GetBranch) per second and core of a server", "get_branch", per_core, ".0f"),
            row("promotions per second and core, into many branches, *W*", "promote_many", per_core, ".0f"),
            row("promotions per second into one branch", "promote_hot", lambda result: result["per_second"], ".0f"),
            row("core-milliseconds of the database for a read, *d_r*", "get_version", milliseconds, ".2f", "in *R*"),
            row("… for a promotion, *d_w*", "promote_many", milliseconds, ".2f", "in *W*"),
        ],
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    assert all(len(row) == len(head) for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def series(measured: dict[str, Any], kind: str, name: str) -> list[Result]:
    """What the rounds found for one scenario on one kind of database."""
    return [each[kind][name] for each in measured["rounds"] if name in each[kind]]


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """The median, the lowest and the highest."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]


def _ceiling(measured: dict[str, Any]) -> str:
    head = [
        "32 callers",
        "database",
        "a second",
        "beside the ceiling",
        "goal",
        "server's CPU a call",
        "beyond an empty call",
        "goal",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "p99/p50",
        "goal",
        "server's CPU",
        "load's CPU",
    ]

    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        goal, ratio = COSTS.get(name, {}).get(kind), RATIOS.get(name, {}).get(kind)
        costs = [result["server_microseconds"] for result in results]
        empty = [result["server_microseconds"] for result in series(measured, kind, CEILING)]
        beyond = statistics.median(cost - ceiling for cost, ceiling in zip(costs, empty, strict=True))
        tail = statistics.median(result["p99"] / result["p50"] for result in results)
        return [
            *_rate_and_ratio(results),
            ratio.judged(_median(results, "ratio")) if ratio else "",
            f"{statistics.median(costs):.0f} µs",
            "" if name == CEILING else f"**{beyond:.0f} µs**",
            goal.judged(beyond) if goal else "",
            *_latencies(results),
            f"{tail:.1f}",
            TAILS[name].judged(tail) if name in TAILS else "",
            f"{_median(results, 'server_share'):.0%}",
            f"{_median(results, 'generator_share'):.0%}",
        ]

    names = [name for name, each in BY_NAME.items() if each.beside == CEILING and each.share is None]
    return _table(head, measured, names, row)


def _http(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        goal = OVER_HTTP[name].judged(_median(results, "ratio"))
        cost = f"{_median(results, 'server_microseconds'):.0f} µs"
        return [
            *_rate_and_ratio(results),
            goal,
            cost,
            *_latencies(results),
            f"{_median(results, 'generator_share'):.0%}",
        ]

    head = ["over HTTP", "database", "a second", "beside gRPC", "goal", "server's CPU a call"]
    return _table([*head, "p50 ms", "p99 ms", "p99.9 ms", "load's CPU"], measured, list(OVER_HTTP), row)


def _fixed(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        rates = (f"{_median(results, key):.0f}" for key in ("asked_per_second", "per_second"))
        return [*rates, *_latencies(results)]

    names = [name for name, each in BY_NAME.items() if each.share is not None and not each.overloads]
    head = ["fixed rate", "database", "asked a second", "answered a second", "p50 ms", "p99 ms", "p99.9 ms"]
    return _table(head, measured, names, row)


def _rules(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        return [*_rate_and_ratio(results), RULES[name].judged(_median(results, "ratio")), *_latencies(results)]

    head = ["rules", "database", "a second", "beside no policy", "goal", "p50 ms", "p99 ms", "p99.9 ms"]
    return _table(head, measured, list(RULES), row)


def _watched(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        told_p99 = _median(results, "told_p99")
        return [
            *_rate_and_ratio(results),
            WATCHED[name].judged(_median(results, "ratio")),
            f"{_median(results, 'told'):.0f}",
            f"{_median(results, 'told_p50'):.0f}",
            f"{told_p99:.0f}",
            DELIVERY.judged(told_p99),
            f"{_median(results, 'delivered'):.0f}",
            f"{_median(results, 'delivered_p99'):.0f}",
        ]

    head = [
        "watchers and a webhook",
        "database",
        "a second",
        "beside none",
        "goal",
        "events told",
        "p50 ms",
        "p99 ms",
        "goal",
        "events delivered",
        "p99 ms",
    ]
    return _table(head, measured, list(WATCHED), row)


def _fleets(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        beside = series(measured, kind, BY_NAME[name].beside)
        cells = [f"{_median(results, 'per_second'):.0f}"]
        for cost, unit in (("server_microseconds", 1), ("database_seconds", 1e6)):
            if kind == SQLITE and cost == "database_seconds":
                cells += ["", "", ""]
                continue
            ratios = [result[cost] / one[cost] for result, one in zip(results, beside, strict=True) if one[cost] > 0]
            median, lowest, highest = spread(ratios)
            cells += [f"{_median(results, cost) * unit:.0f} µs", f"**{median:.2f}** ({lowest:.2f} to {highest:.2f})"]
            cells.append(SHARES[name].judged(median) if name in SHARES else "")
        return cells

    head = ["several workers, or a pooler", "database", "a second", "servers' CPU a call", "beside one worker", "goal"]
    head += ["PostgreSQL's CPU a call, with the pooler's", "beside one worker", "goal"]
    names = [name for name, each in BY_NAME.items() if each.fleet != ONE_WORKER]
    return _table(head, measured, names, row)


def _overload(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        refusals = [result for result in results if result["refused"]]
        without = _median(series(measured, kind, BY_NAME[name].beside), "per_second")
        promoted = _median(results, "stored_per_second")
        return [
            f"{_median(results, 'asked_per_second'):.0f}",
            f"{_median(results, 'per_second'):.0f}",
            f"{promoted:.0f}",
            f"**{promoted / without:.2f}**",
            f"{_median(refusals, 'refused_p50'):.0f}" if refusals else "none refused",
            f"{_median(refusals, 'refused_p99'):.0f}" if refusals else "",
            f"{_median(results, 'recovered_milliseconds'):.0f}",
        ]

    names = [name for name, each in BY_NAME.items() if each.overloads]
    head = ["overload", "database", "asked a second", "answered a second", "promoted a second", "beside no overload"]
    head += ["refusal p50 ms", "refusal p99 ms", "first call afterwards ms"]
    return _table(head, measured, names, row)


def _peer(measured: dict[str, Any]) -> str:
    def row(kind: str, name: str, results: list[Result]) -> list[str]:
        median, lowest, highest = spread(result["times"] for result in results)
        rates = (f"{_median(results, key):.0f}" for key in ("per_second", "ours"))
        times = f"**{median:.0f}×** ({lowest:.0f} to {highest:.0f})"
        return [*rates, times, PEERS[name].judged(median), *_latencies(results)]

    head = [
        "the peer",
        "database",
        "a second",
        "ours a second",
        "ours / the peer's",
        "goal",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
    ]
    return _table(head, measured, list(TITLES), row)


def _table(
    head: list[str], measured: dict[str, Any], names: list[str], row: Callable[[str, str, list[Result]], list[str]]
) -> str:
    """One row for each scenario on each kind of database; nothing if none of them was measured."""
    titles = {**{name: each.title for name, each in BY_NAME.items()}, **TITLES}
    rows = [
        [titles[name], KIND_TITLES[kind], *row(kind, name, results)]
        for name in names
        for kind in measured["rounds"][0]
        if (results := series(measured, kind, name))
    ]
    return markdown(head, rows) if rows else ""


def _rate_and_ratio(results: list[Result]) -> list[str]:
    median, lowest, highest = spread(result["ratio"] for result in results)
    return [f"{_median(results, 'per_second'):.0f}", f"**{median:.2f}** ({lowest:.2f} to {highest:.2f})"]


def _latencies(results: list[Result]) -> list[str]:
    return [f"{_median(results, name):.1f}" for name in ("p50", "p99", "p99.9")]


def _median_of(results: Iterable[Result], value: Callable[[Result], float]) -> float:
    return float(statistics.median(map(value, results)))


def _median(results: Iterable[Result], name: str) -> float:
    return _median_of(results, lambda result: float(result[name]))
