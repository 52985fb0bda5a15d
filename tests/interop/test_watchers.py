"""The watchers of the examples, and curl, print each promotion once, in order, whatever becomes of the server."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import pytest

from modelregistry.v1.model_service_pb2 import CreateModelVersionRequest
from server.auth.local_keys import LocalKeys
from server.codec.json_form import to_json
from server.core.permissions import SCOPES
from tests.builders import model_api
from tests.certificates import Authority
from tests.interop.conftest import BUILD_SECONDS, Built
from tests.postgres import unused_port
from tests.processes import DEADLINE_SECONDS, Server, environment

PROMOTED = "modelregistry.version.promoted.v1"
# Each folder of examples that has watchers, with what they are called, and what each says of a call that is refused.
WATCHERS = {
    ("go", "bin/client watch"): "{name}",
    ("typescript", "dist/watch.js"): "{name}",
    # EventSource does not show what is in an answer that it does not take.
    ("typescript", "dist/event-source.js"): "Non-200 status code ({status})",
}

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


class Stand:
    """A server with TLS that is stopped and started at the same ports, and a model into which it promotes a version."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "authority")
        self._folder = folder / "server"
        self._tls = self.authority.issue("server")
        self._ports = (unused_port(), unused_port())
        self.token_file = folder / "token"
        self._promoted = 0
        self.start()
        self.token_file.write_text(self.server.token())
        source, self.model = (self._json("create-model", name, "--folder", _FOLDER)["rid"] for name in "ab")
        content = CreateModelVersionRequest(model_api=model_api())
        (folder / "version.json").write_text(json.dumps(to_json(content)))
        self.version = self._json("create-version", source, "--file", folder / "version.json")["rid"]

    def start(self, *ports: int) -> None:
        """Start the server, at the ports where it always is if no others are given."""
        grpc_port, http_port = ports or self._ports
        cert, key = self._tls
        self.server = Server(
            self._folder,
            *("--tls-cert", cert, "--tls-key", key, "--leeway", "0"),
            listen=f"127.0.0.1:{grpc_port}",
            MODELREGISTRY_HTTP_LISTEN=f"127.0.0.1:{http_port}",
        )

    def promote(self) -> str:
        """Promote the version once more; returns what a watcher prints of that, but for the cursor."""
        self._promoted += 1
        promoted = self._json("promote", self.version, self.model, "--yes")
        assert promoted["versionNumber"] == self._promoted
        return f"master {self._promoted} {promoted['rid']}"

    def cursor(self) -> str:
        """Where a watcher begins that is to print what is promoted from now on."""
        return self._json("events", "--oldest-first", "--page-size", "1000")["cursor"]

    def variables(self) -> dict[str, str]:
        """The environment in which watchers find the server."""
        return {
            "MODELREGISTRY_TARGET": self.server.address.replace("127.0.0.1", "localhost"),
            "MODELREGISTRY_URL": self.server.url.replace("127.0.0.1", "localhost"),
            "MODELREGISTRY_TOKEN_FILE": str(self.token_file),
            "MODELREGISTRY_CA_CERT": str(self.authority.cert),
            "MODEL": self.model,
        }

    def let_token_expire_in(self, seconds: int) -> None:
        """Put a token into the file that lasts so long."""
        keys = LocalKeys.open(self.server.data_dir)
        self.token_file.write_text(keys.mint("admin", SCOPES, ttl=timedelta(seconds=seconds)))

    def renew_token(self) -> None:
        """Put a token into the file that lasts."""
        self.token_file.write_text(self.server.token())

    def _json(self, *arguments: str | Path) -> Any:
        return self.server.json(*arguments, "--ca-cert", self.authority.cert)


_FOLDER = "ri.compass.main.folder.watched"


class Program:
    """A running program, whose lines are read as they come."""

    def __init__(self, line: str, folder: Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # So that the shell and what it runs end together.
            start_new_session=True,
        )
        self._printed, self._told = (self._lines_of(each) for each in (self.process.stdout, self.process.stderr))

    def next(self) -> str:
        """The next line on standard output."""
        line = self._printed.get(timeout=DEADLINE_SECONDS)
        assert line is not None, self.rest_told()
        return line

    def await_told(self, start: str) -> None:
        """Return once it has said on standard error something that starts so."""
        said = []
        while line := self._told.get(timeout=DEADLINE_SECONDS):
            if line.startswith(start):
                return
            said.append(line)
        raise AssertionError(said)

    def rest_told(self) -> list[str]:
        """What else it says on standard error, until it ends."""
        return list(iter(lambda: self._told.get(timeout=DEADLINE_SECONDS), None))

    def rest_printed(self) -> list[str]:
        """What else it prints, until it ends."""
        return list(iter(lambda: self._printed.get(timeout=DEADLINE_SECONDS), None))

    def end(self) -> None:
        """End it, if it runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(DEADLINE_SECONDS)

    @staticmethod
    def _lines_of(stream: IO[str] | None) -> queue.SimpleQueue[str | None]:
        assert stream is not None
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            for line in stream:
                lines.put(line.rstrip("\n"))
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        return lines


@contextmanager
def running(line: str, folder: Path, **variables: str) -> Iterator[Program]:
    """A program, until the block ends."""
    program = Program(line, folder, **variables)
    try:
        yield program
    finally:
        program.end()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(tmp_path)
    try:
        yield stand
        stand.server.stop()
    finally:
        stand.server.kill()


Watch = Callable[..., Program]


@pytest.fixture(params=WATCHERS, ids=[name for _, name in WATCHERS])
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Each watcher in turn."""
    return request.param


