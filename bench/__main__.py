"""How fast the registry is, beside an empty call to the same server and beside a peer.

    python -m bench [--only NAME,…] [--database sqlite|postgresql] [--rounds N] [--seconds S] [--peer]

Each round measures every scenario once on each database, one after the other, and takes each ratio within the round;
the table shows medians, and the lowest and the highest. A run whose stored versions do not add up ends with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.databases import KINDS, databases
from bench.report import machine, table
from bench.scenarios import BY_NAME, Scenario, selected
from bench.site import Site, Void, has_workers, site
from bench.tools import BUILD, find_h2load


def main() -> None:
    """Measure, check and print."""
    options = _options()
    try:
        measured = run(options)
    except Void as problem:
        raise SystemExit(f"void: {problem}") from None
    print(table(measured))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=1))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the machine, and what each round measured. Raises Void if anything does not add up."""
    tool = find_h2load()
    scenarios = selected(options.only, (1, 2) if has_workers() else (1,))
    kinds = KINDS if options.database is None else (options.database,)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelregistry-bench-")))
        sites: dict[tuple[str, int], Site] = {}
        for kind in kinds:
            new_database = stack.enter_context(databases(kind))
            for workers in sorted({scenario.workers for scenario in scenarios}):
                name = folder / f"{kind}-{workers}"
                sites[kind, workers] = stack.enter_context(site(tool, name, new_database(), workers))
        rounds = [
            {
                kind: _round(scenarios, {w: s for (k, w), s in sites.items() if k == kind}, options.seconds)
                for kind in kinds
            }
            for _ in range(options.rounds)
        ]
        for each in sites.values():
            each.audit()
    return {"machine": machine(tool), "seconds": options.seconds, "rounds": rounds}


def _round(scenarios: list[Scenario], sites: dict[int, Site], seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for scenario in scenarios:
        beside = results.get(scenario.beside)
        rate = None if scenario.share is None else scenario.share * beside["per_second"]
        result = sites[scenario.workers].measure(scenario, seconds, rate)
        result["ratio"] = result["per_second"] / beside["per_second"] if beside else 1.0
        results[scenario.name] = result
        print(f"{scenario.name}: {result['per_second']:.0f}/s, {result['ratio']:.2f}", file=sys.stderr)
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, help=f"scenarios, separated by commas: {', '.join(BY_NAME)}")
    parser.add_argument("--database", choices=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each scenario in each round")
    parser.add_argument("--out", type=Path, default=BUILD / "bench.json")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(BY_NAME):
        raise argparse.ArgumentTypeError(f"no such scenarios: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
