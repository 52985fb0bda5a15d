"""The service config beside the protos in the hands of a real client: what it repeats, and where it goes."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from server.core.errors import Overloaded, StorageUnavailable
from server.core.permissions import RPC_SCOPES
from server.rpc.health import NOT_SERVING, SERVING
from server.storage.contract import Repository
from tests.builders import file_store
from tests.conftest import NewDatabase, OpenRepository
from tests.rpc.fronts import Front, listening
from tests.rpc.harness import METHODS, Registry, User, path_of, serving

CONFIG = (Path(__file__).parents[2] / "protos/modelregistry/v1/service_config.json").read_text()

ENTRIES: list[dict[str, Any]] = json.loads(CONFIG)["methodConfig"]
CALLS = 20
SECONDS = 180
TRANSIENT_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE


def entry_of(rpc: str) -> dict[str, Any]:
    """The one entry of the config that an RPC has."""
    _, service, method = path_of(rpc).split("/")
    [found] = [entry for entry in ENTRIES if {"service": service, "method": method} in entry["name"]]
    return found


def retried_codes(rpc: str) -> set[str]:
    return set(entry_of(rpc).get("retryPolicy", {"retryableStatusCodes": []})["retryableStatusCodes"])


@contextmanager
def client(registry: Registry, *ports: int) -> Iterator[User]:
    """An administrator whose channel has the config of the page, and these ports as its replicas."""
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    # A pool of its own: by default, channels to one address share a connection, and how long it waits after failures.
    options = [("grpc.service_config", CONFIG), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"ipv4:{addresses}", options=options) as channel:
        yield replace(registry.user("admin"), channel=channel)


@pytest.fixture
def registry(new_database: NewDatabase, open_repository: OpenRepository) -> Iterator[Registry]:
    """A server; what is behind it makes no difference to clients."""
    with serving(open_repository(new_database("sqlite", migrated=True))) as registry:
        yield registry


@pytest.fixture
def front(registry: Registry) -> Front:
    return Front(registry.channel)


@pytest.fixture
def admin(registry: Registry, front: Front) -> Iterator[User]:
    """Somebody who calls through the front."""
    with listening(front) as port, client(registry, port) as user:
        yield user


def test_the_config_has_one_entry_for_each_rpc() -> None:
    named = [(each["service"], each["method"]) for entry in ENTRIES for each in entry["name"]]
    assert sorted(named) == sorted((method.containing_service.full_name, name) for name, method in METHODS.items())
    assert all(entry["waitForReady"] for entry in ENTRIES)


@pytest.mark.parametrize("rpc", METHODS)
def test_what_may_have_been_carried_out_is_repeated_only_where_that_does_no_harm(rpc: str) -> None:
    is_read = RPC_SCOPES[path_of(rpc)] == "api:models-read"
    has_id = "request_id" in METHODS[rpc].input_type.fields_by_name
    sets = rpc in {"SetBranchPolicy", "GrantRole", "RevokeRole", "SetFolderPolicy", "TransferOwnership"}
    sets |= rpc in {"DisablePrincipal", "EnablePrincipal", "LockBranch", "UnlockBranch", "UnyankVersion"}
    sets |= rpc in {"SetFolderBranchPolicy", "UpdateSubscription"}
    # What is gone is gone, and a second answer says so.
    sets |= rpc == "DeleteSubscription"
    if is_read or has_id or sets:
        assert retried_codes(rpc) == {"UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED"}
    else:
        assert rpc == "UploadModelFiles"
        assert retried_codes(rpc) == set()


def test_those_with_an_id_have_an_entry_to_themselves() -> None:
    """It is the one that a client without ids has to change."""
    with_id = {name for name, method in METHODS.items() if "request_id" in method.input_type.fields_by_name}
    assert [{each["method"] for each in entry["name"]} for entry in ENTRIES][1] == with_id - {"CheckPromotion"}


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
def test_a_read_that_fails_for_a_moment_succeeds(admin: User, front: Front, code: grpc.StatusCode) -> None:
    model = admin.create_model("m")
    front.calls = 0
    front.fail_next(code, times=2)
    assert admin("GetModel", model_rid=model.rid) == model
    assert front.calls == 3


def test_a_promotion_whose_answer_is_lost_is_made_once(admin: User, front: Front) -> None:
    source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
    front.calls = 0
    front.fail_next(grpc.StatusCode.UNAVAILABLE, carried_out=True)
    promoted = admin.promote(source, target, request_id=str(uuid.uuid4()))
    assert front.calls == 2
    assert list(admin("ListModelVersions", model_rid=target.rid).model_versions) == [promoted]


def test_what_a_repetition_cannot_help_is_not_repeated(admin: User, front: Front) -> None:
    model = admin.create_model("m")
    front.calls = 0
    assert admin.failure("CreateModel", name="m", parent_folder_rid=model.parent_folder_rid).name == (
        "ResourceNameAlreadyExists"
    )
    front.fail_next(grpc.StatusCode.ABORTED)
    assert admin.failure("GetModel", model_rid=model.rid).code == grpc.StatusCode.ABORTED
    assert front.calls == 2


class Faltering:
    """A repository whose next read fails."""

    def __init__(self, repository: Repository, error: Exception) -> None:
        self._repository = repository
        self.errors = [error]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    def read(self, query: Any) -> Any:
        if self.errors:
            raise self.errors.pop()
        return self._repository.read(query)


@pytest.mark.parametrize(
    "error",
    [Overloaded(), StorageUnavailable(), StorageUnavailable(retry_after=None)],
    ids=["overloaded", "storage away", "outcome unknown"],
)
def test_the_errors_of_the_server_have_a_form_that_libraries_repeat(
    registry: Registry, tmp_path: Path, error: Exception
) -> None:
    """A library repeats only what comes in trailers alone, without any header before."""
    model = registry.user("admin").create_model("m")
    repository = Faltering(registry.repository, error)
    with serving(cast(Repository, repository), files=file_store(registry.repository, tmp_path)) as faltering:
        faltering.health.tell(SERVING)
        with client(faltering, int(faltering.address.split(":")[1])) as admin:
            assert admin("GetModel", model_rid=model.rid) == model
    assert repository.errors == []


def test_calls_take_turns_at_the_replicas_that_are_healthy(registry: Registry) -> None:
    one, other = Front(registry.channel), Front(registry.channel)
    with listening(one) as port, listening(other) as other_port, client(registry, port, other_port) as admin:
        until_calls_reach(admin, one, other)
        for front, spared in ((one, other), (other, one)):
            spared.health.tell(NOT_SERVING)
            until_calls_spare(admin, spared)
            front.calls = spared.calls = 0
            for _ in range(CALLS):
                admin("ListModels")
            assert (front.calls, spared.calls) == (CALLS, 0)
            spared.health.tell(SERVING)
            until_calls_reach(admin, spared)
        one.calls = other.calls = 0
        for _ in range(CALLS):
            admin("ListModels")
        assert (one.calls, other.calls) == (CALLS / 2, CALLS / 2)


def until_calls_reach(admin: User, *fronts: Front) -> None:
    """Call until each front has got a call, which takes as long as connections and the news of health do."""
    for front in fronts:
        front.calls = 0
    while not all(front.calls for front in fronts):
        admin("ListModels")


def until_calls_spare(admin: User, front: Front) -> None:
    """Call until a front gets no calls any more."""
    before = -1
    while before != front.calls:
        before = front.calls
        for _ in range(4):
            admin("ListModels")


def test_a_call_waits_for_a_replica_that_is_being_replaced(registry: Registry, front: Front) -> None:
    model = registry.user("admin").create_model("m")
    successor, down = Front(registry.channel), threading.Event()
    with ExitStack() as first, ThreadPoolExecutor(1) as thread:
        port = first.enter_context(listening(front))
        with client(registry, port) as admin:
            assert admin("GetModel", model_rid=model.rid) == model
            admin.channel.subscribe(lambda state: down.set() if state == TRANSIENT_FAILURE else None)
            first.close()
            waiting = thread.submit(admin, "GetModel", model_rid=model.rid)
            assert down.wait(SECONDS)
            assert not waiting.done()
            with listening(successor, port):
                assert waiting.result(SECONDS) == model
    assert (front.calls, successor.calls) == (1, 1)
