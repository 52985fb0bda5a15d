"""A request with an id is carried out once, though the server is killed in the midst and the client asks again."""

from __future__ import annotations

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil

from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.storage.sql import tables
from tests.conftest import NewDatabase
from tests.history import Client, Outcome, Recorder, State, assert_kept, read_state
from tests.processes import Server
from tests.records import consistent_records
from tests.rpc.harness import User, request_of
from tests.storage.inspection import rows

CLIENTS = 8
CRASHES = 5
ACKNOWLEDGED_BEFORE_A_CRASH = 20
# A crash comes after some more, so that it hits another moment of the calls that are running.
MORE_ACKNOWLEDGED = 30
# How many of the requests that were acknowledged are sent again after a crash.
REPEATED = 16
ON_THEIR_WAY_SECONDS = 0.3
DEADLINE_SECONDS = 180
BRANCHES = ["master", "release"]


class Request(NamedTuple):
    """A request with an id."""

    rpc: str
    message: Any

    @property
    def id(self) -> str:
        return self.message.request_id


class Scene(NamedTuple):
    """What is promoted, and where to; what was there before, and what all clients have done since."""

    source: ModelVersion
    targets: list[Model]
    before: State
    recorder: Recorder

    @property
    def model_rids(self) -> list[str]:
        return [self.source.model_rid, *(target.rid for target in self.targets)]

    def request(self, chance: random.Random) -> Request:
        """A promotion, a batch or a rollback that cannot fail."""
        request_id = str(uuid.uuid4())
        places = [{"model_rid": target.rid, "branch": branch} for target in self.targets for branch in BRANCHES]
        promotion = {"source_model_version_rid": self.source.rid}
        match chance.choice(["PromoteVersion", "BatchPromoteVersions", "RollbackBranch"]):
            case "BatchPromoteVersions" as rpc:
                # In whatever order; a branch may occur twice.
                fields: dict[str, Any] = {
                    "promotions": [{**place, **promotion} for place in chance.choices(places, k=3)]
                }
            case "RollbackBranch" as rpc:
                fields = {**chance.choice(places), "to_version_number": 1}
            case rpc:
                fields = {**chance.choice(places), **promotion, "preview": True}
        return Request(rpc, request_of(rpc, **fields, request_id=request_id))


class Crash(NamedTuple):
    """What clients had asked for when the server was killed."""

    acknowledged: dict[str, Request]
    # Sent and not answered at that moment, and then the connection broke.
    in_flight: list[Request]
    # Not answered either, but perhaps only sent when the server was gone.
    refused: list[Request]


