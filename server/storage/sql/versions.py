"""Versions and the branches that they are on: the questions and changes of the contract about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    Subquery,
    and_,
    bindparam,
    insert,
    select,
    tuple_,
    update,
)

from modelregistry.v1.event_pb2 import CreatedVersion, Event, EventSubject
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import Branch, ModelVersion
from server.core.caller import Caller
from server.core.errors import BranchNotFound, ModelNotFound, RequestTooLarge
from server.core.event_types import EventType
from server.core.integrity import BEGINNING
from server.storage.contract import BranchEnd, StoredVersion
from server.storage.paging import Page, PageRequest
from server.storage.sql.event_log import add_event
from server.storage.sql.origins import hidden_origins, visible_key
from server.storage.sql.pages import listed_behind, page_of, payloads, that_fit
from server.storage.sql.recalls import suspect, yanked_keys
from server.storage.sql.rows import (
    VERSION_COLUMNS,
    AnyColumns,
    AnyRow,
    content_of,
    for_caller,
    to_branch,
    to_own_fields,
    to_stored_version,
    verified_payload,
)
from server.storage.sql.session import Conflict
from server.storage.sql.statements import Statement, for_callers, forms, principals, several, upsert
from server.storage.sql.tables import branch_id, branches, contents, is_head, model_id, models, versions
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import model_is_visible

T = TypeVar("T")

# By how much what is told of a version grows beside its content: by whether it is yanked, and by what has its length.
_GROWTH_BYTES = 8
# Greater than every number of a version: where a list without a position begins, since the newest are first.
AFTER_ALL = 2**31 - 1

_model_rid: BindParameter[str] = bindparam("model_rid", type_=models.c.rid.type)
_branch_name: BindParameter[str] = bindparam("branch", type_=branches.c.name.type)
_version_rid: BindParameter[str] = bindparam("version_rid")


def find_version(work: UnitOfWork, model_version_rid: str, caller: Caller) -> StoredVersion | None:
    """See the contract."""
    known = work.versions.get(model_version_rid)
    # What is known of a version never changes, so only whether it is visible is asked again.
    statement = _version(caller) if known is None else _sight(caller)
    row = work.session.one_or_none(statement, {"version_rid": model_version_rid} | principals(caller))
    return _stored(work, row, known)


def get_version(work: UnitOfWork, key: int) -> StoredVersion:
    """Return the version with a key, for a caller who may see it; what is hidden of its origins is not asked."""
    version = to_stored_version(work.session.one(_by_key, {"version_key": key}))
    work.versions_read.append(version)
    return version


def find_numbered_version(
    work: UnitOfWork, model_rid: str, branch: str, version_number: int, caller: Caller
) -> StoredVersion | None:
    """See the contract."""
    parameters = {"model_rid": model_rid, "branch": branch, "number": version_number}
    return _stored(work, work.session.one_or_none(_numbered_version(caller), parameters | principals(caller)))


def get_branch(work: UnitOfWork, model_rid: str, branch: str, caller: Caller) -> Branch:
    """See the contract."""
    row = work.session.one_or_none(_branch(caller), {"model_rid": model_rid, "branch": branch} | principals(caller))
    if row is None:
        raise ModelNotFound(model_rid=model_rid)
    if row.head_rid is None:
        raise BranchNotFound(model_rid=model_rid, branch_name=branch)
    known = work.versions.get(row.head_rid)
    head = find_version(work, row.head_rid, caller) if known is None else _stored(work, row, known)
    if head is None:  # Hidden from the caller since the statement before.
        raise ModelNotFound(model_rid=model_rid)
    return Branch(name=branch, head=head.as_seen(), version_count=row.version_count)


def list_branches(work: UnitOfWork, model_rid: str, caller: Caller, page: PageRequest) -> Page[Branch]:
    """See the contract."""
    rows = _listed(work, _branches_of_model, model_rid, caller, page, after=page.after or "")
    heads = _versions_that_fit(work, rows[: page.size], to_branch)
    return page_of(rows, rows[: len(heads)], "branch", lambda row: to_branch(row, heads[row.rid]))


def list_versions(
    work: UnitOfWork, model_rid: str, branch: str, caller: Caller, page: PageRequest
) -> Page[ModelVersion]:
    """See the contract."""
    before = AFTER_ALL if page.after is None else page.after
    rows = _listed(work, _versions_of_branch, model_rid, caller, page, branch=branch, before=before)
    found = _versions_that_fit(work, rows[: page.size])
    return page_of(rows, rows[: len(found)], "version_number", lambda row: found[row.rid])


def get_model_api(work: UnitOfWork, content_digest: bytes) -> ModelApi:
    """See the contract."""
    found = payloads(work.session, _contents_of, [content_digest])
    return ModelVersion.FromString(verified_payload(found[content_digest])).model_api


def require_fitting(work: UnitOfWork, version: ModelVersion) -> None:
    """See the contract."""
    _require_fitting(work, content_of(version).payload)


def put_content(work: UnitOfWork, version: ModelVersion, file_digest: bytes | None = None) -> bytes:
    """See the contract."""
    digest, payload = content_of(version, file_digest)
    _require_fitting(work, payload)
    row = {"content_digest": digest, "content": payload, "bytes": len(payload), "digest_of_files": file_digest}
    work.session.send(_put_content, row)
    return digest


def append_version(
    work: UnitOfWork,
    version: ModelVersion,
    content_digest: bytes,
    legacy_source: str | None = None,
    branch: BranchEnd | None = None,
) -> ModelVersion:
    """See the contract."""
    place = next_place(work, version, branch)
    if not place.is_counted:
        work.session.send(_set_count, {"branch_key": place.branch_key, "number": place.number})
    stored = placed(work, version, place)
    append_row(work, as_parameters(work, version, stored, place, content_digest, legacy_source))
    is_imported = version.HasField("created_time")
    created = CreatedVersion(version_number=stored.version_number, imported=is_imported)
    tell_of_version(work, EventType.VERSION_CREATED, version, stored, Event(subject=EventSubject(version=created)))
    return stored


class Place(NamedTuple):
    """Where a branch goes on: its key, the next number, the time of the version before in ms, and the chain's end.

    `is_counted` is whether the branch counts the number already.
    """

    branch_key: int
    number: int
    previous_ms: int
    chain: bytes
    is_counted: bool


def next_place(work: UnitOfWork, version: ModelVersion, end: BranchEnd | None) -> Place:
    """Return where a version goes on its branch, which is locked from then on. Raises Conflict."""
    session = work.session
    work.extended.add((version.model_rid, version.branch))
    if end is not None and end.key is not None:
        return Place(end.key, end.next_number, end.head.created_ms if end.head else 0, end.chain, is_counted=False)
    # Transactions that extend one branch wait for each other here.
    row = session.one(_take_number, {"model_rid": version.model_rid, "branch": version.branch})
    if end is not None and row.version_count != end.next_number:
        raise Conflict
    previous = session.one_or_none(_created_time, {"branch_key": row.id, "number": row.version_count - 1})
    previous_ms = previous.created_time if previous else 0
    return Place(row.id, row.version_count, previous_ms, row.chain or BEGINNING, is_counted=True)


def placed(work: UnitOfWork, version: ModelVersion, place: Place) -> ModelVersion:
    """Return a version as it is stored at a place."""
    stored = ModelVersion()
    stored.CopyFrom(version)
    stored.DiscardUnknownFields()
    stored.version_number = place.number
    # The clock is read when the branch is locked, and one that was set back does not show.
    created_ms = (
        version.created_time.ToMilliseconds()
        if version.HasField("created_time")
        else max(work.clock_ms(), place.previous_ms)
    )
    stored.created_time.FromMilliseconds(created_ms)
    return stored


def append_row(work: UnitOfWork, values: Mapping[str, Any]) -> None:
    """Store a version with what `as_parameters` returns."""
    # Servers have no right to say of a version that it was imported at some time.
    work.session.send(_append if values["imported_ms"] is None else _append_imported, values)


def tell_of_version(
    work: UnitOfWork, type_: EventType, given: ModelVersion, stored: ModelVersion, event: Event
) -> None:
    """Write the event of a new version, which has its subject; of one that is imported, it is of now."""
    event.model_version_rid = stored.rid
    add_event(
        work,
        type_,
        event,
        about=stored.model_rid,
        branch=stored.branch,
        actor=stored.created_by,
        time=work.clock_ms() if given.HasField("created_time") else stored.created_time,
    )


def as_parameters(
    work: UnitOfWork,
    given: ModelVersion,
    stored: ModelVersion,
    place: Place,
    content_digest: bytes,
    legacy_source: str | None = None,
) -> dict[str, Any]:
    """Return what is stored of a version that was given and gets a place; its own time is that of an import."""
    return {
        "branch_key": place.branch_key,
        "new_rid": stored.rid,
        "number": place.number,
        "digest": content_digest,
        "source_message": None if legacy_source else stored.source.SerializeToString(deterministic=True),
        "legacy": legacy_source,
        "root": stored.root_model_version_rid,
        "created_ms": stored.created_time.ToMilliseconds(),
        "creator": stored.created_by,
        "imported_ms": work.clock_ms() if given.HasField("created_time") else None,
    }


def _stored(work: UnitOfWork, row: AnyRow | None, known: StoredVersion | None = None) -> StoredVersion | None:
    """Return the version of a row, if there is one; `known` if its content was not asked for."""
    if row is None:
        return None
    if known is None:
        known = to_stored_version(row)
        work.versions_read.append(known)
    return for_caller(known, row, yanked_keys(work, [row.suspect]))


def _require_fitting(work: UnitOfWork, payload: bytes) -> None:
    if len(payload) > work.fitting_bytes:
        raise RequestTooLarge


def _listed(
    work: UnitOfWork,
    statement: Callable[[Caller], Statement],
    model_rid: str,
    caller: Caller,
    page: PageRequest,
    **parameters: object,
) -> Sequence[AnyRow]:
    """Return the rows of a list in a model, one more than a page has if there are so many. Raises ModelNotFound."""
    parameters |= {"model_rid": model_rid, "count": page.size + 1}
    rows = work.session.all(statement(caller), parameters | principals(caller))
    if not rows:
        raise ModelNotFound(model_rid=model_rid)
    return [row for row in rows if row.rid is not None]


def _versions_that_fit(
    work: UnitOfWork,
    rows: Sequence[AnyRow],
    told: Callable[[AnyRow, ModelVersion], Message] = lambda _, version: version,
) -> dict[str, ModelVersion]:
    """Return the versions of the first rows as their caller may see them, as many as fit into a message together.

    `told` makes what is told of a row of its version.
    """
    versions_of_rows = [to_own_fields(row) for row in rows]
    sizes = (
        told(row, version).ByteSize() + row.size + _GROWTH_BYTES
        for version, row in zip(versions_of_rows, rows, strict=True)
    )
    kept = that_fit(rows, sizes, work.fitting_bytes)
    contents_found = payloads(work.session, _contents_of, (row.content_digest for row in kept))
    verified = {digest: verified_payload(row) for digest, row in contents_found.items()}
    yanked = yanked_keys(work, [row.suspect for row in kept])
    found = {}
    for row, version in zip(kept, versions_of_rows, strict=False):
        version.MergeFromString(verified[row.content_digest])
        stored = StoredVersion(version, row.content_digest, row.legacy_source)
        found[row.rid] = for_caller(stored, row, yanked).as_seen()
    return found


def _told_anew(caller: Caller) -> tuple[ColumnElement[Any], ...]:
    """What is told of the row of `versions`, and is not for ever: what is hidden of its origins, if it is suspect."""
    return (*hidden_origins(caller), suspect())


def _with_contents(*columns: ColumnElement[Any]) -> Select[*AnyColumns]:
    """All versions, each with its content, and these columns."""
    # By a subquery and not by a join: it is read of what is visible, and of nothing else.
    content = [
        select(column).where(contents.c.digest == versions.c.content_digest).scalar_subquery().label(column.name)
        for column in (contents.c.payload, contents.c.file_digest)
    ]
    names = (models.c.rid.label("model_rid"), branches.c.name.label("branch"))
    return select(*VERSION_COLUMNS, *names, *content, *columns).join_from(versions, branches).join(models)


@for_callers
def _version(caller: Caller) -> Select[*AnyColumns]:
    return _with_contents(*_told_anew(caller)).where(versions.c.id == visible_key(caller, _version_rid))


@for_callers
def _sight(caller: Caller) -> Select[*AnyColumns]:
    """A row if a version is there and visible, found as `_version` finds it."""
    hidden = select(*_told_anew(caller)).select_from(versions)
    return hidden.where(versions.c.id == visible_key(caller, _version_rid))


@for_callers
def _numbered_version(caller: Caller) -> Select[*AnyColumns]:
    return _with_contents(*_told_anew(caller)).where(
        versions.c.branch_id == branch_id(_model_rid, _branch_name),
        versions.c.version_number == bindparam("number"),
        # The same again, so that each table is looked up by a unique index, wherever PostgreSQL begins: it would begin
        # with all models where it takes these for few.
        branches.c.name == _branch_name,
        models.c.rid == _model_rid,
        model_is_visible(caller),
    )


@for_callers
def _branch(caller: Caller) -> Select[*AnyColumns]:
    """The RID of a branch's head, or NULL; no row if the model is absent or invisible."""
    return (
        select(versions.c.rid.label("head_rid"), branches.c.version_count, *_told_anew(caller))
        .select_from(models)
        .outerjoin(branches, and_(branches.c.model_id == models.c.id, branches.c.name == _branch_name))
        .outerjoin(versions, is_head)
        .where(models.c.rid == _model_rid, model_is_visible(caller))
    )


