"""The chain of a branch's promotions, computed again as docs/operations.md says. On every backend."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Row, select, text

from modelregistry.v1.model_pb2 import ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, Promotion
from modelregistry.v1.promotion_service_pb2 import BatchPromoteVersionsRequest, BatchPromotion, RollbackBranchRequest
from server.core import rids
from server.rules.promotion import batch_promote_versions, rollback_branch
from server.storage.sql.migrate import chain_promotions
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import branches, models, promotions, versions
from tests import builders
from tests.builders import ADMIN, add_model, append, promote, timestamp
from tests.storage.conftest import at_once
from tests.storage.inspection import open_engine


def hash_of(row: Row[tuple[object, ...]], previous: bytes) -> bytes:
    """The hash of a promotion, by another way than the server's."""
    fields = [row.rid, row.kind, row.version_rid, row.model_rid, row.branch, row.version_number, row.source_model_rid]
    fields += [row.source_rid, row.content_digest.hex(), row.reason, row.created_time, row.created_by]
    return hashlib.sha256(previous + ("[" + ",".join(map(canonical, fields)) + "]").encode()).digest()


def canonical(value: object) -> str:
    """A string, a number or null as RFC 8785 writes it."""
    if not isinstance(value, str):
        return json.dumps(value)
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    return '"' + "".join(short.get(sign, f"\\u{ord(sign):04x}" if sign < " " else sign) for sign in value) + '"'


def chains(url: str) -> dict[tuple[str, str], list[int]]:
    """The numbers of the promoted versions of each branch in the order of its chain, every hash of which is right."""
    engine = open_engine(url)
    with engine.connect() as connection:
        records = connection.execute(
            select(promotions, versions.c.rid.label("version_rid"), versions.c.version_number)
            .add_columns(versions.c.content_digest, branches.c.name.label("branch"), models.c.rid.label("model_rid"))
            .join_from(promotions, versions, versions.c.id == promotions.c.version_id)
            .join(branches)
            .join(models, models.c.id == branches.c.model_id)
        ).all()
        ends = connection.execute(select(models.c.rid, branches.c.name, branches.c.chain).join(models)).all()
    engine.dispose()
    by_previous = {(row.model_rid, row.branch, row.previous_hash): row for row in records}
    assert len(by_previous) == len(records)
    found = {}
    for model_rid, branch, end in ends:
        last, numbers = bytes(32), []
        while row := by_previous.pop((model_rid, branch, last), None):
            assert row.hash == hash_of(row, last)
            last = row.hash
            numbers.append(row.version_number)
        assert end == (last if numbers else None)
        found[model_rid, branch] = numbers
    assert not by_previous
    return found


def test_every_promotion_is_chained_to_the_one_before_on_its_branch(
    repository: SqlRepository, migrated_url: str
) -> None:
    source_model, target = add_model(repository), add_model(repository)
    source = append(repository, builders.version(source_model.rid))
    append(repository, builders.version(target.rid))
    strange = 'a "reason" \\ with \u2028, \x01\t\n\x7f é \U0001d4b3 </script>'

    promote(repository, source, target.rid, reason=strange)
    append(repository, builders.version(target.rid))
    entry = BatchPromotion(model_rid=target.rid, source_model_version_rid=source.rid)
    other = BatchPromotion(model_rid=target.rid, source_model_version_rid=source.rid, branch='an "other"\n')
    batch = BatchPromoteVersionsRequest(promotions=[entry, other, entry, other])
    repository.write(lambda tx: batch_promote_versions(tx, ADMIN, batch))
    back = RollbackBranchRequest(model_rid=target.rid, to_version_number=1)
    repository.write(lambda tx: rollback_branch(tx, ADMIN, back))
    imported = builders.version(target.rid)
    elsewhere = PromotedSource(previous_model_rid="ri.x.y.model.z", previous_model_version_rid="ri.x.y.version.z")
    imported.source.CopyFrom(ModelVersionSource(promoted=elsewhere))
    imported.created_time.CopyFrom(timestamp(4_000_000_000_123))
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=elsewhere.previous_model_rid,
        source_model_version_rid=elsewhere.previous_model_version_rid,
    )
    builders.append_imported(repository, imported, promotion)
    promote(repository, imported, target.rid)

    assert chains(migrated_url) == {
        (source_model.rid, "master"): [],
        (target.rid, "master"): [2, 4, 5, 6, 7, 8],
        (target.rid, 'an "other"\n'): [1, 2],
    }


