"""What a run says about growth: its tables in Markdown, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.growth.calls import CALLS, Call
from bench.machine import described
from bench.readme import README, new_figure, put_between
from bench.report import KIND_TITLES, markdown

GOAL = 1.3
_MEBIBYTE = 2**20


def tables(measured: dict[str, Any]) -> str:
    """p50 and p99 of each call that was made, at each size, and what the servers took."""
    return "\n\n".join([*(_calls(measured, kind) for kind in measured["results"]), _servers(measured)])


def write_readme(measured: dict[str, Any], readme: Path = README) -> None:
    """Put the tables of a run into the README, and its plot beside it."""
    picture = readme.with_name("growth.png")
    _plot(measured).savefig(picture, dpi=110, metadata={"Software": ""})
    run = f"{described(measured['machine'])} {measured['rounds']} rounds of {measured['calls']} calls at each size."
    put_between(readme, "growth", f"{run}\n\n{tables(measured)}\n\n![p50 beside that of the smallest]({picture.name})")


def _calls(measured: dict[str, Any], kind: str) -> str:
    results = measured["results"][kind]
    sizes = _sizes(measured)
    head = [KIND_TITLES[kind], *(f"{_power(size)}: p50, p99 ms" for size in sizes)]
    head += [f"p50 at {_power(sizes[-1])} / {_power(sizes[0])}", "the worst size"]
    rows = []
    for call in _made(results):
        by_size = {int(size): found for size, found in results[call.name].items()}
        cells = [f"{by_size[size]['p50']:.1f}, {by_size[size]['p99']:.1f}" for size in sizes]
        largest = by_size[sizes[-1]]
        ratio = f"{largest['ratio']:.2f} ({largest['lowest']:.2f} to {largest['highest']:.2f})"
        size = max(sizes, key=lambda size: by_size[size]["ratio"])
        worst = f"{by_size[size]['ratio']:.2f} at {_power(size)}"
        rows.append(
            [call.name, *cells, ratio, f"**{worst}**" if call.goal and by_size[size]["ratio"] > GOAL else worst]
        )
    return markdown(head, rows)


def _servers(measured: dict[str, Any]) -> str:
    head = ["server", "versions", "start s", "memory at the start MiB", "at the end MiB"]
    rows = [
        [
            KIND_TITLES[each["kind"]],
            _power(each["size"]),
            f"{each['start_seconds']:.2f}",
            f"{each['memory_at_start'] / _MEBIBYTE:.0f}",
            f"{each['memory_at_end'] / _MEBIBYTE:.0f}",
        ]
        for each in measured["servers"]
    ]
    return markdown(head, rows)


def _plot(measured: dict[str, Any]) -> Figure:
    """A line for each call: its p50 at each size, beside that at the smallest."""
    kinds = list(measured["results"])
    figure = new_figure(6 * len(kinds), 7)
    panels: list[Axes] = list(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0])
    sizes = _sizes(measured)
    for axes, kind in zip(panels, kinds, strict=True):
        for number, call in enumerate(_made(measured["results"][kind])):
            by_size = {int(size): found for size, found in measured["results"][kind][call.name].items()}
            style = ("-", "--", ":", "-.")[number // 10 % 4]
            axes.plot(sizes, [by_size[size]["ratio"] for size in sizes], style, label=call.name, linewidth=1.2)
        axes.axhline(GOAL, color="black", linewidth=1)
        axes.set(xscale="log", yscale="log", title=KIND_TITLES[kind], xlabel="versions, of either kind")
    panels[0].set_ylabel(f"p50 beside that at {_power(sizes[0])} versions (black: the goal)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _made(results: dict[str, Any]) -> list[Call]:
    return [call for call in CALLS if call.name in results]


def _sizes(measured: dict[str, Any]) -> list[int]:
    return sorted({each["size"] for each in measured["servers"]})


def _power(size: int) -> str:
    """10⁶ for a million, and other numbers as they are."""
    digits = str(size)
    if digits.strip("0") != "1":
        return f"{size:,}"
    return "10" + str(len(digits) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
