"""What one line of an import says: the contract's JSON of a Model or ModelVersion. Nothing is looked up here."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from modelregistry.v1.model_pb2 import Model, ModelVersion, ModelVersionSource
from server.codec.json_form import from_json, json_path, loads
from server.core import rids
from server.core.branches import DEFAULT_BRANCH
from server.core.errors import FieldViolation, InvalidArgument, RegistryError
from server.validation import validate

# The JSON of the largest version that fits into a message of 4 MiB is smaller: nothing grows more than twelvefold.
MAX_LINE_BYTES = 64 * 2**20

# How much the clocks of two systems may differ.
CLOCK_SKEW_SECONDS = 300

_SOURCE_KINDS = {field.json_name for field in ModelVersionSource.DESCRIPTOR.fields}


class VersionRow(NamedTuple):
    """A version, with what its line leaves to storage unset, and the text of a source that it cannot express."""

    version: ModelVersion
    legacy_source: str | None


def read_row(line: bytes) -> Model | VersionRow | None:
    """Return what a line says; None if it is blank.

    Raises InvalidArgument, InvalidModelApi or another error about its shape, with the paths of the JSON.
    """
    if len(line) > MAX_LINE_BYTES:
        raise invalid("", f"the line is longer than {MAX_LINE_BYTES} bytes")
    if not line.strip():
        return None
    value = loads(line)
    if not isinstance(value, dict):
        raise invalid("", "must be an object: the JSON of a model or of a model version")
    rid = value.get("rid")
    match rids.rid_type(rid) if isinstance(rid, str) else None:
        case rids.MODEL:
            model = from_json(value, Model)
            _check(model, "rid", "name", "parent_folder_rid", "created_time", "created_by")
            return model
        case rids.MODEL_VERSION:
            return _read_version(value, line)
        case _:
            raise invalid("rid", "must be the RID of a model or of a model version")


def _read_version(value: dict[str, object], line: bytes) -> VersionRow:
    legacy_source = _legacy_source(value.get("source"), line)
    if legacy_source is not None:
        del value["source"]
    version = from_json(value, ModelVersion)
    if value.get("branch") is None:
        version.branch = DEFAULT_BRANCH
    if value.get("versionNumber") == 0:
        raise invalid("versionNumber", "must be at least 1")
    if legacy_source is None and not version.HasField("source"):
        version.source.sdk.SetInParent()
    _check(version, "rid", "model_api", "created_time", "model_rid", "created_by")
    if not version.source.HasField("promoted"):
        version.root_model_version_rid = version.root_model_version_rid or version.rid
        if version.HasField("source") and version.root_model_version_rid != version.rid:
            raise invalid("rootModelVersionRid", "must be the version's own RID, since it was not promoted")
    return VersionRow(version, legacy_source)


def _legacy_source(source: object, line: bytes) -> str | None:
    """Return the source of a line as JSON text if its kind is none that the API can express."""
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(kind, str) or not kind or kind in _SOURCE_KINDS:
        return None
    try:
        # With its numbers as they are, where what the API expresses takes 1.0 for an integer.
        return json.dumps(
            json.loads(line)["source"], ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        )
    except (ValueError, RecursionError) as error:
        raise invalid("source", f"cannot be kept: {error}") from None


def _check(message: Model | ModelVersion, *required: str) -> None:
    """Return if the fields are set and every field has its shape."""
    fields = {field.name for field, _ in message.ListFields()}
    missing = [FieldViolation(json_path(message.DESCRIPTOR, n), "is required") for n in required if n not in fields]
    if missing:
        raise InvalidArgument(violations=tuple(missing))
    if message.created_time.ToSeconds() > time.time() + CLOCK_SKEW_SECONDS:
        # No later version of the branch could be older.
        raise invalid("createdTime", "must not lie in the future")
    try:
        validate(message)
    except RegistryError as error:
        error.violations = tuple(
            violation._replace(field=json_path(message.DESCRIPTOR, violation.field)) for violation in error.violations
        )
        raise


def completed(row: ModelVersion, version_number: int, root_rid: str) -> ModelVersion:
    """Return a copy that has these where the row has none of its own."""
    version = ModelVersion()
    version.CopyFrom(row)
    version.version_number = row.version_number or version_number
    version.root_model_version_rid = row.root_model_version_rid or root_rid
    return version


def invalid(path: str, sentence: str) -> InvalidArgument:
    """Return the error for one thing wrong, at its path in the JSON."""
    return InvalidArgument(violations=(FieldViolation(path, sentence),))
