"""`Inventory` of the contract, over one session in one transaction that sees one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from sqlalchemy import ColumnElement, Select, bindparam, exists, func, not_, or_, select, tuple_

from modelregistry.v1.event_pb2 import Event
from server.core.errors import StorageUnavailable
from server.storage.contract import (
    KeptBranch,
    KeptContent,
    KeptGrant,
    KeptPromotion,
    KeptRequest,
    KeptUpload,
    KeptVersion,
    LoggedEvent,
    StoredFile,
    ToldPromotion,
)
from server.storage.sql.database import Database
from server.storage.sql.migrate import SchemaOutdated, is_older
from server.storage.sql.rows import AnyRow
from server.storage.sql.session import Failure, Session
from server.storage.sql.statements import Statement, forms, numbered, padded, several
from server.storage.sql.tables import (
    branches,
    contents,
    events,
    files,
    grant_changes,
    grants,
    identity,
    models,
    promotion_requests,
    promotions,
    uploads,
    versions,
)

# Has a row if there is any schema.
_HAS_SCHEMA = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'",
    "postgresql": "SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL",
}

PAGE = 500
# Each may be as large as a message.
PAGE_OF_CONTENTS = 16

_source = versions.alias("source_version")
_target = models.alias("target")
_later = grant_changes.alias("later")


@contextlib.contextmanager
def open_inventory(database: Database) -> Iterator[SqlInventory]:
    """Open what a database holds at this moment.

    Raises SchemaOutdated if its schema is older than this server, DatabaseUnsuitable, and StorageUnavailable for what
    goes wrong inside of the block, too.
    """
    try:
        with contextlib.closing(database.open(None)) as session:
            session.begin_snapshot()
            if is_older(_revision(session)):
                raise SchemaOutdated
            yield SqlInventory(database, session)
    except database.errors as error:
        if database.failure_of(error) is Failure.AWAY:
            raise StorageUnavailable from error
        raise StorageUnavailable(retry_after=None) from error


def _revision(session: Session) -> str | None:
    if not session.run(_HAS_SCHEMA[session.dialect.name]):
        return None
    found = session.run("SELECT version_num FROM alembic_version")
    return None if not found else str(found[0][0])


class SqlInventory:
    """`server.storage.contract.Inventory` over one session."""

    def __init__(self, database: Database, session: Session):
        self._database = database
        self._session = session

    def contents(self) -> Iterator[KeptContent]:
        """See the contract."""
        for row in self._streamed(_contents, ("digest",), (b"",), PAGE_OF_CONTENTS):
            yield KeptContent(*row)

    def branches(self) -> Iterator[KeptBranch]:
        """See the contract."""
        for row in self._streamed(_branches, ("id",), (0,)):
            yield KeptBranch(*row)

    def versions(self) -> Iterator[KeptVersion]:
        """See the contract."""
        for row in self._streamed(_versions, ("branch_id", "version_number"), (0, -(2**31))):
            yield _to_version(row)

    def requests(self) -> Iterator[KeptRequest]:
        """See the contract."""
        for row in self._streamed(_requests, ("id",), (0,)):
            yield KeptRequest(row.rid, row.promotion_rid, row.cited == row.rid)

    def grants(self) -> Iterator[KeptGrant]:
        """See the contract."""
        for row in self._streamed(_changed_grants, ("id",), (0,)):
            yield KeptGrant(row.resource_rid, row.principal, row.role, row.recorded_role)
        for row in self._streamed(_unrecorded_grants, ("resource_rid", "principal"), ("", "")):
            yield KeptGrant(row.resource_rid, row.principal, row.role, None)

    def uploads(self) -> Iterator[KeptUpload]:
        """See the contract."""
        for row in self._streamed(_uploads, ("id_digest",), (b"",)):
            yield KeptUpload(row.id_digest.hex(), row.has_model, row.has_file)

    def events(self) -> Iterator[LoggedEvent]:
        """See the contract."""
        for rows in self._pages(_events, ("id",), (0,), PAGE):
            told = [_event_of(row.payload) for row in rows]
            promoted = self._promotion_keys({each.model_version_rid for each in told if each is not None})
            for row, each in zip(rows, told, strict=True):
                promotion_key = None if each is None else promoted.get(each.model_version_rid)
                yield LoggedEvent(row.id, row.type, row.created_time, each, bool(row.has_model), promotion_key)

    def promotions(self) -> Iterator[ToldPromotion]:
        """See the contract."""
        for row in self._streamed(_promotions, ("id",), (0,)):
            yield ToldPromotion(row.id, row.rid, row.stored_time)

    def files(self) -> Iterator[StoredFile]:
        """See the contract."""
        for row in self._streamed(_files, ("digest",), (b"",)):
            yield StoredFile(row.digest, row.size, row.object_name)

    def current_file(self, digest: bytes) -> StoredFile | None:
        """See the contract."""
        with contextlib.closing(self._database.open(None)) as session:
            row = session.one_or_none(_file, {"file": digest})
        return None if row is None else StoredFile(row.digest, row.size, row.object_name)

    def registry_id(self) -> str:
        """See the contract."""
        found: str = self._session.one(_identity).registry_id
        return found

    def _promotion_keys(self, version_rids: Collection[str]) -> dict[str, int]:
        """Return the keys of the promotions that made versions, by the RIDs of these."""
        if not version_rids:
            return {}
        named = padded([*version_rids])
        rows = self._session.all(_promotions_of(len(named)), numbered("version", named))
        return {row.rid: row.id for row in rows}

    def _streamed(
        self, statement: Statement, key: Sequence[str], first: tuple[object, ...], count: int = PAGE
    ) -> Iterator[AnyRow]:
        """Yield the rows of a statement; `key` is what it is sorted by, and `first` is below all keys."""
        for rows in self._pages(statement, key, first, count):
            yield from rows

    def _pages(
        self, statement: Statement, key: Sequence[str], first: tuple[object, ...], count: int
    ) -> Iterator[Sequence[AnyRow]]:
        """Yield the rows of a statement, page by page."""
        after = first
        while True:
            position = {f"after_{name}": value for name, value in zip(key, after, strict=True)}
            rows = self._session.all(statement, position | {"count": count})
            yield rows
            if len(rows) < count:
                return
            after = tuple(getattr(rows[-1], name) for name in key)


def _page(query: Select[Any], *key: ColumnElement[Any]) -> Statement:
    """Return the statement of a page of a query: behind a place by a key, whose columns have indexes."""
    place = tuple_(*(bindparam(f"after_{column.name}", type_=column.type) for column in key))
    return Statement(query.where(tuple_(*key) > place).order_by(*key).limit(bindparam("count")))


_contents = _page(
    select(
        contents.c.digest,
        contents.c.payload,
        contents.c.size,
        contents.c.file_digest,
        files.c.digest.is_not(None).label("has_file"),
    ).outerjoin(files, files.c.digest == contents.c.file_digest),
    contents.c.digest,
)
_branches = _page(
    select(branches.c.id, func.coalesce(models.c.rid, "").label("model_rid"), branches.c.name, branches.c.version_count)
    .add_columns(branches.c.chain)
    .outerjoin(models, models.c.id == branches.c.model_id),
    branches.c.id,
)
_versions = _page(
    select(
        versions.c.branch_id,
        versions.c.rid,
        versions.c.version_number,
        versions.c.content_digest,
        exists().where(contents.c.digest == versions.c.content_digest).label("has_content"),
        versions.c.source,
        versions.c.root_rid,
        versions.c.created_time,
        versions.c.created_by,
        promotions.c.rid.label("promotion_rid"),
        promotions.c.kind,
        _target.c.rid.label("target_rid"),
        promotions.c.source_model_rid,
        promotions.c.source_rid,
        promotions.c.reason,
        promotions.c.created_time.label("promotion_time"),
        promotions.c.created_by.label("promotion_by"),
        promotions.c.previous_hash,
        promotions.c.hash,
        promotions.c.was_imported,
        promotions.c.policy_revision,
        promotions.c.folder_policy_revision,
        promotions.c.promotion_request_rid,
        promotions.c.override,
        (promotion_requests.c.promotion_rid == promotions.c.rid).label("closed_its_request"),
        _source.c.root_rid.label("source_root_rid"),
        _source.c.content_digest.label("source_digest"),
    )
    .outerjoin(promotions, promotions.c.version_id == versions.c.id)
    .outerjoin(_target, _target.c.id == promotions.c.model_id)
    .outerjoin(promotion_requests, promotion_requests.c.rid == promotions.c.promotion_request_rid)
    .outerjoin(_source, _source.c.rid == promotions.c.source_rid),
    versions.c.branch_id,
    versions.c.version_number,
)
_requests = _page(
    select(
        promotion_requests.c.id,
        promotion_requests.c.rid,
        promotion_requests.c.promotion_rid,
        promotions.c.promotion_request_rid.label("cited"),
    )
    .outerjoin(promotions, promotions.c.rid == promotion_requests.c.promotion_rid)
    .where(promotion_requests.c.promotion_rid.is_not(None)),
    promotion_requests.c.id,
)
_changed_grants = _page(
    select(
        grant_changes.c.id,
        grant_changes.c.resource_rid,
        grant_changes.c.principal,
        grants.c.role,
        grant_changes.c.role.label("recorded_role"),
    )
    .outerjoin(
        grants,
        (grants.c.resource_rid == grant_changes.c.resource_rid) & (grants.c.principal == grant_changes.c.principal),
    )
    .where(
        not_(
            exists().where(
                _later.c.resource_rid == grant_changes.c.resource_rid,
                _later.c.principal == grant_changes.c.principal,
                _later.c.id > grant_changes.c.id,
            )
        )
    ),
    grant_changes.c.id,
)
_unrecorded_grants = _page(
    select(grants).where(
        not_(
            exists().where(
                grant_changes.c.resource_rid == grants.c.resource_rid, grant_changes.c.principal == grants.c.principal
            )
        )
    ),
    grants.c.resource_rid,
    grants.c.principal,
)
_uploads = _page(
    select(
        uploads.c.id_digest,
        models.c.id.is_not(None).label("has_model"),
        files.c.digest.is_not(None).label("has_file"),
    )
    .outerjoin(models, models.c.id == uploads.c.model_id)
    .outerjoin(files, files.c.digest == uploads.c.file_digest)
    .where(uploads.c.file_digest.is_not(None)),
    uploads.c.id_digest,
)
_events = _page(
    select(
        events.c.id,
        events.c.type,
        events.c.created_time,
        events.c.payload,
        or_(events.c.model_id.is_(None), exists().where(models.c.id == events.c.model_id)).label("has_model"),
    ),
    events.c.id,
)
_promotions = _page(
    select(
        promotions.c.id,
        versions.c.rid,
        func.coalesce(versions.c.imported_time, promotions.c.created_time).label("stored_time"),
    ).join_from(promotions, versions, versions.c.id == promotions.c.version_id),
    promotions.c.id,
)
_files = _page(select(files), files.c.digest)
_file = Statement(select(files).where(files.c.digest == bindparam("file")))
_identity = Statement(select(identity.c.registry_id))


@forms
def _promotions_of(count: int) -> Select[Any]:
    made = select(versions.c.rid, promotions.c.id).join_from(
        versions, promotions, promotions.c.version_id == versions.c.id
    )
    return made.where(versions.c.rid.in_(several("version", count)))


def _event_of(payload: bytes) -> Event | None:
    try:
        return Event.FromString(payload)
    except DecodeError:
        return None


def _to_version(row: AnyRow) -> KeptVersion:
    promotion = None
    if row.promotion_rid is not None:
        promotion = KeptPromotion(
            rid=row.promotion_rid,
            kind=row.kind,
            model_rid=row.target_rid,
            source_model_rid=row.source_model_rid,
            source_rid=row.source_rid,
            reason=row.reason,
            created_ms=row.promotion_time,
            created_by=row.promotion_by,
            previous_hash=row.previous_hash,
            hash=row.hash,
            was_imported=None if row.was_imported is None else bool(row.was_imported),
            policy_revision=row.policy_revision,
            folder_policy_revision=row.folder_policy_revision,
            promotion_request_rid=row.promotion_request_rid,
            override=None if row.override is None else bool(row.override),
            closed_its_request=bool(row.closed_its_request),
        )
    return KeptVersion(
        branch_key=row.branch_id,
        rid=row.rid,
        number=row.version_number,
        content_digest=row.content_digest,
        has_content=row.has_content,
        source=row.source,
        root_rid=row.root_rid,
        created_ms=row.created_time,
        created_by=row.created_by,
        promotion=promotion,
        source_root_rid=row.source_root_rid,
        source_digest=row.source_digest,
    )
