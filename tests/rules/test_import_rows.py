from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from server.rules import importing
from server.rules.importing import ImportSummary, read_lines
from server.storage.contract import Repository
from tests.conftest import NewDatabase, OpenRepository
from tests.imports import (
    AFTER_GOOD,
    CHURN,
    FOLDER,
    FRAUD,
    GOOD,
    NEW,
    Row,
    everything,
    export,
    import_rows_of,
    line,
    model_row,
    numbers,
    problem_of,
    promoted,
    version_rid,
    version_row,
    without,
)
from tests.storage.inspection import row_counts


def api(*columns: Row, **others: Any) -> Row:
    return {"inputs": [{"type": "tabular", "name": "table", "columns": list(columns), **others}]}


DOUBLE = {"type": "double"}

# What is wrong with each can be seen without looking anything up.
UNREADABLE: dict[str, tuple[bytes | Row, str]] = {
    "a time in the future": (
        NEW | {"createdTime": "9999-12-31T23:59:59.999Z"},
        "InvalidArgument: createdTime: must not lie in the future",
    ),
    "broken JSON": (b'{"rid": "ri.models', "InvalidArgument: the text is not valid JSON"),
    "invalid UTF-8": (b'{"rid": "\xff"}', "InvalidArgument: the text is not valid JSON"),
    "UTF-16": ("{}".encode("utf-16"), "InvalidArgument: the text is not valid JSON"),
    "half a surrogate pair": (b'{"rid": "\\ud800"}', "InvalidArgument: the text is not valid JSON"),
    "a key that occurs twice": (b'{"rid": "a", "rid": "a"}', "the key 'rid' occurs twice"),
    "10 MB of garbage": (b"garbage " * 1_250_000, "InvalidArgument: the text is not valid JSON"),
    "10 MB of brackets": (b"[" * 10_000_000, "InvalidArgument: the text is not valid JSON"),
    "no object": (b"[1]", "InvalidArgument: must be an object"),
    "no RID": (without(NEW, "rid"), "InvalidArgument: rid: must be the RID of a model or of a model version"),
    "a RID of another type": (NEW | {"rid": FOLDER}, "InvalidArgument: rid: must be the RID of a model or"),
    "a RID with a newline": (NEW | {"rid": f"{NEW['rid']}\n"}, "InvalidArgument: rid: must be the RID of a model or"),
    "a RID that is a number": (NEW | {"rid": 5}, "InvalidArgument: rid: must be the RID of a model or"),
    "an unknown key": (NEW | {"colour": "red"}, "InvalidArgument: colour: "),
    "a model with a version's key": (model_row("ri.models.main.model.x", branch="b"), "InvalidArgument: branch: "),
    **{
        f"a model without {key}": (without(model_row("ri.models.main.model.x"), key), f"{key}: is required")
        for key in ("name", "parentFolderRid", "createdBy", "createdTime")
    },
    **{
        f"a version without {key}": (without(NEW, key), f"InvalidArgument: {key}: is required")
        for key in ("modelRid", "modelApi", "createdBy", "createdTime")
    },
    "an empty creator": (NEW | {"createdBy": ""}, "InvalidArgument: createdBy: is required"),
    "a creator who is no principal": (NEW | {"createdBy": "jane"}, "InvalidArgument: createdBy: must be 'user:"),
    "a value of the wrong type": (NEW | {"condaRequirements": [1]}, "InvalidArgument: condaRequirements[0]: must be"),
    "a control character": (NEW | {"condaRequirements": ["\0"]}, "InvalidArgument: condaRequirements[0]: must not"),
    "a display name with a slash": (model_row("ri.models.main.model.x", name="a/b"), "InvalidDisplayName: name: "),
    "an empty branch name": (NEW | {"branch": ""}, "InvalidBranchName: branch: "),
    "a time in microseconds": (NEW | {"createdTime": "2020-01-03T00:00:00.000001Z"}, "InvalidArgument: createdTime: "),
    "a column twice": (
        NEW | {"modelApi": api({"name": "a", "dataType": DOUBLE}, {"name": "a", "dataType": DOUBLE})},
        "InvalidModelApi: modelApi.inputs[0].columns[1].name: must be unique",
    ),
    "a column that a terminal would obey": (
        NEW | {"modelApi": api({"name": "a\x1b[2J", "dataType": DOUBLE})},
        "InvalidModelApi: modelApi.inputs[0].columns[0].name: must not contain control characters other than tab",
    ),
    "a column without a type": (
        NEW | {"modelApi": api({"name": "a"})},
        "InvalidModelApi: modelApi.inputs[0].columns[0].dataType: is required",
    ),
    "an array of nothing": (
        NEW | {"modelApi": api({"name": "a", "dataType": {"type": "map", "keyType": {"type": "array"}}})},
        "InvalidArgument: modelApi.inputs[0].columns[0].dataType.keyType.itemType: is required",
    ),
    "an unknown data type": (
        NEW | {"modelApi": api({"name": "a", "dataType": {"type": "decimal"}})},
        "InvalidArgument: modelApi.inputs[0].columns[0].dataType.type: ",
    ),
    "many things wrong": (NEW | {"condaRequirements": [1] * 12}, "; and 7 more"),
    "a source without a type": (NEW | {"source": {}}, "InvalidArgument: source.type: is required"),
    "a source with an empty type": (NEW | {"source": {"type": ""}}, "InvalidArgument: source.type: "),
    "a source that is no object": (NEW | {"source": "sdk"}, "InvalidArgument: source: must be an object"),
    "a source with an unknown key": (NEW | {"source": {"type": "sdk", "x": 1}}, "InvalidArgument: source.x: "),
    "a source that lacks a key": (
        NEW | {"source": {"type": "codeRepository", "branch": "b"}},
        "InvalidArgument: source.repositoryRid: is required",
    ),
    "a legacy source with an infinite number": (
        json.dumps(NEW | {"source": {"type": "foundryMl", "x": "∞"}}).replace(json.dumps("∞"), "1e999").encode(),
        "InvalidArgument: source: cannot be kept",
    ),
    "a version that is yanked": (NEW | {"yanked": True}, "InvalidArgument: yanked: must be false or absent"),
    "the number 0": (NEW | {"versionNumber": 0}, "InvalidArgument: versionNumber: must be at least 1"),
    "a negative number": (NEW | {"versionNumber": -1}, "InvalidArgument: versionNumber: "),
    "a number that is true": (NEW | {"versionNumber": True}, "InvalidArgument: versionNumber: must be a whole number"),
    "a foreign root without a promotion": (
        NEW | {"rootModelVersionRid": version_rid(1)},
        "InvalidArgument: rootModelVersionRid: must be the version's own RID",
    ),
}

