"""Verdicts that no promotion cites can be removed, and no promotion fails for it."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, Promotion
from server.core import rids
from server.storage.contract import Comparison, PromotionFilter, Reader, Transaction, Verdict
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, promote
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.conftest import Clock, Held
from tests.storage.inspection import at_commit

DAY = timedelta(days=1)


def add_verdict(repository: SqlRepository, *labels: str) -> tuple[Comparison, Verdict]:
    """Store the verdict on two contents with these labels, which has one error and no findings."""

    def change(tx: Transaction) -> tuple[Comparison, Verdict]:
        head, candidate = (tx.put_content(builders.version("", label=label)) for label in labels)
        comparison = Comparison(head, candidate, 1)
        return comparison, tx.add_verdict(comparison, Promotion(error_count=1))

    return repository.write(change)


def unused(repository: SqlRepository, age: timedelta = timedelta()) -> list[int]:
    return repository.read(lambda reader: reader.unused_verdicts(age))


def cite(tx: Transaction, version: ModelVersion, verdict: Verdict) -> str:
    """Promote a version once more by a promotion that cites a verdict; return its RID when the database has it."""
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=version.model_rid,
        source_model_version_rid=version.rid,
        model_version_rid=version.rid,
    )
    copy = builders.version(version.model_rid)
    return tx.get_promotion_rid(tx.append_promoted(copy, tx.put_content(copy), promotion, verdict).version.rid)


def test_a_verdict_is_unused_when_it_is_old_enough_and_no_promotion_cites_it(
    timed: SqlRepository, clock: Clock
) -> None:
    version = append(timed, builders.version(add_model(timed).rid))
    _, cited = add_verdict(timed, "a", "b")
    _, old = add_verdict(timed, "b", "a")
    clock.now_ms += 1000
    _, new = add_verdict(timed, "a", "c")
    timed.write(lambda tx: cite(tx, version, cited))
    clock.now_ms += DAY // timedelta(milliseconds=1)

    assert unused(timed, DAY) == [old.key]
    clock.now_ms += 1
    assert sorted(unused(timed, DAY)) == sorted([old.key, new.key])


def test_an_unused_verdict_is_removed_and_one_that_is_cited_is_not(repository: SqlRepository) -> None:
    version = append(repository, builders.version(add_model(repository).rid))
    (kept, cited), (gone, idle) = (add_verdict(repository, *labels) for labels in ("ab", "ba"))
    repository.write(lambda tx: cite(tx, version, cited))

    removed = [repository.write(lambda tx, key=each.key: tx.remove_unused_verdict(key)) for each in (cited, idle, idle)]

    assert removed == [False, True, False]
    assert repository.read(lambda reader: reader.find_verdict(kept)) == cited
    assert repository.read(lambda reader: reader.find_verdict(gone)) is None


def test_findings_of_a_verdict_that_was_just_removed_are_asked_for_again(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    repository, other = open_repository(migrated_url), open_repository(migrated_url)
    comparison, verdict = add_verdict(repository, "a", "b")
    found = []

    def query(reader: Reader) -> Promotion | None:
        found.append(reader.find_verdict(comparison))
        if found[-1] is None:
            return None
        other.write(lambda tx: tx.remove_unused_verdict(verdict.key))
        return reader.get_findings(verdict)

    assert repository.read(query) is None
    assert found == [verdict, None]


# Side by side, which SQLite has not: there, a promotion finds and cites a verdict while it is the one writer.


@pytest.fixture
def postgres(new_database: NewDatabase) -> str:
    return new_database("postgresql", migrated=True)


def test_a_promotion_that_is_about_to_cite_a_verdict_that_is_removed_makes_it_again(
    postgres: str, open_repository: OpenRepository
) -> None:
    repository, other = open_repository(postgres), open_repository(postgres)
    staging, target = add_model(repository), add_model(repository)
    one, two = (append(repository, builders.version(staging.rid, label=label)) for label in ("one", "two"))
    promote(repository, one, target.rid)
    commits, removed = itertools.count(1), []

    def remove(_: object) -> None:
        # The first COMMIT is that of the verdict. When the next one comes, the promotion has found it.
        if next(commits) == 2:
            removed.extend(other.write(lambda tx, key=key: tx.remove_unused_verdict(key)) for key in unused(other))

    with at_commit(remove):
        promoted = promote(repository, two, target.rid)

    assert removed == [True]
    assert promoted.version_number == 2
    recorded = repository.read(
        lambda reader: reader.list_promotions(ADMIN, PromotionFilter(version_rid=promoted.rid), PageRequest(1))
    ).items
    assert [promotion.error_count for promotion in recorded] == [2]
    assert unused(repository) == []


def test_a_promotion_that_has_cited_a_verdict_is_waited_for(postgres: str, open_repository: OpenRepository) -> None:
    repository = open_repository(postgres)
    version = append(repository, builders.version(add_model(repository).rid))
    comparison, verdict = add_verdict(repository, "a", "b")
    held = Held()

    def cite_and_wait(tx: Transaction) -> None:
        cite(tx, version, verdict)
        held(tx)

    def is_waiting() -> bool:
        with psycopg.connect(postgres) as other:
            query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            return other.execute(query).fetchone() is not None

    with ThreadPoolExecutor(2) as threads:
        citing = threads.submit(repository.write, cite_and_wait)
        held.wait_until_begun()
        removing = threads.submit(repository.write, lambda tx: tx.remove_unused_verdict(verdict.key))
        until(is_waiting)
        held.go_on()
        citing.result(60)
        assert removing.result(60) is False
    assert repository.read(lambda reader: reader.find_verdict(comparison)) == verdict
