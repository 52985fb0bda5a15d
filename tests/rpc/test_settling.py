"""Once a change of what decides has returned, nothing is committed any more that was decided without it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import model_api
from tests.processes import until
from tests.rpc.conftest import Shared
from tests.rpc.harness import DEADLINE_SECONDS, METHODS, Registry, User, failure_of, path_of, request_of
from tests.storage.conftest import Held
from tests.storage.inspection import Executed, at_commit, statements, waiting, waiting_for_locks

pytestmark = pytest.mark.database("shared")

A_NEW_HEAD = "a new head"
MASTER, NEW = "master", "new"

_serial = itertools.count(1)


class Scene(NamedTuple):
    """Someone who owns a target, whose master has two versions, and a source: by roles on both, or on their folder."""

    registry: Registry
    admin: User
    someone: User
    principal: str
    source: ModelVersion
    target: Model
    head: ModelVersion

    @property
    def repository(self) -> SqlRepository:
        assert isinstance(self.registry.repository, SqlRepository)
        return self.registry.repository

    def decide(self, way: str) -> str:
        """Ask for a new head, and return that there is one, or the name of the failure."""
        try:
            self.someone(WAYS[way].rpc, **WAYS[way].fields(self, WAYS[way].branch))
        except grpc.RpcError as error:
            return failure_of(error).name
        return A_NEW_HEAD

    def change(self, name: str, branch: str = MASTER) -> Any:
        """Change what decides about a branch of the target."""
        rpc, fields = CHANGES[name](self, branch)
        return self.admin(rpc, **fields)


class Way(NamedTuple):
    """A way to a new head of a branch."""

    rpc: str
    branch: str
    fields: Callable[[Scene, str], dict[str, Any]]


def promotion(scene: Scene, branch: str) -> dict[str, Any]:
    return {"model_rid": scene.target.rid, "source_model_version_rid": scene.source.rid, "branch": branch}


def one_promotion(scene: Scene, branch: str) -> dict[str, Any]:
    return promotion(scene, branch) | {"preview": True}


def two_promotions(scene: Scene, branch: str) -> dict[str, Any]:
    return {"promotions": [promotion(scene, branch), promotion(scene, "another")]}


def rollback(scene: Scene, branch: str) -> dict[str, Any]:
    return {"model_rid": scene.target.rid, "branch": branch, "to_version_number": 1, "reason": "incident 42"}


def creation(scene: Scene, branch: str) -> dict[str, Any]:
    return {"model_rid": scene.target.rid, "branch": branch, "model_api": model_api()}


WAYS = {
    "promotion": Way("PromoteVersion", MASTER, one_promotion),
    "first promotion": Way("PromoteVersion", NEW, one_promotion),
    "batch": Way("BatchPromoteVersions", MASTER, two_promotions),
    "first batch": Way("BatchPromoteVersions", NEW, two_promotions),
    "rollback": Way("RollbackBranch", MASTER, rollback),
    "creation": Way("CreateModelVersion", MASTER, creation),
    "first creation": Way("CreateModelVersion", NEW, creation),
}
PROMOTIONS = {"promotion", "first promotion", "batch", "first batch"}
CREATIONS = {"creation", "first creation"}

CHANGES: dict[str, Callable[[Scene, str], tuple[str, dict[str, Any]]]] = {
    "policy set": lambda scene, branch: (
        "SetBranchPolicy",
        {"model_rid": scene.target.rid, "branch": branch, "promotion_only": True},
    ),
    "folder's policy set": lambda scene, branch: (
        "SetFolderBranchPolicy",
        {"folder_rid": scene.target.parent_folder_rid, "branch": branch, "promotion_only": True},
    ),
    "locked": lambda scene, branch: (
        "LockBranch",
        {"model_rid": scene.target.rid, "branch": branch, "reason": "incident 42"},
    ),
    "unlocked": lambda scene, branch: ("UnlockBranch", {"model_rid": scene.target.rid, "branch": branch}),
    "role lowered": lambda scene, _: (
        "GrantRole",
        {"resource_rid": scene.target.rid, "principal": scene.principal, "role": ROLE_VIEWER},
    ),
    "revoked on the target": lambda scene, _: (
        "RevokeRole",
        {"resource_rid": scene.target.rid, "principal": scene.principal},
    ),
    "revoked on the source": lambda scene, _: (
        "RevokeRole",
        {"resource_rid": scene.source.model_rid, "principal": scene.principal},
    ),
    "revoked on the folder": lambda scene, _: (
        "RevokeRole",
        {"resource_rid": scene.target.parent_folder_rid, "principal": scene.principal},
    ),
    "ownership transferred": lambda scene, _: (
        "TransferOwnership",
        {"resource_rid": scene.target.rid, "principal": "user:joe"},
    ),
    "principal disabled": lambda scene, _: ("DisablePrincipal", {"principal": scene.principal, "reason": "left"}),
    # All that is promoted or rolled back to here comes from the source.
    "yanked": lambda scene, _: (
        "YankVersion",
        {
            "model_rid": scene.source.model_rid,
            "model_version_rid": scene.source.rid,
            "scope": YANK_SCOPE_VERSION,
            "reason": "incident 42",
        },
    ),
}


def answer_behind(change: str, way: str) -> str:
    """What a way is answered that is decided behind a change."""
    match change:
        case "policy set" | "folder's policy set" if way in CREATIONS:
            return "BranchAcceptsPromotionsOnly"
        case "locked" if way != "rollback":
            return "BranchLocked"
        case "role lowered":
            return "CreateModelVersionPermissionDenied" if way in CREATIONS else "PromoteVersionModelPermissionDenied"
        case "revoked on the target" | "revoked on the folder" | "ownership transferred":
            return "ModelNotFound"
        case "revoked on the source" if way in PROMOTIONS:
            return "ModelVersionNotFound"
        case "yanked" if way not in CREATIONS:
            return "VersionYanked"
        case "principal disabled":
            return "PrincipalDisabled"
    return A_NEW_HEAD


def scene_on(registry: Registry, by_folder: bool) -> Scene:
    folder, name = builders.new_folder_rid(), f"someone {next(_serial)}"
    admin = dataclasses.replace(registry.user("admin"), folder=folder)
    source_model, target = admin.create_model("source"), admin.create_model("target")
    for resource in [folder] if by_folder else [source_model.rid, target.rid]:
        admin("GrantRole", resource_rid=resource, principal=f"user:{name}", role=ROLE_OWNER)
    source = admin.create_version(source_model)
    admin.promote(source, target)
    return Scene(registry, admin, registry.user(name), f"user:{name}", source, target, admin.promote(source, target))


@pytest.fixture
def scene(registry: Registry) -> Scene:
    return scene_on(registry, by_folder=False)


@pytest.fixture
def on_postgresql(shared_postgresql: Shared) -> Scene:
    """On SQLite one transaction at a time decides and commits, and none waits for another in its midst."""
    return scene_on(shared_postgresql.registry, by_folder=False)


@contextmanager
def held_before_commit(scene: Scene, way: str, threads: ThreadPoolExecutor) -> Iterator[Future[str]]:
    """A new head has been decided on, and is committed when the block ends."""
    held = Held()
    with at_commit(held, once=True):
        deciding = threads.submit(scene.decide, way)
        held.wait_until_begun()
        try:
            yield deciding
        finally:
            held.go_on()
        deciding.result(DEADLINE_SECONDS)


def looks(sent: list[Executed]) -> int:
    """How often it was looked which transactions are deciding: once behind each change, and again as long as one is."""
    return sum("virtualtransaction" in each.statement for each in sent)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_a_change_returns_when_what_was_decided_without_it_has_been_committed(
    registry: Registry, backend: str, way: str, change: str
) -> None:
    scene = scene_on(registry, by_folder=change == "revoked on the folder")
    with ThreadPoolExecutor(2) as threads, statements() as sent:
        with held_before_commit(scene, way, threads) as deciding:
            changing = threads.submit(scene.change, change, WAYS[way].branch)
            until(lambda: waiting(scene.repository) == 1 if backend == "sqlite" else looks(sent) >= 2)
            assert not changing.done()
        assert deciding.result() == A_NEW_HEAD
        changing.result(DEADLINE_SECONDS)
    assert scene.decide(way) == answer_behind(change, way)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_what_waits_for_its_branch_while_something_is_changed_obeys_that(
    shared_postgresql: Shared, way: str, change: str
) -> None:
    """A branch that is new is waited for by what has been decided already: it is decided anew behind the other one."""
    scene = scene_on(shared_postgresql.registry, by_folder=change == "revoked on the folder")
    branch = WAYS[way].branch
    with ThreadPoolExecutor(2) as threads, statements() as sent:
        with builders.held(scene.repository, builders.version(scene.target.rid, branch)):
            deciding = threads.submit(scene.decide, way)
            until(lambda: waiting_for_locks(scene.repository) == 1)
            changing = threads.submit(scene.change, change, branch)
            until(lambda: looks(sent) >= 1)
            assert branch == NEW or changing.result(DEADLINE_SECONDS)
        assert deciding.result(DEADLINE_SECONDS) == answer_behind(change, way)
        changing.result(DEADLINE_SECONDS)


def test_nobody_is_held_up_by_changes_that_wait(on_postgresql: Scene) -> None:
    scene, joe = on_postgresql, on_postgresql.registry.user("joe")
    other = scene.admin.create_model("other")
    for rid in (other.rid, scene.source.model_rid):
        scene.admin("GrantRole", resource_rid=rid, principal="user:joe", role=ROLE_OWNER)
    with ThreadPoolExecutor(3) as threads, statements() as sent:
        with held_before_commit(scene, "promotion", threads):
            changing = [threads.submit(scene.change, name) for name in ("locked", "revoked on the source")]
            until(lambda: looks(sent) >= 4)
            assert joe.promote(scene.source, other).version_number == 1
            assert not any(each.done() for each in changing)
        for each in changing:
            each.result(DEADLINE_SECONDS)


def test_an_owner_who_is_one_no_more_changes_nothing_that_comes_later(on_postgresql: Scene) -> None:
    """What a change of grants or policies rests on are grants as well."""
    scene, held = on_postgresql, Held()
    given = {"resource_rid": scene.target.rid, "principal": "user:joe", "role": ROLE_OWNER}
    with ThreadPoolExecutor(2) as threads, statements() as sent:
        with at_commit(held, once=True):
            granting = threads.submit(scene.someone, "GrantRole", **given)
            held.wait_until_begun()
            changing = threads.submit(scene.change, "revoked on the target")
            until(lambda: waiting_for_locks(scene.repository) == 1 or looks(sent) >= 2)
            assert not changing.done()
            held.go_on()
        granting.result(DEADLINE_SECONDS)
        changing.result(DEADLINE_SECONDS)


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_change_whose_call_is_over_waits_no_longer_and_stays(on_postgresql: Scene, how: str) -> None:
    scene = on_postgresql
    rpc, fields = CHANGES["locked"](scene, MASTER)
    begin = scene.registry.channel.unary_unary(
        path_of(rpc), response_deserializer=GetMessageClass(METHODS[rpc].output_type).FromString
    ).future
    request, metadata = request_of(rpc, **fields).SerializeToString(), scene.admin.metadata
    with ThreadPoolExecutor(2) as threads, statements() as sent:
        with held_before_commit(scene, "promotion", threads):
            call = begin(request, metadata=metadata, timeout=1 if how == "deadline" else DEADLINE_SECONDS)
            until(lambda: looks(sent) >= 2)
            if how == "cancel":
                call.cancel()
            expected = {"deadline": grpc.StatusCode.DEADLINE_EXCEEDED, "cancel": grpc.StatusCode.CANCELLED}
            with pytest.raises(grpc.RpcError if how == "deadline" else grpc.FutureCancelledError):
                call.result(DEADLINE_SECONDS)
            assert call.code() == expected[how]
            until(lambda: len(scene.registry.chain.threads) == 0)
            assert scene.admin("GetBranchPolicy", model_rid=scene.target.rid).lock.reason == "incident 42"
            # Made again, it waits again.
            again = threads.submit(scene.change, "locked")
            looked = looks(sent)
            until(lambda: looks(sent) >= looked + 2)
            assert not again.done()
        assert again.result(DEADLINE_SECONDS).revision == 2
