"""What every command here does: measure, keep what was measured, and show it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import grpc

from bench.void import Void


def carry_out(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    tables: Callable[[dict[str, Any]], str],
    write_readme: Callable[[dict[str, Any]], None],
) -> None:
    """Measure, write what was measured to `--out`, print its tables, and put them into the README if that is wanted.

    Exits with code 1 if the run is void.
    """
    try:
        measured = measure(options)
    except (Void, grpc.RpcError) as problem:
        raise SystemExit(f"void: {problem}") from None
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=1))
    print(tables(measured))
    if options.readme:
        write_readme(measured)
