"""What clients recorded is read back as it was, of several processes together, whatever became of these."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.history import Client, Outcome, Recorder, read_history
from tests.rpc.harness import User
from tests.storage.conftest import at_once

# A client that is killed in the midst of its second call, and of its recording.
KILLED = """
import os, pathlib, signal, sys
from tests.history import Outcome, Recorder
path = pathlib.Path(sys.argv[1])
recorder = Recorder(path)
recorder.end(recorder.begin("killed", "GetBranch", model_rid="model", branch="master"), Outcome.OK, count=0)
recorder.begin("killed", "GetBranch", model_rid="model", branch="master")
with path.open("a") as file:
    file.write('{"began": {"id"')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_client_did_is_read_back_as_it_was(admin: User, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")
    client = Client(recorder, "client", admin)
    source = client.create_version(admin.create_model("source").rid)
    target = admin.create_model("target").rid
    made = client.promote(source.rid, target)
    client.promote_all([{"model_rid": target, "source_model_version_rid": source.rid}] * 2)
    client.roll_back(target, made.version_number)
    client.get_branch(target)
    client.list_versions(target, page_size=3)
    client.get_version(target, made.rid)
    recorder.close()

    history = recorder.operations()
    assert read_history(tmp_path / "history.jsonl") == history
    assert {operation.outcome for operation in history} == {Outcome.OK}
    assert [[version.number for version in operation.versions] for operation in history] == [
        [1],
        [1],
        [2, 3],
        [4],
        [4],
        [4, 3, 2, 1],
        [1],
    ]
    assert history[5].count is None
    assert history[4].count == 4
    assert all(earlier.completed and earlier.completed <= later.invoked for earlier, later in pairwise(history))


def test_a_client_that_was_killed_has_not_heard_of_what_it_asked_for(tmp_path: Path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    killed = subprocess.run([sys.executable, "-c", KILLED, files[0]], check=False, timeout=180)
    assert killed.returncode == -signal.SIGKILL
    recorder = Recorder(files[1])
    recorder.end(recorder.begin("later", "GetBranch"), Outcome.FAIL)
    recorder.close()

    heard, unheard, later = read_history(*files)

    assert (heard.outcome, heard.count) == (Outcome.OK, 0)
    assert (unheard.outcome, unheard.completed, unheard.place) == (Outcome.UNKNOWN, None, heard.place)
    # One clock for both processes.
    assert heard.invoked <= (heard.completed or 0) <= unheard.invoked < later.invoked


def test_two_clients_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        Recorder(tmp_path / name).begin("client", "GetBranch")
    with pytest.raises(ValueError, match="another client#1"):
        read_history(tmp_path / "one.jsonl", tmp_path / "two.jsonl")


def test_threads_share_a_recorder(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")

    def record(number: int) -> None:
        for _ in range(200):
            recorder.end(recorder.begin(f"client {number}", "GetBranch"), Outcome.OK, count=number)

    at_once(8, record)
    recorder.close()

    history = recorder.operations()
    assert len({operation.id for operation in history}) == len(history) == 8 * 200
    assert all(operation.client == f"client {operation.count}" for operation in history)
    assert read_history(tmp_path / "history.jsonl") == history
