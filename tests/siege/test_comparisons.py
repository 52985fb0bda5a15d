"""Comparisons of the largest Model APIs, as they were stored before there was a bound, cost others no answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.model_api_pb2 import (
    BooleanType,
    Column,
    DataType,
    DoubleType,
    ModelApi,
    ModelApiInput,
    StringType,
    TabularType,
)
from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.process.app import DATABASE_FILE
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.processes import Server
from tests.rpc.harness import path_of, request_of
from tests.siege.honest import ALL_SERVED, Honest

COLUMNS = 130_000
BATCH = 20
DEADLINE_SECONDS = 300

KINDS = (
    DataType(boolean=BooleanType()),
    DataType(double=DoubleType()),
    DataType(string=StringType()),
)


def wide(number: int) -> ModelApi:
    """A Model API of as many columns as a message has room for, each of another type than in the one before."""
    kind = KINDS[number % len(KINDS)]
    columns = [Column(name=f"c{index}", data_type=kind) for index in range(COLUMNS)]
    return ModelApi(inputs=[ModelApiInput(tabular=TabularType(name="t", columns=columns))])


class Scene:
    """Mallory, who owns two models, and versions of the first of which no two that follow each other are alike."""

    def __init__(self, server: Server, channel: grpc.Channel, count: int):
        admin, self.mallory = server.user(channel), server.user(channel, "mallory")
        self.target = admin.create_model("the target of mallory")
        source = admin.create_model("the source of mallory")
        for model in (self.target, source):
            admin("GrantRole", resource_rid=model.rid, principal="user:mallory", role=ROLE_OWNER)
        repository = SqlRepository(database_of(f"sqlite:///{server.data_dir / DATABASE_FILE}"))
        self.sources = [_append(repository, source, number) for number in range(count)]
        repository.close()
        self.mallory.promote(self.sources[0], self.target)

    def promotion(self, number: int) -> dict[str, Any]:
        return {"model_rid": self.target.rid, "source_model_version_rid": self.sources[number].rid}

    def begin_batch(self) -> Any:
        """Begin to promote all versions, and return what the call will be answered."""
        call = self.mallory.channel.unary_unary(path_of("BatchPromoteVersions"))
        request = request_of("BatchPromoteVersions", promotions=[self.promotion(n + 1) for n in range(BATCH)])
        return call.future(request.SerializeToString(), metadata=self.mallory.metadata, timeout=DEADLINE_SECONDS)


def _append(repository: SqlRepository, model: Model, number: int) -> ModelVersion:
    version = builders.version(model.rid)
    version.model_api.CopyFrom(wide(number))
    # So that each pair is one of its own.
    version.conda_requirements.append(f"number=={number}")
    return builders.append(repository, version)


@contextmanager
def checking(scene: Scene, at_once: int) -> Iterator[list[str]]:
    """Mallory checks a promotion again and again, so many times at once, and it is noted how each ended."""
    done, ends = threading.Event(), []

    def check() -> None:
        while not done.is_set():
            try:
                answer = scene.mallory("CheckPromotion", **scene.promotion(1), preview=True)
                ends.append(f"{answer.error_count} errors")
            except grpc.RpcError as error:
                ends.append(error.code().name)

    with ThreadPoolExecutor(at_once) as threads:
        try:
            for _ in range(at_once):
                threads.submit(check)
            yield ends
        finally:
            done.set()


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", 2**26)]) as channel:
        yield channel


@pytest.mark.timeout(600)
def test_eight_checks_at_a_time_of_the_largest_model_apis(
    server: Server, honest: Honest, channel: grpc.Channel
) -> None:
    scene = Scene(server, channel, 2)
    with checking(scene, 8) as ends:
        assert honest.served() == ALL_SERVED
    assert set(ends) == {f"{COLUMNS} errors"}


@pytest.mark.timeout(600)
def test_a_batch_of_promotions_with_the_largest_model_apis(
    server: Server, honest: Honest, channel: grpc.Channel
) -> None:
    scene = Scene(server, channel, BATCH + 1)
    call = scene.begin_batch()
    assert honest.served() == ALL_SERVED
    assert not call.done()
    call.result(DEADLINE_SECONDS)
    records = scene.mallory("ListPromotions", model_rid=scene.target.rid, page_size=1).promotions
    assert (records[0].version_number, records[0].error_count) == (BATCH + 1, COLUMNS)
