"""What readers and watchers are told who know more than the registry does, since it was restored from a backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql

from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests.builders import add_model
from tests.conftest import NewDatabase
from tests.e2e.test_backup import carry_out
from tests.following import EventFollower, Follower, PromotionFollower
from tests.lost_future import LostFuture
from tests.postgres import database_name
from tests.processes import OWN_CONNECTION, Server, run
from tests.rpc.harness import Failure, User, failure_of
from tests.rpc.watching import Watching, watching

SOME = 3
UNKNOWN = (grpc.StatusCode.OUT_OF_RANGE, "CursorUnknown")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "InvalidPageToken")
PROMOTED = "modelregistry.version.promoted.v1"


@contextmanager
def calling(server: Server) -> Iterator[User]:
    with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
        yield server.user(channel)


def refusal(user: User, follower: Follower) -> tuple[grpc.StatusCode, str]:
    """How a reader cannot go on."""
    with pytest.raises(grpc.RpcError) as refused:
        follower.go_on(user)
    return named(refused.value)


def named(error: grpc.RpcError | Failure) -> tuple[grpc.StatusCode, str]:
    failure = error if isinstance(error, Failure) else failure_of(error)
    return failure.code, failure.name


def promote(user: User, source: ModelVersion, target: Model) -> set[str]:
    """The RIDs of some versions that were promoted."""
    return {user.promote(source, target).rid for _ in range(SOME)}


def require_unknown(user: User, lost: list[Follower], cursor: str) -> None:
    assert [refusal(user, each) for each in lost] == [INVALID, UNKNOWN]
    assert named(Watching(user, after_cursor=cursor).rest()[1]) == UNKNOWN


def empty(database_url: str, postgres_url: str) -> None:
    """Make a database anew, with nothing in it."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for statement in ("DROP DATABASE {} WITH (FORCE)", "CREATE DATABASE {}"):
            connection.execute(sql.SQL(statement).format(sql.Identifier(database_name(database_url))))


def test_after_a_restore_readers_go_on_whose_place_is_in_the_backup_and_others_are_told_that_theirs_is_lost(
    backend: str, new_database: NewDatabase, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = new_database("postgresql", migrated=True) if backend == "postgresql" else ""
    options = ["--database-url", url] if url else []
    folder, backup = tmp_path / "cwd", tmp_path / "backup"
    backup.mkdir()
    kept: list[Follower] = [PromotionFollower(), EventFollower()]
    lost: list[Follower] = [PromotionFollower(), EventFollower()]
    with Server(folder, *options) as server, calling(server) as admin:
        data_dir = server.data_dir
        # Its files are what a server without any would not miss.
        source = admin.create_version_with_files(admin.create_model("source"), b"weights")
        target = admin.create_model("target")
        made = promote(admin, source, target)
        for each in kept:
            each.go_on(admin)
        made |= promote(admin, source, target)
        carry_out("backup", backend, DATA_DIR=data_dir, DATABASE_URL=url, BACKUP=backup)
        promote(admin, source, target)
        for each in lost:
            each.catch_up(admin)
        with watching(admin) as watch:
            cursor = watch.bookmark()

    data_dir.rename(tmp_path / "lost")
    data_dir.mkdir()
    if url:
        empty(url, request.getfixturevalue("postgres_url"))
    carry_out("restore", backend, DATA_DIR=data_dir, DATABASE_URL=url, BACKUP=backup)

    with Server(folder, *options) as server, calling(server) as admin:
        require_unknown(admin, lost, cursor)
        place = admin("ListEvents", page_size=1, order=LIST_ORDER_OLDEST_FIRST).cursor
        # Others get the keys of what was lost.
        made |= promote(admin, source, target)
        require_unknown(admin, lost, cursor)
        for each in kept:
            each.catch_up(admin)
            each.require_all(admin, made)
        with watching(admin, after_cursor=place, types=[PROMOTED]) as watch:
            assert {watch.next_event().model_version_rid for _ in made} == made
    assert run("fsck", *options, "--data-dir", data_dir).returncode == 0


@pytest.mark.parametrize("made_since", [0, SOME, 2 * SOME], ids=["fewer", "as many", "more"])
def test_watchers_end_when_the_database_of_their_server_has_lost_what_they_were_told(
    new_database: NewDatabase, postgres_url: str, tmp_path: Path, made_since: int
) -> None:
    """However many events it has got in their place, and though nothing more happens."""
    url = new_database("postgresql", migrated=True)
    with Server(tmp_path / "cwd", "--database-url", url) as server, calling(server) as admin:
        model = admin.create_model("m")
        early = admin("ListEvents", page_size=1, order=LIST_ORDER_OLDEST_FIRST).cursor
        copy = LostFuture(postgres_url, url)
        with watching(admin) as all_of_it, watching(admin, model_rid=model.rid) as narrow:
            # Each has the place of what follows.
            all_of_it.bookmark()
            narrow.bookmark()
            for _ in range(SOME):
                version = admin.create_version(model)
            for watch in (all_of_it, narrow):
                watch.until(lambda event: event.model_version_rid == version.rid)
            in_its_place = SqlRepository(database_of(copy.url))
            for _ in range(made_since):
                add_model(in_its_place)
            in_its_place.close()

            copy.take_place()

            for watch in (all_of_it, narrow):
                cursor = watch.cursor
                told, failure = watch.rest()
                assert not told
                assert named(failure) == UNKNOWN
                assert named(Watching(admin, after_cursor=cursor).rest()[1]) == UNKNOWN
        # Whoever begins anew, or behind what is still there, is told what happens.
        with watching(admin) as anew, watching(admin, after_cursor=early) as behind:
            anew.bookmark()
            version = admin.create_version(model)
            assert anew.next_event().model_version_rid == version.rid
            # The grant of who made the model, what came in the place of the lost versions, and this one.
            assert len(behind.until(lambda event: event.model_version_rid == version.rid)) == 1 + made_since + 1