def test_promotions_at_once_make_one_chain(repository: SqlRepository, migrated_url: str) -> None:
    source = append(repository, builders.version(add_model(repository).rid))
    target = add_model(repository)

    at_once(8, lambda _: [promote(repository, source, target.rid) for _ in range(4)])

    assert chains(migrated_url)[target.rid, "master"] == [*range(1, 33)]


# As servers store a promotion that know no chain.
OF_THE_RELEASE_BEFORE = (
    "UPDATE branches SET version_count = version_count + 1 WHERE model_id = (SELECT id FROM models WHERE rid = :model)",
    """
    INSERT INTO versions (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)
    SELECT :rid, b.id, b.version_count, v.content_digest, v.source, v.root_rid, v.created_time, v.created_by
    FROM branches b JOIN models m ON m.id = b.model_id JOIN versions v ON v.branch_id = b.id AND v.version_number = 1
    WHERE m.rid = :model
    """,
    """
    INSERT INTO promotions (rid, kind, version_id, model_id, source_model_rid, source_rid, created_time, created_by)
    SELECT :promotion, 1, v.id, m.id, :model, v.rid, v.created_time, v.created_by
    FROM versions v, models m WHERE v.rid = :rid AND m.rid = :model
    """,
)


def promote_as_before(url: str, model_rid: str) -> None:
    values = {"model": model_rid, "rid": rids.new_model_version_rid(), "promotion": rids.new_promotion_rid()}
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in OF_THE_RELEASE_BEFORE:
            connection.execute(text(statement), values)
    engine.dispose()


def test_what_servers_of_the_release_before_promote_is_chained_behind_the_rest(
    repository: SqlRepository, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.sql.unchained._AT_ONCE", 2)
    model, other = add_model(repository), add_model(repository)
    source = append(repository, builders.version(model.rid))
    append(repository, builders.version(other.rid))
    engine = open_engine(migrated_url)

    for _ in range(2):
        promote(repository, source, model.rid)
        for _ in range(3):
            promote_as_before(migrated_url, model.rid)
        promote_as_before(migrated_url, other.rid)
    promote(repository, source, model.rid)
    chain_promotions(engine)

    expected = {(model.rid, "master"): [2, 6, 10, 3, 4, 5, 7, 8, 9], (other.rid, "master"): [2, 3]}
    assert chains(migrated_url) == expected
    chain_promotions(engine)
    assert chains(migrated_url) == expected
    promote_as_before(migrated_url, model.rid)
    promote(repository, source, model.rid)
    chain_promotions(engine)
    engine.dispose()
    assert chains(migrated_url)[model.rid, "master"] == [2, 6, 10, 3, 4, 5, 7, 8, 9, 12, 11]


def test_servers_go_on_while_older_promotions_are_chained(
    repository: SqlRepository, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.sql.unchained._AT_ONCE", 1)
    model = add_model(repository)
    source = append(repository, builders.version(model.rid))
    for _ in range(20):
        promote_as_before(migrated_url, model.rid)
    engine = open_engine(migrated_url)

    with ThreadPoolExecutor(1) as thread:
        chaining = thread.submit(chain_promotions, engine)
        made = [promote(repository, source, model.rid).version_number for _ in range(20)]
        chaining.result()
    engine.dispose()

    assert made == [*range(22, 42)]
    assert sorted(chains(migrated_url)[model.rid, "master"]) == [*range(2, 42)]