@for_callers
def _versions_of_branch(caller: Caller) -> Select[*AnyColumns]:
    """The newest versions of `branch` with numbers below `before`, at most `count`; no row without a visible model."""
    query = (
        select(
            *VERSION_COLUMNS,
            _model_rid.label("model_rid"),
            _branch_name.label("branch"),
            contents.c.size,
            *_told_anew(caller),
        )
        .join_from(versions, contents, contents.c.digest == versions.c.content_digest)
        # As a value and not as a join: only then does PostgreSQL walk the index instead of sorting the branch.
        .where(
            versions.c.branch_id == branch_id(_model_rid, _branch_name), versions.c.version_number < bindparam("before")
        )
        .order_by(versions.c.version_number.desc())
        .limit(bindparam("count"))
    )
    return listed_behind(query, lambda row: (row.version_number.desc(),), _visible_model(caller))


@for_callers
def _branches_of_model(caller: Caller) -> Select[*AnyColumns]:
    """The branches behind the name `after`, with their heads, at most `count`; no row without a visible model."""
    key = model_id(_model_rid)
    query = (
        select(
            *VERSION_COLUMNS,
            _model_rid.label("model_rid"),
            branches.c.name.label("branch"),
            contents.c.size,
            *_told_anew(caller),
        )
        .join_from(branches, versions, is_head)
        .join(contents, contents.c.digest == versions.c.content_digest)
        # A range of the index in its own order: by an equal key, PostgreSQL expects the few branches that most models
        # have, and would as soon sort all of those as walk along them. No name is empty.
        .where(
            tuple_(branches.c.model_id, branches.c.name) > tuple_(key, bindparam("after")), branches.c.model_id <= key
        )
        .order_by(branches.c.model_id, branches.c.name)
        .limit(bindparam("count"))
    )
    return listed_behind(query, lambda row: (row.branch,), _visible_model(caller))


