"""Models: the questions and changes of the contract about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, select, tuple_, union
from sqlalchemy.engine import Dialect

from modelregistry.v1.event_pb2 import Event, EventSubject
from modelregistry.v1.model_pb2 import Model
from server.core.caller import Caller
from server.core.errors import ModelNotFound, ResourceNameAlreadyExists
from server.core.event_types import EventType
from server.storage.contract import VisibleModel
from server.storage.paging import Page, PageRequest
from server.storage.sql.event_log import add_event
from server.storage.sql.pages import page_of
from server.storage.sql.rows import to_model
from server.storage.sql.statements import Statement, for_callers, numbered, padded, principals, several, upsert
from server.storage.sql.tables import grants, models
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import (
    MAX_NAMED,
    first_of_each,
    granted_folders,
    granted_resources,
    model_is_visible,
    role_on_model,
)


def get_model(work: UnitOfWork, model_rid: str, caller: Caller) -> VisibleModel:
    """See the contract."""
    row = work.session.one_or_none(_model(caller), {"model_rid": model_rid} | principals(caller))
    if row is None or row.role is None:
        raise ModelNotFound(model_rid=model_rid)
    return VisibleModel(to_model(row), row.role)


def list_models(work: UnitOfWork, caller: Caller, parent_folder_rid: str | None, page: PageRequest) -> Page[Model]:
    """See the contract."""
    parameters = {"folder": parent_folder_rid, "after": str(page.after or ""), "count": page.size + 1}
    rows = work.session.all(_models(caller, parent_folder_rid is not None), parameters | principals(caller))
    return page_of(rows, rows[: page.size], "rid", to_model)


def visible_models(work: UnitOfWork, model_rids: Collection[str], caller: Caller) -> set[str]:
    """See the contract."""
    rids = [*model_rids]
    visible: set[str] = set()
    for first in range(0, len(rids), MAX_NAMED):
        some = padded(rids[first : first + MAX_NAMED])
        rows = work.session.all(_visible(caller, len(some)), numbered("model", some) | principals(caller))
        visible.update(row.rid for row in rows)
    return visible


def add_model(work: UnitOfWork, model: Model) -> Model:
    """See the contract."""
    stored = Model()
    stored.CopyFrom(model)
    created_ms = stored.created_time.ToMilliseconds() if stored.HasField("created_time") else work.clock_ms()
    stored.created_time.FromMilliseconds(created_ms)
    values = {
        "new_rid": stored.rid,
        "display_name": stored.name,
        "digest": hashlib.sha256(stored.name.encode()).digest(),
        "folder": stored.parent_folder_rid,
        "created_ms": created_ms,
        "creator": stored.created_by,
    }
    if work.session.one_or_none(_add, values) is None:
        raise ResourceNameAlreadyExists(parent_folder_rid=model.parent_folder_rid, display_name=model.name)
    # Of what is imported, the event is of now.
    add_event(
        work,
        EventType.MODEL_CREATED,
        Event(subject=EventSubject(model=stored)),
        about=stored.rid,
        actor=stored.created_by,
        time=work.clock_ms() if model.HasField("created_time") else created_ms,
    )
    return stored


@for_callers
def _model(caller: Caller) -> Select[*tuple[Any, ...]]:
    return select(models, role_on_model(caller).label("role")).where(models.c.rid == bindparam("model_rid"))


@for_callers
def _visible(caller: Caller, count: int) -> Select[str]:
    return select(models.c.rid).where(models.c.rid.in_(several("model", count)), model_is_visible(caller))


@for_callers
def _models(caller: Caller, in_folder: bool) -> Select[*tuple[Any, ...]] | Callable[[Dialect], Any]:
    """The first models behind an RID that the caller sees, in one folder or in any."""
    if not caller.is_admin:
        return lambda dialect: _first_visible(dialect, caller, in_folder)
    if in_folder:
        return _of_folder(bindparam("folder"))
    return select(models).where(models.c.rid > bindparam("after")).order_by(models.c.rid).limit(bindparam("count"))


def _first_visible(dialect: Dialect, caller: Caller, in_folder: bool) -> Select[*tuple[Any, ...]]:
    """They are among the models with a grant, and the first of each folder with one."""
    of_folder = [models.c.parent_folder_rid == bindparam("folder")] if in_folder else []
    granted = granted_resources(caller).where(grants.c.resource_rid > bindparam("after")).distinct()
    with_grant = granted.subquery("granted")
    of_grant = select(models).where(models.c.rid == with_grant.c.resource_rid, *of_folder).limit(1)
    by_grant, granted_models = first_of_each(dialect, with_grant, of_grant, models.c.id)

    is_folder = [grants.c.resource_rid == bindparam("folder")] if in_folder else []
    folders = granted_folders(caller).where(*is_folder).distinct().subquery("folders")
    by_folder, their_models = first_of_each(dialect, folders, _of_folder(folders.c.resource_rid), models.c.id)

    visible = union(
        select(granted_models).select_from(by_grant), select(their_models).select_from(by_folder)
    ).subquery()
    return select(visible).order_by(visible.c.rid).limit(bindparam("count"))


def _of_folder(folder_rid: ColumnElement[str]) -> Select[*tuple[Any, ...]]:
    """The first models of a folder behind an RID.

    It is a range of an index in its own order: by an equal folder, PostgreSQL would rather walk through all models
    where it expects to meet some of that folder soon.
    """
    place = (models.c.parent_folder_rid, models.c.rid)
    in_folder = (tuple_(*place) > tuple_(folder_rid, bindparam("after")), models.c.parent_folder_rid <= folder_rid)
    return select(models).where(*in_folder).order_by(*place).limit(bindparam("count"))


_add = Statement(
    lambda dialect: (
        upsert(dialect, models)
        .values(
            rid=bindparam("new_rid"),
            name=bindparam("display_name"),
            name_digest=bindparam("digest"),
            parent_folder_rid=bindparam("folder"),
            created_time=bindparam("created_ms"),
            created_by=bindparam("creator"),
        )
        .on_conflict_do_nothing(index_elements=[models.c.parent_folder_rid, models.c.name_digest])
        .returning(models.c.id)
    )
)
