"""Content that was altered in the database is neither served nor promoted. On every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import delete, insert, update

from server.core.errors import StorageUnavailable
from server.storage.contract import PromotionFilter, Reader
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import contents, files, verdicts
from tests import builders
from tests.builders import ADMIN, add_model, append, promote
from tests.conftest import OpenRepository
from tests.storage.inspection import alter, row_counts, rows

PAGE = PageRequest(10)


@pytest.mark.parametrize("what", ["a byte", "what no longer is a message", "the files"])
def test_an_altered_content_is_neither_served_nor_promoted(
    repository: SqlRepository, migrated_url: str, open_repository: OpenRepository, what: str
) -> None:
    model = add_model(repository)
    version = append(repository, builders.version(model.rid, label="churn"))
    other = append(repository, builders.version(model.rid, "other", label="fraud"))
    digest = repository.read(lambda reader: reader.find_version(version.rid, ADMIN)).content_digest
    [payload] = [row.payload for row in rows(migrated_url, contents) if row.digest == digest]
    values = {
        "a byte": {"payload": payload.replace(b"churn", b"churm", 1)},
        "what no longer is a message": {"payload": b"\xff\xff"},
        "the files": {"file_digest": b"of other files"},
    }[what]
    alter(
        migrated_url,
        insert(files).values(digest=b"of other files", object_name="other", size=1),
        update(contents).where(contents.c.digest == digest).values(**values),
    )
    # What was read before is kept as it was, but a server forgets it sooner or later.
    fresh = open_repository(migrated_url)
    before = row_counts(migrated_url)

    questions: list[Callable[[Reader], object]] = [
        lambda reader: reader.find_version(version.rid, ADMIN),
        lambda reader: reader.find_numbered_version(model.rid, "master", 1, ADMIN),
        lambda reader: reader.get_branch(model.rid, "master", ADMIN),
        lambda reader: reader.list_versions(model.rid, "master", ADMIN, PAGE),
        lambda reader: reader.list_branches(model.rid, ADMIN, PAGE),
        lambda reader: reader.get_model_api(digest),
    ]
    for question in questions:
        with pytest.raises(StorageUnavailable) as raised:
            fresh.read(question)
        assert raised.value.retry_after is None
        assert digest.hex() in str(raised.value.__cause__)
    for source, target in ((version, "other"), (other, "master")):
        # Of a source, or of a head that it would be compared with.
        with pytest.raises(StorageUnavailable):
            promote(fresh, source, model.rid, branch=target)
    assert row_counts(migrated_url) == before
    # And everything else goes on.
    assert promote(fresh, other, model.rid, branch="third").version_number == 1


def test_what_was_found_and_is_missing_is_not_left_out(repository: SqlRepository, migrated_url: str) -> None:
    source, model = add_model(repository), add_model(repository)
    # The second one is compared with the first.
    for label in ("churn", "fraud"):
        version = append(repository, builders.version(source.rid, label=label))
        promoted = promote(repository, version, model.rid)
    alter(migrated_url, delete(verdicts))

    settled = repository.settled_promotion()
    rid = repository.read(lambda reader: reader.get_promotion_rid(promoted.rid))
    questions: list[Callable[[Reader], object]] = [
        lambda reader: reader.find_promotion(rid, ADMIN),
        lambda reader: reader.list_promotions(ADMIN, PromotionFilter(), PAGE),
        lambda reader: reader.list_promotions_in_order(ADMIN, PromotionFilter(), settled, PAGE),
    ]
    for question in questions:
        with pytest.raises(StorageUnavailable) as raised:
            repository.read(question)
        assert raised.value.retry_after is None
        assert "is missing" in str(raised.value.__cause__)
