"""What a caller may not see is answered exactly like what does not exist, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_EDITOR, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from tests import builders
from tests.builders import model_api
from tests.rpc.harness import Registry, User

pytestmark = pytest.mark.database("shared")

# Of the same length as every RID that the service makes.
ABSENT_MODEL = "ri.models.main.model.99999999-9999-4999-8999-999999999999"
ABSENT_PROMOTION = "ri.models.main.promotion.99999999-9999-4999-8999-999999999999"
ABSENT_YANK = "ri.models.main.yank.99999999-9999-4999-8999-999999999999"
ABSENT_VERSION = "ri.models.main.model-version.99999999-9999-4999-8999-999999999999"

MODEL_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("GetModel", "model_rid", {}),
    ("GetBranch", "model_rid", {}),
    ("GetBranch", "model_rid", {"branch": "nope"}),
    ("ListBranches", "model_rid", {}),
    ("ListModelVersions", "model_rid", {}),
    ("CreateModelVersion", "model_rid", {"model_api": model_api()}),
    ("RollbackBranch", "model_rid", {"to_version_number": 1}),
    ("RollbackBranch", "model_rid", {"to_version_number": 1, "request_id": "8a3c3bbd-4f3f-4a26-9d8b-0b2b0c4b2f6c"}),
    ("RollbackBranch", "model_rid", {"to_version_number": 1, "override": True, "reason": "incident 42"}),
    ("ListPromotions", "model_rid", {}),
    ("ListEvents", "model_rid", {}),
    ("SetBranchPolicy", "model_rid", {"compatibility": COMPATIBILITY_MODE_OFF}),
    ("SetBranchPolicy", "model_rid", {"promotion_only": True, "expected_revision": 7}),
    (
        "SetBranchPolicy",
        "model_rid",
        {"allowed_sources": AllowedSources(sources=[AllowedSource(model_rid=ABSENT_MODEL.replace("9", "8"))])},
    ),
    ("GetBranchPolicy", "model_rid", {}),
    ("ListBranchPolicyRevisions", "model_rid", {}),
    ("LockBranch", "model_rid", {"reason": "incident 42"}),
    ("UnlockBranch", "model_rid", {}),
    ("YankVersion", "model_rid", {"model_version_rid": ABSENT_VERSION, "scope": YANK_SCOPE_VERSION, "reason": "x"}),
    ("GrantRole", "resource_rid", {"principal": "user:joe", "role": ROLE_VIEWER}),
    ("RevokeRole", "resource_rid", {"principal": "user:joe"}),
    ("ListGrants", "resource_rid", {}),
    ("ListGrantChanges", "resource_rid", {}),
]


def normalised(user: User, rpc: str, replacements: dict[str, str], **fields: Any) -> bytes:
    """The status of a failed call, byte for byte, with the given RIDs and the two ids put in one form."""
    failure = user.failure(rpc, **fields)
    assert failure.status is not None
    answer = failure.status.SerializeToString() + failure.message.encode()
    for given, replacement in (replacements | {failure.instance_id: "i" * 36, failure.request_id: "r" * 36}).items():
        answer = answer.replace(given.encode(), replacement.encode())
    return answer


@pytest.mark.parametrize(("rpc", "field", "others"), MODEL_CALLS)
def test_an_invisible_model_answers_like_an_absent_one(
    admin: User, jane: User, rpc: str, field: str, others: dict[str, Any]
) -> None:
    secret = admin.create_model("secret")
    admin.create_version(secret)
    invisible = normalised(jane, rpc, {secret.rid: ABSENT_MODEL}, **{field: secret.rid}, **others)
    absent = normalised(jane, rpc, {}, **{field: ABSENT_MODEL}, **others)
    assert invisible == absent


def test_an_invisible_promotion_lineage_and_yank_answer_like_absent_ones(admin: User, jane: User) -> None:
    """Also to somebody who sees the source of the one, and what came after the other."""
    mine, secret, later = (admin.create_model(name) for name in ("mine", "secret", "later"))
    for model in (mine, later):
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    hidden = admin.promote(admin.create_version(mine), secret)
    admin.promote(hidden, later)
    of_hidden = {"model_rid": secret.rid, "model_version_rid": hidden.rid}
    yanked = admin("YankVersion", **of_hidden, scope=YANK_SCOPE_VERSION, reason="poisoned")
    [promotion] = admin("ListPromotions", model_rid=secret.rid).promotions
    for rpc, field, rid, absent in (
        ("GetPromotion", "promotion_rid", promotion.rid, ABSENT_PROMOTION),
        ("GetLineage", "model_version_rid", hidden.rid, ABSENT_VERSION),
        ("ListYanks", "model_version_rid", hidden.rid, ABSENT_VERSION),
        ("ListLiveCopies", "model_version_rid", hidden.rid, ABSENT_VERSION),
        ("UnyankVersion", "yank_rid", yanked.rid, ABSENT_YANK),
    ):
        invisible = normalised(jane, rpc, {rid: absent}, **{field: rid})
        assert invisible == normalised(jane, rpc, {}, **{field: absent})


@pytest.mark.parametrize("wanted", ["source_model_version_rid", "model_version_rid"])
def test_a_list_of_promotions_by_what_is_invisible_is_empty(admin: User, jane: User, wanted: str) -> None:
    mine, secret = admin.create_model("mine"), admin.create_model("secret")
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_PROMOTER)
    hidden = admin.promote(admin.create_version(secret), secret)
    if wanted == "source_model_version_rid":
        admin.promote(hidden, mine)

    answers = [jane("ListPromotions", **{wanted: rid}) for rid in (hidden.rid, ABSENT_VERSION)]

    assert answers[0] == answers[1]
    assert not answers[0].promotions


def test_an_invisible_target_or_source_in_a_batch_answers_like_an_absent_one(admin: User, jane: User) -> None:
    secret, mine = admin.create_model("secret"), admin.create_model("mine")
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_PROMOTER)
    source, hidden = admin.create_version(mine), admin.create_version(secret)
    good = {"model_rid": mine.rid, "source_model_version_rid": source.rid}
    for field, rid, absent in (
        ("model_rid", secret.rid, ABSENT_MODEL),
        ("source_model_version_rid", hidden.rid, ABSENT_VERSION),
    ):
        invisible, missing = (
            normalised(jane, "BatchPromoteVersions", {rid: absent}, promotions=[good, {**good, field: given}])
            for given in (rid, absent)
        )
        assert invisible == missing


def test_an_invisible_target_of_a_rollback_in_a_batch_answers_like_an_absent_one(admin: User, jane: User) -> None:
    secret = admin.create_model("secret")
    admin.create_version(secret)
    invisible, absent = (
        normalised(jane, "BatchRollback", {rid: ABSENT_MODEL}, rollbacks=[{"model_rid": rid, "to_version_number": 1}])
        for rid in (secret.rid, ABSENT_MODEL)
    )
    assert invisible == absent


def test_an_invisible_version_is_yanked_like_an_absent_one(admin: User, jane: User) -> None:
    secret, mine = admin.create_model("secret"), admin.create_model("mine")
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_EDITOR)
    hidden = admin.create_version(secret)
    request = {"model_rid": mine.rid, "scope": YANK_SCOPE_VERSION, "reason": "poisoned"}
    invisible, absent = (
        normalised(jane, "YankVersion", {rid: ABSENT_VERSION}, model_version_rid=rid, **request)
        for rid in (hidden.rid, ABSENT_VERSION)
    )
    assert invisible == absent


def test_an_invisible_target_answers_like_an_absent_one(admin: User, jane: User) -> None:
    secret, mine = admin.create_model("secret"), admin.create_model("mine")
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_PROMOTER)
    source = admin.create_version(mine)
    request = {"source_model_version_rid": source.rid, "preview": True}
    invisible = normalised(jane, "PromoteVersion", {secret.rid: ABSENT_MODEL}, model_rid=secret.rid, **request)
    absent = normalised(jane, "PromoteVersion", {}, model_rid=ABSENT_MODEL, **request)
    assert invisible == absent


@pytest.mark.parametrize("legacy_source", [None, '{"type":"foundryMl"}'])
def test_an_invisible_source_version_answers_like_an_absent_one(
    admin: User, jane: User, registry: Registry, legacy_source: str | None
) -> None:
    secret, mine = admin.create_model("secret"), admin.create_model("mine")
    hidden = builders.append(registry.repository, builders.version(secret.rid), legacy_source)
    admin("GrantRole", resource_rid=mine.rid, principal="user:jane", role=ROLE_PROMOTER)
    request = {"model_rid": mine.rid, "preview": True}
    invisible = normalised(
        jane, "PromoteVersion", {hidden.rid: ABSENT_VERSION}, source_model_version_rid=hidden.rid, **request
    )
    absent = normalised(jane, "PromoteVersion", {}, source_model_version_rid=ABSENT_VERSION, **request)
    assert invisible == absent


@pytest.mark.parametrize("legacy_source", [None, '{"type":"foundryMl"}'])
def test_an_invisible_version_answers_like_an_absent_one(
    admin: User, jane: User, registry: Registry, legacy_source: str | None
) -> None:
    secret = admin.create_model("secret")
    hidden = builders.append(registry.repository, builders.version(secret.rid), legacy_source)
    replacements = {hidden.rid: ABSENT_VERSION, secret.rid: ABSENT_MODEL}
    invisible = normalised(jane, "GetModelVersion", replacements, model_rid=secret.rid, model_version_rid=hidden.rid)
    absent = normalised(jane, "GetModelVersion", {}, model_rid=ABSENT_MODEL, model_version_rid=ABSENT_VERSION)
    assert invisible == absent


def test_a_folder_without_a_role_answers_alike_whether_it_holds_models_or_not(admin: User, jane: User) -> None:
    used, unused = builders.new_folder_rid(), builders.new_folder_rid()
    admin.create_model("m", used)
    for rpc, fields in (("ListGrants", {}), ("RevokeRole", {"principal": "user:joe"})):
        answers = [normalised(jane, rpc, {rid: used}, resource_rid=rid, **fields) for rid in (used, unused)]
        assert answers[0] == answers[1]
    for rpc, fields in (("GetFolderPolicy", {}), ("SetFolderPolicy", {"new_model_owner": NEW_MODEL_OWNER_FOLDER})):
        answers = [normalised(jane, rpc, {rid: used}, folder_rid=rid, **fields) for rid in (used, unused)]
        assert answers[0] == answers[1]
    created = [normalised(jane, "CreateModel", {}, name="m", parent_folder_rid=rid) for rid in (used, unused)]
    assert created[0] == created[1]
    assert not jane("ListModels", parent_folder_rid=used).models
