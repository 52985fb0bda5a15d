"""Processes that count in one folder. Within one process, slots behave as those of several do."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from server.observability.prometheus import Prometheus
from server.observability.shared_numbers import Slot
from server.storage.contract import ConnectionUse

# Takes a slot and counts; then waits, or is killed.
COUNTING = """
import pathlib, sys, time
from server.observability.prometheus import Prometheus
from server.storage.contract import ConnectionUse

prometheus = Prometheus(["rollback"], pathlib.Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    prometheus.promoted("rollback")
prometheus.sample(ConnectionUse(in_use=1, idle=2, limit=5), time.monotonic() - int(sys.argv[3]))
print("counted", flush=True)
sys.stdin.read()
"""
SUM = """
import pathlib, sys
from prometheus_client import generate_latest
from server.observability.prometheus import Prometheus

print(generate_latest(Prometheus(["rollback"], pathlib.Path(sys.argv[1])).registry).decode())
"""


class Counting:
    """A process that has counted so many rollbacks, and runs on."""

    def __init__(self, folder: Path, rollbacks: int, age_of_keys: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COUNTING, folder, str(rollbacks), str(age_of_keys)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "counted\n"

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def sums(folder: Path) -> dict[str, float]:
    """What one more process answers, by sample."""
    result = subprocess.run([sys.executable, "-c", SUM, folder], capture_output=True, text=True, check=True)
    lines = [line for line in result.stdout.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


ROLLBACKS = 'modelregistry_promotions_total{kind="rollback"}'
IN_USE = 'modelregistry_database_connections{state="in_use"}'
AGE_OF_KEYS = "modelregistry_jwks_age_seconds"
LIMIT = "modelregistry_database_connections_limit"


def test_each_process_has_a_slot_of_its_own_and_one_that_ended_leaves_its_own(tmp_path: Path) -> None:
    slots = [Slot(tmp_path) for _ in range(3)]
    assert [slot.number for slot in slots] == [0, 1, 2]

    del slots[1]
    gc.collect()

    assert Slot(tmp_path).number == 1


def test_the_next_process_in_a_slot_finds_what_was_counted_there(tmp_path: Path) -> None:
    numbers = {"calls": Counter({("Get", "OK"): 2, ("Get", "NOT_FOUND"): 1}), "limit": Counter({(): 4})}
    slot = Slot(tmp_path)
    assert slot.read() == {}
    slot.write(numbers)

    del slot
    gc.collect()

    assert Slot(tmp_path).read() == numbers


def test_the_others_are_read_with_whether_they_live(tmp_path: Path) -> None:
    slots = [Slot(tmp_path) for _ in range(3)]
    for slot in slots[1:]:
        slot.write({"calls": Counter({(str(slot.number),): 1})})
    assert list(slots[0].read_others()) == [
        ({"calls": Counter({("1",): 1})}, True),
        ({"calls": Counter({("2",): 1})}, True),
    ]

    del slots[1], slot
    gc.collect()

    assert [lives for _, lives in slots[0].read_others()] == [False, True]


def test_processes_add_up_and_those_that_come_after_go_on(tmp_path: Path) -> None:
    first, second = Counting(tmp_path, 3), Counting(tmp_path, 4)
    together = sums(tmp_path)
    first.kill()
    alone = sums(tmp_path)
    third = Counting(tmp_path, 5)
    again = sums(tmp_path)
    second.end()
    third.end()
    ended = sums(tmp_path)

    assert [each[ROLLBACKS] for each in (together, alone, again, ended)] == [7, 7, 12, 12]
    assert [each.get(IN_USE, 0) for each in (together, alone, again, ended)] == [2, 1, 2, 0]
    assert [each[LIMIT] for each in (together, alone, again)] == [10, 5, 10]
    assert len(list(tmp_path.glob("*.json"))) <= 3


def test_the_age_of_keys_is_that_of_the_oldest_in_a_process_that_lives(tmp_path: Path) -> None:
    old, new = Counting(tmp_path, 0, age_of_keys=5000), Counting(tmp_path, 0, age_of_keys=100)
    together = sums(tmp_path)[AGE_OF_KEYS]
    old.kill()
    alone = sums(tmp_path)[AGE_OF_KEYS]
    new.end()

    assert together >= 5000
    assert 100 <= alone < 5000
    assert AGE_OF_KEYS not in sums(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_once_and_costs_no_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prometheus = Prometheus(["rollback"], tmp_path)
    (tmp_path / "0.new").mkdir()
    for in_use in range(3):
        prometheus.promoted("rollback")
        prometheus.sample(ConnectionUse(in_use=in_use, idle=0, limit=5))

    assert prometheus.registry.get_sample_value("modelregistry_promotions_total", {"kind": "rollback"}) == 3
    assert len([record for record in caplog.records if "cannot be shared" in record.getMessage()]) == 1

    (tmp_path / "0.new").rmdir()
    prometheus.promoted("rollback")
    prometheus.count()
    other = Prometheus(["rollback"], tmp_path)
    assert other.registry.get_sample_value("modelregistry_promotions_total", {"kind": "rollback"}) == 4
