"""Lines to import, and what an import has stored."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from server.codec.json_form import to_json
from server.core.branches import DEFAULT_BRANCH
from server.rules.importing import ImportLineError, ImportSummary, import_lines
from server.storage.contract import Repository, StoredVersion
from server.storage.paging import PageRequest
from server.storage.sql.tables import metadata
from tests.builders import ADMIN, all_versions, model_api
from tests.storage.inspection import rows

EXAMPLE = Path(__file__).parent.parent / "examples" / "models.jsonl"
FOLDER = "ri.compass.main.folder.imported"
CHURN = "ri.models.main.model.churn"
FRAUD = "ri.models.main.model.fraud"
EVERYTHING = PageRequest(1000)

Row = dict[str, Any]


def model_row(rid: str = CHURN, **others: Any) -> Row:
    row = {
        "rid": rid,
        "name": rid,
        "parentFolderRid": FOLDER,
        "createdBy": "user:jane",
        "createdTime": "2020-01-01T00:00:00.000Z",
    }
    return row | others


def version_row(key: object = 1, second: int = 0, **others: Any) -> Row:
    row = {
        "rid": version_rid(key),
        "modelRid": CHURN,
        "modelApi": to_json(model_api()),
        "createdBy": "user:jane",
        "createdTime": f"2020-01-02T00:{second // 60:02}:{second % 60:02}.000Z",
    }
    return row | others


def version_rid(key: object) -> str:
    return f"ri.models.main.model-version.{key}"


def promoted(previous: str, previous_model: str = FRAUD) -> Row:
    return {"type": "promoted", "previousModelRid": previous_model, "previousModelVersionRid": previous}


def without(row: Row, *keys: str) -> Row:
    return {key: value for key, value in row.items() if key not in keys}


def line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def import_rows_of(repository: Repository, *given: Row) -> ImportSummary:
    return import_lines(repository, [line(row) for row in given])


def problem_of(repository: Repository, lines: Iterable[bytes]) -> ImportLineError:
    with pytest.raises(ImportLineError) as caught:
        import_lines(repository, lines)
    return caught.value


def stored(repository: Repository, rid: str) -> StoredVersion:
    found = repository.read(lambda reader: reader.find_version(rid, ADMIN))
    assert found is not None
    return found


def numbers(repository: Repository, branch: str = DEFAULT_BRANCH) -> dict[str, int]:
    found = repository.read(lambda reader: all_versions(reader, CHURN, branch))
    return {each.rid.rsplit(".", 1)[1]: each.version_number for each in reversed(found)}


def everything(url: str) -> dict[str, list[Any]]:
    return {table.name: [tuple(row) for row in rows(url, table)] for table in metadata.sorted_tables}


def export(repository: Repository) -> list[Row]:
    """What an export of all models would hold: the models, then the versions of each branch, oldest first."""
    models = repository.read(lambda reader: reader.list_models(ADMIN, None, EVERYTHING)).items
    result = [to_json(model) for model in models]
    for model in models:
        branches = repository.read(lambda reader, rid=model.rid: reader.list_branches(rid, ADMIN, EVERYTHING)).items
        for branch in branches:
            found = repository.read(lambda reader, rid=model.rid, name=branch.name: all_versions(reader, rid, name))
            result += [to_json(each) for each in reversed(found)]
    return result


# Two models, and two versions on one branch; and a version to follow them.
GOOD = [model_row(), model_row(FRAUD), version_row(1), version_row(2, 30)]
AFTER_GOOD = ImportSummary(models=2, versions=2)
NEW = version_row(3, 60)
