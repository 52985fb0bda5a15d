"""Between rows and messages: what a version's row holds, and what its content is."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Row

from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from server.core.errors import StorageUnavailable
from server.core.integrity import content_digest
from server.storage.contract import StoredVersion
from server.storage.sql.tables import versions
from server.storage.unavailable import DatabaseUnsuitable

# What `to_own_fields` reads of a row, beside `model_rid` and `branch`.
VERSION_COLUMNS = (
    versions.c.rid,
    versions.c.version_number,
    versions.c.content_digest,
    versions.c.source,
    versions.c.legacy_source,
    versions.c.root_rid,
    versions.c.created_time,
    versions.c.created_by,
)


# What versions share; the rest is each version's own.
CONTENT_FIELDS = frozenset({"model_api", "conda_requirements", "backing_repositories", "linked_experiment"})

AnyColumns: TypeAlias = tuple[Any, ...]
AnyRow = Row[*AnyColumns]


class Content(NamedTuple):
    """The content of a version, serialized, and the digest that addresses it."""

    digest: bytes
    payload: bytes


def content_of(version: ModelVersion, file_digest: bytes | None = None) -> Content:
    """Return what the version shares with others, without fields that this server does not know.

    The digest is also that of the model files, of which there is only the digest here.
    """
    content: Message = ModelVersion()
    content.CopyFrom(version)
    for field, _ in version.ListFields():
        if field.name not in CONTENT_FIELDS:
            content.ClearField(field.name)
    content.DiscardUnknownFields()
    payload = content.SerializeToString(deterministic=True)
    return Content(content_digest(payload, file_digest), payload)


def to_model(row: AnyRow) -> Model:
    """Return the model of a row of `models`."""
    return Model(
        rid=row.rid,
        name=row.name,
        parent_folder_rid=row.parent_folder_rid,
        created_time=timestamp(row.created_time),
        created_by=row.created_by,
    )


def verified_payload(row: AnyRow) -> bytes:
    """Return the content of a row with `content_digest`, `payload` and `file_digest`, serialized.

    Raises StorageUnavailable if it is not the one that was stored: then it is of no use to any caller.
    """
    payload: bytes = row.payload
    if content_digest(payload, row.file_digest) != row.content_digest:
        raise StorageUnavailable(retry_after=None) from DatabaseUnsuitable(
            f"the content {row.content_digest.hex()} was altered: it does not fit its digest. Restore it from a backup;"
            " `modelregistry fsck` says what else is wrong"
        )
    return payload


def to_own_fields(row: AnyRow) -> ModelVersion:
    """Return the version of a row with VERSION_COLUMNS and its names, without its content."""
    version = ModelVersion(
        rid=row.rid,
        model_rid=row.model_rid,
        branch=row.branch,
        version_number=row.version_number,
        root_model_version_rid=row.root_rid,
        created_by=row.created_by,
    )
    if row.source is not None:
        version.source.ParseFromString(row.source)
    version.created_time.FromMilliseconds(row.created_time)
    return version


def to_stored_version(row: AnyRow) -> StoredVersion:
    """Return the version of a row with VERSION_COLUMNS and its names and content, for any caller.

    Raises StorageUnavailable as verified_payload does.
    """
    version = to_own_fields(row)
    version.MergeFromString(verified_payload(row))
    return StoredVersion(version, row.content_digest, row.legacy_source)


def for_caller(stored: StoredVersion, row: AnyRow, yanked: Container[int]) -> StoredVersion:
    """Return a version for the caller of a row with the columns of `origins.hidden_origins` and `recalls.suspect`.

    `yanked` are the keys of those that are yanked.
    """
    return stored._replace(
        hides_source=bool(row.hides_source), hides_root=bool(row.hides_root), is_yanked=row.suspect in yanked
    )


def to_branch(row: AnyRow, head: ModelVersion) -> Branch:
    """Return the branch of a row, with its head."""
    return Branch(name=row.branch, head=head, version_count=row.version_number)


def timestamp(milliseconds: int) -> Timestamp:
    """Return milliseconds since the epoch as a message."""
    result = Timestamp()
    result.FromMilliseconds(milliseconds)
    return result
