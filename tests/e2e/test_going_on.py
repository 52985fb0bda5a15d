"""Readers who go on from their last page, while many promote at several servers, or one that is killed in between."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc

from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.conftest import NewDatabase
from tests.following import FOLLOWERS, Follower
from tests.processes import Server
from tests.rpc.harness import User

WRITERS = 16
CALLS_OF_A_WRITER = 12
BRANCHES = ["master", "release"]
# Before it is killed, of all writers.
CALLS_BEFORE_THE_CRASH = 40
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Scene:
    """What is promoted, where to, and what all writers were told that they have made."""

    def __init__(self, admin: User) -> None:
        self.source: ModelVersion = admin.create_version(admin.create_model("source"))
        self.targets: list[Model] = [admin.create_model("staging"), admin.create_model("production")]
        self.made: set[str] = set()

    def request(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """A promotion, or several at once, that cannot fail."""
        source = {"source_model_version_rid": self.source.rid}
        entries = [
            {"model_rid": chance.choice(self.targets).rid, "branch": chance.choice(BRANCHES), **source}
            for _ in range(3)
        ]
        given = {"request_id": str(uuid.uuid4())}
        if chance.random() < 0.3:
            return "BatchPromoteVersions", {"promotions": entries, **given}
        return "PromoteVersion", {**entries[0], "preview": True, **given}

    def carry_out(self, user: User, rpc: str, fields: dict[str, Any]) -> None:
        answer = user(rpc, **fields)
        # Of several threads; a set takes them one by one.
        self.made.update(
            {answer.rid} if rpc == "PromoteVersion" else {each.model_version_rid for each in answer.promoted}
        )


@contextmanager
def following(threads: ThreadPoolExecutor, users: Sequence[User]) -> Iterator[list[Follower]]:
    """Readers that go on all the time, from server to server, for as long as the block lasts."""
    ended = threading.Event()

    def follow(follower: Follower, chance: random.Random) -> None:
        for user in cycle(users):
            if ended.is_set():
                return
            follower.page_size = chance.randrange(1, 20)
            follower.go_on(user)

    followers = [kind() for kind in FOLLOWERS]
    running = [threads.submit(follow, each, random.Random(number)) for number, each in enumerate(followers)]
    try:
        yield followers
    finally:
        ended.set()
    for each in running:
        each.result()


@contextmanager
def connected(*servers: Server) -> Iterator[list[User]]:
    """An administrator of each server."""
    with ExitStack() as stack:
        yield [
            server.user(stack.enter_context(grpc.insecure_channel(server.address, OWN_CONNECTION)))
            for server in servers
        ]


def test_of_many_promotions_at_two_servers_nothing_is_missed_and_nothing_comes_twice(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database("postgresql", migrated=True)
    with (
        Server(tmp_path / "one", "--database-url", url) as one,
        Server(tmp_path / "other", "--database-url", url) as other,
        connected(one, other) as users,
        ThreadPoolExecutor(WRITERS + len(FOLLOWERS)) as threads,
    ):
        scene = Scene(users[0])

        def write(number: int) -> None:
            chance = random.Random(number)
            for _ in range(CALLS_OF_A_WRITER):
                scene.carry_out(users[number % 2], *scene.request(chance))

        with following(threads, users) as followers:
            for each in [threads.submit(write, number) for number in range(WRITERS)]:
                each.result()
        for follower in followers:
            assert follower.seen, "it has seen nothing while others were promoting"
            follower.catch_up(users[1])
            follower.require_all(users[0], scene.made)


def test_nor_is_anything_when_the_server_is_killed_in_between(new_database: NewDatabase, tmp_path: Path) -> None:
    """On SQLite, where a reader goes on with the place that it has at the server that is started again."""
    url = new_database("sqlite", migrated=True)
    unanswered: list[tuple[str, dict[str, Any]]] = []
    enough = threading.Semaphore(0)
    followers = [kind(page_size=3) for kind in FOLLOWERS]
    with (
        Server(tmp_path / "cwd", "--workers", "2", "--database-url", url) as server,
        connected(*[server] * (WRITERS + len(FOLLOWERS))) as users,
        ThreadPoolExecutor(WRITERS + len(FOLLOWERS)) as threads,
    ):
        scene = Scene(users[0])

        def write(user: User, chance: random.Random) -> None:
            while True:
                rpc, fields = scene.request(chance)
                unanswered.append((rpc, fields))
                scene.carry_out(user, rpc, fields)
                unanswered.remove((rpc, fields))
                enough.release()

        def follow(user: User, follower: Follower) -> None:
            while True:
                follower.go_on(user)

        writing = [threads.submit(write, users[number], random.Random(number)) for number in range(WRITERS)]
        reading = [threads.submit(follow, *each) for each in zip(users[WRITERS:], followers, strict=True)]
        for _ in range(CALLS_BEFORE_THE_CRASH):
            assert enough.acquire(timeout=60)
        server.kill()
        assert {_failure(each) for each in (*writing, *reading)} == {grpc.StatusCode.UNAVAILABLE}
    seen = [len(follower.seen) for follower in followers]
    assert all(seen)
    with Server(tmp_path / "cwd", "--workers", "2", "--database-url", url) as server, connected(server) as [user]:
        for follower in followers:
            follower.catch_up(user)
        # Also what was carried out, and not answered, and what is carried out now.
        for rpc, fields in unanswered:
            scene.carry_out(user, rpc, fields)
        for follower in followers:
            follower.catch_up(user)
            follower.require_all(user, scene.made)


def _failure(call: Future[None]) -> grpc.StatusCode:
    error = call.exception(60)
    assert isinstance(error, grpc.RpcError), error
    code: Callable[[], grpc.StatusCode] = error.code
    return code()
