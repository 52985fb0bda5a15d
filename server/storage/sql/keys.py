"""Which row a name means."""

from __future__ import annotations

from typing import TypeAlias

from sqlalchemy import BindParameter, ScalarSelect, and_, select

from server.storage.sql.tables import branches, models, versions

Text: TypeAlias = str | BindParameter[str]

# Of a row of `versions` and one of `branches`: it is the newest of that branch.
is_head = and_(versions.c.branch_id == branches.c.id, versions.c.version_number == branches.c.version_count)


def model_id(model_rid: Text) -> ScalarSelect[int]:
    """The key of the model with this RID."""
    return select(models.c.id).where(models.c.rid == model_rid).scalar_subquery()


def branch_id(model_rid: Text, branch: Text) -> ScalarSelect[int]:
    """The key of the branch of this name, of the model with this RID."""
    query = select(branches.c.id).where(branches.c.model_id == model_id(model_rid), branches.c.name == branch)
    return query.scalar_subquery()
