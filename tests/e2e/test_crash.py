"""What was acknowledged is there after SIGKILL of the server, in the middle of everything, on either database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.conftest import NewDatabase
from tests.processes import Server

CLIENTS = 4
CRASHES = 2
ACKNOWLEDGED_BEFORE_A_CRASH = 25
MOST = 1000
DEADLINE_SECONDS = 60


def test_no_acknowledged_promotion_is_lost_when_the_server_is_killed(
    backend: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    folder, url = tmp_path / "cwd", new_database(backend, migrated=True)
    acknowledged: dict[str, int] = {}
    with Server(folder, "--database-url", url) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source = admin.create_version(admin.create_model("source"))
        target = admin.create_model("target")
        acknowledged |= promotions_until_killed(server, source, target)
    for crashes in range(1, CRASHES + 1):
        with Server(folder, "--database-url", url) as server:
            stored = numbers(server, target)
            assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_A_CRASH * crashes
            assert acknowledged.items() <= stored.items()
            assert sorted(stored.values()) == list(range(1, len(stored) + 1))
            # Calls that were running when the server died may be stored as well, one for each client, and no others.
            assert len(stored) <= len(acknowledged) + CLIENTS * crashes
            if crashes < CRASHES:
                acknowledged |= promotions_until_killed(server, source, target)


def promotions_until_killed(server: Server, source: ModelVersion, target: Model) -> dict[str, int]:
    """Promote with all clients, SIGKILL the server in the midst, and return the RIDs and numbers it acknowledged."""
    acknowledged: dict[str, int] = {}
    ended = threading.Event()  # enough is acknowledged, or a client failed

    def promote_on_and_on() -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(server.address) as channel:
            admin = server.user(channel)
            while True:
                try:
                    version = admin.promote(source, target)
                except grpc.RpcError as error:
                    ended.set()
                    return error.code(), error.details()
                acknowledged[version.rid] = version.version_number
                if len(acknowledged) >= ACKNOWLEDGED_BEFORE_A_CRASH:
                    ended.set()

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(promote_on_and_on) for _ in range(CLIENTS)]
        ended.wait(DEADLINE_SECONDS)
        server.kill()
    failures = [client.result() for client in clients]
    assert {code for code, _ in failures} == {grpc.StatusCode.UNAVAILABLE}, failures
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_A_CRASH, failures
    return acknowledged


def numbers(server: Server, model: Model) -> dict[str, int]:
    """The number of each version of a model's master branch by its RID."""
    with grpc.insecure_channel(server.address) as channel:
        listed = server.user(channel)("ListModelVersions", model_rid=model.rid, page_size=MOST)
    return {version.rid: version.version_number for version in listed.model_versions}
