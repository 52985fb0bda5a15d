"""The Python client package while the server is started again under it: no call is lost, and none made twice."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import GetBranchRequest, ListModelVersionsRequest, PromoteVersionRequest
from modelregistry_client import aio, connect
from modelregistry_client.channels import channel_options
from tests.postgres import unused_port
from tests.processes import DEADLINE_SECONDS, Server, until

CALLERS = 3
MORE = 20
AT_ONCE = 16

End = Callable[[Server], None]
ENDS: dict[str, End] = {"stopped": Server.stop, "killed": Server.kill}


def patient(**changes: Any) -> list[tuple[str, str]]:
    """The service config of the client, with timeouts that no busy machine reaches; what is None is left out."""
    config = json.loads(dict(channel_options(()))["grpc.service_config"]) | changes
    for method in config["methodConfig"]:
        method["timeout"] = f"{DEADLINE_SECONDS}s"
    return [("grpc.service_config", json.dumps({key: value for key, value in config.items() if value is not None}))]


class Load:
    """What callers promoted, in the order of the answers."""

    def __init__(self, version: ModelVersion) -> None:
        self.promotion = PromoteVersionRequest(
            model_rid=version.model_rid, source_model_version_rid=version.rid, preview=True
        )
        self.branch = GetBranchRequest(model_rid=version.model_rid)
        self.promoted: list[str] = []
        self.ends = threading.Event()

    def await_more(self) -> None:
        before = len(self.promoted)
        until(lambda: len(self.promoted) >= before + MORE)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Starts a server, each time at the same address and with the same database."""
    address = f"127.0.0.1:{unused_port()}"
    started: list[Server] = []

    def start() -> Server:
        started.append(Server(tmp_path / "server", listen=address))
        return started[-1]

    yield start
    started[-1].stop()


@pytest.fixture
def version(running: Callable[[], Server]) -> tuple[Server, ModelVersion]:
    """A server, and a version on a branch of its own."""
    server = running()
    model = server.json("create-model", "model", "--folder", "ri.compass.main.folder.restarts")
    file = server.data_dir.with_name("version.json")
    file.write_text('{"modelApi": {"inputs": [], "outputs": []}}')
    created = server.json("create-version", model["rid"], "--file", file)
    return server, ModelVersion(rid=created["rid"], model_rid=model["rid"])


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_threads_notice_nothing(end: End, version: tuple[Server, ModelVersion], running: Callable[[], Server]) -> None:
    server, source = version
    load = Load(source)
    # A client that does not watch the server's health, and so goes on calling while that ends.
    options = patient(healthCheckConfig=None)
    with connect(server.address, server.token(), plaintext=True, options=options) as registry:

        def call() -> None:
            while not load.ends.is_set():
                load.promoted.append(registry.models.PromoteVersion(load.promotion).rid)
                # So many at a time that some reach the server just when it ends.
                for read in [registry.models.GetBranch.future(load.branch) for _ in range(AT_ONCE)]:
                    read.result()

        with ThreadPoolExecutor(CALLERS) as threads:
            callers = [threads.submit(call) for _ in range(CALLERS)]
            try:
                restart_twice(server, end, running, load)
            finally:
                load.ends.set()
            for each in callers:
                each.result()
        listed = registry.models.ListModelVersions(ListModelVersionsRequest(model_rid=source.model_rid, page_size=1000))
    assert {each.rid for each in listed.model_versions} == {source.rid, *load.promoted}
    assert len(listed.model_versions) == len(load.promoted) + 1


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_tasks_notice_nothing(end: End, version: tuple[Server, ModelVersion], running: Callable[[], Server]) -> None:
    server, source = version
    load = Load(source)

    async def call(registry: aio.Registry) -> None:
        while not load.ends.is_set():
            load.promoted.append((await registry.models.PromoteVersion(load.promotion)).rid)
            await registry.models.GetBranch(load.branch)

    async def calls() -> list[str]:
        async with aio.connect(server.address, server.token(), plaintext=True, options=patient()) as registry:
            restarts = asyncio.create_task(asyncio.to_thread(restart_twice, server, end, running, load))
            restarts.add_done_callback(lambda _: load.ends.set())
            await asyncio.gather(restarts, *(call(registry) for _ in range(CALLERS)))
            wanted = ListModelVersionsRequest(model_rid=source.model_rid, page_size=1000)
            return [each.rid for each in (await registry.models.ListModelVersions(wanted)).model_versions]

    listed = asyncio.run(calls())
    assert sorted(listed) == sorted([source.rid, *load.promoted])


def restart_twice(server: Server, end: End, running: Callable[[], Server], load: Load) -> None:
    for _ in range(2):
        load.await_more()
        end(server)
        server = running()
    load.await_more()
