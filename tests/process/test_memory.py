"""Memory that was in use for a while goes back to the system, and what all workers have is there once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Server

MIB = 2**20

PROGRAM = """
import time
from server.process import resources as memory

memory.TRIM_SECONDS = 0.05
memory.trim_memory()
time.sleep(0.5)
before = memory._resident_bytes()
parts = [bytes(3000) for _ in range(60_000)]
time.sleep(0.5)  # It is looked for what is free while this is in use, too.
most = memory._resident_bytes()
kept = parts[::100]  # So that the free memory lies between what is in use.
del parts
deadline = time.monotonic() + 30
while memory._resident_bytes() > before + memory.TRIM_GROWTH_BYTES and time.monotonic() < deadline:
    time.sleep(0.05)
print(before, most, memory._resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is asked")
def test_what_was_in_use_while_the_process_looked_goes_back_later() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, most, afterwards = map(int, run.stdout.split())
    assert most > before + 128 * MIB
    assert afterwards <= before + 32 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell whose memory is whose")
def test_workers_share_what_was_loaded_before_they_were_forked(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd", "--workers", "2") as server:
        for worker in server.workers():
            memory = worker.memory_full_info()
            # Where garbage is looked for in what is loaded, half of it is each worker's own soon.
            assert memory.uss < 0.42 * memory.rss
