"""Sees to it that nothing outlives a test that starts many processes: `python -m tests.ha.guard FOLDER`.

It waits until the test closes its standard input, or is killed, which closes it too; then it kills all that runs in the
folder, and removes it. That a process dies with its parent would not do: PostgreSQL is no child of the Patroni that
started it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 30


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Inside, whatever runs with its working directory in this folder is killed at the end, and the folder removed."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.ha.guard", folder], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.communicate()
        assert guard.returncode == 0


def kill_all_in(folder: Path) -> None:
    """SIGKILL every process that runs in a folder, and return when none is left."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while found := all_in(folder):
        assert time.monotonic() < deadline, f"{found} outlive SIGKILL"
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=0.1)


def all_in(folder: Path) -> list[psutil.Process]:
    """Every process that runs in a folder."""
    return [process for process in psutil.process_iter() if _runs_in(process, folder)]


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


if __name__ == "__main__":
    sys.stdin.read()
    kill_all_in(Path(sys.argv[1]))
    shutil.rmtree(sys.argv[1])
