from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    GetModelVersionRequest,
    PromoteVersionRequest,
)
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION
from server.codec.json_form import to_json
from server.core.errors import StorageUnavailable, UnsupportedModelSource
from server.rules import importing
from server.rules.importing import ImportSummary, import_lines, read_lines
from server.rules.models import create_model, create_model_version, get_model_version
from server.rules.promotion import promote_version
from server.rules.verdicts import write_with_verdicts
from server.storage.contract import PromotionFilter, Repository
from tests.builders import ADMIN, all_versions, append, find, model_api, timestamp, version
from tests.conftest import NewDatabase, OpenRepository
from tests.imports import (
    AFTER_GOOD,
    CHURN,
    EVERYTHING,
    EXAMPLE,
    FOLDER,
    FRAUD,
    GOOD,
    NEW,
    everything,
    export,
    import_rows_of,
    line,
    model_row,
    numbers,
    problem_of,
    promoted,
    stored,
    version_rid,
    version_row,
)

# Good files


def test_the_example_file_is_imported_whole(repository: Repository) -> None:
    with EXAMPLE.open("rb") as file:
        assert import_lines(repository, read_lines(file)) == ImportSummary(models=4, versions=10, legacy=1)

    versions = [row for row in export(repository) if "modelApi" in row]
    assert max(len(given.get("columns", [])) for row in versions for given in row["modelApi"]["inputs"]) == 200


def test_what_a_line_says_is_what_is_stored(repository: Repository) -> None:
    row = version_row(
        branch="release",
        createdTime="2019-12-31T23:59:59.999Z",
        createdBy="group:ml",
        condaRequirements=["numpy==1.26.4"],
        backingRepositories=["ri.stemma.main.repository.churn"],
        source={"type": "external"},
        linkedExperiment="ri.models.main.experiment.churn",
        versionNumber=1,
        rootModelVersionRid=version_rid(1),
    )
    assert import_rows_of(repository, model_row(), row) == ImportSummary(models=1, versions=1)
    assert to_json(find(repository, row["rid"])) == row
    model = repository.read(lambda reader: reader.get_model(CHURN, ADMIN)).model
    assert to_json(model) == model_row()


def test_what_a_line_leaves_out_gets_its_default(repository: Repository) -> None:
    import_rows_of(repository, model_row(), version_row(source=None, branch=None))

    version = find(repository, version_rid(1))
    assert version.branch == "master"
    assert version.version_number == 1
    assert version.source.WhichOneof("type") == "sdk"
    assert version.root_model_version_rid == version.rid


def test_names_of_columns_are_kept_as_they_come_from_spreadsheets(repository: Repository) -> None:
    names = ["Amount\n(EUR)", "\tamount\r\n", "\xa0amount ", "\u202eamount", "a\u200bb"]
    columns = [{"name": name, "required": True, "dataType": {"type": "double"}} for name in names]
    row = version_row(modelApi={"inputs": [{"type": "tabular", "name": "a\tb", "columns": columns}], "outputs": []})
    import_rows_of(repository, model_row(), row)
    table = find(repository, row["rid"]).model_api.inputs[0].tabular
    assert (table.name, [column.name for column in table.columns]) == ("a\tb", names)
    assert import_rows_of(repository, row) == ImportSummary(unchanged=1)


def test_the_creator_of_a_model_becomes_its_owner(repository: Repository) -> None:
    import_rows_of(repository, model_row(createdBy="group:ml"))

    grants = repository.read(lambda reader: reader.list_grants(CHURN, EVERYTHING)).items
    assert [(grant.principal, grant.role) for grant in grants] == [("group:ml", ROLE_OWNER)]


def test_numbers_follow_the_order_of_the_file_on_each_branch(repository: Repository) -> None:
    import_rows_of(
        repository,
        model_row(),
        version_row("c", 1),
        version_row("x", 9, branch="next"),
        version_row("b", 2, versionNumber=2),
        version_row("a", 2),
        version_row("y", 9, branch="next", versionNumber=2),
    )
    assert numbers(repository) == {"c": 1, "b": 2, "a": 3}
    assert numbers(repository, "next") == {"x": 1, "y": 2}


def test_blank_lines_and_a_byte_order_mark_are_passed_over_but_counted(repository: Repository) -> None:
    lines = [b"\xef\xbb\xbf" + line(model_row()), b"\n", b" \t\r\n", line(version_row()).replace(b"\n", b"\r\n"), b"{"]
    error = problem_of(repository, lines)
    assert error.line_number == 5
    assert import_lines(repository, lines[:-1]) == ImportSummary(models=1, versions=1)