REFUSED: dict[str, tuple[bytes | Row, str]] = {
    "a number that is not the next": (NEW | {"versionNumber": 2}, "InvalidArgument: versionNumber: must be 3"),
    "a number with a gap": (NEW | {"versionNumber": 4}, "InvalidArgument: versionNumber: must be 3"),
    "another branch's number": (NEW | {"branch": "b", "versionNumber": 3}, "versionNumber: must be 1"),
    "a time before the head's": (
        NEW | {"createdTime": "2020-01-02T00:00:29.999Z"},
        "InvalidArgument: createdTime: must not be before 2020-01-02T00:00:30.000Z",
    ),
    "an unknown model": (
        NEW | {"modelRid": "ri.models.main.model.x"},
        "ModelNotFound: The given Model could not be found. (modelRid: ri.models.main.model.x)$",
    ),
    "a name that is taken": (model_row("ri.models.main.model.x", name=CHURN), f"displayName: {CHURN})$"),
    "a model with other content": (
        model_row(name="other", createdTime="2020-01-01T00:00:00.001Z"),
        f"InvalidArgument: rid: {CHURN} is stored already, or on a line above, with another createdTime, name$",
    ),
    **{
        f"a version with another {key}, {value}": (
            GOOD[2] | {key: value},
            f"is stored already, or on a line above, with another {key}$",
        )
        for key, value in [
            ("createdBy", "user:joe"),
            ("createdTime", "2020-01-02T00:00:00.001Z"),
            ("modelRid", FRAUD),
            ("branch", "next"),
            ("versionNumber", 2),
            ("modelApi", {}),
            ("condaRequirements", ["x"]),
            ("backingRepositories", [FOLDER]),
            ("linkedExperiment", FOLDER),
            ("source", {"type": "external"}),
            ("source", promoted(version_rid(1))),
            ("source", {"type": "foundryMl"}),
        ]
    },
}


