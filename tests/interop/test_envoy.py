"""deploy/envoy/envoy.yaml in front of real replicas, and of something that fails at the worst moment."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    GetBranchRequest,
    GetModelRequest,
    PromoteVersionRequest,
    UploadModelFilesRequest,
)
from modelregistry_client import Registry, RegistryError, connect, errors
from server.rpc.health import NOT_SERVING, SERVING
from tests.builders import model_api
from tests.interop.balance.replicas import FIRST, SECOND, Replicas, fair
from tests.interop.conftest import BUILD_SECONDS
from tests.interop.envoy import PLAIN, Configuration, envoy
from tests.processes import DEADLINE_SECONDS, until
from tests.rpc.fronts import Front, listening

CALLERS = 4
WATCHING = 16
PART, PARTS = b"x" * 2**20, 20

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@pytest.fixture
def proxy(replicas: Replicas, tmp_path: Path) -> Iterator[str]:
    """Envoy in front of two servers, for callers that call as fast as they can."""

    def change(config: Configuration) -> None:
        config.limit_calls(10**6)

    with envoy(tmp_path, [(FIRST, replicas.port), (SECOND, replicas.port)], change=change) as proxy:
        yield proxy.target


@pytest.fixture
def registry(proxy: str, replicas: Replicas) -> Iterator[Registry]:
    """A client that calls through it."""
    with connect(proxy, replicas[FIRST].token(), plaintext=True, options=PLAIN) as registry:
        yield registry


class Fronted(NamedTuple):
    """Two fronts of one server, and a client that calls them through Envoy."""

    one: Front
    other: Front
    registry: Registry
    address: str
    token: str

    @property
    def calls(self) -> int:
        """How many calls have reached the fronts."""
        return self.one.calls + self.other.calls

    def fail_next(self, code: grpc.StatusCode, *, carried_out: bool) -> None:
        """Let the next call of each front fail, and begin to count."""
        for front in (self.one, self.other):
            front.calls = 0
            front.fail_next(code, carried_out=carried_out)

    def spares(self, front: Front, branch: GetBranchRequest) -> bool:
        """Whether calls go to the other front alone."""
        front.calls = 0
        for _ in range(4):
            self.registry.models.GetBranch(branch, timeout=DEADLINE_SECONDS)
        return front.calls == 0


@pytest.fixture
def fronted(replicas: Replicas, tmp_path: Path) -> Iterator[Fronted]:
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(replicas[FIRST].address))
        one, other = Front(channel), Front(channel)
        addresses = [("127.0.0.1", stack.enter_context(listening(front))) for front in (one, other)]
        proxy = stack.enter_context(envoy(tmp_path, addresses)).target
        token = replicas[FIRST].token()
        registry = stack.enter_context(connect(proxy, token, plaintext=True, options=PLAIN))
        yield Fronted(one, other, registry, proxy, token)


def test_calls_take_turns_and_errors_arrive_whole(
    registry: Registry, replicas: Replicas, model_and_version: tuple[str, str]
) -> None:
    branch = GetBranchRequest(model_rid=model_and_version[0])
    with calling(lambda: registry.models.GetBranch(branch)) as failures:
        assert fair(replicas.shares())
    assert failures == []
    with pytest.raises(errors.ModelNotFound) as failed:
        registry.models.GetModel(GetModelRequest(model_rid="ri.models.main.model.none"))
    assert failed.value.model_rid == "ri.models.main.model.none"
    assert failed.value.error_instance_id


def test_a_replica_that_is_started_again_loses_no_read(
    registry: Registry, replicas: Replicas, model_and_version: tuple[str, str]
) -> None:
    branch = GetBranchRequest(model_rid=model_and_version[0])
    with calling(lambda: registry.models.GetBranch(branch)) as failures:
        for end in (replicas.stop, replicas.kill):
            end(SECOND)
            replicas.await_calls(FIRST)
            replicas.start(SECOND)
            replicas.await_calls(SECOND)
    assert failures == []


@contextmanager
def calling(call: Callable[[], object]) -> Iterator[list[str]]:
    """Let some callers call all the time; yields what failed."""
    failures: list[str] = []
    ends = threading.Event()

    def loop() -> None:
        while not ends.is_set():
            try:
                call()
            except RegistryError as error:
                failures.append(str(error))

    with ThreadPoolExecutor(CALLERS) as threads:
        for _ in range(CALLERS):
            threads.submit(loop)
        try:
            yield failures
        finally:
            ends.set()


def test_only_what_is_safe_is_repeated(fronted: Fronted, model_and_version: tuple[str, str]) -> None:
    model, version = model_and_version
    models = fronted.registry.models
    branch = GetBranchRequest(model_rid=model)
    promotion = PromoteVersionRequest(model_rid=model, source_model_version_rid=version, preview=True)
    count = models.GetBranch(branch).version_count
    for passing in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        fronted.fail_next(passing, carried_out=False)
        assert models.GetBranch(branch).version_count == count
        assert fronted.calls > 1
    # Nobody knows whether it was carried out, but the client.
    fronted.fail_next(grpc.StatusCode.UNAVAILABLE, carried_out=True)
    with pytest.raises(RegistryError) as failed:
        models.PromoteVersion(promotion)
    assert (failed.value.code(), fronted.calls) == (grpc.StatusCode.UNAVAILABLE, 1)
    fronted.fail_next(grpc.StatusCode.RESOURCE_EXHAUSTED, carried_out=False)
    assert models.PromoteVersion(promotion).version_number == count + 2
    assert fronted.calls > 1


def test_a_client_cannot_have_its_call_repeated_by_headers_of_envoy(
    fronted: Fronted, model_and_version: tuple[str, str]
) -> None:
    model, version = model_and_version
    promotion = PromoteVersionRequest(model_rid=model, source_model_version_rid=version, preview=True)
    fronted.fail_next(grpc.StatusCode.UNAVAILABLE, carried_out=False)
    asking = [("x-envoy-retry-grpc-on", "unavailable"), ("x-envoy-max-retries", "100")]
    with pytest.raises(RegistryError) as failed:
        fronted.registry.models.PromoteVersion(promotion, metadata=asking)
    assert (failed.value.code(), fronted.calls) == (grpc.StatusCode.UNAVAILABLE, 1)


def test_health_and_deadlines_are_heeded(fronted: Fronted, model_and_version: tuple[str, str]) -> None:
    one, other, registry = fronted.one, fronted.other, fronted.registry
    branch = GetBranchRequest(model_rid=model_and_version[0])

    def spared(front: Front) -> bool:
        return fronted.spares(front, branch)

    assert not spared(one)
    assert not spared(other)
    one.health.tell(NOT_SERVING)
    until(lambda: spared(one))
    assert other.seconds_left is not None
    # On the way it is rounded up.
    assert DEADLINE_SECONDS / 2 < other.seconds_left < DEADLINE_SECONDS + 1
    other.health.tell(NOT_SERVING)
    with pytest.raises(RegistryError) as failed:
        until(lambda: spared(other))
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    one.health.tell(SERVING)
    until(lambda: reaches(registry, branch))


def test_one_replica_does_not_hold_up_a_client_that_watches_health(
    fronted: Fronted, model_and_version: tuple[str, str]
) -> None:
    """Its question would go to any of them, so there are as many clients as make it certain that one asks either."""
    branch = GetBranchRequest(model_rid=model_and_version[0])
    own = [("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(connect(fronted.address, fronted.token, plaintext=True, options=own))
            for _ in range(WATCHING)
        ]
        assert all(client.models.GetBranch(branch).name for client in clients)
        fronted.one.health.tell(NOT_SERVING)
        until(lambda: fronted.spares(fronted.one, branch))
        assert all(client.models.GetBranch(branch).name for client in clients)


def reaches(registry: Registry, branch: GetBranchRequest) -> bool:
    with suppress(RegistryError):
        return bool(registry.models.GetBranch(branch).name)
    return False


def test_files_pass_in_both_directions(registry: Registry, model_and_version: tuple[str, str]) -> None:
    model, _ = model_and_version
    digest = hashlib.sha256(PART * PARTS)

    def parts() -> Iterator[UploadModelFilesRequest]:
        for _ in range(PARTS):
            yield UploadModelFilesRequest(model_rid=model, chunk=PART)
        yield UploadModelFilesRequest(sha256=digest.hexdigest())

    uploaded = UploadedModelFiles(upload_id=registry.models.UploadModelFiles(parts()).upload_id)
    version = registry.models.CreateModelVersion(
        CreateModelVersionRequest(model_rid=model, model_api=model_api(), model_files=ModelFiles(uploaded=uploaded))
    )
    wanted = DownloadModelFilesRequest(model_rid=model, model_version_rid=version.rid)
    received = hashlib.sha256()
    for part in registry.models.DownloadModelFiles(wanted):
        received.update(part.chunk)
    assert received.digest() == digest.digest()
