"""What transactions promise, and how models are kept. Each test runs on every backend."""

from __future__ import annotations

from datetime import timedelta

import pytest

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_OWNER, ROLE_VIEWER, Grant
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, BranchPolicy, Promotion
from modelregistry.v1.promotion_request_pb2 import REVIEW_VERDICT_APPROVE, PromotionReview
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION, Yank
from modelregistry.v1.subscription_pb2 import Subscription
from server.core import rids
from server.core.errors import ModelNotFound, ResourceNameAlreadyExists
from server.storage.contract import (
    Comparison,
    HeadApi,
    PolicyPeriod,
    Reader,
    RequestKey,
    RequestRecord,
    StoredFile,
    Transaction,
    UploadKey,
)
from server.storage.paging import PageRequest
from server.storage.sql import tables
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.storage.conftest import NOW_MS, GivenUp
from tests.storage.inspection import row_counts, rows

PAGE = PageRequest(100)


# Transactions


def test_write_returns_what_the_change_returns_and_read_what_the_query_returns(repository: SqlRepository) -> None:
    assert repository.write(lambda tx: "changed") == "changed"
    assert repository.read(lambda reader: "read") == "read"


def record(tx: Transaction, model_rid: str) -> None:
    """Write a row into each table that promotions have, and those that owners and administrators do."""
    source, copy = builders.version(model_rid), builders.version(model_rid)
    digest = tx.put_content(source)
    tx.append_version(source, digest)
    comparison = Comparison(digest, digest, 1)
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=model_rid,
        source_model_version_rid=source.rid,
    )
    verdict = tx.add_verdict(comparison, Promotion())
    tx.append_promoted(copy, digest, promotion, verdict, builders.branch_end(tx, model_rid))
    revision = tx.get_policy(model_rid, "master").revision + 1
    tx.add_policy(builders.policy(model_rid, COMPATIBILITY_MODE_OFF, revision, promotion_only=True), ADMIN.user)
    of_folder = BranchPolicy(folder_rid=builders.FOLDER, branch="master")
    of_folder.revision = tx.get_policy(builders.FOLDER, "master").revision + 1
    tx.add_policy(of_folder, ADMIN.user)
    tx.add_folder_policy(builders.FOLDER, NEW_MODEL_OWNER_FOLDER, ADMIN.user)
    tx.disable_principal("user:joe", "has left", ADMIN.user)
    yank = Yank(rid=rids.new_yank_rid(), model_version_rid=copy.rid, scope=YANK_SCOPE_VERSION, yanked_by=ADMIN.user)
    tx.add_yank(yank)
    tx.take_yank_back(yank, None, ADMIN.user)
    asked = builders.promotion_request(source, model_rid, branch=copy.rid)
    tx.add_promotion_request(asked)
    tx.add_review(asked, PromotionReview(verdict=REVIEW_VERDICT_APPROVE))
    period = PolicyPeriod(model_rid, revision)
    tx.add_head_api(model_rid, "master", period, HeadApi(b"api", 1, digest))
    tx.claim_request(RequestKey(ADMIN.user, "PromoteVersion", copy.rid), RequestRecord(b"digest", (copy.rid,)))
    tx.add_subscription(
        Subscription(
            rid=rids.new_subscription_rid(),
            resource_rid=model_rid,
            url="https://a.example/",
            state=1,
            created_by="user:a",
        ),
        b"sealed",
    )


def deliver(repository: SqlRepository, model: Model) -> None:
    """Queue an event for the subscriptions that there are."""
    append(repository, builders.version(model.rid, "told"))
    settled = repository.settled_event()
    repository.write(lambda tx: tx.fan_out_events(settled.key, 10))


def test_a_change_that_raises_leaves_every_table_as_it_was(repository: SqlRepository, migrated_url: str) -> None:
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    builders.grant(repository, model.rid, "user:jane", ROLE_VIEWER)
    upload, other = (UploadKey.of(upload_id, ADMIN, model.rid) for upload_id in ("one", "two"))
    file = StoredFile(b"digest", 5, "object")

    def upload_one(tx: Transaction) -> None:
        tx.begin_upload(upload, file.object_name, timedelta(days=1))
        tx.finish_upload(upload, file)

    repository.write(upload_one)
    repository.write(lambda tx: record(tx, model.rid))
    deliver(repository, model)
    before = {table.name: rows(migrated_url, table) for table in tables.metadata.sorted_tables}
    assert all(before.values())

    def change_everything(tx: Transaction) -> None:
        added = tx.add_model(builders.model())
        for model_rid, branch in ((added.rid, "master"), (model.rid, "master"), (model.rid, "new")):
            tx.append_version(*contained(tx, builders.version(model_rid, branch, label="new")))
        tx.set_grant(Grant(resource_rid=added.rid, principal="user:jane", role=ROLE_OWNER), ADMIN.user)
        tx.set_grant(Grant(resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER), ADMIN.user)
        tx.remove_grant(model.rid, "user:jane", ADMIN.user)
        tx.begin_upload(other, "other", timedelta(days=1))
        tx.finish_upload(other, StoredFile(b"other", 5, "other"))
        record(tx, model.rid)
        raise GivenUp

    with pytest.raises(GivenUp):
        repository.write(change_everything)

    assert {table.name: rows(migrated_url, table) for table in tables.metadata.sorted_tables} == before