# So many lines are stored in one transaction; what is below stands behind the first.
BATCH = 3
# They have nothing to do with what is refused.
OTHERS = [version_row(f"other{key}", key, modelRid=FRAUD) for key in range(2 * BATCH)]


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_LINES", BATCH)


Place = Literal["first", "middle", "last"]
PLACES = pytest.mark.parametrize("place", get_args(Place))


def around(place: Place) -> tuple[list[Row], list[Row], list[Row]]:
    """What is stored before a file is imported, and the lines of the file before and behind its bad one."""
    match place:
        case "first":
            return [*GOOD, *OTHERS], [], [NEW]
        case "middle":
            return [], [*GOOD, *OTHERS], [NEW, version_row(4, 90)]
        case "last":
            return [], [*GOOD, *OTHERS], []


@PLACES
@pytest.mark.parametrize("backend", ["sqlite"])
def test_an_unreadable_line_is_named_and_nothing_is_stored(
    repository: Repository, migrated_url: str, place: Place
) -> None:
    _leave_nothing(repository, migrated_url, UNREADABLE, place)


@PLACES
def test_a_refused_line_is_named_and_nothing_is_stored(repository: Repository, migrated_url: str, place: Place) -> None:
    _leave_nothing(repository, migrated_url, REFUSED, place)


def _leave_nothing(
    repository: Repository, url: str, bad_lines: dict[str, tuple[bytes | Row, str]], place: Place
) -> None:
    stored, above, below = around(place)
    import_rows_of(repository, *stored)
    before = everything(url)
    for what, (bad, problem) in bad_lines.items():
        bad_line = bad if isinstance(bad, bytes) else line(bad)
        if place == "last" and isinstance(bad, dict):
            bad_line = bad_line.rstrip(b"\n")
        error = problem_of(repository, [*map(line, above), bad_line, *map(line, below)])

        assert (error.line_number, error.stored) == (len(above) + 1, ImportSummary()), what
        assert problem in f"{error}$", what
        assert len(str(error)) < 1000, what
        assert "\n" not in str(error), what
        assert everything(url) == before, what


MENDED: dict[str, tuple[bytes | Row, Row]] = {
    "broken JSON": (b"{", NEW),
    "an unknown key": (NEW | {"colour": "red"}, NEW),
    "a number that is not the next": (NEW | {"versionNumber": 4}, NEW | {"versionNumber": 3}),
    "a time before the head's": (NEW | {"createdTime": "2020-01-02T00:00:01.000Z"}, NEW),
    "an unknown model": (NEW | {"modelRid": "ri.models.main.model.x"}, NEW),
    "a name that is taken": (
        model_row("ri.models.main.model.x", name=CHURN),
        model_row("ri.models.main.model.x", name="x"),
    ),
}


@PLACES
@pytest.mark.parametrize(("bad", "mended"), MENDED.values(), ids=MENDED)
def test_a_mended_file_gives_what_it_gives_without_a_refusal_before(
    repository: Repository,
    backend: str,
    new_database: NewDatabase,
    open_repository: OpenRepository,
    bad: bytes | Row,
    mended: Row,
    place: Place,
) -> None:
    stored, above, below = around(place)
    below = [row for row in below if row["rid"] != mended["rid"]]
    other = open_repository(new_database(backend, migrated=True))
    for each in (repository, other):
        import_rows_of(each, *stored)
    problem_of(repository, [*map(line, above), bad if isinstance(bad, bytes) else line(bad), *map(line, below)])

    for each in (repository, other):
        import_rows_of(each, *above, mended, *below)
    assert export(repository) == export(other)


def test_a_file_that_is_newest_first_is_refused_and_sorted_then_imported(
    repository: Repository, migrated_url: str
) -> None:
    """Without version numbers its first line alone looks good, and would be number 1 for ever."""
    rows = [version_row(key, key) for key in range(2 * BATCH)]
    before = everything(migrated_url)
    error = problem_of(repository, [line(model_row()), *map(line, reversed(rows))])
    assert (error.line_number, error.stored) == (3, ImportSummary())
    assert "createdTime: must not be before 2020-01-02T00:00:05.000Z" in str(error)
    assert everything(migrated_url) == before

    import_rows_of(repository, model_row(), *rows)
    assert list(numbers(repository)) == [str(key) for key in range(2 * BATCH)]


