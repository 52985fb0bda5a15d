"""Processes that count in one folder. Within one process, places behave as those of several do."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

from prometheus_client.multiprocess import MultiProcessCollector

from server.observability.together import RESERVED_BYTES, Place, files

NAMES = ("counter_{}.db", "histogram_{}.db", "gauge_livesum_{}.db")

# Takes a place and counts; then waits, or is killed.
COUNTING = """
import pathlib, sys
from server.observability.prometheus import Prometheus
from server.storage.contract import ConnectionUse

prometheus = Prometheus(["rollback"], pathlib.Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    prometheus.promoted("rollback")
prometheus.sample(ConnectionUse(in_use=1, idle=2, limit=5))
print("counted", flush=True)
sys.stdin.read()
"""
# More methods, codes and errors than there are.
COUNTING_ALL = """
import pathlib, sys
from types import SimpleNamespace
class Record(SimpleNamespace): __hash__ = object.__hash__
from server.observability.prometheus import Prometheus

prometheus = Prometheus(map(str, range(20)), pathlib.Path(sys.argv[1]))
for method in range(100):
    watch = prometheus.watch_of(f"/modelregistry.v1.SomeService/SomeMethodWithALongName{method}")
    for code in range(20):
        error = SimpleNamespace(name=f"SomeErrorWithALongName{code}") if code else None
        record = Record(code=f"A_LONG_CODE_{code}" if code else "OK", seconds=1.0, error=error)
        watch(record, None)(record)
prometheus.count()
"""
SUM = """
import pathlib, sys
from prometheus_client import generate_latest
from server.observability.prometheus import Prometheus

print(generate_latest(Prometheus(["rollback"], pathlib.Path(sys.argv[1])).registry).decode())
"""


class Counting:
    """A process that has counted so many rollbacks, and runs on."""

    def __init__(self, folder: Path, rollbacks: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COUNTING, folder, str(rollbacks)],
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
LIMIT = "modelregistry_database_connections_limit"


def write(folder: Path, number: int) -> None:
    for name in NAMES:
        (folder / name.format(number)).write_bytes(b"numbers")


def names(paths: list[str]) -> set[str]:
    return {Path(path).name for path in paths}


def test_each_process_has_a_place_of_its_own_and_one_that_ended_leaves_its_own(tmp_path: Path) -> None:
    places = [Place(tmp_path) for _ in range(3)]
    assert [place.number for place in places] == [0, 1, 2]

    del places[1]
    gc.collect()

    assert Place(tmp_path).number == 1


def test_what_is_true_only_while_a_process_lives_counts_no_longer_when_it_has_ended(tmp_path: Path) -> None:
    places = [Place(tmp_path) for _ in range(2)]
    for place in places:
        write(tmp_path, place.number)
    assert names(files(tmp_path)) == {name.format(number) for name in NAMES for number in (0, 1)}

    del places[0], place
    gc.collect()

    assert names(files(tmp_path)) == {name.format(1) for name in NAMES} | {"counter_0.db", "histogram_0.db"}


def test_who_takes_a_place_goes_on_with_what_was_counted_there_and_with_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, 0)
    place = Place(tmp_path)
    assert place.number == 0
    goes_on = {file.name for file in tmp_path.glob("*.db") if file.read_bytes().startswith(b"numbers")}
    assert goes_on == {"counter_0.db", "histogram_0.db"}


def test_a_file_that_is_being_made_does_not_count_yet(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert list(MultiProcessCollector.merge(files(tmp_path))) == []
    (tmp_path / f"counter_{place.number + 1}.db").touch()
    assert f"counter_{place.number + 1}.db" not in names(files(tmp_path))


def test_the_disk_has_room_for_all_numbers_before_the_first(tmp_path: Path) -> None:
    """A page of a mapped file for which there is none ends the process."""
    subprocess.run([sys.executable, "-c", COUNTING_ALL, tmp_path], check=True)
    made = [file.stat() for file in tmp_path.glob("*.db")]
    assert [file.st_size for file in made] == [RESERVED_BYTES] * 3
    assert all(file.st_blocks * 512 >= RESERVED_BYTES for file in made)


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
    assert len(list(tmp_path.glob("counter_*.db"))) <= 3
