"""How versions and their content are kept, and what branches tell. Each test runs on every backend."""

from __future__ import annotations

import hashlib

import pytest
from google.protobuf.message import Message

from modelregistry.v1.model_api_pb2 import ModelApiInput, UnsupportedType
from modelregistry.v1.model_pb2 import Branch, ModelVersion
from server.core.errors import BranchNotFound, ModelNotFound
from server.storage.contract import StoredVersion, Transaction
from server.storage.paging import PageRequest
from server.storage.sql import tables
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import OpenRepository
from tests.storage.conftest import NOW_MS, GivenUp
from tests.storage.inspection import row_counts, rows

PAGE = PageRequest(100)


# Content


def test_equal_content_is_stored_once(repository: SqlRepository, migrated_url: str) -> None:
    model = add_model(repository)
    for branch in ("master", "master", "staging"):
        append(repository, builders.version(model.rid, branch))
    assert row_counts(migrated_url)["contents"] == 1

    append(repository, builders.version(model.rid, label="other"))
    assert row_counts(migrated_url)["contents"] == 2


def test_the_digest_is_the_sha_256_of_the_deterministic_serialization(
    repository: SqlRepository, migrated_url: str
) -> None:
    given = builders.version("ri.models.main.model.any")
    content = ModelVersion(
        model_api=given.model_api,
        conda_requirements=given.conda_requirements,
        backing_repositories=given.backing_repositories,
        linked_experiment=given.linked_experiment,
    )

    digest = repository.write(lambda tx: tx.put_content(given))

    assert digest == hashlib.sha256(content.SerializeToString(deterministic=True)).digest()
    assert [row.digest for row in rows(migrated_url, tables.contents)] == [digest]


def test_unknown_fields_are_no_content_at_any_depth(repository: SqlRepository, migrated_url: str) -> None:
    plain = builders.version("ri.models.main.model.any")
    given = ModelVersion.FromString(plain.SerializeToString())
    column = given.model_api.inputs[0].tabular.columns[0]
    for message in (given, given.model_api, given.model_api.inputs[0], column, column.data_type.double):
        add_unknown_field(message)
    assert given.SerializeToString() != plain.SerializeToString()

    assert repository.write(lambda tx: tx.put_content(given)) == repository.write(lambda tx: tx.put_content(plain))
    assert row_counts(migrated_url)["contents"] == 1


def test_the_order_in_which_a_map_was_filled_is_no_content(repository: SqlRepository) -> None:
    keys = [f"key {number}" for number in range(50)]
    digests = set()
    for ordered in (keys, keys[::-1]):
        given = builders.version("ri.models.main.model.any")
        unsupported = UnsupportedType(unsupported_type="tensor", params={key: key for key in ordered})
        given.model_api.inputs.append(ModelApiInput(unsupported=unsupported))
        digests.add(repository.write(lambda tx, given=given: tx.put_content(given)))

    assert len(digests) == 1


# Versions


def test_a_version_is_found_as_it_was_appended(timed: SqlRepository) -> None:
    model = add_model(timed)
    given = builders.version(model.rid, "staging", created_by="user:jane")
    expected = ModelVersion()
    expected.CopyFrom(given)
    expected.version_number = 1
    expected.created_time.FromMilliseconds(NOW_MS)

    digest = timed.write(lambda tx: tx.put_content(given))
    assert timed.write(lambda tx: tx.append_version(given, digest)) == expected
    assert timed.read(lambda reader: reader.find_version(given.rid, ADMIN)) == StoredVersion(expected, digest, None)
    assert timed.read(lambda reader: reader.list_versions(model.rid, "staging", ADMIN, PAGE)) == ([expected], None)


def test_unknown_fields_are_neither_stored_nor_returned(repository: SqlRepository) -> None:
    given = builders.version(add_model(repository).rid)
    for message in (given, given.model_api, given.model_api.inputs[0].tabular, given.source.sdk):
        add_unknown_field(message)

    appended = append(repository, given)

    assert appended == builders.find(repository, given.rid)
    given.DiscardUnknownFields()
    given.version_number = 1
    given.created_time.CopyFrom(appended.created_time)
    assert appended == given


def test_a_created_time_is_in_whole_milliseconds_where_it_is_given_too(repository: SqlRepository) -> None:
    model = builders.model()
    model.created_time.FromNanoseconds(NOW_MS * 1_000_000 + 456_789)
    version = builders.version(model.rid)
    version.created_time.CopyFrom(model.created_time)

    assert repository.write(lambda tx: tx.add_model(model)).created_time == builders.timestamp(NOW_MS)
    assert append(repository, version).created_time == builders.timestamp(NOW_MS)
    assert builders.find(repository, version.rid).created_time == builders.timestamp(NOW_MS)