def _visible_model(caller: Caller) -> Subquery:
    return select(models.c.id).where(models.c.rid == _model_rid, model_is_visible(caller)).subquery("visible")


@forms
def _contents_of(count: int) -> Select[*AnyColumns]:
    columns = (contents.c.digest.label("content_digest"), contents.c.payload, contents.c.file_digest)
    return select(*columns).where(contents.c.digest.in_(several("key", count)))


_by_key = Statement(_with_contents().where(versions.c.id == bindparam("version_key")))
_created_time = Statement(
    select(versions.c.created_time).where(
        versions.c.branch_id == bindparam("branch_key"), versions.c.version_number == bindparam("number")
    )
)
_put_content = Statement(
    lambda dialect: (
        upsert(dialect, contents)
        .values(
            digest=bindparam("content_digest"),
            payload=bindparam("content"),
            size=bindparam("bytes"),
            file_digest=bindparam("digest_of_files"),
        )
        .on_conflict_do_nothing(index_elements=[contents.c.digest])
    )
)
# Creates the branch if it is new.
_take_number = Statement(
    lambda dialect: (
        upsert(dialect, branches)
        .values(model_id=model_id(_model_rid), name=_branch_name, version_count=1)
        .on_conflict_do_update(
            index_elements=[branches.c.model_id, branches.c.name],
            set_={"version_count": branches.c.version_count + 1},
        )
        .returning(branches.c.id, branches.c.version_count, branches.c.chain)
    )
)
_set_count = Statement(
    update(branches).where(branches.c.id == bindparam("branch_key")).values(version_count=bindparam("number"))
)
_appended = insert(versions).values(
    rid=bindparam("new_rid"),
    branch_id=bindparam("branch_key"),
    version_number=bindparam("number"),
    content_digest=bindparam("digest"),
    source=bindparam("source_message"),
    legacy_source=bindparam("legacy"),
    root_rid=bindparam("root"),
    created_time=bindparam("created_ms"),
    created_by=bindparam("creator"),
)
_append = Statement(_appended)
_append_imported = Statement(_appended.values(imported_time=bindparam("imported_ms")))
