"""The versions of a branch and the branches of a model, page by page."""

from __future__ import annotations

from sqlalchemy import BindParameter, ColumnElement, Select, Subquery, bindparam, func, select, tuple_

from server.core.caller import Caller
from server.storage.sql.access import model_is_visible
from server.storage.sql.fitting import with_payloads
from server.storage.sql.keys import branch_id, is_head, model_id
from server.storage.sql.prepared import for_callers
from server.storage.sql.rows import MAX_BYTES_A_CHARACTER, VERSION_COLUMNS, AnyColumns, version_bytes
from server.storage.sql.tables import branches, contents, models, versions

# Behind every number of a version: where a list without a position begins, since the newest are first.
BEHIND_ALL = 2**31 - 1

_model_rid: BindParameter[str] = bindparam("model_rid")
_branch: BindParameter[str] = bindparam("branch")


@for_callers
def versions_of_branch(caller: Caller) -> Select[*AnyColumns]:
    """The newest versions of `branch` with numbers below `before`, at most `count`; no row without a visible model."""
    query = (
        select(
            *VERSION_COLUMNS,
            _model_rid.label("model_rid"),
            _branch.label("branch"),
            version_bytes(_model_rid, MAX_BYTES_A_CHARACTER * func.length(_branch)).label("size"),
        )
        .join_from(versions, contents, contents.c.digest == versions.c.content_digest)
        # As a value and not as a join: only then does PostgreSQL walk the index instead of sorting the branch.
        .where(versions.c.branch_id == branch_id(_model_rid, _branch), versions.c.version_number < bindparam("before"))
        .order_by(versions.c.version_number.desc())
        .limit(bindparam("count"))
    )
    return with_payloads(
        query, contents, "content_digest", lambda row: (row.version_number.desc(),), _visible_model(caller)
    )


@for_callers
def branches_of_model(caller: Caller) -> Select[*AnyColumns]:
    """The branches behind the name `after`, with their heads, at most `count`; no row without a visible model."""
    # A branch and its head both hold the name.
    key = model_id(_model_rid)
    names: ColumnElement[int] = 2 * MAX_BYTES_A_CHARACTER * func.length(branches.c.name)
    query = (
        select(
            *VERSION_COLUMNS,
            _model_rid.label("model_rid"),
            branches.c.name.label("branch"),
            version_bytes(_model_rid, names).label("size"),
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
    return with_payloads(query, contents, "content_digest", lambda row: (row.branch,), _visible_model(caller))


def _visible_model(caller: Caller) -> Subquery:
    return select(models.c.id).where(models.c.rid == _model_rid, model_is_visible(caller)).subquery("visible")
