"""The command: one call of it, in a process of its own or in that of the tests; or a server, until it is stopped."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import grpc
import psutil

from server.__main__ import main
from server.auth.local_keys import LocalKeys
from server.core.permissions import SCOPES
from server.process.app import DATABASE_FILE, migrate_database
from tests.rpc.harness import User

COMMAND = Path(sys.executable).with_name("modelregistry")
DEADLINE_SECONDS = 180
# Of a channel that shares no connection with others, so that each worker has some.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

T = TypeVar("T")
# `run` or `run_here`.
Call = Callable[..., subprocess.CompletedProcess[str]]

LISTENING = "listening on "

# Several tests run on one machine at a time.
FREE_PORTS = {"MODELREGISTRY_LISTEN": "127.0.0.1:0", "MODELREGISTRY_HTTP_LISTEN": "127.0.0.1:0"}

# What says where a server's database is.
_DATABASES = {"--data-dir", "--database-url", "MODELREGISTRY_DATA_DIR", "MODELREGISTRY_DATABASE_URL"}

# A process has one working directory, one environment, one set of standard streams.
_calling = threading.Lock()


def environment(**variables: str) -> dict[str, str]:
    """The environment of these tests without the command's own variables, on free ports, and with the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELREGISTRY_")}
    path = f"{COMMAND.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "COLUMNS": "300", "NO_COLOR": "1", **FREE_PORTS, **variables}


def run(
    *arguments: str | Path, command: Path = COMMAND, cwd: Path | None = None, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Call the command once, with these environment variables."""
    return subprocess.run(
        [command, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment(**variables),
        timeout=DEADLINE_SECONDS,
    )


def run_here(
    *arguments: str | Path, cwd: Path | None = None, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Call a client command once in this process, which takes a tenth of the time."""
    words = [os.fspath(argument) for argument in arguments]
    standard_input = io.TextIOWrapper(io.BytesIO(stdin.encode(errors="surrogateescape")))
    outputs = [io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2)]
    with (
        _calling,
        patch.dict(os.environ, environment(**variables), clear=True),
        patch.multiple(sys, argv=["modelregistry", *words], stdin=standard_input),
        patch.multiple(sys, stdout=outputs[0], stderr=outputs[1]),
        contextlib.chdir(cwd or Path.cwd()),
    ):
        exit_code = _exit_code()
    said = [output.detach().getvalue().decode(errors="surrogateescape") for output in outputs]
    return subprocess.CompletedProcess(words, exit_code, *said)


