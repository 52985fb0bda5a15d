"""A server whose log is not read by its reader: it starts, serves and mends itself as if it were, and tells later."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from server.auth.local_keys import LocalKeys
from server.core.permissions import SCOPES
from tests.processes import DEADLINE_SECONDS, LISTENING, environment, until
from tests.rpc.harness import User

CALLS = 300

# `serve`, with a shorter queue of lines, and with a library below it that says much in every way there is.
TALKING = """
import logging, sys, warnings
from server.__main__ import main
from server.core import logs
from server.rpc.services.models import ModelService

logs.MAX_WAITING = 100
level = sys.argv.pop(1)
list_models = ModelService.ListModels

def talk(self, request, context):
    logging.getLogger().setLevel(level)
    logging.getLogger("library").debug("details")
    logging.getLogger("library").info("%d is no number", "x")
    print("printed", file=sys.stderr)
    warnings.warn("a warning of " + str(id(context)))
    return list_models(self, request, context)

ModelService.ListModels = talk
main()
"""


class Stalled:
    """A server whose standard error is a full pipe."""

    def __init__(self, folder: Path, level: str, write: int) -> None:
        options = ("--local-keys", "--listen", "0.0.0.0:0", "--http-listen", "127.0.0.1:0", "--workers", "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", TALKING, level, "serve", *options, "--metrics-listen", "127.0.0.1:0"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=write,
            text=True,
        )
        self.address = f"127.0.0.1:{self.line(LISTENING).rpartition(':')[2]}"
        self.url = self.line(LISTENING)
        self.metrics_url = self.line("metrics on ")
        self.token = LocalKeys.open(folder / "modelregistry-data").mint("admin", SCOPES)

    def line(self, start: str) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(start)
        return line.removeprefix(start).rstrip("\n")

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def call(self, times: int) -> None:
        with grpc.insecure_channel(self.address) as channel:
            user = User(channel, (("authorization", f"Bearer {self.token}"),))
            for _ in range(times):
                user("ListModels")

    def dropped(self) -> float:
        with urllib.request.urlopen(self.metrics_url, timeout=DEADLINE_SECONDS) as answer:
            [line] = [line for line in answer.read().decode().splitlines() if line.startswith(DROPPED)]
        return float(line.removeprefix(DROPPED))


DROPPED = "modelregistry_log_lines_dropped_total "


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4096)
        os.write(write, b"\n" * 4096)
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def is_listening(server: Stalled) -> bool:
    try:
        server.call(1)
    except grpc.RpcError:
        return False
    return True


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_no_call_waits_for_a_log_that_is_not_read_and_what_was_dropped_is_told(tmp_path: Path, level: str) -> None:
    lines: list[dict[str, Any]] = []
    with full_pipe() as (read, write):
        server = Stalled(tmp_path, level, write)
        try:
            [first] = server.workers
            first.send_signal(signal.SIGKILL)
            until(lambda: first not in server.workers and is_listening(server))
            server.call(CALLS)
            request = urllib.request.Request(f"{server.url}/api/v2/models/x", method="DELETE")
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=DEADLINE_SECONDS)
            # A call logs, prints and warns.
            assert server.dropped() >= CALLS - 100

            told = threading.Thread(target=read_until_told, args=(read, lines), daemon=True)
            told.start()
            told.join(DEADLINE_SECONDS)
            assert not told.is_alive()
        finally:
            server.process.kill()
            server.process.communicate()
    messages = [str(line["message"]) for line in lines]
    assert any("--local-keys" in message for message in messages)
    assert "printed" in messages
    assert ("details" in messages) == (level == "DEBUG")


def read_until_told(read: int, lines: list[dict[str, Any]]) -> None:
    """Read lines until those of the supervisor and of the worker have told what happened meanwhile."""
    missing = {"a worker died", "lines were dropped"}
    with open(os.dup(read)) as reader:
        while missing:
            if (line := reader.readline()) != "\n":
                lines.append(json.loads(line))
                missing -= {each for each in missing if each in str(lines[-1]["message"])}
