"""For how long versions were heads, and what branches were rolled back from. Each test runs on every backend."""

from __future__ import annotations

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    Promotion,
    PromotionKind,
)
from server.core import rids
from server.storage.contract import MOST_TENURES, Reader, Tenure, Transaction
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, append_imported, branch_end, caller, timestamp
from tests.storage.conftest import NOW_MS, Clock


def copy(
    tx: Transaction,
    source: ModelVersion,
    model_rid: str,
    branch: str = "master",
    kind: PromotionKind.ValueType = PROMOTION_KIND_PROMOTION,
    override: bool = False,
) -> ModelVersion:
    """Store a copy of a version, with its record."""
    made = builders.version(model_rid, branch)
    made.model_api.CopyFrom(source.model_api)
    made.source.CopyFrom(ModelVersionSource(promoted=PromotedSource()))
    record = Promotion(
        rid=rids.new_promotion_rid(),
        kind=kind,
        source_model_rid=source.model_rid,
        source_model_version_rid=source.rid,
        override=override,
    )
    return tx.append_promoted(made, tx.put_content(made), record, None).version


def tenures(repository: SqlRepository, version: ModelVersion) -> list[Tenure]:
    return repository.read(lambda reader: reader.list_tenures(version.rid))


def imported(model_rid: str, label: str = "churn", source: str | None = None) -> tuple[ModelVersion, Promotion]:
    """A version of long ago, and the record of its promotion from a version."""
    version = builders.version(model_rid, label=label)
    version.created_time.CopyFrom(timestamp(1_000))
    record = Promotion(rid=rids.new_promotion_rid(), kind=PROMOTION_KIND_PROMOTION, source_model_rid=model_rid)
    record.source_model_version_rid = source or version.rid
    return version, record


# Tenures


def test_a_version_is_a_head_until_the_next_one_comes(timed: SqlRepository, clock: Clock) -> None:
    model = add_model(timed)
    first = append(timed, builders.version(model.rid, "dev"))
    assert tenures(timed, first) == [Tenure(model.rid, "dev", NOW_MS, None)]
    clock.now_ms += 5
    second = append(timed, builders.version(model.rid, "dev"))
    append(timed, builders.version(model.rid, "other"))
    assert tenures(timed, first) == [Tenure(model.rid, "dev", NOW_MS, NOW_MS + 5)]
    assert tenures(timed, second) == [Tenure(model.rid, "dev", NOW_MS + 5, None)]


def test_each_version_comes_before_the_one_that_it_was_promoted_from(timed: SqlRepository, clock: Clock) -> None:
    dev, staging, production = (add_model(timed) for _ in range(3))
    root = append(timed, builders.version(dev.rid))
    clock.now_ms += 5
    middle = timed.write(lambda tx: copy(tx, root, staging.rid, "rc"))
    timed.write(lambda tx: copy(tx, root, staging.rid, "beside"))
    clock.now_ms += 5
    last = timed.write(lambda tx: copy(tx, middle, production.rid))

    assert tenures(timed, last) == [
        Tenure(production.rid, "master", NOW_MS + 10, None),
        Tenure(staging.rid, "rc", NOW_MS + 5, None),
        Tenure(dev.rid, "master", NOW_MS, None),
    ]
    assert tenures(timed, middle) == tenures(timed, last)[1:]


def test_what_was_imported_is_a_head_from_its_import_on(timed: SqlRepository, clock: Clock) -> None:
    model = add_model(timed)
    first = append(timed, imported(model.rid)[0])
    assert first.created_time == timestamp(1_000)
    clock.now_ms += 5
    second = append_imported(timed, *imported(model.rid, source=first.rid))
    assert tenures(timed, second) == [
        Tenure(model.rid, "master", NOW_MS + 5, None),
        Tenure(model.rid, "master", NOW_MS, NOW_MS + 5),
    ]


def test_tenures_end_before_what_an_import_has_made_up(timed: SqlRepository) -> None:
    model = add_model(timed)
    other = append(timed, builders.version(model.rid, label="other"))
    for source in (other.rid, rids.new_model_version_rid(), None):
        version = append_imported(timed, *imported(model.rid, source=source))
        assert len(tenures(timed, version)) == 1, source


def test_tenures_of_a_chain_that_bites_its_tail_have_each_version_once(timed: SqlRepository) -> None:
    model = add_model(timed)
    (first, of_first), (second, of_second) = imported(model.rid), imported(model.rid)
    of_first.source_model_version_rid, of_second.source_model_version_rid = second.rid, first.rid
    for version, record in ((first, of_first), (second, of_second)):
        append_imported(timed, version, record)
    assert len(tenures(timed, first)) == len(tenures(timed, second)) == 2