def _exit_code() -> int:
    """Run the command line, and return what its process would exit with."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def side_by_side(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of calls that start processes, in order; as many run at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda call: call(), calls))


def failure(result: subprocess.CompletedProcess[str], exit_code: int = 1) -> str:
    """What a call that must fail with this exit code said: one line on standard error, nothing on standard output."""
    assert result.returncode == exit_code, result
    assert result.stdout == ""
    line, end, rest = result.stderr.partition("\n")
    assert (end, rest) == ("\n", ""), result.stderr
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


class Server:
    """A running `modelregistry serve`, with a folder as its working directory, on free ports of loopback.

    `address` is where it speaks gRPC, `url` where it speaks HTTP.

    Its embedded database is there already, unless `makes_database`: making one is a third of a start.

    Used in a `with` statement, it is stopped at the end and must exit in order, unless it was killed.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str | Path,
        command: Path = COMMAND,
        listen: str = "127.0.0.1:0",
        makes_database: bool = False,
        **variables: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.data_dir = folder / "modelregistry-data"
        given = {*map(str, arguments), *variables}
        is_elsewhere = not given.isdisjoint(_DATABASES)
        if not (makes_database or is_elsewhere or self.data_dir.exists()):
            self.data_dir.mkdir(mode=0o700)
            (self.data_dir / DATABASE_FILE).write_bytes(_migrated_database())
        self._log = folder.with_name(f"{folder.name}.log")
        self._killed = False
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [command, "serve", *arguments],
                cwd=folder,
                env=environment(
                    **{
                        "MODELREGISTRY_LISTEN": listen,
                        # More take longer to start; the tests that are about them, or about crashes, say how many.
                        "MODELREGISTRY_WORKERS": "1",
                        # So that hundreds of servers take up no disk.
                        "MODELREGISTRY_DISK_RESERVE": str(2**20),
                        **variables,
                    }
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        threading.Thread(target=self._read_lines, daemon=True).start()
        try:
            self.address = self.line(LISTENING)
            self.url = self.line(LISTENING)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._killed:
                self.stop()
        finally:
            self.kill()

    def line(self, start: str) -> str:
        """Wait until the server prints a line that starts so, and return the rest of it."""
        while True:
            line = self._lines.get(timeout=DEADLINE_SECONDS)
            assert line is not None, f"the server ended:\n{self._log.read_text()}"
            if line.startswith(start):
                return line.removeprefix(start).rstrip("\n")

    def lines(self) -> list[str]:
        """What else the server printed, once it has ended."""
        return [line.rstrip("\n") for line in iter(lambda: self._lines.get(timeout=DEADLINE_SECONDS), None)]

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far, each a JSON object."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def logged(self, **fields: Any) -> dict[str, Any]:
        """The first line of the log with these fields; lines are written a little later than calls are answered."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            # A line may be written only in part.
            lines = [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line[-1] == "\n"]
            found = [line for line in lines if fields.items() <= line.items()]
            if found:
                return found[0]
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)

    def terminate(self) -> None:
        """Ask the server to stop, with SIGTERM."""
        self.process.terminate()

    def stop(self) -> None:
        """Ask the server to stop, unless that was done, and see it exit in order."""
        if self.process.poll() is None:
            self.terminate()
        assert self.process.wait(DEADLINE_SECONDS) == 0, self._log.read_text()

    def kill(self) -> None:
        """SIGKILL the server, if it runs, and return when it is gone."""
        self._killed = True
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve calls."""
        return psutil.Process(self.process.pid).children()

    def pause(self) -> None:
        """Stop the workers where they are, and return when they all are."""
        for worker in self.workers():
            worker.suspend()
        # A signal stops the threads of a process one after another.
        until(lambda: all(states(worker.pid) == {"T"} for worker in self.workers()))

    def resume(self) -> None:
        """Let the workers go on."""
        for worker in self.workers():
            worker.resume()

    def token(self, subject: str = "admin", *groups: str, scopes: Iterable[str] = SCOPES) -> str:
        """A token that the server trusts."""
        return LocalKeys.open(self.data_dir).mint(subject, scopes, groups)

    def health(self) -> set[bytes]:
        """What the workers say, each of several new connections: the bytes of a HealthCheckResponse."""
        said = set()
        for _ in range(16):
            with grpc.insecure_channel(self.address, OWN_CONNECTION) as channel:
                said.add(channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=DEADLINE_SECONDS))
        return said

    def user(self, channel: grpc.Channel, subject: str = "admin") -> User:
        """Someone who calls over a channel to the server."""
        return User(channel, (("authorization", f"Bearer {self.token(subject)}"),))

    def run(
        self, *arguments: str | Path, token: str | None = None, call: Call = run_here, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Call a client command against the server; as an administrator, if no token is given."""
        variables = {"MODELREGISTRY_TARGET": self.address, "MODELREGISTRY_TOKEN": token or self.token()}
        return call(*arguments, **{**variables, **options})

    def json(self, *arguments: str | Path, **options: Any) -> Any:
        """What a client command that must succeed prints."""
        result = self.run(*arguments, **options)
        assert (result.returncode, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def _read_lines(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@cache
def _migrated_database() -> bytes:
    """A database that holds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        migrate_database(None, Path(folder))
        return (Path(folder) / DATABASE_FILE).read_bytes()


def until(holds: Callable[[], bool]) -> None:
    """Return once something holds that no event tells of."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def states(pid: int) -> set[str]:
    """The states of a process's threads; `T` is stopped."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "stat").read_text().rsplit(")", 1)[1].split()[0] for task in tasks}
