"""What calls leave behind in the numbers for Prometheus. Each test has a server of its own, on each backend."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.observability.observers import name_of
from server.observability.prometheus import SECONDS, Prometheus
from tests.builders import FOLDER
from tests.conftest import OpenRepository
from tests.processes import until
from tests.rpc.harness import SOME_MODEL, Registry, User, serving
from tests.rpc.test_transfers import Stalled, begun

SERVICE = "modelregistry.v1.ModelService"


@pytest.fixture
def prometheus() -> Prometheus:
    return Prometheus(["promotion", "rollback"])


@pytest.fixture
def registry(migrated_url: str, open_repository: OpenRepository, prometheus: Prometheus) -> Iterator[Registry]:
    """A server whose calls and promotions are counted."""
    repository = open_repository(migrated_url, promoted=lambda kind: prometheus.promoted(name_of(kind)))
    with serving(repository, observers_of=[prometheus.observer_of]) as registry:
        yield registry


def value(prometheus: Prometheus, metric: str, /, **labels: str) -> float | None:
    """A number as Prometheus sees it now; None if there is none."""
    prometheus.count()
    return prometheus.registry.get_sample_value(metric, labels)


def of_method(prometheus: Prometheus, name: str, method: str, service: str = SERVICE, **labels: str) -> float | None:
    return value(prometheus, name, grpc_service=service, grpc_method=method, **labels)


def handled(prometheus: Prometheus, method: str, code: str = "OK") -> float | None:
    return of_method(prometheus, "grpc_server_handled_total", method, grpc_code=code)


def test_calls_are_counted_by_method_and_code(prometheus: Prometheus, admin: User) -> None:
    admin.create_model("one")
    admin.create_model("two")
    assert admin.failure("CreateModel", name="two", parent_folder_rid=FOLDER).name == "ResourceNameAlreadyExists"

    assert handled(prometheus, "CreateModel") == 2
    assert handled(prometheus, "CreateModel", "ALREADY_EXISTS") == 1
    assert handled(prometheus, "GetModel") is None


def test_failures_are_counted_by_name_whatever_refused_the_call(
    prometheus: Prometheus, registry: Registry, admin: User
) -> None:
    for _ in range(2):
        admin.failure("GetModel", model_rid=SOME_MODEL)
    registry.nobody().failure("GetModel", model_rid=SOME_MODEL)
    admin.failure_of_bytes("GetModel", b"\xff")

    counted = {
        name: value(prometheus, "modelregistry_errors_total", name=name)
        for name in ("ModelNotFound", "MissingCredentials", "InvalidArgument", "Internal")
    }
    assert counted == {"ModelNotFound": 2, "MissingCredentials": 1, "InvalidArgument": 1, "Internal": None}


def test_how_long_calls_took_falls_into_buckets(prometheus: Prometheus, admin: User) -> None:
    admin.create_model("one")
    admin.failure("CreateModel", name="one", parent_folder_rid=FOLDER)

    assert of_method(prometheus, "grpc_server_handling_seconds_count", "CreateModel") == 2
    counts = {
        le: of_method(prometheus, "grpc_server_handling_seconds_bucket", "CreateModel", le=le)
        for le in (*map(str, SECONDS), "+Inf")
    }
    took = of_method(prometheus, "grpc_server_handling_seconds_sum", "CreateModel")
    assert took is not None
    assert list(counts.values()) == sorted(counts.values())
    assert counts["+Inf"] == 2
    # The longer of the two took half of the time or more, and no more than all of it.
    assert min(float(le) for le, count in counts.items() if count == 2) >= took / 2
    assert all(float(le) < took for le, count in counts.items() if count < 2)


def test_a_call_is_in_flight_until_it_ends_and_a_cancelled_one_is_counted_as_such(
    prometheus: Prometheus, registry: Registry, admin: User
) -> None:
    def in_flight() -> float | None:
        return of_method(prometheus, "grpc_server_in_flight", "UploadModelFiles")

    upload = Stalled(admin, admin.create_model("one"))
    begun(registry, 1)
    assert in_flight() == 1

    upload.call.cancel()

    until(lambda: in_flight() == 0)
    assert handled(prometheus, "UploadModelFiles", "CANCELLED") == 1


def test_probes_are_counted_too(prometheus: Prometheus, registry: Registry) -> None:
    health_pb2_grpc.HealthStub(registry.channel).Check(health_pb2.HealthCheckRequest())

    labels = {"service": "grpc.health.v1.Health", "grpc_code": "OK"}
    assert of_method(prometheus, "grpc_server_handled_total", "Check", **labels) == 1


def test_promotions_are_counted_by_kind_each_of_a_batch_and_a_repeated_one_once(
    prometheus: Prometheus, admin: User
) -> None:
    def promotions(kind: str) -> float | None:
        return value(prometheus, "modelregistry_promotions_total", kind=kind)

    assert (promotions("promotion"), promotions("rollback")) == (0, 0)
    staging, production = admin.create_model("staging"), admin.create_model("production")
    source, request_id = admin.create_version(staging), str(uuid.uuid4())

    for _ in range(2):
        admin.promote(source, production, request_id=request_id)
    entry = {"model_rid": production.rid, "source_model_version_rid": source.rid}
    admin("BatchPromoteVersions", promotions=[entry, {**entry, "branch": "canary"}])
    admin("RollbackBranch", model_rid=production.rid, to_version_number=1)
    admin.failure("RollbackBranch", model_rid=production.rid, to_version_number=9)

    assert (promotions("promotion"), promotions("rollback")) == (3, 1)


def test_connections_are_those_of_the_repository(prometheus: Prometheus, registry: Registry, admin: User) -> None:
    def connections(state: str) -> float | None:
        return value(prometheus, "modelregistry_database_connections", state=state)

    admin.create_model("one")
    registry.repository.read(lambda _: prometheus.sample(registry.repository.connections()))
    assert (connections("in_use"), connections("idle")) == (1, 0)

    prometheus.sample(registry.repository.connections())
    assert (connections("in_use"), connections("idle")) == (0, 1)
    assert value(prometheus, "modelregistry_database_connections_limit") == 8
