"""Access as a part of each query, so that a revoked grant refuses the very next call and the invisible is not read."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, FromClause, Select, func, literal, select, true

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from server.core.caller import Caller
from server.core.rids import FOLDER
from server.storage.sql.tables import grants, models


def role_on(caller: Caller, *resource_rids: str | ColumnElement[str]) -> ColumnElement[int | None]:
    """The caller's highest role among the grants on these resources; NULL if there is none."""
    if caller.is_admin:
        return literal(int(ROLE_OWNER))
    highest = _grants_to(caller, *resource_rids).with_only_columns(func.max(grants.c.role))
    return highest.correlate(models).scalar_subquery()


def role_on_model(caller: Caller) -> ColumnElement[int | None]:
    """The caller's highest role on the row of `models`, or on its folder; NULL if there is none."""
    return role_on(caller, models.c.rid, models.c.parent_folder_rid)


def model_is_visible(caller: Caller, model: FromClause = models) -> ColumnElement[bool]:
    """Whether the caller has any role on the row of `models`, or of an alias of it, or on its folder."""
    if caller.is_admin:
        return true()
    return _grants_to(caller, model.c.rid, model.c.parent_folder_rid).correlate(model).exists()


def granted_resources(caller: Caller) -> Select[str]:
    """The models and folders on which the caller has a role."""
    return select(grants.c.resource_rid).where(grants.c.principal.in_(caller.principals))


def granted_folders(caller: Caller) -> Select[str]:
    """The folders on which the caller has a role."""
    return granted_resources(caller).where(grants.c.resource_rid.like(f"%.{FOLDER}.%"))


def ways_to_see_models(caller: Caller, folders: Sequence[str] | Select[str]) -> list[ColumnElement[bool]]:
    """The conditions of which one holds for each model that the caller sees, given the folders with a role.

    With the folders as values each is a seek in an index; as a subquery, PostgreSQL would expect to find some models
    soon, and walk past all that are invisible.
    """
    if caller.is_admin:
        return [true()]
    return [models.c.rid.in_(granted_resources(caller)), models.c.parent_folder_rid.in_(folders)]


def _grants_to(caller: Caller, *resource_rids: str | ColumnElement[str]) -> Select[int]:
    return select(grants.c.role).where(
        grants.c.resource_rid.in_(resource_rids), grants.c.principal.in_(caller.principals)
    )
