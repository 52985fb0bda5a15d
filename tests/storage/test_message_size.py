"""What fits into one message: pages end early, content that is too large is refused. On every backend."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, update

from modelregistry.v1.model_pb2 import Branch, CodeRepositorySource, ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.model_service_pb2 import ListBranchesResponse, ListModelVersionsResponse
from server.core.caller import MAX_PRINCIPAL_BYTES
from server.core.errors import RequestTooLarge
from server.storage.contract import Transaction
from server.storage.paging import PageRequest, Position
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import branches, versions
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append
from tests.conftest import OpenRepository
from tests.storage.inspection import alter, row_counts

MESSAGE_BYTES = 64 * 2**10
# That of a branch with the longest name.
MOST_BYTES_OF_TOKEN = 1_400
NUMBERS: tuple[tuple[Table, str], ...] = ((branches, "version_count"), (versions, "version_number"))


@pytest.fixture
def small(migrated_url: str, open_repository: OpenRepository) -> SqlRepository:
    """A repository for small messages."""
    return open_repository(migrated_url, max_message_bytes=MESSAGE_BYTES)


def long_rid(kind: str, number: int = 0) -> str:
    prefix = f"ri.models.main.{kind}.{number:06}-"
    return prefix + "x" * (builders.MAX_RID_BYTES - len(prefix))


def long_branch(number: int = 0) -> str:
    """A name of 255 characters and 1,005 bytes."""
    return f"{number:05}" + "\U0001d4b3" * 250


def longest(size: int = 0, number: int = 0, branch: str = "") -> ModelVersion:
    """A version whose every name is as long as it may be, with content of about `size` bytes."""
    version = builders.version(long_rid("model"), branch or long_branch(number), size=size)
    version.rid = long_rid("model-version", number)
    version.root_model_version_rid = long_rid("model-version", 1)
    previous = PromotedSource(
        previous_model_rid=long_rid("model", 1), previous_model_version_rid=long_rid("model-version", 1)
    )
    version.source.CopyFrom(ModelVersionSource(promoted=previous))
    version.created_by = "user:" + "x" * (MAX_PRINCIPAL_BYTES - len("user:"))
    return version


def add_longest_model(repository: SqlRepository) -> str:
    model = builders.model()
    model.rid = long_rid("model")
    return repository.write(lambda tx: tx.add_model(model)).rid


def list_all_versions(repository: SqlRepository, model_rid: str, branch: str) -> list[ModelVersion]:
    """Every version, asked for in pages of a thousand; no page is empty or too large for a message of its own."""
    listed: list[ModelVersion] = []
    after: Position | None = None
    while True:
        page = repository.read(
            lambda r, after=after: r.list_versions(model_rid, branch, ADMIN, PageRequest(ALL, after))
        )
        count, size = len(page.items), ListModelVersionsResponse(model_versions=page.items).ByteSize()
        assert count == 1 or (count and size <= MESSAGE_BYTES)
        listed += page.items
        after = page.next_position
        if after is None:
            return listed


def list_all_branches(repository: SqlRepository, model_rid: str, message_bytes: int = MESSAGE_BYTES) -> list[Branch]:
    """Every branch, asked for in pages of a thousand; no page is empty or too large for a message of its own."""
    listed: list[Branch] = []
    after: Position | None = None
    while True:
        page = repository.read(lambda r, after=after: r.list_branches(model_rid, ADMIN, PageRequest(ALL, after)))
        count, size = len(page.items), ListBranchesResponse(branches=page.items).ByteSize()
        assert count == 1 or (count and size <= message_bytes)
        listed += page.items
        after = page.next_position
        if after is None:
            return listed


def test_a_page_of_large_versions_ends_early(small: SqlRepository) -> None:
    model = add_model(small)
    appended = [
        append(small, builders.version(model.rid, size=size))
        for size in (40_000, 40_000, 100, 100, 30_000, 10, 10, 10, 20_000, 20_000, 20_000, 5_000, 5_000, 40_000)
    ]

    assert list_all_versions(small, model.rid, "master") == appended[::-1]


def test_a_page_of_versions_that_share_large_content_ends_early(small: SqlRepository) -> None:
    model = add_model(small)
    appended = [append(small, builders.version(model.rid, size=10_000)) for _ in range(20)]

    assert list_all_versions(small, model.rid, "master") == appended[::-1]


def test_a_page_of_branches_with_large_heads_ends_early(small: SqlRepository) -> None:
    model = add_model(small)
    appended = [
        append(small, builders.version(model.rid, f"branch {number:02}", size=size))
        for number, size in enumerate((40_000, 100, 40_000, 100, 100, 30_000, 10, 10, 20_000, 20_000, 20_000, 40_000))
    ]

    assert [branch.head for branch in list_all_branches(small, model.rid)] == appended


def test_small_versions_share_a_page(small: SqlRepository) -> None:
    model = add_model(small)
    builders.add_versions(small, model.rid, 20)

    page = small.read(lambda reader: reader.list_versions(model.rid, "master", ADMIN, PageRequest(20)))

    assert len(page.items) == 20
    assert page.next_position is None


def test_a_page_of_versions_with_long_names_ends_early_too(small: SqlRepository) -> None:
    model_rid, branch = add_longest_model(small), long_branch()
    new = [longest(number=number, branch=branch) for number in range(60)]
    appended = small.write(lambda tx: [tx.append_version(each, tx.put_content(each)) for each in new])

    assert list_all_versions(small, model_rid, branch) == appended[::-1]


def test_a_page_of_versions_with_long_sources_ends_early_too(small: SqlRepository) -> None:
    model = add_model(small)
    new = [builders.version(model.rid) for _ in range(6)]
    for each in new:
        each.source.code_repository.CopyFrom(CodeRepositorySource(repository_rid="ri.a.b.c.d", branch="ü" * 10_000))
    appended = [append(small, each) for each in new]

    assert list_all_versions(small, model.rid, "master") == appended[::-1]


def test_a_page_of_branches_with_long_names_ends_early_too(small: SqlRepository) -> None:
    model_rid = add_longest_model(small)
    new = [longest(number=number) for number in range(60)]
    appended = small.write(lambda tx: [tx.append_version(each, tx.put_content(each)) for each in new])

    assert [branch.head for branch in list_all_branches(small, model_rid)] == appended


@pytest.mark.parametrize("size", [0, 4_000])
def test_a_thousand_branches_with_the_longest_of_names_fit_into_messages_of_the_usual_size(
    repository: SqlRepository, size: int
) -> None:
    model_rid = add_longest_model(repository)
    new = [longest(size, number) for number in range(ALL)]
    appended = repository.write(lambda tx: [tx.append_version(each, tx.put_content(each)) for each in new])

    assert [branch.head for branch in list_all_branches(repository, model_rid, 4 * 2**20)] == appended


def test_content_that_might_not_fit_into_one_message_is_refused_and_not_stored(
    small: SqlRepository, migrated_url: str
) -> None:
    with pytest.raises(RequestTooLarge):
        small.write(lambda tx: tx.put_content(longest(MESSAGE_BYTES)))
    assert row_counts(migrated_url)["contents"] == 0
    with pytest.raises(RequestTooLarge):
        small.read(lambda reader: reader.require_fitting(longest(MESSAGE_BYTES)))

    small.read(lambda reader: reader.require_fitting(longest(MESSAGE_BYTES // 2)))
    small.write(lambda tx: tx.put_content(longest(MESSAGE_BYTES // 2)))
    assert row_counts(migrated_url)["contents"] == 1


def test_the_largest_content_fits_into_one_message_with_the_longest_of_names(small: SqlRepository) -> None:
    """As a version, as the head of a branch, and as the one item of a page with room for its token."""
    model_rid, branch = add_longest_model(small), long_branch()
    token = "x" * 1024

    def largest(tx: Transaction) -> int:
        accepted, refused = 0, MESSAGE_BYTES
        while refused - accepted > 1:
            size = (accepted + refused) // 2
            try:
                tx.put_content(longest(size))
                accepted = size
            except RequestTooLarge:
                refused = size
        return accepted

    size = small.write(largest)
    assert size > MESSAGE_BYTES * 3 // 4
    append(small, longest(size))

    page = small.read(lambda reader: reader.list_versions(model_rid, branch, ADMIN, PageRequest(ALL)))
    assert ListModelVersionsResponse(model_versions=page.items, next_page_token=token).ByteSize() <= MESSAGE_BYTES
    branches = small.read(lambda reader: reader.list_branches(model_rid, ADMIN, PageRequest(ALL)))
    assert ListBranchesResponse(branches=branches.items, next_page_token=token * 3).ByteSize() <= MESSAGE_BYTES


def test_a_page_of_a_thousand_branches_has_room_for_what_is_told_beside_the_heads(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(migrated_url)
    model = add_model(repository)
    new = [builders.version(model.rid, f"{number:05}") for number in range(ALL)]
    repository.write(lambda tx: [tx.append_version(each, tx.put_content(each)) for each in new])
    # The larger a number is, the more bytes it takes.
    alter(migrated_url, *(update(table).values({name: 3_000_000}) for table, name in NUMBERS))
    one = repository.read(lambda reader: reader.list_branches(model.rid, ADMIN, PageRequest(1))).items
    for message_bytes in range(ALL * one[0].ByteSize() - 60_000, ALL * one[0].ByteSize(), 10_000):
        page = open_repository(migrated_url, max_message_bytes=message_bytes).read(
            lambda reader: reader.list_branches(model.rid, ADMIN, PageRequest(ALL))
        )
        answer = ListBranchesResponse(branches=page.items, next_page_token="x" * MOST_BYTES_OF_TOKEN)
        assert message_bytes - 20_000 < answer.ByteSize() <= message_bytes
