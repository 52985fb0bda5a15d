"""The rights that docs/operations.md gives the servers on PostgreSQL: enough to work, and none to rewrite a record."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_OWNER, ROLE_VIEWER, Grant
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    PromotionReview,
)
from modelregistry.v1.promotion_service_pb2 import BatchPromoteVersionsRequest, BatchPromotion, RollbackBranchRequest
from modelregistry.v1.subscription_pb2 import DELIVERY_STATE_PENDING, SUBSCRIPTION_STATE_PAUSED, Subscription
from server.core.rids import new_subscription_rid
from server.rules.garbage import collect
from server.rules.promotion import batch_promote_versions, promote_version, rollback_branch
from server.rules.verdicts import write_with_verdicts
from server.storage.contract import (
    AttemptEnd,
    Comparison,
    HeadApi,
    PolicyPeriod,
    PromotionFilter,
    StoredFile,
    Transaction,
    UploadKey,
)
from server.storage.paging import PageRequest
from server.storage.sql import migrate as schema
from server.storage.sql.repository import now_ms
from server.storage.sql.tables import branch_model_apis, metadata
from tests import builders
from tests.builders import ADMIN, add_model, append, file_store
from tests.conftest import OpenRepository
from tests.storage.conftest import DOCUMENT, Clock
from tests.storage.inspection import open_engine, rows

# What nobody who serves may rewrite.
ON_RECORD = ["promotions", "verdicts", "versions", "contents", "grant_changes", "branch_policies", "requests", "models"]
ON_RECORD += ["folder_policies", "folder_branch_policies", "principal_changes", "branch_model_apis"]
ON_RECORD += ["promotion_reviews", "events", "event_retention"]


def test_a_server_can_do_everything_that_it_is_for(server_url: str, open_repository: OpenRepository) -> None:
    engine = open_engine(server_url)
    schema.check(engine)
    engine.dispose()
    repository = open_repository(server_url)
    repository.ping()
    staging, production = add_model(repository), add_model(repository)
    source = append(repository, builders.version(staging.rid))
    empty = builders.version(staging.rid)
    empty.model_api.CopyFrom(ModelApi())
    append(repository, empty)
    for resource_rid in (staging.rid, production.rid):
        for role in (ROLE_VIEWER, ROLE_OWNER):
            builders.grant(repository, resource_rid, "user:jane", role)
    promotion = PromoteVersionRequest(
        model_rid=production.rid, source_model_version_rid=source.rid, request_id=str(uuid.uuid4())
    )
    entries = [
        BatchPromotion(model_rid=production.rid, source_model_version_rid=rid) for rid in (empty.rid, source.rid)
    ]
    rollback = RollbackBranchRequest(model_rid=production.rid, to_version_number=1)

    first = repository.write(lambda tx: promote_version(tx, ADMIN, promotion))
    again = repository.write(lambda tx: promote_version(tx, ADMIN, promotion))
    batch = BatchPromoteVersionsRequest(promotions=entries)
    write_with_verdicts(repository, lambda tx: batch_promote_versions(tx, ADMIN, batch))
    back = write_with_verdicts(repository, lambda tx: rollback_branch(tx, ADMIN, rollback))
    of_folder = BranchPolicy(folder_rid=staging.parent_folder_rid, branch="master", revision=1)
    repository.write(lambda tx: tx.add_policy(of_folder, ADMIN.user))
    policy = builders.policy(production.rid, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    repository.write(lambda tx: tx.add_policy(policy, ADMIN.user))
    builders.promote(repository, source, production.rid)
    builders.revoke(repository, staging.rid, "user:jane")
    asked = builders.promotion_request(source, production.rid)
    repository.write(lambda tx: tx.add_promotion_request(asked))
    repository.write(lambda tx: tx.lock_promotion_request(asked.rid))
    repository.write(lambda tx: tx.add_review(asked, PromotionReview(verdict=REVIEW_VERDICT_APPROVE)))
    repository.write(lambda tx: tx.close_promotion_request(asked, PROMOTION_REQUEST_STATE_WITHDRAWN, ADMIN.user))
    repository.write(lambda tx: tx.lock_owners(staging.rid))
    repository.write(lambda tx: tx.enable_principal("user:jane", ADMIN.user))

    assert again == first
    assert back.version_number == 4
    listed = repository.read(lambda reader: reader.list_promotions(ADMIN, PromotionFilter(), PageRequest(10)))
    assert len(listed.items) == 5
    assert len(rows(server_url, branch_model_apis)) == 1


def test_a_server_can_deliver_events(server_url: str, open_repository: OpenRepository) -> None:
    repository = open_repository(server_url)
    model = add_model(repository)
    seconds = timedelta(seconds=15)
    one = Subscription(
        rid=new_subscription_rid(), resource_rid=model.rid, url="https://a.example/", state=1, created_by=ADMIN.user
    )
    repository.write(lambda tx: tx.add_subscription(one, b"sealed"))
    append(repository, builders.version(model.rid))
    settled = repository.settled_event()

    def deliver(tx: Transaction) -> None:
        tx.lock_subscriptions(model.rid, ADMIN.user)
        tx.fan_out_events(settled.key, 10)
        [lease] = tx.lease_queues(10, seconds)
        waiting = tx.next_delivery(lease)
        assert waiting is not None
        begun = tx.begin_attempt(lease, waiting, seconds)
        tx.end_attempt(lease, begun, AttemptEnd(http_status=500), DELIVERY_STATE_PENDING, 0)
        tx.hold_back(lease, 0, 0, "it fails")
        tx.lock_subscription(one.rid)
        tx.set_secret(one, b"other", seconds, ADMIN.user)
        one.state = SUBSCRIPTION_STATE_PAUSED
        tx.change_subscription(one, ADMIN.user)

    repository.write(deliver)
    [delivery] = repository.read(lambda reader: reader.list_deliveries(one.rid, None, PageRequest(10))).items
    assert delivery.http_status == 500
    repository.write(lambda tx: tx.remove_subscription(one, ADMIN.user))
    assert repository.read(lambda reader: reader.find_subscription(one.rid)) is None


def test_a_server_can_take_in_model_files(server_url: str, open_repository: OpenRepository) -> None:
    repository = open_repository(server_url)
    model = add_model(repository)
    one, two, three = (UploadKey.of(name, ADMIN, model.rid) for name in ("one", "two", "three"))
    file, other = StoredFile(b"digest", 5, "object"), StoredFile(b"digest", 5, "other")

    def take_in(tx: Transaction) -> None:
        for upload, stored in ((one, file), (two, other)):
            tx.begin_upload(upload, stored.object_name, timedelta(days=1))
            tx.finish_upload(upload, stored)
        tx.begin_upload(three, "three", timedelta(days=1))
        tx.give_up_upload(three)
        tx.replace_object(other, lost_object="object")
        version = builders.version(model.rid)
        digest = tx.find_upload(one)
        tx.append_version(version, tx.put_content(version, digest))

    repository.write(take_in)

    assert repository.read(lambda reader: reader.some_files(2)) == [other]


def test_gc_needs_a_few_rights_more(
    server_url: str, postgres_url: str, open_repository: OpenRepository, tmp_path: Path
) -> None:
    owner, role = make_url(postgres_url), make_url(server_url)
    more = re.findall(r"`((?:DELETE|UPDATE) ON [a-z_, ]+)`", DOCUMENT)
    with psycopg.connect(owner.set(database=role.database).render_as_string(hide_password=False)) as connection:
        for rights in more:
            connection.execute(f"GRANT {rights} TO {role.username}".encode())
    # The database lets no row in of another time than its own.
    clock = Clock()
    clock.now_ms = now_ms()
    repository = open_repository(server_url, clock_ms=clock)
    model = add_model(repository)
    source = append(repository, builders.version(model.rid))
    other = append(repository, builders.version(model.rid, label="other"))
    upload, file = UploadKey.of("upload", ADMIN, model.rid), StoredFile(b"digest", 5, "object")

    def leave_garbage(tx: Transaction) -> None:
        digests = [tx.put_content(version) for version in (source, other)]
        tx.add_verdict(Comparison(digests[0], digests[1], 1), Promotion())
        tx.begin_upload(upload, file.object_name, timedelta(days=1))
        tx.finish_upload(upload, file)

    repository.write(leave_garbage)
    clock.now_ms += 2 * 86_400_000

    collected = collect(repository, file_store(repository, tmp_path), timedelta(days=1))

    assert (collected.uploads, collected.files, collected.verdicts, collected.events) == (1, 1, 1, 2)
    assert len(more) == 2


@pytest.mark.parametrize("table", ON_RECORD)
def test_a_server_cannot_rewrite_what_is_on_record(
    server_url: str, open_repository: OpenRepository, table: str
) -> None:
    repository = open_repository(server_url)
    model = add_model(repository)
    source = append(repository, builders.version(model.rid))
    empty = builders.version(model.rid)
    empty.model_api.CopyFrom(ModelApi())
    append(repository, empty)
    builders.promote(repository, source, model.rid, request_id=str(uuid.uuid4()))
    repository.write(lambda tx: tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_ENFORCE), ADMIN.user))
    api = HeadApi(b"digest", 1, b"")
    repository.write(lambda tx: tx.add_head_api(model.rid, "master", PolicyPeriod(model.rid, 1), api))
    repository.write(lambda tx: tx.add_folder_policy(builders.FOLDER, NEW_MODEL_OWNER_FOLDER, ADMIN.user))
    of_folder = BranchPolicy(folder_rid=builders.FOLDER, branch="master", revision=1)
    repository.write(lambda tx: tx.add_policy(of_folder, ADMIN.user))
    repository.write(lambda tx: tx.disable_principal("user:j", "has left", ADMIN.user))
    repository.write(
        lambda tx: tx.set_grant(Grant(resource_rid=model.rid, principal="user:j", role=ROLE_VIEWER), ADMIN.user)
    )
    asked = builders.promotion_request(source, model.rid)
    repository.write(lambda tx: tx.add_promotion_request(asked))
    repository.write(lambda tx: tx.add_review(asked, PromotionReview(verdict=REVIEW_VERDICT_APPROVE)))
    before = rows(server_url, metadata.tables[table])
    assert before

    name = sql.Identifier(table)
    column = sql.Identifier(metadata.tables[table].columns.keys()[-1])
    for statement in (
        sql.SQL("UPDATE {0} SET {1} = {1}").format(name, column),
        sql.SQL("DELETE FROM {}").format(name),
        sql.SQL("TRUNCATE {} CASCADE").format(name),
        sql.SQL("DROP TABLE {} CASCADE").format(name),
        sql.SQL("ALTER TABLE {} DISABLE TRIGGER ALL").format(name),
        sql.SQL("ALTER TABLE {} ADD COLUMN extra TEXT").format(name),
    ):
        with psycopg.connect(server_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)

    assert rows(server_url, metadata.tables[table]) == before
