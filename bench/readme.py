"""Puts what was measured into bench/README.md: between two lines there, and into a picture beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.goals import RATIOS
from bench.machine import described
from bench.report import KIND_TITLES, capacity, series, spread, tables
from bench.scenarios import BY_NAME, CEILING

README = Path(__file__).with_name("README.md")
OPERATIONS = README.parents[1] / "docs" / "operations.md"
COLOURS = {"sqlite": "#4c78a8", "postgresql": "#f58518"}


def write_readme(measured: dict[str, Any], readme: Path = README, operations: Path = OPERATIONS) -> None:
    """Put the tables of a run into the README, its plot beside it, and the capacity into docs/operations.md."""
    picture = readme.with_name("bench.png")
    _plot(measured).savefig(picture, dpi=110, metadata={"Software": ""})
    seconds, rounds = f"{measured['seconds']:g}", len(measured["rounds"])
    run = f"{described(measured['machine'])} {rounds} rounds of {seconds} s for each line."
    put_between(readme, "bench", f"{run}\n\n{tables(measured)}\n\n![ratios beside the ceiling]({picture.name})")
    if table := capacity(measured):
        put_between(operations, "capacity", table)


def put_between(readme: Path, mark: str, text: str) -> None:
    """Replace what stands in the README between the two lines that bear the mark."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    old = readme.read_text()
    new, count = re.subn(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", old, flags=re.DOTALL)
    assert count == 1, f"{readme} has no place for {mark}"
    readme.write_text(new)


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no screen."""
    matplotlib.use("agg")
    return Figure(figsize=(width, height), layout="constrained")


def _plot(measured: dict[str, Any]) -> Figure:
    """Bars for the medians of the ratios, with the lowest and the highest, and the goals."""
    figure = new_figure(9, 4.5)
    axes: Axes = figure.subplots()
    kinds = list(measured["rounds"][0])
    names = [
        name
        for name, each in BY_NAME.items()
        if each.beside == CEILING and name != CEILING and series(measured, kinds[0], name)
    ]
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        found = [spread(result["ratio"] for result in series(measured, kind, name)) for name in names]
        places = [place + (number - (len(kinds) - 1) / 2) * width for place in range(len(names))]
        medians = [median for median, _, _ in found]
        reach = [[median - lowest for median, lowest, _ in found], [highest - median for median, _, highest in found]]
        axes.barh(places, medians, width, xerr=reach, label=KIND_TITLES[kind], color=COLOURS[kind])
        for place, name in zip(places, names, strict=True):
            if goal := RATIOS.get(name, {}).get(kind):
                axes.plot([goal.bound, goal.bound], [place - width / 2, place + width / 2], color="black", linewidth=2)
    axes.set_yticks(range(len(names)), [BY_NAME[name].title for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("calls a second, beside an empty call on the same server (black: the goal)")
    axes.legend()
    return figure
