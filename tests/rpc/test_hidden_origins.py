"""Where a version came from is told to callers who may see it, and to no others: as in the records of promotions."""

from __future__ import annotations

import uuid

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from tests.rpc.harness import User

pytestmark = pytest.mark.database("shared")

NOT_TOLD = ModelVersionSource(promoted=PromotedSource())


def origins(version: ModelVersion) -> tuple[ModelVersionSource, str]:
    return version.source, version.root_model_version_rid


def source_of(version: ModelVersion) -> ModelVersionSource:
    """The source of what is promoted from a version."""
    promoted = PromotedSource(previous_model_rid=version.model_rid, previous_model_version_rid=version.rid)
    return ModelVersionSource(promoted=promoted)


def told(user: User, version: ModelVersion) -> list[tuple[ModelVersionSource, str]]:
    """What each RPC tells of the origins of a version, which is the head of its branch and the only one."""
    model_rid = version.model_rid
    return [
        origins(user("GetModelVersion", model_rid=model_rid, model_version_rid=version.rid)),
        origins(user("GetBranch", model_rid=model_rid).head),
        *(origins(branch.head) for branch in user("ListBranches", model_rid=model_rid).branches),
        *(origins(each) for each in user("ListModelVersions", model_rid=model_rid).model_versions),
    ]


def test_source_and_root_in_an_invisible_model_are_blank_wherever_a_version_is_told(admin: User, jane: User) -> None:
    secret, mine = admin.create_model("secret"), admin.create_model("mine")
    hidden = admin.create_version(secret)
    promoted = admin.promote(hidden, mine)
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_VIEWER)

    for reading in ("for the first time", "what was read before"):
        assert told(jane, promoted) == [(NOT_TOLD, "")] * 4, reading
        assert told(admin, promoted) == [(source_of(hidden), hidden.rid)] * 4, reading

    admin("GrantRole", resource_rid=secret.rid, principal="user:jane", role=ROLE_VIEWER)
    assert told(jane, promoted) == [(source_of(hidden), hidden.rid)] * 4
    admin("RevokeRole", resource_rid=secret.rid, principal="user:jane")
    assert told(jane, promoted) == [(NOT_TOLD, "")] * 4


def test_blanks_are_the_only_difference(admin: User, jane: User) -> None:
    secret, mine = admin.create_model("secret"), admin.create_model("mine")
    promoted = admin.promote(admin.create_version(secret), mine)
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_VIEWER)
    seen = jane("GetModelVersion", model_rid=mine.rid, model_version_rid=promoted.rid)
    seen.source.CopyFrom(promoted.source)
    seen.root_model_version_rid = promoted.root_model_version_rid
    assert seen == promoted


def test_a_version_that_was_not_promoted_is_its_own_root(admin: User, jane: User) -> None:
    mine = admin.create_model("mine")
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_VIEWER)
    version = admin.create_version(mine)
    assert told(jane, version) == [(version.source, version.rid)] * 4


def test_promoters_are_told_the_source_that_they_named_and_no_root_that_they_may_not_see(
    admin: User, jane: User
) -> None:
    secret, between, mine = (admin.create_model(name) for name in ("secret", "between", "mine"))
    hidden = admin.create_version(secret)
    source = admin.promote(hidden, between)
    for model in (between, mine):
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)

    promoted = jane.promote(source, mine)
    again = jane.promote(source, mine)
    rolled_back = jane("RollbackBranch", model_rid=mine.rid, to_version_number=1)

    assert [origins(version) for version in (promoted, again, rolled_back)] == [
        (source_of(source), ""),
        (source_of(source), ""),
        (source_of(promoted), ""),
    ]
    # The blanks are the caller's, and nothing of them is stored.
    for version in (promoted, again, rolled_back):
        stored = admin("GetModelVersion", model_rid=mine.rid, model_version_rid=version.rid)
        assert stored.root_model_version_rid == hidden.rid


def test_a_repeated_request_gets_the_blanks_of_now(admin: User, jane: User) -> None:
    between, mine = admin.create_model("between"), admin.create_model("mine")
    source = admin.create_version(between)
    for model in (between, mine):
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    request_id = str(uuid.uuid4())
    assert origins(jane.promote(source, mine, request_id=request_id)) == (source_of(source), source.rid)
    assert origins(jane.promote(source, mine, request_id=request_id)) == (source_of(source), source.rid)
    admin("RevokeRole", resource_rid=between.rid, principal="user:jane")
    assert origins(jane.promote(source, mine, request_id=request_id)) == (NOT_TOLD, "")
