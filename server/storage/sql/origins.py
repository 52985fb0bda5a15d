"""Where a version came from, as far as a caller may know: one rule, wherever versions and promotions are told."""

from __future__ import annotations

from sqlalchemy import ColumnElement, case, false, func, not_, select

from server.core.caller import Caller
from server.storage.sql.tables import branches, models, promotions, versions
from server.storage.sql.visibility import model_is_visible

_origin = versions.alias("origin")
_origin_branch = branches.alias("origin_branch")
_origin_model = models.alias("origin_model")


def version_is_visible(caller: Caller, version_rid: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a version is stored, and in a model that the caller may see."""
    # Here and below a value and not EXISTS, which PostgreSQL would rather look up in a table of all that there are.
    version = (
        select(_origin.c.id)
        .join_from(_origin, _origin_branch, _origin_branch.c.id == _origin.c.branch_id)
        .join(_origin_model, _origin_model.c.id == _origin_branch.c.model_id)
        .where(_origin.c.rid == version_rid, model_is_visible(caller, _origin_model))
    )
    return version.scalar_subquery().is_not(None)


def visible_key(caller: Caller, version_rid: ColumnElement[str]) -> ColumnElement[int | None]:
    """The key of a version in a model that the caller may see, else NULL.

    What is absent is looked up like what is invisible, on the first branch of all, so that it takes as long.
    """
    version = select(_origin.c.id).where(_origin.c.rid == version_rid).scalar_subquery()
    its_branch = select(_origin.c.branch_id).where(_origin.c.rid == version_rid).scalar_subquery()
    first_branch = select(func.min(branches.c.id)).scalar_subquery()
    is_visible = (
        select(_origin_branch.c.id)
        .join_from(_origin_branch, _origin_model, _origin_model.c.id == _origin_branch.c.model_id)
        .where(_origin_branch.c.id == func.coalesce(its_branch, first_branch), model_is_visible(caller, _origin_model))
        .exists()
    )
    return case((is_visible, version))


def hidden_origins(caller: Caller) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """What a StoredVersion says of the row of `versions`: `hides_source` and `hides_root`."""
    # NULL if it was not promoted.
    hides_source = select(not_(version_is_visible(caller, promotions.c.source_rid))).where(
        promotions.c.version_id == versions.c.id
    )
    return hides_source.scalar_subquery().label("hides_source"), hides_root(caller)


def hides_root(caller: Caller) -> ColumnElement[bool]:
    """Whether the root of the row of `versions` is hidden from the caller. Most are their own, and ask for no other."""
    is_hidden = not_(version_is_visible(caller, versions.c.root_rid))
    # With AND, SQLite would look up both.
    return case((versions.c.root_rid != versions.c.rid, is_hidden), else_=false()).label("hides_root")