def test_a_promotion_of_a_refused_file_leaves_nothing(repository: Repository, migrated_url: str) -> None:
    rows = [*GOOD, version_row("copy", 60, source=promoted(version_rid(1), CHURN)), *OTHERS]
    before = everything(migrated_url)
    problem_of(repository, [*map(line, rows), b"{"])
    assert everything(migrated_url) == before

    import_rows_of(repository, *rows)
    assert row_counts(migrated_url)["promotions"] == 1


def test_a_line_that_occurs_twice_in_a_file_is_stored_once(repository: Repository) -> None:
    copy = version_row("copy", 60, source=promoted(version_rid(1), CHURN))
    legacy = version_row("legacy", 90, source={"type": "foundryMl"})
    rows = [*GOOD, copy, legacy]
    assert import_rows_of(repository, *rows, *rows) == AFTER_GOOD + ImportSummary(
        versions=2, legacy=1, unchanged=len(rows)
    )


def test_names_are_taken_by_all_models_of_a_folder_however_many(
    repository: Repository, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PAGE", 2)
    stored = [model_row(f"ri.models.main.model.{number}") for number in range(5)]
    import_rows_of(repository, *stored)
    before = everything(migrated_url)
    for row in stored:
        error = problem_of(repository, [line(row | {"rid": "ri.models.main.model.x"})])
        assert error.problem.name == "ResourceNameAlreadyExists"
    assert everything(migrated_url) == before
    import_rows_of(repository, model_row("ri.models.main.model.x", parentFolderRid="ri.compass.main.folder.other"))


def test_a_version_too_large_for_a_message_is_named(migrated_url: str, open_repository: OpenRepository) -> None:
    small = open_repository(migrated_url, max_message_bytes=64 * 2**10)
    large = version_row(3, 60, condaRequirements=["x" * 64 * 2**10])
    error = problem_of(small, map(line, [*GOOD, large, NEW]))

    assert (error.line_number, error.stored, error.problem.name) == (5, ImportSummary(), "RequestTooLarge")
    assert row_counts(migrated_url)["contents"] == 0


def test_a_line_without_end_is_named_and_not_read_to_its_end(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MAX_LINE_BYTES", 10_000)
    path = tmp_path / "endless.jsonl"
    path.write_bytes(line(model_row()) + b" " * 100_000 + line(version_row()))
    with path.open("rb", buffering=0) as file:
        error = problem_of(repository, read_lines(file))
        assert file.tell() < 20_000

    assert error.line_number == 2
    assert str(error) == "InvalidArgument: the line is longer than 10000 bytes"


@pytest.mark.parametrize("position", [1, 3, 4, 7])
@pytest.mark.parametrize("bad", [b"{", line(version_row("bad", modelRid=FRAUD))], ids=["unreadable", "refused"])
def test_a_bad_line_is_named_wherever_it_stands_in_a_batch(repository: Repository, bad: bytes, position: int) -> None:
    import_rows_of(repository, model_row())
    lines = [line(version_row(key)) for key in range(1, 8)]
    lines.insert(position - 1, bad)
    error = problem_of(repository, lines)

    assert (error.line_number, error.stored) == (position, ImportSummary())
    assert numbers(repository) == {}


def test_of_two_bad_lines_the_first_is_named(repository: Repository) -> None:
    unknown_model = line(version_row(modelRid=FRAUD))
    assert problem_of(repository, [line(model_row()), unknown_model, b"{"]).line_number == 2


def test_the_numbers_of_a_legacy_source_stay_as_they_are() -> None:
    source = {"type": "foundryMl", "a": 1.0, "b": 1e30, "c": 1}
    row = importing.read_row(json.dumps(NEW | {"source": source}).encode())
    assert isinstance(row, importing.VersionRow)
    assert row.legacy_source == '{"a":1.0,"b":1e+30,"c":1,"type":"foundryMl"}'
