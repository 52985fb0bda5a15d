"""A server whose log, metrics or traces cannot be kept answers as ever."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.builders import new_folder_rid
from tests.conftest import NewDatabase
from tests.e2e.database_proxy import DatabaseProxy
from tests.processes import COMMAND, Server, until
from tests.rpc.harness import SOME_MODEL, User


def assert_answers(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        folder = new_folder_rid()
        source = admin.create_version(admin.create_model("source", folder))
        target = admin.create_model("target", folder)
        assert admin.promote(source, target).version_number == 1
        assert admin.failure("GetModel", model_rid=SOME_MODEL).name == "ModelNotFound"
        assert User(channel, ()).failure("GetModel", model_rid=SOME_MODEL).name == "MissingCredentials"


def command(folder: Path, standard_error: str) -> Path:
    """The command with its standard error elsewhere."""
    script = folder / "modelregistry"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(COMMAND))} "$@" 2>{standard_error}\n')
    script.chmod(0o700)
    return script


@pytest.mark.parametrize("standard_error", ["/dev/full", "&-"], ids=["full disk", "closed"])
def test_the_log_has_no_place(tmp_path: Path, standard_error: str) -> None:
    with Server(tmp_path / "cwd", command=command(tmp_path, standard_error)) as server:
        assert_answers(server)


@pytest.mark.parametrize("megabytes", [4, 1], ids=["that fills later", "without room from the start"])
def test_the_numbers_are_on_a_disk(tmp_path: Path, megabytes: int) -> None:
    """Its server has a temporary folder of its own, on a small file system that no other process sees."""
    with tempfile.TemporaryDirectory() as folder:
        script = tmp_path / "modelregistry"
        mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {folder}"
        in_namespaces = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
        script.write_text(
            f"#!/bin/sh\nexec {shlex.join(in_namespaces)} sh -c"
            f' \'{mount} && exec {shlex.quote(str(COMMAND))} "$@"\' sh "$@"\n'
        )
        script.chmod(0o700)
        metrics = ("--metrics-listen", "127.0.0.1:0")
        with Server(tmp_path / "cwd", *metrics, command=script, TMPDIR=folder) as server:
            file = Path(f"/proc/{server.process.pid}/root{folder}/full")
            with file.open("wb", buffering=0) as full, contextlib.suppress(OSError):
                while True:
                    full.write(bytes(4096))
            assert_answers(server)
            assert status(f"http://{server.line('metrics on http://')}") == 200
            assert not [line for line in server.log() if line["message"] == "a worker died"]


def test_the_reader_of_the_log_stalls(new_database: NewDatabase, tmp_path: Path) -> None:
    """With lines that wait to be read, and then with warnings, since the database is away."""
    url = new_database("postgresql", migrated=True)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with DatabaseProxy(url) as proxy:
            stalled = command(tmp_path, str(fifo))
            with Server(tmp_path / "cwd", "--database-url", proxy.url, command=stalled) as server:
                for _ in range(20):
                    assert_answers(server)
                proxy.close()
                with grpc.insecure_channel(server.address) as channel:
                    for _ in range(20):
                        failed = server.user(channel).failure("ListModels")
                        assert (failed.code, failed.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
                until(lambda: status(f"{server.url}/readyz") == 503)
                assert status(f"{server.url}/healthz") == 200
                proxy.open()
                until(lambda: status(f"{server.url}/readyz") == 200)
                assert_answers(server)
                # The supervisor logs that a worker died, and starts another; and the end of both waits for no reader.
                [worker] = server.workers()
                worker.kill()
                until(lambda: server.workers() not in ([], [worker]))
                until(lambda: status(f"{server.url}/readyz") == 200)
    finally:
        os.close(reader)


def status(url: str) -> int:
    """The status of an answer; 0 while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=180) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


@pytest.fixture
def silent() -> Iterator[str]:
    """Where connections are taken, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_the_collector_answers_nothing(tmp_path: Path, silent: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": silent, "OTEL_BSP_SCHEDULE_DELAY": "10"}
    with Server(tmp_path / "cwd", **variables, OTEL_METRIC_EXPORT_INTERVAL="10") as server:
        assert_answers(server)
