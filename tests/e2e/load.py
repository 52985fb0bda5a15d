"""Clients that promote on and on, and remember what they were told."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.rpc.harness import User

DEADLINE_SECONDS = 180

# Opens a channel to the servers, for a client of its own.
Connect = Callable[[], grpc.Channel]
AsUser = Callable[[grpc.Channel], User]


class Promotions:
    """Promotes one version into the branches of some models, each request with an id, from several clients at once."""

    def __init__(self, connect: Connect, as_user: AsUser, source: ModelVersion, targets: list[Model]) -> None:
        self._connect = connect
        self._as_user = as_user
        self._source = source
        self._targets = targets
        self._told = threading.Condition()
        self._stopping = False
        self.acknowledged: dict[str, ModelVersion] = {}
        self.failures: list[Any] = []

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """Promote until the block ends, and what was asked for by then is answered."""
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(self._promote_on_and_on, number) for number in range(clients)]
            try:
                yield
            finally:
                self._stopping = True
        for client in running:
            client.result()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more promotions are acknowledged than are now."""
        with self._told:
            enough = len(self.acknowledged) + count
            assert self._told.wait_for(lambda: self.failures or len(self.acknowledged) >= enough, DEADLINE_SECONDS)
        assert not self.failures, self.failures

    def so_far(self) -> dict[str, ModelVersion]:
        """What is acknowledged by now: versions by RID."""
        with self._told:
            return dict(self.acknowledged)

    def _promote_on_and_on(self, number: int) -> None:
        target = self._targets[number % len(self._targets)]
        with self._connect() as channel:
            user = self._as_user(channel)
            while not self._stopping:
                try:
                    version = user.promote(self._source, target, request_id=str(uuid.uuid4()))
                    head = user("GetBranch", model_rid=target.rid, branch=version.branch).head
                except grpc.RpcError as error:
                    with self._told:
                        self.failures.append(error)
                        self._told.notify_all()
                    return
                assert head.version_number >= version.version_number
                with self._told:
                    self.acknowledged[version.rid] = version
                    self._told.notify_all()
