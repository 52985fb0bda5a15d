"""The table of a run."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Iterable
from typing import Any

import grpc

from bench.scenarios import BY_NAME
from bench.tools import Tool

_HEAD = ("call", "database", "a second", "ratio", "lowest to highest", "p50 ms", "p99 ms", "p99.9 ms", "server", "load")


def machine(tool: Tool) -> dict[str, Any]:
    """What the run was made on, and with."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "load": tool.version(),
    }


def table(measured: dict[str, Any]) -> str:
    """The medians of all rounds, in Markdown."""
    rows = [[*_HEAD], ["---"] * len(_HEAD)]
    for kind in measured["rounds"][0]:
        rows += [
            _row(BY_NAME[name].title, kind, [each[kind][name] for each in measured["rounds"]])
            for name in measured["rounds"][0][kind]
        ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(title: str, kind: str, results: list[dict[str, Any]]) -> list[str]:
    ratios = sorted(result["ratio"] for result in results)
    return [
        title,
        kind,
        f"{_median(results, 'per_second'):.0f}",
        f"**{statistics.median(ratios):.2f}**",
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
        *(f"{_median(results, name):.1f}" for name in ("p50", "p99", "p99.9")),
        *(f"{_median(results, name):.0%}" for name in ("server_share", "generator_share")),
    ]


def _median(results: Iterable[dict[str, Any]], name: str) -> float:
    return statistics.median(result[name] for result in results)
