"""How many statements each RPC sends to SQLite, and how many round trips to PostgreSQL it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE_TRANSITIVE
from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import add_model, append, grant
from tests.conftest import NewDatabase
from tests.rpc.harness import User, serving
from tests.storage.inspection import statements


class Scene(NamedTuple):
    """Someone with groups and a role, two models, and a version in the first that was promoted into the second."""

    repository: SqlRepository
    user: User
    source: Model
    target: Model
    version: ModelVersion
    backend: str


@pytest.fixture(params=["sqlite", "postgresql"])
def scene(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Scene]:
    repository = SqlRepository(database_of(new_database(request.param, migrated=True)))
    source, target = add_model(repository), add_model(repository)
    version = append(repository, builders.version(source.rid))
    for model in (source, target):
        grant(repository, model.rid, "group:ml", ROLE_OWNER)
    with serving(repository) as registry:
        user = registry.user("jane", "ml", "serving")
        user("PromoteVersion", model_rid=target.rid, source_model_version_rid=version.rid, preview=True)
        yield Scene(repository, user, source, target, version, request.param)
    repository.close()


# When everything was read before. By RPC, its fields, how many statements there are on SQLite, where BEGIN is one of
# them, and how many are waited for on PostgreSQL; both without the COMMIT.
STATEMENTS: dict[str, tuple[dict[str, Any], int, int]] = {
    "GetModel": ({"model_rid": "target"}, 1, 1),
    "GetModelVersion": ({"model_rid": "source", "model_version_rid": "version"}, 1, 1),
    "GetBranch": ({"model_rid": "target"}, 1, 1),
    "ListModels": ({}, 1, 1),
    # The contents come behind the rows, each once: to ask for all at once takes a fifth more of the processors.
    "ListBranches": ({"model_rid": "target"}, 2, 2),
    "ListModelVersions": ({"model_rid": "target"}, 2, 2),
    "GetBranchPolicy": ({"model_rid": "target"}, 3, 3),
    "ListGrants": ({"resource_rid": "target"}, 2, 2),
    "ListGrantChanges": ({"resource_rid": "target"}, 3, 3),
    # The last one is the event.
    "PromoteVersion": ({"model_rid": "target", "source_model_version_rid": "version", "preview": True}, 6, 1),
}


@pytest.mark.parametrize("rpc", STATEMENTS)
def test_an_rpc_sends_no_more_statements_than_it_has_to(rpc: str, scene: Scene) -> None:
    fields, on_sqlite, on_postgresql = STATEMENTS[rpc]
    rids = {"source": scene.source.rid, "target": scene.target.rid, "version": scene.version.rid}
    request = {name: rids.get(value, value) for name, value in fields.items()}
    scene.user(rpc, **request)
    with statements() as sent:
        scene.user(rpc, **request)
    counted = [each.statement for each in sent if scene.backend == "sqlite" or each.was_waited_for]
    assert len(counted) == (on_sqlite if scene.backend == "sqlite" else on_postgresql), counted


def test_a_branch_that_holds_to_all_its_heads_takes_one_statement_more_however_many_there_are(scene: Scene) -> None:
    target = scene.target.rid
    scene.user("SetBranchPolicy", model_rid=target, compatibility=COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    request, on_sqlite, on_postgresql = STATEMENTS["PromoteVersion"]
    promotion = {**request, "model_rid": target, "source_model_version_rid": scene.version.rid}
    # The first one writes down which Model APIs there are.
    for before in (1, 1, 98):
        for _ in range(before):
            scene.user("PromoteVersion", **promotion)
        with statements() as sent:
            version = scene.user("PromoteVersion", **promotion)
        counted = [each.statement for each in sent if scene.backend == "sqlite" or each.was_waited_for]
        assert len(counted) == 1 + (on_sqlite if scene.backend == "sqlite" else on_postgresql), counted
    assert version.version_number == 104


def test_a_version_that_was_never_read_takes_one_statement_too(scene: Scene) -> None:
    version = append(scene.repository, builders.version(scene.source.rid))
    with statements() as sent:
        scene.user("GetModelVersion", model_rid=scene.source.rid, model_version_rid=version.rid)
    assert len(sent) == 1