def test_tenures_are_told_of_the_nearest_versions(timed: SqlRepository) -> None:
    model, staging = add_model(timed), add_model(timed)

    def chain(tx: Transaction) -> ModelVersion:
        version = builders.version(model.rid, "root")
        version = tx.append_version(version, tx.put_content(version))
        for _ in range(MOST_TENURES):
            version = copy(tx, version, staging.rid)
        return version

    last = timed.write(chain)
    found = tenures(timed, last)
    assert len(found) == MOST_TENURES
    assert {tenure.model_rid for tenure in found} == {staging.rid}
    assert [tenure.until_ms is None for tenure in found] == [True] + [False] * (MOST_TENURES - 1)


# What a branch was rolled back from


class Branch:
    """A branch whose versions have contents of one letter."""

    def __init__(self, repository: SqlRepository):
        self._repository = repository
        self._rid = add_model(repository).rid
        self._versions: list[ModelVersion] = []

    def create(self, letter: str) -> None:
        self._versions.append(append(self._repository, builders.version(self._rid, label=letter)))

    def promote(self, letter: str) -> None:
        source = append(self._repository, builders.version(self._rid, "dev", letter))
        self._versions.append(self._repository.write(lambda tx: copy(tx, source, self._rid)))

    def roll_back(self, number: int, override: bool = False) -> None:
        source = self._versions[number - 1]
        self._versions.append(
            self._repository.write(
                lambda tx: copy(tx, source, self._rid, kind=PROMOTION_KIND_ROLLBACK, override=override)
            )
        )

    def left(self, letters: str) -> str:
        """Those of some contents that the branch was rolled back from."""

        def ask(reader: Reader, letter: str) -> bool:
            digest = self._repository.write(lambda tx: tx.put_content(builders.version(self._rid, label=letter)))
            return reader.was_rolled_back(branch_end(reader, self._rid), digest)

        return "".join(
            letter for letter in letters if self._repository.read(lambda reader, letter=letter: ask(reader, letter))
        )


@pytest.fixture
def branch(repository: SqlRepository) -> Branch:
    """With the contents a, b and c."""
    branch = Branch(repository)
    branch.create("a")
    branch.promote("b")
    branch.promote("c")
    return branch


def test_a_branch_that_was_never_rolled_back_has_left_nothing(branch: Branch) -> None:
    branch.promote("a")
    assert branch.left("abcd") == ""


def test_a_rollback_leaves_what_lies_between(branch: Branch) -> None:
    branch.roll_back(2)
    assert branch.left("abc") == "c"
    branch.roll_back(1)
    assert branch.left("abc") == "bc"
    # To what an earlier one brought back.
    branch.promote("d")
    branch.roll_back(5)
    assert branch.left("abcd") == "bcd"


def test_what_is_taken_in_again_is_not_left_any_more(branch: Branch) -> None:
    branch.roll_back(1)
    branch.create("b")
    assert branch.left("abc") == "c"
    branch.promote("c")
    assert branch.left("abc") == ""
    branch.roll_back(5)
    assert branch.left("abc") == "c"


def test_a_rollback_does_not_leave_the_content_that_it_brings_back(branch: Branch) -> None:
    branch.create("b")
    branch.roll_back(2)
    assert branch.left("abc") == "c"


def test_an_override_takes_in_and_a_rollback_does_not(branch: Branch) -> None:
    branch.roll_back(1)
    branch.roll_back(3)
    assert branch.left("abc") == "bc"
    branch.roll_back(3, override=True)
    assert branch.left("abc") == "b"
    # What it replaced was not taken in between.
    branch.roll_back(1)
    assert branch.left("abc") == "bc"


# Which models are visible


def test_models_are_visible_that_are_stored_and_on_which_there_is_a_role(repository: SqlRepository) -> None:
    folder = builders.new_folder_rid()
    granted, in_folder, other = add_model(repository), add_model(repository, folder=folder), add_model(repository)
    for resource in (granted.rid, folder):
        builders.grant(repository, resource, "user:jane", ROLE_VIEWER)
    named = {granted.rid, in_folder.rid, other.rid, rids.new_model_rid()}

    def visible(*principals: str) -> set[str]:
        return repository.read(lambda reader: reader.visible_models(named, caller(*principals)))

    assert visible("user:jane", "group:ml") == {granted.rid, in_folder.rid}
    assert visible("user:joe") == set()
    assert repository.read(lambda reader: reader.visible_models(named, ADMIN)) == {
        granted.rid,
        in_folder.rid,
        other.rid,
    }
    assert repository.read(lambda reader: reader.visible_models([], ADMIN)) == set()
    many = [*named, *(rids.new_model_rid() for _ in range(1_500))]
    assert repository.read(lambda reader: reader.visible_models(many, caller())) == {granted.rid, in_folder.rid}
