"""Who goes on from the last page misses nothing, though what is promoted is not committed in the order of the list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import Promotion
from modelregistry.v1.promotion_service_pb2 import BatchPromoteVersionsRequest, BatchPromotion, RollbackBranchRequest
from server.core import rids
from server.rules.promotion import batch_promote_versions, promote_version, rollback_branch
from server.rules.verdicts import write_with_verdicts
from server.storage.contract import Transaction
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN
from tests.following import FOLLOWERS, Follower
from tests.processes import until
from tests.rpc.harness import Registry, User
from tests.storage.conftest import GivenUp, Held
from tests.storage.inspection import statements

LATE = "late"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


class Scene:
    """A version, and a model that it is promoted into, with the branch that a late promotion is into."""

    def __init__(self, admin: User):
        self.source: ModelVersion = admin.create_version(admin.create_model("source"))
        self.target: Model = admin.create_model("target")
        # A rollback is to the first.
        for _ in range(2):
            admin.promote(self.source, self.target, branch=LATE)


@pytest.fixture
def scene(admin: User) -> Scene:
    return Scene(admin)


def by_promotion(scene: Scene, tx: Transaction) -> str:
    return promote_version(tx, ADMIN, PromoteVersionRequest(**_into(scene), preview=True)).rid


def by_batch(scene: Scene, tx: Transaction) -> str:
    request = BatchPromoteVersionsRequest(promotions=[BatchPromotion(**_into(scene))])
    return batch_promote_versions(tx, ADMIN, request).promoted[0].model_version_rid


def by_rollback(scene: Scene, tx: Transaction) -> str:
    request = RollbackBranchRequest(model_rid=scene.target.rid, branch=LATE, to_version_number=1)
    return rollback_branch(tx, ADMIN, request).rid


def by_import(scene: Scene, tx: Transaction) -> str:
    imported = builders.version(scene.target.rid, branch=LATE)
    imported.created_time.FromMilliseconds(1)
    origin = imported.source.promoted
    origin.previous_model_rid, origin.previous_model_version_rid = scene.source.model_rid, scene.source.rid
    promotion = Promotion(
        rid=rids.new_promotion_rid(), source_model_rid=scene.source.model_rid, source_model_version_rid=scene.source.rid
    )
    return tx.append_promoted(imported, tx.put_content(imported), promotion, None, was_imported=True).version.rid


def _into(scene: Scene) -> dict[str, str]:
    return {"model_rid": scene.target.rid, "branch": LATE, "source_model_version_rid": scene.source.rid}


WAYS: list[Callable[[Scene, Transaction], str]] = [by_promotion, by_batch, by_rollback, by_import]


class Following:
    """A reader that goes on all the time, in a thread, for as long as the block lasts."""

    def __init__(self, follower: Follower, user: User, threads: ThreadPoolExecutor):
        self.follower = follower
        self._user = user
        self._ended = threading.Event()
        self.calls = 0
        self._follow: Future[None] = threads.submit(self._run)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.follower.go_on(self._user)
            self.calls += 1

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._follow.result(60)

    def has_tried(self) -> None:
        """Return when it was answered twice, or waits and has looked twice whether it may go on."""
        with statements() as sent:
            before = self.calls
            until(lambda: self.calls >= before + 2 or sum("virtualtransaction" in each.statement for each in sent) >= 4)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("commits", [True, False], ids=["commits", "is rolled back"])
@pytest.mark.parametrize("kind", FOLLOWERS)
def test_a_reader_does_not_get_past_what_is_committed_late(
    registry: Registry,
    repository: SqlRepository,
    admin: User,
    scene: Scene,
    threads: ThreadPoolExecutor,
    kind: type[Follower],
    commits: bool,
    way: Callable[[Scene, Transaction], str],
) -> None:
    """And gets it when it is; others, which come later, are committed meanwhile, where the database lets them."""
    follower, held = kind(page_size=2), Held()
    follower.catch_up(admin)
    before = follower.promoted
    admin("GrantRole", resource_rid=scene.target.rid, principal="user:joe", role=ROLE_VIEWER)

    def late(tx: Transaction) -> str:
        made = way(scene, tx)
        # So that the statements before are not only on their way: it has drawn its key.
        tx.session.run("SELECT 1")  # type: ignore[attr-defined]
        held(tx)
        if not commits:
            raise GivenUp
        return made

    promoting = threads.submit(write_with_verdicts, repository, late)
    held.wait_until_begun()
    with Following(follower, admin, threads) as following:
        later = [
            threads.submit(admin.promote, scene.source, scene.target, branch=branch) for branch in ("one", "other")
        ]
        revoking = threads.submit(partial(admin, "RevokeRole", resource_rid=scene.target.rid, principal="user:joe"))
        if repository._queue is None:
            for each in later:
                each.result(60)
        following.has_tried()
        assert follower.promoted == before
        held.go_on()
        others = {each.result(60).rid for each in later}
        revoking.result(60)
        made = [promoting.result(60)] if commits else []
        until(lambda: len(follower.promoted) >= len(before) + len(made) + len(others))
    follower.catch_up(admin)

    # What has drawn its place first comes first, whenever it was committed.
    assert follower.promoted[len(before) :][: len(made)] == made
    follower.require_all(admin, {*before, *made, *others})
    assert commits or isinstance(promoting.exception(60), GivenUp)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_to_promote_is_marked_before_it_draws_a_key(
    repository: SqlRepository, admin: User, scene: Scene, way: Callable[[Scene, Transaction], str]
) -> None:
    """So what is settled is so, however little time is in between."""
    with statements() as sent:
        write_with_verdicts(repository, partial(way, scene))
    texts = [each.statement for each in sent]
    draws = [
        number for number, text in enumerate(texts) if text.startswith(("INSERT INTO promotions", "INSERT INTO events"))
    ]
    assert len(draws) == 2
    if repository._queue is None:
        marks = [number for number, text in enumerate(texts) if "pg_advisory_xact_lock_shared" in text]
        assert min(marks) < min(draws)