def test_progress_tells_of_every_line_that_is_checked_and_every_part_that_is_stored(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_LINES", 2)
    lines = [line(model_row()), b"\n", *(line(version_row(key)) for key in range(4))]
    told: list[tuple[str, int, int | None]] = []
    counts: list[int] = []

    def progress(*how_far: Any) -> None:
        told.append(how_far)
        counts.append(len(export(repository)))

    import_lines(repository, lines, progress)
    sizes = [sum(map(len, lines[:end])) for end in range(1, len(lines) + 1)]
    assert told[: len(lines)] == [("checking", size, None) for size in sizes]
    stored = told[len(lines) :]
    assert {(step, total) for step, _, total in stored} == {("importing", stored[-1][1])}
    assert counts == [0] * len(lines) + [2, 4, 5]


def test_an_export_is_imported_into_an_empty_database_as_it_was(
    repository: Repository, backend: str, new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    legacy = b"foundryMl"  # a source that messages do not have, and so no export
    import_lines(repository, [each for each in EXAMPLE.read_bytes().splitlines() if legacy not in each])
    first = export(repository)[0]["rid"]
    source = next(row["rid"] for row in export(repository) if "modelApi" in row)
    creation = CreateModelRequest(name="цель", parent_folder_rid=FOLDER)
    target = repository.write(lambda tx: create_model(tx, ADMIN, creation))
    registration = CreateModelVersionRequest(model_rid=first, branch="next", model_api=model_api("Größe"))
    created = repository.write(lambda tx: create_model_version(tx, ADMIN, registration))
    for rid in (source, created.rid):
        request = PromoteVersionRequest(model_rid=target.rid, source_model_version_rid=rid, preview=True)
        write_with_verdicts(repository, lambda tx, request=request: promote_version(tx, ADMIN, request))

    other = open_repository(new_database(backend, migrated=True))
    exported = export(repository)
    import_rows_of(other, *exported)
    assert export(other) == exported


# Promoted versions


def test_a_promoted_version_has_the_root_of_the_version_before_it(repository: Repository) -> None:
    import_rows_of(
        repository,
        model_row(),
        version_row("origin"),
        version_row("copy", source=promoted(version_rid("origin"), CHURN)),
        version_row("copy-of-the-copy", source=promoted(version_rid("copy"), CHURN)),
    )
    assert find(repository, version_rid("copy-of-the-copy")).root_model_version_rid == version_rid("origin")


def test_a_promoted_version_of_unknown_ancestors_has_the_version_before_it_as_its_root(repository: Repository) -> None:
    import_rows_of(repository, model_row(), version_row(source=promoted(version_rid("elsewhere"))))
    assert find(repository, version_rid(1)).root_model_version_rid == version_rid("elsewhere")


def test_a_promoted_version_keeps_its_root_when_its_ancestors_arrive_later(repository: Repository) -> None:
    early = version_row("early", 9, source=promoted(version_rid("late")))
    late = version_row("late", modelRid=FRAUD, source=promoted(version_rid("older")))
    import_rows_of(repository, model_row(), early, model_row(FRAUD), late)

    assert import_rows_of(repository, early) == ImportSummary(unchanged=1)
    assert find(repository, early["rid"]).root_model_version_rid == late["rid"]


def test_a_promoted_version_has_a_record_of_its_promotion_and_a_lineage(repository: Repository) -> None:
    """Whenever its ancestors arrive, and once, however often the file is imported."""
    lines = [
        model_row(),
        model_row(FRAUD),
        version_row("copy", source=promoted(version_rid("origin"))),
        version_row("origin", modelRid=FRAUD),
    ]
    for _ in range(2):
        import_rows_of(repository, *lines)

    [promotion] = repository.read(lambda reader: reader.list_promotions(ADMIN, PromotionFilter(), EVERYTHING)).items
    lineage = repository.read(lambda reader: reader.get_lineage(version_rid("origin"), ADMIN, EVERYTHING))

    copy = find(repository, version_rid("copy"))
    assert (promotion.kind, promotion.model_version_rid) == (PROMOTION_KIND_PROMOTION, copy.rid)
    assert (promotion.created_by, promotion.created_time) == ("user:jane", copy.created_time)
    assert (promotion.source_model_rid, promotion.source_model_version_rid) == (FRAUD, version_rid("origin"))
    first, second = lineage.page.items
    assert [first.model_version_rid, second.model_version_rid] == [version_rid("origin"), version_rid("copy")]
    assert second.previous_node_id == first.node_id
    assert not first.HasField("previous_node_id")


def test_a_promoted_version_may_name_its_root(repository: Repository) -> None:
    row = version_row(source=promoted(version_rid("elsewhere")), rootModelVersionRid=version_rid("root"))
    import_rows_of(repository, model_row(), row)
    assert find(repository, row["rid"]).root_model_version_rid == version_rid("root")


# Sources that the API cannot express


@pytest.fixture
def legacy(repository: Repository) -> ModelVersion:
    source = {"type": "foundryMl", "stage": "Größe\0", "nested": {"b": [1, None], "a": 0.5}}
    import_rows_of(repository, model_row(), version_row("legacy", source=source), version_row("sdk"))
    return find(repository, version_rid("legacy"))


def test_a_legacy_source_is_kept_as_canonical_json(repository: Repository, legacy: ModelVersion) -> None:
    expected = '{"nested":{"a":0.5,"b":[1,null]},"stage":"Größe\\u0000","type":"foundryMl"}'
    assert stored(repository, legacy.rid).legacy_source == expected


def test_a_version_with_a_legacy_source_is_not_answered(repository: Repository, legacy: ModelVersion) -> None:
    request = GetModelVersionRequest(model_rid=CHURN, model_version_rid=legacy.rid)
    with pytest.raises(UnsupportedModelSource):
        repository.read(lambda reader: get_model_version(reader, ADMIN, request))


def test_a_version_with_a_legacy_source_is_not_promoted(repository: Repository, legacy: ModelVersion) -> None:
    request = PromoteVersionRequest(model_rid=CHURN, source_model_version_rid=legacy.rid, preview=True)
    with pytest.raises(UnsupportedModelSource):
        repository.write(lambda tx: promote_version(tx, ADMIN, request))


def test_a_version_with_a_legacy_source_is_listed_without_one(repository: Repository, legacy: ModelVersion) -> None:
    newest, oldest = repository.read(lambda reader: all_versions(reader, CHURN))
    assert oldest == legacy
    assert not oldest.HasField("source")
    assert newest.source.WhichOneof("type") == "sdk"


def test_a_legacy_source_is_compared_too(repository: Repository, legacy: ModelVersion) -> None:
    other = version_row("legacy", source={"type": "foundryMl", "stage": "another"})
    error = problem_of(repository, [line(other)])
    assert (
        str(error) == f"InvalidArgument: rid: {legacy.rid} is stored already, or on a line above, with another source"
    )


# Files that are imported again


def test_importing_again_changes_nothing(repository: Repository, migrated_url: str) -> None:
    lines = EXAMPLE.read_bytes().splitlines()
    import_lines(repository, lines)
    before = everything(migrated_url)

    assert import_lines(repository, lines) == ImportSummary(unchanged=14)
    assert everything(migrated_url) == before


def test_a_line_that_says_the_same_in_other_words_is_the_same(repository: Repository) -> None:
    row = version_row(source={"type": "foundryMl", "a": 1, "b": 2})
    import_rows_of(repository, model_row(), row)
    same = {
        **dict(reversed(row.items())),
        "createdTime": "2020-01-02T01:00:00+01:00",
        "condaRequirements": [],
        "linkedExperiment": None,
        "branch": "master",
        "versionNumber": 1,
        "source": {"b": 2, "type": "foundryMl", "a": 1},
    }
    assert import_rows_of(repository, same) == ImportSummary(unchanged=1)


# Storage that does not do as it is told


class Wrapped:
    """Something that answers like another, but for what is given."""

    def __init__(self, inner: Any, **instead: Any) -> None:
        self._inner = inner
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_batch_that_is_run_again_is_counted_and_stored_once(repository: Repository) -> None:
    def twice(change: Callable[[Any], Any]) -> Any:
        def in_vain(tx: Any) -> None:
            change(tx)
            raise InterruptedError

        with pytest.raises(InterruptedError):
            repository.write(in_vain)
        return repository.write(change)

    assert import_rows_of(Wrapped(repository, write=twice), *GOOD) == AFTER_GOOD
    assert numbers(repository) == {"1": 1, "2": 2}


def test_a_failure_of_the_storage_is_no_bad_line(repository: Repository) -> None:
    def fail(*_: object) -> None:
        raise StorageUnavailable

    def write(change: Callable[[Any], Any]) -> Any:
        return repository.write(lambda tx: change(Wrapped(tx, append_version=fail)))

    with pytest.raises(StorageUnavailable):
        import_rows_of(Wrapped(repository, write=write), *GOOD)
    assert export(repository) == []


def _while_another_appends(repository: Repository, other: Repository) -> Any:
    """A repository on which somebody else adds a version to CHURN as soon as an import has looked at its branch."""
    new = version(CHURN)
    new.created_time.CopyFrom(timestamp(1_600_000_000_000))
    arriving = [new]

    def write(change: Callable[[Any], Any]) -> Any:
        def watched(tx: Any) -> Any:
            def get_branch(*arguments: Any) -> Any:
                try:
                    return tx.get_branch(*arguments)
                finally:
                    if arriving:
                        append(other, arriving.pop())

            return change(Wrapped(tx, get_branch=get_branch))

        return repository.write(watched)

    return Wrapped(repository, write=write)


@pytest.fixture
def contended(new_database: NewDatabase, open_repository: OpenRepository) -> tuple[Repository, Any]:
    """A repository with two versions in CHURN, and the same one with a rival; SQLite has no room for rivals."""
    url = new_database("postgresql", migrated=True)
    repository = open_repository(url)
    import_rows_of(repository, *GOOD)
    return repository, _while_another_appends(repository, open_repository(url))


def test_a_version_follows_one_that_arrives_meanwhile(contended: tuple[Repository, Any]) -> None:
    repository, busy = contended
    row = version_row(3, createdTime="2021-01-01T00:00:00.000Z")
    assert import_rows_of(busy, row) == ImportSummary(versions=1)
    assert numbers(repository)["3"] == 4


def test_a_version_older_than_one_that_arrives_meanwhile_is_refused(contended: tuple[Repository, Any]) -> None:
    repository, busy = contended
    error = problem_of(busy, [line(NEW)])
    assert str(error).startswith("InvalidArgument: createdTime: must not be before 2020-09-13T12:26:40.000Z")
    assert len(numbers(repository)) == 3
