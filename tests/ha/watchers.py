"""Who follows what is promoted while machines fail: watchers at each server, and readers who go on by pages."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import grpc

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import Promotion
from modelregistry_client import connect
from tests.following import FOLLOWERS, Follower
from tests.ha.nodes import await_that
from tests.ha.replicas import PROMPT, Replica
from tests.history.state import pages
from tests.rpc.harness import User

PROMOTED = "modelregistry.version.promoted.v1"
PAUSE_SECONDS = 0.1
PAGE_SIZE = 20


class Watcher:
    """One who watches a server with the client, which goes on by itself, and takes down each promotion it is told."""

    def __init__(self, replica: Replica, token: str) -> None:
        self.told: list[Promotion] = []
        self._registry = connect(replica.address, token, plaintext=True, options=PROMPT)
        self._watch = self._registry.watch_events(types=[PROMOTED])

    def run(self) -> None:
        """Watch until it is closed. Raises what ends a watch for good."""
        with self._registry:
            for event in self._watch:
                self.told.append(event.subject.promotion)

    def close(self) -> None:
        self._watch.close()


class Readers:
    """Watchers at each server, and readers of each list who go from server to server."""

    def __init__(self, replicas: Sequence[Replica], metadata: tuple[tuple[str, str], ...]) -> None:
        [(_, authorization)] = metadata
        self.watchers = [Watcher(replica, authorization.removeprefix("Bearer ")) for replica in replicas]
        self.followers = [kind(PAGE_SIZE) for kind in FOLLOWERS]
        self._replicas = replicas
        self._metadata = metadata
        self._stopping = threading.Event()
        self._following: list[tuple[Future[None], Follower]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, they follow what happens."""
        with ThreadPoolExecutor(len(self.watchers) + len(self.followers)) as pool:
            watching = [pool.submit(watcher.run) for watcher in self.watchers]
            self._following = [(pool.submit(self._follow, follower), follower) for follower in self.followers]
            try:
                yield
            finally:
                self._stopping.set()
                for watcher in self.watchers:
                    watcher.close()
        for thread in watching:
            thread.result()

    def assert_told_everything(self, user: User, last: ModelVersion) -> None:
        """See that each was told of all promotions there are, once and in the order of each branch.

        The last of them made `last`, after all others had ended. To be called inside `running`, at its end.
        """
        made = [each for page in pages(user, "ListPromotions") for each in page.promotions]
        for watcher in self.watchers:
            await_that(
                lambda: any(each.model_version_rid == last.rid for each in watcher.told),  # noqa: B023 - called at once
                "a watcher is not told of the last promotion",
            )
            assert sorted(each.rid for each in watcher.told) == sorted(each.rid for each in made)
            assert_branches_ascend(watcher.told)
        self._stopping.set()
        for thread, follower in self._following:
            thread.result()
            assert follower.seen
            follower.catch_up(user)
            follower.require_all(user, {each.model_version_rid for each in made})

    def _follow(self, follower: Follower) -> None:
        with contextlib.ExitStack() as exits:
            users = [User(exits.enter_context(replica.channel()), self._metadata) for replica in self._replicas]
            for user in cycle(users):
                try:
                    follower.go_on(user)
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                        raise
                if self._stopping.wait(PAUSE_SECONDS):
                    return


def assert_branches_ascend(promotions: Sequence[Promotion]) -> None:
    numbers = defaultdict(list)
    for promotion in promotions:
        numbers[promotion.model_rid, promotion.branch].append(promotion.version_number)
    for branch, found in numbers.items():
        assert found == sorted(set(found)), (branch, found)
