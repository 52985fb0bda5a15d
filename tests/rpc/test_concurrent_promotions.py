"""Many callers at once, at two replicas: each request succeeds, is carried out once, and the records fit together."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.storage.sql import tables
from tests.conftest import OpenRepository
from tests.history import Client, Outcome, Recorder, assert_kept, read_state
from tests.records import consistent_records
from tests.rpc.harness import User, request_of, serving
from tests.storage.conftest import at_once
from tests.storage.inspection import row_counts, rows

THREADS = 12
ROUNDS = 8
BRANCHES = ["master", "release"]


class Job(NamedTuple):
    """A request that is sent."""

    rpc: str
    request: Any


class Registries(NamedTuple):
    """An administrator at each replica of a registry, two targets with versions on each branch, and a source."""

    url: str
    admins: list[User]
    source: ModelVersion
    targets: list[Model]


@pytest.fixture
def replicas(migrated_url: str, open_repository: OpenRepository) -> Iterator[Registries]:
    with serving(open_repository(migrated_url)) as one, serving(open_repository(migrated_url)) as other:
        admins = [one.user("admin"), other.user("admin")]
        source = admins[0].create_version(admins[0].create_model("source"))
        targets = [admins[0].create_model(name) for name in ("staging", "production")]
        for target in targets:
            for branch in BRANCHES * 2:
                admins[0].promote(source, target, branch=branch)
        yield Registries(migrated_url, admins, source, targets)


def promotion(replicas: Registries, target: Model, branch: str, **fields: Any) -> dict[str, Any]:
    return {"model_rid": target.rid, "source_model_version_rid": replicas.source.rid, "branch": branch, **fields}


def batch(promotions: list[dict[str, Any]], **fields: Any) -> Job:
    return Job("BatchPromoteVersions", request_of("BatchPromoteVersions", promotions=promotions, **fields))


def jobs_of(replicas: Registries, number: int) -> list[Job]:
    """What is sent in one round: each kind of request with an id, which several threads send, and without one."""
    places = [(target, branch) for target in replicas.targets for branch in BRANCHES]
    one_way = [promotion(replicas, *place) for place in places]
    target, branch = places[number % len(places)]
    back = {"model_rid": target.rid, "branch": branch, "to_version_number": 1 + number % 2}
    single = promotion(replicas, target, branch, preview=True)
    return [
        Job("PromoteVersion", request_of("PromoteVersion", **single, request_id=str(uuid.uuid4()))),
        Job("PromoteVersion", request_of("PromoteVersion", **single)),
        Job("RollbackBranch", request_of("RollbackBranch", **back, request_id=str(uuid.uuid4()))),
        Job("RollbackBranch", request_of("RollbackBranch", **back)),
        # The same branches in opposite orders, and one branch more than once.
        batch(one_way, request_id=str(uuid.uuid4())),
        batch(one_way[::-1], request_id=str(uuid.uuid4())),
        batch([*one_way, *one_way[::-1]]),
        batch([*one_way[::-1], *one_way]),
    ]


def test_whatever_is_sent_at_once_is_carried_out_once(replicas: Registries) -> None:
    model_rids = [replicas.source.model_rid, *(target.rid for target in replicas.targets)]
    rows_before, before = row_counts(replicas.url), read_state(replicas.admins[0], *model_rids)
    rounds = [jobs_of(replicas, number) for number in range(ROUNDS)]
    repeatable = [job for jobs in rounds for job in jobs if job.request.request_id]
    unique = [job for jobs in rounds for job in jobs if not job.request.request_id]
    recorder = Recorder()

    def send_all(thread: int) -> None:
        """Every thread sends every request with an id, in an order near to that of the others, and some without.

        In between it asks what is live.
        """
        client, shuffled = Client(recorder, f"client {thread}", replicas.admins[thread % 2]), random.Random(thread)
        mine = sorted(repeatable, key=lambda job: repeatable.index(job) + shuffled.uniform(0, 4))
        for job in unique[thread::THREADS]:
            mine.insert(shuffled.randrange(len(mine) + 1), job)
        for job in mine:
            client.send(job.rpc, job.request)
            client.get_branch(shuffled.choice(replicas.targets).rid, shuffled.choice(BRANCHES))

    at_once(THREADS, send_all)

    history, after = recorder.operations(), read_state(replicas.admins[0], *model_rids)
    assert {operation.outcome for operation in history} == {Outcome.OK}
    assert len(history) == 2 * (THREADS * len(repeatable) + len(unique))
    assert_kept(history, after, before)
    consistent_records(replicas.admins[0], *model_rids)
    made = len(after.versions) - len(before.versions)
    added = {table: count - rows_before[table] for table, count in row_counts(replicas.url).items()}
    assert {table: count for table, count in added.items() if count} == {
        "versions": made,
        "events": made,
        "promotions": made,
        "requests": len(repeatable),
    }
    ids = {job.request.request_id for job in repeatable}
    assert {row.request_id: row.results.split() for row in rows(replicas.url, tables.requests)} == {
        operation.tag: [version.rid for version in operation.versions] for operation in history if operation.tag in ids
    }