def test_every_request_is_carried_out_once_across_crashes(
    backend: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    folder, url, chance = tmp_path / "cwd", new_database(backend, migrated=True), random.Random(backend)
    known: dict[str, Request] = {}
    crashes: list[Crash] = []
    done: list[bool] = []
    with (
        Server(folder, "--workers", "2", "--database-url", url) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        scene = new_scene(server.user(channel))
        crashes.append(load_until_killed(server, url, scene, known, chance))
    while len(crashes) < CRASHES:
        with Server(folder, "--workers", "2", "--database-url", url) as server:
            done += repeat_all(server, url, scene, crashes[-1], known, chance)
            # Every other one while something is done that no client has heard of, which is so for a moment only.
            crashes.append(load_until_killed(server, url, scene, known, chance, unheard_of=len(crashes) % 2 == 1))
    with Server(folder, "--workers", "2", "--database-url", url) as server:
        done += repeat_all(server, url, scene, crashes[-1], known, chance)
    assert sum(bool(crash.in_flight) for crash in crashes) >= CRASHES / 3
    # Of what was in flight some had been done and some had not.
    assert set(done) == {True, False}, f"{sum(done)} of {len(done)} had been done"


def new_scene(admin: User) -> Scene:
    """Branches of two versions each, so that each can be rolled back to the first."""
    source = admin.create_version(admin.create_model("source"))
    targets = [admin.create_model("staging"), admin.create_model("production")]
    for target in targets:
        for branch in BRANCHES * 2:
            admin.promote(source, target, branch=branch)
    return Scene(source, targets, read_state(admin, source.model_rid, *(each.rid for each in targets)), Recorder())


class Load:
    """Clients that send requests on and on, each until its connection breaks."""

    def __init__(self, server: Server, scene: Scene) -> None:
        self._server = server
        self._scene = scene
        self._told = threading.Condition()
        self.sent: dict[str, Request] = {}
        self.acknowledged: dict[str, Request] = {}
        self.failed: dict[str, tuple[grpc.StatusCode, str]] = {}

    def send_on_and_on(self, seed: int) -> None:
        chance = random.Random(seed)
        with grpc.insecure_channel(self._server.address) as channel:
            client = Client(self._scene.recorder, f"client {seed}", self._server.user(channel))
            while True:
                request = self._scene.request(chance)
                self.sent[request.id] = request
                try:
                    client.send(request.rpc, request.message)
                except grpc.RpcError as error:
                    with self._told:
                        self.failed[request.id] = error.code(), error.details()
                        self._told.notify()
                    return
                with self._told:
                    self.acknowledged[request.id] = request
                    self._told.notify()

    def wait_for(self, count: int) -> None:
        """Wait until so many requests are acknowledged."""
        with self._told:
            assert self._told.wait_for(lambda: self.failed or len(self.acknowledged) >= count, DEADLINE_SECONDS)
        assert not self.failed, self.failed

    def hears_of(self, request_ids: set[str]) -> bool:
        """Whether all these requests are acknowledged, if only by answers that were on their way."""
        with self._told:
            return self._told.wait_for(lambda: request_ids <= self.acknowledged.keys(), ON_THEIR_WAY_SECONDS)


def load_until_killed(
    server: Server, url: str, scene: Scene, known: dict[str, Request], chance: random.Random, unheard_of: bool = False
) -> Crash:
    """Send requests from all clients, SIGKILL the server in the midst, and say what became of each.

    On demand only at a moment when a request is done and not acknowledged.
    """
    load = Load(server, scene)
    enough = ACKNOWLEDGED_BEFORE_A_CRASH + chance.randrange(MORE_ACKNOWLEDGED)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.send_on_and_on, chance.getrandbits(32)) for _ in range(CLIENTS)]
        try:
            load.wait_for(enough)
            while unheard_of and not stop_at_something_unheard_of(server, url, load, known):
                load.wait_for(len(load.acknowledged) + 1)
            unanswered = load.sent.keys() - load.acknowledged.keys()
        finally:
            kill_all_processes(server)
    for client in clients:
        client.result()
    assert {code for code, _ in load.failed.values()} == {grpc.StatusCode.UNAVAILABLE}, load.failed
    assert load.sent.keys() == load.acknowledged.keys() | load.failed.keys()
    broken = {request_id for request_id, (_, details) in load.failed.items() if "failed to connect" not in details}
    in_flight = broken & unanswered
    return Crash(
        load.acknowledged,
        in_flight=[request for request_id, request in load.sent.items() if request_id in in_flight],
        refused=[load.sent[request_id] for request_id in load.failed if request_id not in in_flight],
    )


def stop_at_something_unheard_of(server: Server, url: str, load: Load, known: dict[str, Request]) -> bool:
    """Stop the server, and let it go on unless it has done something that it has not acknowledged."""
    server.pause()
    done = {row.request_id for row in rows(url, tables.requests)}
    if not load.hears_of(done - known.keys()):
        return True
    server.resume()
    return False


def kill_all_processes(server: Server) -> None:
    """SIGKILL the server and whatever it started."""
    started = psutil.Process(server.process.pid).children(recursive=True)
    server.kill()
    for process in started:
        process.kill()
    psutil.wait_procs(started, DEADLINE_SECONDS)


def repeat_all(
    server: Server, url: str, scene: Scene, crash: Crash, known: dict[str, Request], chance: random.Random
) -> list[bool]:
    """Ask again for what was not answered and for some of what was, twice at once, and see that each is done once.

    All that was acknowledged is then known. Return whether it had been done of each request that was in flight.
    """
    unanswered = [*crash.in_flight, *crash.refused]
    known |= crash.acknowledged
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        before = read_state(admin, *scene.model_rids)
        assert_kept(scene.recorder.operations(), before, scene.before)

        again = [*unanswered, *(known[request_id] for request_id in chance.sample(sorted(known), REPEATED))] * 2
        chance.shuffle(again)
        clients = [Client(scene.recorder, f"repetition {index}", admin) for index in range(len(again))]
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda client, each: client.send(each.rpc, each.message), clients, again))

        known |= {request.id: request for request in unanswered}
        after = read_state(admin, *scene.model_rids)
        consistent_records(admin, *scene.model_rids)
    history = scene.recorder.operations()
    assert_kept(history, after, scene.before)
    # Whatever was there at the restart, heard of or not, stays as it was.
    assert set(before.versions) <= set(after.versions)
    assert set(before.records) <= set(after.records)
    answers = {each.tag: each.versions for each in history if each.wanted and each.outcome is Outcome.OK}
    assert answers.keys() == known.keys()
    assert {row.request_id: row.results.split() for row in rows(url, tables.requests)} == {
        request_id: [version.rid for version in versions] for request_id, versions in answers.items()
    }
    done = {version.tag for version in before.versions}
    return [request.id in done for request in crash.in_flight]