def test_numbers_count_from_one_on_each_branch(repository: SqlRepository) -> None:
    first, second = add_model(repository), add_model(repository)
    appended = [
        append(repository, builders.version(model.rid, branch))
        for model in (first, second)
        for branch in ("master", "Master", "master")
    ]

    assert [version.version_number for version in appended] == [1, 1, 2, 1, 1, 2]


def test_the_number_of_a_version_that_was_rolled_back_goes_to_the_next(repository: SqlRepository) -> None:
    model = add_model(repository)
    builders.add_versions(repository, model.rid, 2)

    def change(tx: Transaction) -> None:
        new = builders.version(model.rid)
        assert tx.append_version(new, tx.put_content(new)).version_number == 3
        raise GivenUp

    with pytest.raises(GivenUp):
        repository.write(change)

    assert append(repository, builders.version(model.rid)).version_number == 3
    assert [v.version_number for v in repository.read(lambda r: builders.all_versions(r, model.rid))] == [3, 2, 1]


def test_a_created_time_is_never_before_the_head_s_whichever_clock_that_is_of(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    created, model_rid = [], ""
    for now_ms in (NOW_MS, NOW_MS - 3_600_000, NOW_MS - 1, NOW_MS + 5):
        server = open_repository(migrated_url, clock_ms=lambda now_ms=now_ms: now_ms)
        model_rid = model_rid or add_model(server).rid
        created.append(append(server, builders.version(model_rid)).created_time.ToMilliseconds())
    assert created == [NOW_MS, NOW_MS, NOW_MS, NOW_MS + 5]


def test_a_version_keeps_the_created_time_that_it_has(timed: SqlRepository) -> None:
    given = builders.version(add_model(timed).rid)
    given.created_time.FromMilliseconds(1_052_224_496_789)

    assert append(timed, given).created_time == builders.timestamp(1_052_224_496_789)
    assert builders.find(timed, given.rid).created_time == builders.timestamp(1_052_224_496_789)


def test_a_branch_has_its_newest_version_as_head(repository: SqlRepository) -> None:
    model = add_model(repository)
    head = builders.add_versions(repository, model.rid, 3)[-1]
    append(repository, builders.version(model.rid, "staging"))

    branch = repository.read(lambda reader: reader.get_branch(model.rid, "master", ADMIN))

    assert branch == Branch(name="master", head=head, version_count=3)


def test_a_branch_that_the_model_does_not_have_is_not_found(repository: SqlRepository) -> None:
    model = add_model(repository)
    append(repository, builders.version(model.rid, "staging"))

    with pytest.raises(BranchNotFound) as missing:
        repository.read(lambda reader: reader.get_branch(model.rid, "master", ADMIN))
    assert missing.value.parameters == {"modelRid": model.rid, "branchName": "master"}
    with pytest.raises(ModelNotFound):
        repository.read(lambda reader: reader.get_branch("ri.models.main.model.absent", "staging", ADMIN))


def test_a_branch_that_the_model_does_not_have_lists_no_versions(repository: SqlRepository) -> None:
    model = add_model(repository)
    append(repository, builders.version(model.rid, "staging"))

    assert repository.read(lambda reader: reader.list_versions(model.rid, "master", ADMIN, PAGE)) == ([], None)


def test_a_legacy_source_is_told_to_who_asks_for_the_version_and_unset_elsewhere(repository: SqlRepository) -> None:
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    given = builders.version(model.rid)
    given.ClearField("source")
    legacy = '{"type": "workflow", "name": "nächtlich"}'

    appended = append(repository, given, legacy)
    found = repository.read(lambda reader: reader.find_version(given.rid, ADMIN))
    listed = repository.read(lambda reader: reader.list_versions(model.rid, "master", ADMIN, PAGE)).items
    branches = repository.read(lambda reader: reader.list_branches(model.rid, ADMIN, PAGE)).items

    assert found is not None
    assert found.legacy_source == legacy
    assert found.version.rid == given.rid
    assert [version.HasField("source") for version in listed] == [False, True]
    branch = repository.read(lambda reader: reader.get_branch(model.rid, "master", ADMIN))
    for version in (appended, found.version, branch.head, branches[0].head):
        assert not version.HasField("source")


def add_unknown_field(message: Message) -> None:
    message.MergeFromString(b"\xc0\x3e\x01")  # field 1000, a varint
