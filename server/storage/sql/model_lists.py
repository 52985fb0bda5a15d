"""Which models a caller sees: asked of the grants first, so that no model is walked past that is invisible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, literal, select, tuple_, union

from server.core.caller import Caller
from server.storage.sql.access import granted_folders, granted_resources, ways_to_see_models
from server.storage.sql.each import first_of_each
from server.storage.sql.tables import grants, models

# Fewer than these are named in a statement; the rest is looked for.
MANY = 1000


def first_models(
    connection: Connection, caller: Caller, folder_rid: str | None, after: str, count: int
) -> Select[*tuple[Any, ...]]:
    """The query for the first models behind an RID that the caller sees, in one folder or in any: `models`."""
    if not caller.is_admin:
        return _first_visible(connection, caller, folder_rid, after, count)
    if folder_rid is not None:
        return _of_folder(literal(folder_rid), after, count)
    return select(models).where(models.c.rid > after).order_by(models.c.rid).limit(count)


def visible_model_keys(connection: Connection, caller: Caller) -> Sequence[int]:
    """Return the keys of the models that the caller sees; if it is MANY, there may be more."""
    # By name as long as they are few enough for a statement.
    granted = granted_folders(caller)
    folders = connection.scalars(granted.limit(MANY)).all()
    ways = ways_to_see_models(caller, folders if len(folders) < MANY else granted)
    keys = union(*(select(select(models.c.id).where(way).limit(MANY).subquery()) for way in ways)).subquery()
    return connection.scalars(select(keys.c.id).limit(MANY)).all()


def _first_visible(
    connection: Connection, caller: Caller, folder_rid: str | None, after: str, count: int
) -> Select[*tuple[Any, ...]]:
    """They are among the models with a grant, and the first of each folder with one."""
    in_folder = [] if folder_rid is None else [models.c.parent_folder_rid == folder_rid]
    granted = granted_resources(caller).where(grants.c.resource_rid > after).distinct().subquery("granted")
    of_grant = select(models).where(models.c.rid == granted.c.resource_rid, *in_folder).limit(1)
    by_grant, granted_models = first_of_each(connection, granted, of_grant, models.c.id)

    is_folder = [] if folder_rid is None else [grants.c.resource_rid == folder_rid]
    folders = granted_folders(caller).where(*is_folder).distinct().subquery("folders")
    of_folder = _of_folder(folders.c.resource_rid, after, count)
    by_folder, their_models = first_of_each(connection, folders, of_folder, models.c.id)

    visible = union(
        select(granted_models).select_from(by_grant), select(their_models).select_from(by_folder)
    ).subquery()
    return select(visible).order_by(visible.c.rid).limit(count)


def _of_folder(folder_rid: ColumnElement[str], after: str, count: int) -> Select[*tuple[Any, ...]]:
    """The query for the first models of a folder behind an RID.

    It is a range of an index in its own order: by an equal folder, PostgreSQL would rather walk through all models
    where it expects to meet some of that folder soon.
    """
    place = (models.c.parent_folder_rid, models.c.rid)
    in_folder = (tuple_(*place) > tuple_(folder_rid, after), models.c.parent_folder_rid <= folder_rid)
    return select(models).where(*in_folder).order_by(*place).limit(count)
