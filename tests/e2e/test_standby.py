"""Servers on a standby, and servers that read from one: what docs/operations.md says of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString
from urllib.error import HTTPError

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.model_pb2 import Branch, ModelVersion
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.core.freshness import POSITION
from tests.builders import FOLDER
from tests.conftest import migrate
from tests.e2e.test_metrics import METRICS_ON, scrape, value
from tests.postgres import PostgresServer, Standby
from tests.processes import Server, until
from tests.rpc.harness import User
from tests.rpc.watching import Watching, watching

SERVING = health_pb2.HealthCheckResponse.SERVING


def test_a_server_on_a_standby_answers_reads_and_no_writes(tmp_path: Path) -> None:
    with PostgresServer() as primary:
        migrate(primary.url())
        with Standby(primary) as standby, psycopg.connect(primary.url(), autocommit=True) as database:
            # Commits then wait until the standby shows what they changed, so that this test need not.
            database.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
            database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            database.execute("SELECT pg_reload_conf()")
            folder = tmp_path / "cwd"
            with (
                Server(folder, "--database-url", primary.url()) as writing,
                Server(folder, "--database-url", standby.url()) as reading,
                grpc.insecure_channel(writing.address) as to_writing,
                grpc.insecure_channel(reading.address) as to_reading,
            ):
                admin, reader = writing.user(to_writing), reading.user(to_reading)
                source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
                promoted = admin.promote(source, target)

                assert reader("GetBranch", model_rid=target.rid, branch="master").head == promoted
                assert reader("ListPromotions", model_rid=target.rid).promotions
                check = reader(
                    "CheckPromotion", model_rid=target.rid, source_model_version_rid=source.rid, preview=True
                )
                assert check.would_succeed

                # What is being decided at the primary is not known here, and might come before what is there.
                for in_order in (
                    lambda: reader.failure("ListEvents"),
                    lambda: reader.failure("ListPromotions", order=LIST_ORDER_OLDEST_FIRST),
                    lambda: Watching(reader).rest()[1],
                ):
                    failure = in_order()
                    assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
                    assert failure.retry_seconds is not None

                request = {"model_rid": target.rid, "source_model_version_rid": source.rid, "preview": True}
                failure = reader.failure("PromoteVersion", **request)
                assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
                health = health_pb2_grpc.HealthStub(to_reading)
                assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
                assert admin("GetBranch", model_rid=target.rid, branch="master").version_count == 1


def test_a_server_whose_standby_takes_over_tells_what_happens(tmp_path: Path) -> None:
    with PostgresServer() as primary:
        migrate(primary.url())
        with (
            Standby(primary) as standby,
            Server(tmp_path / "cwd", "--database-url", standby.url()) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            admin = server.user(channel)
            # Nothing has happened yet, and that is known here, too.
            with watching(admin) as watch:
                watch.bookmark()
                primary.kill()
                with psycopg.connect(standby.url(), autocommit=True) as database:
                    database.execute("SELECT pg_promote()")
                model = admin.create_model("m")
                assert watch.next_event().model_rid == model.rid
            assert [event.model_rid for event in admin("ListEvents").events] == [model.rid] * 2


class Followed:
    """A primary and its standby, and servers that read from that as long as it lags no more than they are told."""

    def __init__(self, primary: PostgresServer, standby: Standby, folder: Path, stack: contextlib.ExitStack) -> None:
        self._primary = primary
        self._standby = standby
        self._folder = folder
        self._stack = stack

    def server(self, max_lag: float, **variables: str) -> Server:
        """A server more; all know the same keys."""
        options = ("--read-database-url", self._standby.url(), "--read-max-lag", str(max_lag))
        return self._stack.enter_context(
            Server(self._folder, "--database-url", self._primary.url(), *options, **variables)
        )

    def caller(self, server: Server, name: str) -> User:
        return server.user(self._stack.enter_context(grpc.insecure_channel(server.address)), name)

    def stop_following(self) -> None:
        """Let the standby show nothing new."""
        self._ask_standby("SELECT pg_wal_replay_pause()")
        until(lambda: self._ask_standby("SELECT pg_get_wal_replay_pause_state()") == "paused")

    def go_on(self) -> None:
        self._ask_standby("SELECT pg_wal_replay_resume()")

    def take_over(self) -> None:
        """Let the standby be a primary of its own."""
        self._ask_standby("SELECT pg_promote()")

    def kill_standby(self) -> None:
        self._standby.kill()

    def freeze_standby(self) -> None:
        self._standby.freeze()
        self._stack.callback(self._standby.thaw)

    def _ask_standby(self, text: LiteralString) -> Any:
        with psycopg.connect(self._standby.url(), autocommit=True) as database:
            return database.execute(text).fetchone()[0]  # type: ignore[index]


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(PostgresServer())
        migrate(primary.url())
        standby = stack.enter_context(Standby(primary))
        yield Followed(primary, standby, tmp_path / "cwd", stack)


# Longer than a test.
FOR_LONG = 60.0


class Line:
    """A model that is promoted into, and who works on it; the head is known to be read from the standby."""

    def __init__(self, followed: Followed, here: Server) -> None:
        admin = followed.caller(here, "admin")
        self.source = admin.create_version(admin.create_model("source"))
        self.target = admin.create_model("target")
        for name in ("jane", "john"):
            admin("GrantRole", resource_rid=FOLDER, principal=f"user:{name}", role=ROLE_OWNER)
        self.first = admin.promote(self.source, self.target)
        self.john = followed.caller(here, "john")
        # He has changed nothing. As soon as the standby is read, what it does not show is not there for him.
        until(lambda: self.is_read_from_standby(followed, admin))
        self.shown = self.head(self.john)

    def is_read_from_standby(self, followed: Followed, admin: User) -> bool:
        """Stop the standby; if its server had not seen that it is there before, let it go on."""
        followed.stop_following()
        if self.promote(admin) != self.head(self.john):
            return True
        followed.go_on()
        return False

    def promote(self, user: User) -> ModelVersion:
        return user.promote(self.source, self.target)

    def head(self, user: User, position: str | None = None) -> ModelVersion:
        brought = () if position is None else ((POSITION, position),)
        asking = dataclasses.replace(user, metadata=(*user.metadata, *brought))
        branch: Branch = asking("GetBranch", model_rid=self.target.rid)
        return branch.head


def test_a_read_from_a_standby_has_all_that_its_caller_has_changed(followed: Followed) -> None:
    here, there = followed.server(FOR_LONG), followed.server(FOR_LONG)
    line = Line(followed, here)
    jane = followed.caller(here, "jane")

    # On the same server, at once.
    promoted = line.promote(jane)
    assert line.head(jane) == promoted
    assert line.head(line.john) == line.shown
    # On another one, with the position that the change was answered with.
    elsewhere = followed.caller(there, "jane")
    until(lambda: line.head(elsewhere) == line.shown)
    request = PromoteVersionRequest(model_rid=line.target.rid, source_model_version_rid=line.source.rid, preview=True)
    answer, call = ModelServiceStub(grpc.insecure_channel(here.address)).PromoteVersion.with_call(
        request, metadata=jane.metadata
    )
    position = dict(call.trailing_metadata())[POSITION]
    assert line.head(elsewhere) == line.shown
    assert line.head(elsewhere, position) == answer
    # A position that tells nothing here is no reason to read what is old.
    assert line.head(elsewhere, "unknown") == answer
    # What is not there yet is looked for at the primary.
    found = line.john("GetModelVersion", model_rid=line.target.rid, model_version_rid=answer.rid)
    assert found == answer

    followed.go_on()
    until(lambda: line.head(line.john) == answer == line.head(elsewhere))


def test_the_numbers_tell_who_answers_and_how_old_the_standby_is(followed: Followed) -> None:
    here = followed.server(FOR_LONG, MODELREGISTRY_METRICS_LISTEN="127.0.0.1:0")
    line = Line(followed, here)
    url = here.line(METRICS_ON)

    def read_by(who: str) -> float:
        return value(scrape(url), "modelregistry_standby_reads_total", answered_by=who)

    def age() -> float:
        return value(scrape(url), "modelregistry_standby_age_seconds")

    by_standby, by_primary = read_by("standby"), read_by("primary")
    line.head(line.john)
    until(lambda: (read_by("standby"), read_by("primary")) == (by_standby + 1, by_primary))
    # It shows nothing new since the line was made, and is asked on.
    until(lambda: age() > 1)
    followed.go_on()
    until(lambda: age() < 1)
    followed.kill_standby()
    line.head(line.john)
    until(lambda: (read_by("standby"), read_by("primary")) == (by_standby + 1, by_primary + 1))
    until(lambda: age() > 1)


def test_a_read_over_http_brings_the_position_of_a_change(followed: Followed) -> None:
    here = followed.server(FOR_LONG)
    line = Line(followed, here)
    model = f"{here.url}/api/v2/models/{line.target.rid}"
    body = json.dumps({"sourceModelVersionRid": line.source.rid}).encode()

    def ask(url: str, name: str, data: bytes | None = None, **headers: str) -> tuple[Any, Any]:
        given = {"Authorization": f"Bearer {here.token(name)}", "Content-Type": "application/json", **headers}
        with urllib.request.urlopen(urllib.request.Request(url, data, given)) as answer:
            return json.load(answer), answer.headers

    version = f"{model}/versions/{line.first.rid}"
    followed.caller(here, "admin")("RevokeRole", resource_rid=FOLDER, principal="user:john")
    _, told = ask(f"{model}/promoteVersion?preview=true", "jane", body)
    # The standby does not show yet that he has no role any more.
    assert ask(version, "john")[0]["rid"] == line.first.rid
    with pytest.raises(HTTPError) as refused:
        ask(version, "john", **{POSITION: told[POSITION]})
    assert json.load(refused.value)["errorName"] == "ModelVersionNotFound"


@pytest.mark.parametrize("end", ["stop_following", "kill_standby", "freeze_standby", "take_over"])
def test_reads_go_on_and_are_new_enough_when_the_standby_is_of_no_use_any_more(followed: Followed, end: str) -> None:
    here = followed.server(0.5)
    admin, john = followed.caller(here, "admin"), followed.caller(here, "john")
    source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
    admin("GrantRole", resource_rid=FOLDER, principal="user:john", role=ROLE_VIEWER)
    admin.promote(source, target)

    def head() -> ModelVersion:
        branch: Branch = john("GetBranch", model_rid=target.rid)
        return branch.head

    until(lambda: head().version_number == 1)
    getattr(followed, end)()
    for number in range(2, 6):
        promoted = admin.promote(source, target)
        # No read fails meanwhile.
        until(lambda promoted=promoted: head() == promoted)
        assert promoted.version_number == number
