"""How fast the registry is, beside an empty call to the same server and beside a peer.

    python -m bench [--only NAME,…] [--database sqlite|postgresql] [--rounds N] [--seconds S] [--no-peer] [--readme]

Each round measures every scenario once on each database, one after the other, and takes each ratio within the round;
the tables show medians, and the lowest and the highest. What a scenario is put beside is measured with it. A run whose
stored versions do not add up ends with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.command import carry_out
from bench.databases import KINDS, SQLITE, databases
from bench.machine import machine
from bench.peer import OURS, VERSION, Peer, peer
from bench.readme import write_readme
from bench.report import tables
from bench.scenarios import BY_NAME, CEILING, Fleet, Scenario, selected
from bench.site import Site, site
from bench.tools import BUILD, Tool, find_h2load

NAMES = (*BY_NAME, *OURS)


def main() -> None:
    """Measure, check and print."""
    carry_out(_options(), _measure, tables, write_readme)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the machine, and what each round measured. Raises Void if anything does not add up."""
    tool = find_h2load()
    kinds = KINDS if options.database is None else (options.database,)
    peers = [name for name in OURS if (options.peer if options.only is None else name in options.only)]
    named = None if options.only is None else [OURS.get(name, name) for name in options.only]
    scenarios = selected(named)
    programs = {"MLflow": VERSION} if peers else {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelregistry-bench-")))
        fields = [stack.enter_context(_field(tool, folder, kind, scenarios, peers)) for kind in kinds]
        rounds = [{field.kind: field.measure(options.seconds) for field in fields} for _ in range(options.rounds)]
        for field in fields:
            field.audit()
    return {
        "machine": machine(h2load=tool.version().rpartition("/")[2], **programs),
        "seconds": options.seconds,
        "rounds": rounds,
    }


@dataclass(frozen=True)
class Field:
    """All that is measured on one kind of database."""

    kind: str
    sites: dict[Fleet, Site]
    rival: Peer | None
    scenarios: list[Scenario]
    peers: list[str]

    def measure(self, seconds: float) -> dict[str, Any]:
        """Return one round: the result of each scenario by its name. Raises Void."""
        results: dict[str, Any] = {}
        for scenario in self.scenarios:
            beside = results.get(scenario.beside)
            rate = scenario.share * beside["per_second"] if scenario.share and beside else None
            result = self.sites[scenario.fleet].measure(scenario, seconds, rate)
            result["ratio"] = result["per_second"] / beside["per_second"] if beside else 1.0
            results[scenario.name] = result
            self._tell(scenario.name, result)
        for name in self.peers:
            assert self.rival is not None
            result = self.rival.measure(name, seconds)
            result["ratio"] = result["per_second"] / results[CEILING]["per_second"]
            result["ours"] = results[OURS[name]]["per_second"]
            result["times"] = result["ours"] / result["per_second"]
            results[name] = result
            self._tell(name, result)
        return results

    def audit(self) -> None:
        """Read all that was written. Raises Void."""
        for each in self.sites.values():
            each.audit()

    def _tell(self, name: str, result: dict[str, Any]) -> None:
        print(f"{self.kind} {name}: {result['per_second']:.0f}/s, {result['ratio']:.2f}", file=sys.stderr)


@contextlib.contextmanager
def _field(tool: Tool, folder: Path, kind: str, scenarios: list[Scenario], peers: list[str]) -> Iterator[Field]:
    scenarios = [scenario for scenario in scenarios if kind != SQLITE or scenario.fleet.is_for_sqlite]
    with contextlib.ExitStack() as stack:
        new_database = stack.enter_context(databases(kind))
        sites = {
            fleet: stack.enter_context(site(tool, folder / f"{kind}-{number}", new_database(), fleet))
            for number, fleet in enumerate(sorted({scenario.fleet for scenario in scenarios}))
        }
        rival = stack.enter_context(peer(folder / f"{kind}-mlflow", new_database())) if peers else None
        yield Field(kind, sites, rival, scenarios, peers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, help=f"some of these, separated by commas: {', '.join(NAMES)}")
    parser.add_argument("--database", choices=KINDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each scenario in each round")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="without MLflow")
    parser.add_argument("--readme", action="store_true", help="put tables and plot into bench/README.md")
    parser.add_argument("--out", type=Path, default=BUILD / "bench.json")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no such scenarios: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
