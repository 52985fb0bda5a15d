"""Whether what was changed since a commit made the server faster or slower, in two minutes.

    python -m bench.quick [--since COMMIT or FOLDER] [--only NAME,…] [--database sqlite|postgresql] [--rounds N]
                          [--seconds S]

A server of the commit and one of the files as they are take turns at short loads, and each ratio is taken within its
pair: whatever else the machine does meanwhile, it does to both. The table shows medians, and the lowest and the highest
ratio. Nothing is judged: how much two servers of equal code differ, `--since HEAD` without a change tells.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.command import carry_out
from bench.databases import KINDS, databases
from bench.machine import machine
from bench.report import KIND_TITLES, markdown, spread
from bench.scenarios import BY_NAME, ONE_WORKER
from bench.site import Site, site
from bench.tools import BUILD, Tool, find_h2load

ROOT = Path(__file__).parents[1]
BEFORE, NOW = "before", "now"
NAMES = ("get_version", "promote_many", "promote_hot")


def main() -> None:
    """Measure and print."""
    carry_out(_options(), _measure, table, lambda measured: None)


def table(measured: dict[str, Any]) -> str:
    """Each scenario on each kind of database: calls a second, and what a call takes of the server's processor."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in measured["pairs"]:
        pairs.setdefault((each["name"], each["kind"]), []).append(each)
    rows = []
    for (name, kind), found in pairs.items():
        ratio = spread(each[NOW]["per_second"] / each[BEFORE]["per_second"] for each in found)
        cost = spread(each[NOW]["server_microseconds"] / each[BEFORE]["server_microseconds"] for each in found)
        rates = [f"{spread(each[tree]['per_second'] for each in found)[0]:.0f}" for tree in (BEFORE, NOW)]
        costs = [f"{spread(each[tree]['server_microseconds'] for each in found)[0]:.0f} µs" for tree in (BEFORE, NOW)]
        cells = ["**{:.2f}** ({:.2f} to {:.2f})".format(*values) for values in (ratio, cost)]
        rows.append([BY_NAME[name].title, KIND_TITLES[kind], *rates, cells[0], *costs, cells[1]])
    head = [
        "",
        "database",
        "a second before",
        "now",
        "now / before",
        "server's CPU a call before",
        "now",
        "now / before",
    ]
    return markdown(head, rows)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the machine, and what each pair of loads came to. Raises Void."""
    tool = find_h2load()
    pairs: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelregistry-quick-")))
        trees = {BEFORE: _files_of(options.since, folder / "tree"), NOW: ROOT}
        kinds = KINDS if options.database is None else (options.database,)
        for kind in kinds:
            with _sites(tool, folder, kind, trees) as sites:
                for name in options.only:
                    for number in range(options.rounds):
                        # By turns who begins.
                        order = [*sites][:: 1 if number % 2 else -1]
                        found = {tree: sites[tree].measure(BY_NAME[name], options.seconds, None) for tree in order}
                        pairs.append({"name": name, "kind": kind, **found})
                    print(f"{kind} {name}", file=sys.stderr)
    return {"machine": machine(), "since": options.since, "pairs": pairs}


def _files_of(since: str, folder: Path) -> Path:
    """Return a folder with the files of a commit, or the one that is given."""
    if (given := Path(since)).is_dir():
        return given.absolute()
    archive = subprocess.run(["git", "archive", since], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


@contextlib.contextmanager
def _sites(tool: Tool, folder: Path, kind: str, trees: dict[str, Path]) -> Iterator[dict[str, Site]]:
    """Have a server of each tree, on a database of its own."""
    with contextlib.ExitStack() as stack:
        new_database = stack.enter_context(databases(kind))
        sites = {}
        for name, tree in trees.items():
            path = os.pathsep.join(str(tree / part) for part in (".", "gen", "clients/python"))
            opened = site(tool, folder / f"{kind}-{name}", new_database(), ONE_WORKER, PYTHONPATH=path)
            sites[name] = stack.enter_context(opened)
        yield sites


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quick", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--since", default="HEAD", help="the commit or folder that is put beside the files as they are")
    parser.add_argument(
        "--only", type=lambda names: names.split(","), default=NAMES, help=f"some of {', '.join(BY_NAME)}"
    )
    parser.add_argument("--database", choices=KINDS)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each load")
    parser.add_argument("--out", type=Path, default=BUILD / "quick.json")
    parser.set_defaults(readme=False)
    return parser.parse_args()


if __name__ == "__main__":
    main()
