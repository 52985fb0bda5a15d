"""A promotion at once is the one that is made step by step; and where anything speaks against it, nothing is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from server.core import rids
from server.core.caller import Caller
from server.rules.promotion import plain_promotion, promote_version
from server.storage.contract import Plain, PromotionFilter
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from tests.builders import ADMIN, add_model, append, find, grant, revoke, version
from tests.conftest import OpenRepository
from tests.storage.inspection import row_counts

JANE = Caller(("user:jane", "group:ml"))
REQUEST_ID = "c1b2a3d4-0000-4000-8000-000000000001"


class Scene(NamedTuple):
    """Two models, a version in the first, and the same content as the head of the second's master."""

    repository: SqlRepository
    source: Model
    target: Model
    version: ModelVersion
    head: ModelVersion

    def plain(self, caller: Caller = JANE, **changes: object) -> Plain:
        fields = {"model_rid": self.target.rid, "source_model_version_rid": self.version.rid, **changes}
        plain = plain_promotion(self.repository, caller, PromoteVersionRequest(**fields))  # type: ignore[arg-type]
        assert plain is not None
        return plain


@pytest.fixture
def scene(repository: SqlRepository) -> Scene:
    source, target = add_model(repository), add_model(repository)
    for model in (source, target):
        grant(repository, model.rid, "group:ml", ROLE_PROMOTER)
    made = append(repository, version(source.rid))
    return Scene(repository, source, target, made, append(repository, version(target.rid)))


def test_it_stores_what_is_stored_step_by_step(scene: Scene) -> None:
    repository = scene.repository
    request = PromoteVersionRequest(
        model_rid=scene.target.rid, source_model_version_rid=scene.version.rid, reason="better"
    )
    step_by_step = repository.write(lambda tx: promote_version(tx, JANE, request))
    at_once = repository.promote_at_once(scene.plain(reason="better"), JANE)
    assert at_once is not None
    assert at_once == find(repository, at_once.rid)
    assert (at_once.version_number, step_by_step.version_number) == (3, 2)
    assert at_once.created_time.ToMilliseconds() >= step_by_step.created_time.ToMilliseconds()
    later, earlier = repository.read(
        lambda reader: reader.list_promotions(ADMIN, PromotionFilter(model_rid=scene.target.rid), PageRequest(10))
    ).items
    assert (later.model_version_rid, earlier.model_version_rid) == (at_once.rid, step_by_step.rid)
    assert (later.version_number, later.replaced_version_rid) == (3, step_by_step.rid)
    for name in ("rid", "version_number", "created_time", "replaced_version_rid", "model_version_rid"):
        for record in (later, earlier):
            record.ClearField(name)
    assert later == earlier
    for name in ("rid", "version_number", "created_time"):
        for made in (at_once, step_by_step):
            made.ClearField(name)
    assert at_once == step_by_step


def test_a_promotion_within_one_model_is_made_at_once_too(scene: Scene) -> None:
    made = scene.repository.promote_at_once(scene.plain(model_rid=scene.source.rid), JANE)
    assert made is not None
    assert made.version_number == 2


def test_it_is_made_with_other_content_if_nobody_compares(scene: Scene) -> None:
    other = append(scene.repository, version(scene.source.rid, label="other"))
    plain = scene.plain(source_model_version_rid=other.rid)
    assert scene.repository.promote_at_once(plain, JANE) is None
    scene.repository.write(lambda tx: tx.add_policy(scene.target.rid, "master", COMPATIBILITY_MODE_OFF, ADMIN.user))
    assert scene.repository.promote_at_once(plain, JANE) is not None


def test_a_verdict_that_is_stored_serves_unless_the_policy_minds_its_errors(scene: Scene) -> None:
    repository = scene.repository
    other = append(repository, version(scene.source.rid, label="other"))

    def promoted(source: ModelVersion) -> ModelVersion | None:
        return repository.promote_at_once(scene.plain(source_model_version_rid=source.rid), JANE)

    forth = PromoteVersionRequest(model_rid=scene.target.rid, source_model_version_rid=other.rid)
    repository.write(lambda tx: promote_version(tx, JANE, forth))
    back = PromoteVersionRequest(model_rid=scene.target.rid, source_model_version_rid=scene.version.rid)
    repository.write(lambda tx: promote_version(tx, JANE, back))
    made = promoted(other)
    assert made is not None
    [record] = repository.read(
        lambda reader: reader.list_promotions(ADMIN, PromotionFilter(version_rid=made.rid), PageRequest(10))
    ).items
    assert record.error_count > 0
    repository.write(lambda tx: tx.add_policy(scene.target.rid, "master", COMPATIBILITY_MODE_ENFORCE, ADMIN.user))
    assert promoted(scene.version) is None


def test_a_request_with_an_id_is_carried_out_once(scene: Scene) -> None:
    assert scene.repository.promote_at_once(scene.plain(request_id=REQUEST_ID), JANE) is not None
    before = row_counts(scene.repository._engine.url.render_as_string(hide_password=False))
    assert scene.repository.promote_at_once(scene.plain(request_id=REQUEST_ID), JANE) is None
    assert row_counts(scene.repository._engine.url.render_as_string(hide_password=False)) == before


def _viewer(scene: Scene) -> Plain:
    grant(scene.repository, scene.target.rid, "group:ml", ROLE_VIEWER)
    return scene.plain()


def _invisible_target(scene: Scene) -> Plain:
    revoke(scene.repository, scene.target.rid, "group:ml")
    return scene.plain()


def _invisible_source(scene: Scene) -> Plain:
    plain = scene.plain()
    revoke(scene.repository, scene.source.rid, "group:ml")
    return plain


AGAINST: dict[str, Callable[[Scene], Plain]] = {
    "the model is absent": lambda scene: scene.plain(model_rid=rids.new_model_rid()),
    "the model is invisible": _invisible_target,
    "the role is too low": _viewer,
    "the source is invisible": _invisible_source,
    "the branch is new": lambda scene: scene.plain(branch="new"),
    "another head is expected": lambda scene: scene.plain(expected_head_version_rid=scene.version.rid),
    "no head is expected": lambda scene: scene.plain(expected_head_version_rid=""),
}


@pytest.mark.parametrize("against", AGAINST)
def test_where_something_speaks_against_it_nothing_is_done(against: str, scene: Scene) -> None:
    plain = AGAINST[against](scene)
    url = scene.repository._engine.url.render_as_string(hide_password=False)
    before = row_counts(url)
    assert scene.repository.promote_at_once(plain, JANE) is None
    assert row_counts(url) == before


def test_who_loses_the_role_while_waiting_for_the_branch_does_not_promote(
    scene: Scene, migrated_url: str, open_repository: OpenRepository
) -> None:
    plain, held, waiting = scene.plain(), threading.Event(), threading.Event()
    other = open_repository(migrated_url)

    def hold(tx: object) -> None:
        tx.hold_branch(scene.target.rid, "master")  # type: ignore[attr-defined]
        tx.remove_grant(scene.target.rid, "group:ml", ADMIN.user)  # type: ignore[attr-defined]
        held.set()
        assert waiting.wait(30)

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(other.write, hold)
        assert held.wait(30)
        promoting = threads.submit(scene.repository.promote_at_once, plain, JANE)
        waiting.set()
        holding.result()
        assert promoting.result() is None