def test_a_transaction_reads_what_it_wrote(repository: SqlRepository) -> None:
    jane = builders.caller("user:jane")
    new = builders.version("")

    def change(tx: Transaction) -> None:
        model = tx.add_model(builders.model())
        new.model_rid = model.rid
        granted = Grant(resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
        tx.set_grant(granted, ADMIN.user)
        appended = tx.append_version(*contained(tx, new))

        assert tx.get_model(model.rid, jane) == (model, ROLE_VIEWER)
        assert tx.list_models(jane, None, PAGE).items == [model]
        found = tx.find_version(new.rid, jane)
        assert found is not None
        assert found.version == appended
        branch = Branch(name="master", head=appended, version_count=1)
        assert tx.get_branch(model.rid, "master", jane) == branch
        assert tx.list_branches(model.rid, jane, PAGE).items == [branch]
        assert tx.list_versions(model.rid, "master", jane, PAGE).items == [appended]
        assert tx.get_role(model.rid, jane) == ROLE_VIEWER
        assert tx.list_grants(model.rid, PAGE).items == [granted]
        assert tx.append_version(*contained(tx, builders.version(model.rid))).version_number == 2
        tx.remove_grant(model.rid, "user:jane", ADMIN.user)
        with pytest.raises(ModelNotFound):
            tx.get_model(model.rid, jane)

    repository.write(change)


def test_nobody_else_sees_a_change_before_it_is_committed(repository: SqlRepository) -> None:
    model = add_model(repository)

    def change(tx: Transaction) -> None:
        tx.append_version(*contained(tx, builders.version(model.rid)))
        assert repository.read(lambda reader: builders.all_versions(reader, model.rid)) == []

    repository.write(change)
    assert len(repository.read(lambda reader: builders.all_versions(reader, model.rid))) == 1


def test_each_question_of_a_read_sees_the_newest_committed_state(repository: SqlRepository) -> None:
    model = add_model(repository)

    def count(expected: int) -> None:
        def query(reader: Reader) -> None:
            assert len(builders.all_versions(reader, model.rid)) == expected
            append(repository, builders.version(model.rid))
            assert len(builders.all_versions(reader, model.rid)) == expected + 1

        repository.read(query)

    count(0)
    count(1)


# Models


def test_a_model_is_read_as_it_was_added(timed: SqlRepository) -> None:
    given = builders.model("churn ☃ 𝒳", created_by="user:jane")

    added = timed.write(lambda tx: tx.add_model(given))

    assert added == Model(
        rid=given.rid,
        name="churn ☃ 𝒳",
        parent_folder_rid=builders.FOLDER,
        created_time=builders.timestamp(NOW_MS),
        created_by="user:jane",
    )
    assert timed.read(lambda reader: reader.get_model(given.rid, ADMIN)).model == added


def test_a_model_keeps_the_created_time_that_it_has(timed: SqlRepository) -> None:
    given = builders.model()
    given.created_time.FromMilliseconds(1_052_224_496_789)

    added = timed.write(lambda tx: tx.add_model(given))

    assert added == given
    assert timed.read(lambda reader: reader.get_model(given.rid, ADMIN)).model == given


def test_a_folder_holds_a_name_once(repository: SqlRepository, migrated_url: str) -> None:
    add_model(repository, "churn")
    before = row_counts(migrated_url)

    with pytest.raises(ResourceNameAlreadyExists) as refused:
        add_model(repository, "churn")

    assert refused.value.parameters == {"parentFolderRid": builders.FOLDER, "displayName": "churn"}
    assert row_counts(migrated_url) == before


def test_another_folder_may_hold_the_name_too(repository: SqlRepository) -> None:
    assert add_model(repository, "churn").name == add_model(repository, "churn", builders.new_folder_rid()).name


def test_names_of_700_astral_characters_are_told_apart_by_the_last(repository: SqlRepository) -> None:
    common = "\U0001d4b3" * 699
    for name in (common + "\U0001d4b3", common + "\U0001d4b4"):
        assert add_model(repository, name).name == name

    with pytest.raises(ResourceNameAlreadyExists) as refused:
        add_model(repository, common + "\U0001d4b4")

    assert refused.value.display_name == common + "\U0001d4b4"


def contained(tx: Transaction, version: ModelVersion) -> tuple[ModelVersion, bytes]:
    """The version and its digest, as append_version wants them."""
    return version, tx.put_content(version)


# Values


def test_every_text_comes_back_as_it_was_given(repository: SqlRepository) -> None:
    model, target = add_model(repository), add_model(repository)
    source = append(repository, builders.version(model.rid))
    for reason in ("it's", "back\\slash", "E'x'; DROP TABLE models; --", "$1 %s :name ''", "ünï ☃\nline"):
        promoted = builders.promote(repository, source, target.rid, reason=reason)
        rid = repository.read(lambda reader, made=promoted.rid: reader.get_promotion_rid(made))  # type: ignore[misc]
        found = repository.read(lambda reader, rid=rid: reader.find_promotion(rid, ADMIN))  # type: ignore[misc]
        assert found is not None
        assert found.reason == reason


def test_a_name_is_not_found_by_another_that_begins_with_it_and_a_nul(repository: SqlRepository) -> None:
    """A NUL ends text for libpq; requests and tokens with one are refused before."""
    model = add_model(repository)
    with pytest.raises((ValueError, ModelNotFound)):
        repository.read(lambda reader: reader.get_model(f"{model.rid}\0more", ADMIN))
    with pytest.raises((ValueError, ModelNotFound)):
        repository.write(lambda tx: tx.get_model(f"{model.rid}\0more", ADMIN))
