"""What a caller may see, as a part of each statement: a revoked grant refuses the very next call.

Lists of models are made from the grants, so that no statement walks past models that the caller may not see. The list
of promotions can walk past some: `promotion_records._choose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Join,
    Select,
    func,
    literal,
    or_,
    select,
    true,
    union,
    union_all,
)
from sqlalchemy.engine import Dialect

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from server.core.caller import Caller
from server.core.rids import FOLDER
from server.storage.sql.session import Session
from server.storage.sql.statements import for_callers, numbered, padded, principals, several
from server.storage.sql.tables import grants, models

# Fewer than these are named in a statement; the rest is looked for.
MAX_NAMED = 1000


def role_on(
    caller: Caller, *resource_rids: str | ColumnElement[str], of: FromClause = models
) -> ColumnElement[int | None]:
    """The caller's highest role among the grants on these resources, perhaps columns `of` a row; NULL without one."""
    if caller.is_admin:
        return literal(int(ROLE_OWNER))
    granted = union_all(*(_grants_to(caller, resource_rid).correlate(of) for resource_rid in resource_rids)).subquery()
    return select(func.max(granted.c.role)).scalar_subquery()


def role_on_model(caller: Caller) -> ColumnElement[int | None]:
    """The caller's highest role on the row of `models`, or on its folder; NULL if there is none."""
    return role_on(caller, models.c.rid, models.c.parent_folder_rid)


def model_is_visible(caller: Caller, model: FromClause = models) -> ColumnElement[bool]:
    """Whether the caller has any role on the row of `models`, or of an alias of it, or on its folder."""
    if caller.is_admin:
        return true()
    ways = (model.c.rid, model.c.parent_folder_rid)
    return or_(*(_is_any(_grants_to(caller, resource_rid).correlate(model)) for resource_rid in ways))


def has_role_on(caller: Caller, resource_rid: Column[str]) -> ColumnElement[bool]:
    """Whether the caller has any role on the resource that a column names; not if it names none."""
    if caller.is_admin:
        return resource_rid.is_not(None)
    return _is_any(_grants_to(caller, resource_rid).correlate(resource_rid.table))


def granted_resources(caller: Caller) -> Select[str]:
    """The models and folders on which the caller has a role."""
    return select(grants.c.resource_rid).where(grants.c.principal.in_(caller.principals))


def granted_folders(caller: Caller) -> Select[str]:
    """The folders on which the caller has a role."""
    return granted_resources(caller).where(grants.c.resource_rid.like(f"%.{FOLDER}.%"))


def visible_model_keys(session: Session, caller: Caller) -> Sequence[int]:
    """Return the keys of the models that a caller who is no administrator sees; if MAX_NAMED, there may be more."""
    # By name as long as they are few enough for a statement. With the folders as values each is a seek in an index; as
    # a subquery, PostgreSQL would expect to find some models soon, and walk past all that are invisible.
    folders = visible_folders(session, caller)
    if not 0 < len(folders) < MAX_NAMED:
        return [row.id for row in session.all(_visible_keys(caller, None), principals(caller))]
    folders = padded(folders)
    rows = session.all(_visible_keys(caller, len(folders)), principals(caller) | numbered("folder", folders))
    return [row.id for row in rows]


def visible_folders(session: Session, caller: Caller) -> list[str]:
    """Return the folders on which a caller who is no administrator has a role; if MAX_NAMED, there may be more."""
    return [row.resource_rid for row in session.all(_folders(caller), principals(caller))]


def first_of_each(
    dialect: Dialect, groups: FromClause, first: Select[*tuple[Any, ...]], key: Column[Any]
) -> tuple[Join, FromClause]:
    """Join groups with the first rows of each, and return the rows' columns, too.

    `first` is the query for those of one group, to a row of which it refers; `key` is their table's primary key. SQLite
    has no LATERAL, and PostgreSQL would not look at the groups one by one without.
    """
    if dialect.name == "postgresql":
        rows: FromClause = first.lateral("first_rows")
        return groups.join(rows, true()), rows
    rows = key.table.alias("first_rows")
    return groups.join(rows, rows.c[key.name].in_(first.with_only_columns(key))), rows


@for_callers
def _folders(caller: Caller) -> Select[str]:
    return granted_folders(caller).limit(MAX_NAMED)


@for_callers
def _visible_keys(caller: Caller, folder_count: int | None) -> Select[int]:
    folders = granted_folders(caller) if folder_count is None else several("folder", folder_count)
    ways = (models.c.rid.in_(granted_resources(caller)), models.c.parent_folder_rid.in_(folders))
    keys = union(*(select(select(models.c.id).where(way).limit(MAX_NAMED).subquery()) for way in ways)).subquery()
    return select(keys.c.id).limit(MAX_NAMED)


def _grants_to(caller: Caller, resource_rid: str | ColumnElement[str]) -> Select[int]:
    # On one resource: for IN with columns, SQLite fills a table each time, which took half of what a read asks.
    return select(grants.c.role).where(grants.c.resource_rid == resource_rid, grants.c.principal.in_(caller.principals))


def _is_any(granted: Select[int]) -> ColumnElement[bool]:
    # A value and not EXISTS, of which PostgreSQL makes a join, and then may begin with all that the caller has.
    return granted.limit(1).scalar_subquery().is_not(None)