@pytest.fixture
def watch(kind: tuple[str, str], built: Built, stand: Stand) -> Iterator[Watch]:
    """Starts the watcher."""
    language, name = kind
    example = built(language)
    [line] = [line for line in example.watchers if name in line]
    with ExitStack() as stack:

        def start(cursor: str, **variables: str) -> Program:
            given = {**stand.variables(), "CURSOR": cursor, **variables}
            return stack.enter_context(running(line, example.folder, **given))

        yield start


def test_every_watcher_of_every_example_is_run(built: Built) -> None:
    for language in ("go", "java", "python", "typescript"):
        assert len(built(language).watchers) == sum(of == language for of, _ in WATCHERS)


def printed_of(line: str) -> str:
    """What a watcher printed, but for the cursor."""
    promotion, _, cursor = line.rpartition(" ")
    assert cursor
    return promotion


def test_each_promotion_is_printed_once_and_in_order_while_the_server_stops_dies_and_is_out_of_reach(
    watch: Watch, stand: Stand
) -> None:
    stand.promote()
    cursor = stand.cursor()
    promoted = [stand.promote()]
    watcher = watch(cursor)
    watcher.await_told("watches")
    promoted += [stand.promote()]
    printed = [watcher.next(), watcher.next()]
    for end in (stand.server.stop, lambda: stand.server.kill()):
        end()
        watcher.await_told("goes on after")
        stand.start(unused_port(), unused_port())
        promoted += [stand.promote(), stand.promote()]
        stand.server.stop()
        stand.start()
        promoted += [stand.promote()]
        printed += [watcher.next() for _ in range(3)]
    watcher.end()
    printed += watcher.rest_printed()
    assert [printed_of(line) for line in printed] == promoted
    # What it printed last is where another one begins.
    promoted = [stand.promote()]
    again = watch(printed[-1].rpartition(" ")[2])
    assert [printed_of(again.next())] == promoted


def test_nothing_is_missed_by_one_that_loses_its_first_stream_before_it_told_an_event(
    watch: Watch, stand: Stand
) -> None:
    watcher = watch(stand.cursor())
    watcher.await_told("watches")
    stand.server.stop()
    watcher.await_told("goes on after")
    stand.start(unused_port(), unused_port())
    promoted = stand.promote()
    stand.server.stop()
    stand.start()
    assert printed_of(watcher.next()) == promoted


def test_the_end_of_a_token_is_no_end_where_it_is_renewed(watch: Watch, stand: Stand) -> None:
    cursor = stand.cursor()
    stand.let_token_expire_in(5)
    watcher = watch(cursor)
    watcher.await_told("watches")
    stand.renew_token()
    watcher.await_told("goes on after")
    promoted = stand.promote()
    assert printed_of(watcher.next()) == promoted


@pytest.mark.parametrize(
    ("variables", "name", "status"),
    [
        ({"MODEL": f"ri.models.main.model.{uuid.uuid4()}"}, "ModelNotFound", 404),
        ({"MODEL": "churn"}, "InvalidArgument", 400),
        ({"CURSOR": "bm8gY3Vyc29y"}, "CursorUnknown", 400),
        ({"MODELREGISTRY_TOKEN": "not.a.token", "MODELREGISTRY_TOKEN_FILE": ""}, "InvalidCredentials", 401),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_one_that_would_fail_again_ends_and_says_why(
    watch: Watch, kind: tuple[str, str], stand: Stand, variables: dict[str, str], name: str, status: int
) -> None:
    others = {name: value for name, value in variables.items() if name != "CURSOR"}
    watcher = watch(variables.get("CURSOR") or stand.cursor(), **others)
    [told] = watcher.rest_told()
    assert WATCHERS[kind].format(name=name, status=status) in told
    assert watcher.process.wait(DEADLINE_SECONDS) != 0
    assert watcher.rest_printed() == []


def test_curl_goes_on_behind_the_last_event_id(stand: Stand, tmp_path: Path) -> None:
    command = (
        'exec curl -sS -N --cacert "$MODELREGISTRY_CA_CERT"'
        ' -H "Authorization: Bearer $(cat "$MODELREGISTRY_TOKEN_FILE")"'
        ' -H "Accept: text/event-stream" -H "Last-Event-ID: $CURSOR"'
        f' "$MODELREGISTRY_URL/api/v2/events?modelRid=$MODEL&types={PROMOTED}"'
    )

    def events(curl: Program) -> Iterator[tuple[str, str]]:
        """The id and the version of each event that it prints."""
        fields: dict[str, str] = {}
        while (line := curl.next()) or fields:
            if line:
                field, _, value = line.partition(": ")
                fields[field] = value
                continue
            if "data" in fields:
                assert fields["event"] == PROMOTED
                yield fields["id"], json.loads(fields["data"])["modelVersionRid"]
            fields = {}

    cursor = stand.cursor()
    promoted = [stand.promote(), stand.promote()]
    with running(command, tmp_path, **stand.variables(), CURSOR=cursor) as curl:
        seen = list(itertools.islice(events(curl), 2))
        stand.server.stop()
        # The end of the stream is the end of the call, in order.
        assert any("ServerStopping" in line for line in curl.rest_printed())
        assert curl.process.wait(DEADLINE_SECONDS) == 0
    stand.start()
    promoted += [stand.promote()]
    last_cursor, _ = seen[-1]
    with running(command, tmp_path, **stand.variables(), CURSOR=last_cursor) as curl:
        seen.append(next(events(curl)))
    assert [f"master {number} {rid}" for number, (_, rid) in enumerate(seen, start=1)] == promoted
