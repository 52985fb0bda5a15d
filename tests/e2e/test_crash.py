"""What was acknowledged is there after SIGKILL of the server, in the middle of everything, on either database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from tests.conftest import NewDatabase
from tests.history import Client, Recorder, State, assert_kept, read_state
from tests.processes import Server

CLIENTS = 4
CRASHES = 2
ACKNOWLEDGED_BEFORE_A_CRASH = 25
DEADLINE_SECONDS = 180


def test_no_acknowledged_promotion_is_lost_when_the_server_is_killed(
    backend: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    folder, url, recorder = tmp_path / "cwd", new_database(backend, migrated=True), Recorder()
    with Server(folder, "--workers", "2", "--database-url", url) as server:
        with grpc.insecure_channel(server.address) as channel:
            admin = server.user(channel)
            source = admin.create_version(admin.create_model("source"))
            target = admin.create_model("target")
            before = read_state(admin, source.model_rid, target.rid)
        promote_until_killed(server, recorder, source.rid, target.rid)
    for crashes in range(1, CRASHES + 1):
        with Server(folder, "--workers", "2", "--database-url", url) as server:
            # Calls that were running when the server died may have been carried out as well, and no others.
            assert_kept(recorder.operations(), state(server, source.model_rid, target.rid), before)
            if crashes < CRASHES:
                promote_until_killed(server, recorder, source.rid, target.rid)


def promote_until_killed(server: Server, recorder: Recorder, source_rid: str, target_rid: str) -> None:
    """Promote with all clients, which also look at what is live, and SIGKILL the server in the midst."""
    acknowledged: list[str] = []
    ended = threading.Event()  # enough is acknowledged, or a client failed

    def promote_on_and_on(number: int) -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(server.address) as channel:
            client = Client(recorder, f"client {number} of {server.address}", server.user(channel))
            while True:
                try:
                    acknowledged.append(client.promote(source_rid, target_rid, request_id=None).rid)
                    client.get_branch(target_rid)
                except grpc.RpcError as error:
                    ended.set()
                    return error.code(), error.details()
                if len(acknowledged) >= ACKNOWLEDGED_BEFORE_A_CRASH:
                    ended.set()

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(promote_on_and_on, number) for number in range(CLIENTS)]
        ended.wait(DEADLINE_SECONDS)
        server.kill()
    failures = [client.result() for client in clients]
    assert {code for code, _ in failures} == {grpc.StatusCode.UNAVAILABLE}, failures
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_A_CRASH, failures


def state(server: Server, *model_rids: str) -> State:
    """All that is stored of models."""
    with grpc.insecure_channel(server.address) as channel:
        return read_state(server.user(channel), *model_rids)
