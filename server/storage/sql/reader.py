"""The questions of `server.storage.contract.Reader` as SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    select,
)

from modelregistry.v1.access_service_pb2 import ROLE_UNSPECIFIED, Grant, Role
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from server.core.caller import Caller
from server.core.errors import BranchNotFound, ModelNotFound, RequestTooLarge
from server.storage.contract import StoredVersion, VisibleModel
from server.storage.paging import Page, PageRequest
from server.storage.sql.access import model_is_visible, role_on, role_on_model
from server.storage.sql.cache import VersionCache
from server.storage.sql.fitting import ENVELOPE_BYTES, page_of, that_fit
from server.storage.sql.keys import is_head
from server.storage.sql.model_lists import first_models
from server.storage.sql.prepared import Prepared, for_callers, principals
from server.storage.sql.rows import (
    VERSION_COLUMNS,
    AnyRow,
    content_of,
    to_branch,
    to_model,
    to_stored_version,
    to_version,
)
from server.storage.sql.tables import branches, contents, grants, models, versions
from server.storage.sql.version_lists import BEHIND_ALL, branches_of_model, versions_of_branch


class SqlReader:
    """`server.storage.contract.Reader` over one connection."""

    def __init__(self, connection: Connection, max_message_bytes: int, versions: VersionCache):
        self.connection = connection
        # What content may take of a message.
        self._fitting_bytes = max_message_bytes - ENVELOPE_BYTES
        self._versions = versions

    def get_model(self, model_rid: str, caller: Caller) -> VisibleModel:
        """See the contract."""
        row = self._ask(_model, caller, model_rid=model_rid)
        if row is None or row.role is None:
            raise ModelNotFound(model_rid=model_rid)
        return VisibleModel(to_model(row), row.role)

    def list_models(self, caller: Caller, parent_folder_rid: str | None, page: PageRequest) -> Page[Model]:
        """See the contract."""
        query = first_models(self.connection, caller, parent_folder_rid, str(page.after or ""), page.size + 1)
        rows = self.connection.execute(query).all()
        return page_of(rows, rows[: page.size], "rid", to_model)

    def find_version(self, model_version_rid: str, caller: Caller) -> StoredVersion | None:
        """See the contract."""
        known = self._versions.get(model_version_rid)
        if known is not None:
            row = self._ask(_visible_version, caller, model_rid=known.version.model_rid, version_rid=model_version_rid)
            return None if row is None else known
        row = self._ask(_version, caller, version_rid=model_version_rid)
        return None if row is None else self._kept(to_stored_version(row))

    def get_branch(self, model_rid: str, branch: str, caller: Caller) -> Branch:
        """See the contract."""
        row = self._ask(_branch, caller, model_rid=model_rid, branch=branch)
        if row is None:
            raise ModelNotFound(model_rid=model_rid)
        if row.head_rid is None:
            raise BranchNotFound(model_rid=model_rid, branch_name=branch)
        head = self._versions.get(row.head_rid) or self.find_version(row.head_rid, caller)
        if head is None:  # Hidden from the caller since the statement before.
            raise ModelNotFound(model_rid=model_rid)
        return Branch(name=branch, head=head.version, version_count=row.version_count)

    def list_branches(self, model_rid: str, caller: Caller, page: PageRequest) -> Page[Branch]:
        """See the contract."""
        rows = self._listed(branches_of_model, model_rid, caller, page, after=page.after or "")
        return page_of(rows, that_fit(rows[: page.size]), "branch", to_branch)

    def list_versions(self, model_rid: str, branch: str, caller: Caller, page: PageRequest) -> Page[ModelVersion]:
        """See the contract."""
        before = BEHIND_ALL if page.after is None else page.after
        rows = self._listed(versions_of_branch, model_rid, caller, page, branch=branch, before=before)
        return page_of(rows, that_fit(rows[: page.size]), "version_number", to_version)

    def require_fitting(self, version: ModelVersion) -> None:
        """See the contract."""
        self._require_fitting(content_of(version).payload)

    def _require_fitting(self, payload: bytes) -> None:
        if len(payload) > self._fitting_bytes:
            raise RequestTooLarge

    def get_role(self, resource_rid: str, caller: Caller) -> Role.ValueType:
        """See the contract."""
        role = self.connection.scalar(select(role_on(caller, resource_rid)))
        return cast("Role.ValueType", role or ROLE_UNSPECIFIED)

    def list_grants(self, resource_rid: str, page: PageRequest) -> Page[Grant]:
        """See the contract."""
        query = select(grants).where(grants.c.resource_rid == resource_rid)
        if page.after is not None:
            query = query.where(grants.c.principal > page.after)
        rows = self.connection.execute(query.order_by(grants.c.principal).limit(page.size + 1)).all()
        return page_of(rows, rows[: page.size], "principal", _to_grant)

    def _ask(self, prepared: Callable[[Caller], Prepared], caller: Caller, **parameters: object) -> Any | None:
        """Return the row of a statement for callers; None if it has none."""
        return prepared(caller).one_or_none(self.connection, parameters | principals(caller))

    def _listed(
        self,
        prepared: Callable[[Caller], Prepared],
        model_rid: str,
        caller: Caller,
        page: PageRequest,
        **parameters: object,
    ) -> Sequence[AnyRow]:
        """Return the rows of a list in a model, one more than a page has if there are so many. Raises ModelNotFound."""
        parameters |= {"model_rid": model_rid, "count": page.size + 1, "most_bytes": self._fitting_bytes}
        rows = prepared(caller).all(self.connection, parameters | principals(caller))
        if not rows:
            raise ModelNotFound(model_rid=model_rid)
        return [row for row in rows if row.rid is not None]

    def _kept(self, version: StoredVersion) -> StoredVersion:
        """Return a version that was read, and keep it for the next who asks."""
        self._versions.put(version)
        return version


def stored_versions(caller: Caller) -> Select[*tuple[Any, ...]]:
    """The versions that the caller may see, each with its content."""
    return (
        select(*VERSION_COLUMNS, models.c.rid.label("model_rid"), branches.c.name.label("branch"), contents.c.payload)
        .join_from(versions, branches)
        .join(models)
        .join(contents, contents.c.digest == versions.c.content_digest)
        .where(model_is_visible(caller))
    )


@for_callers
def _version(caller: Caller) -> Select[*tuple[Any, ...]]:
    return stored_versions(caller).where(versions.c.rid == bindparam("version_rid"))


@for_callers
def _visible_version(caller: Caller) -> Select[*tuple[Any, ...]]:
    """Whether a version is there, and its model visible."""
    is_stored = exists().where(versions.c.rid == bindparam("version_rid"))
    return select(models.c.id).where(models.c.rid == bindparam("model_rid"), is_stored, model_is_visible(caller))


@for_callers
def _model(caller: Caller) -> Select[*tuple[Any, ...]]:
    return select(models, role_on_model(caller).label("role")).where(models.c.rid == bindparam("model_rid"))


@for_callers
def _branch(caller: Caller) -> Select[*tuple[Any, ...]]:
    """The RID of a branch's head, or NULL; no row if the model is absent or invisible."""
    return (
        select(versions.c.rid.label("head_rid"), branches.c.version_count)
        .select_from(models)
        .outerjoin(branches, and_(branches.c.model_id == models.c.id, branches.c.name == bindparam("branch")))
        .outerjoin(versions, is_head)
        .where(models.c.rid == bindparam("model_rid"), model_is_visible(caller))
    )


def _to_grant(row: AnyRow) -> Grant:
    return Grant(resource_rid=row.resource_rid, principal=row.principal, role=row.role)
