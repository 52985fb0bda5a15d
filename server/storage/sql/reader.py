"""The questions of `server.storage.repository.Reader` as SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    Table,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from modelregistry.v1.access_service_pb2 import ROLE_UNSPECIFIED, Grant, Role
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from server.caller import Caller
from server.errors import BranchNotFound, ModelNotFound
from server.storage.repository import Page, PageRequest, StoredVersion, VisibleModel
from server.storage.sql.access import model_is_visible, role_on, role_on_model
from server.storage.sql.cache import VersionCache
from server.storage.sql.model_lists import first_models
from server.storage.sql.prepared import Prepared, for_callers, principals
from server.storage.sql.rows import (
    MAX_BYTES_A_CHARACTER,
    VERSION_COLUMNS,
    AnyRow,
    to_branch,
    to_model,
    to_stored_version,
    to_version,
    version_bytes,
)
from server.storage.sql.tables import branches, contents, grants, models, versions

T = TypeVar("T")

# Of a message, what the largest version leaves to what is not content, and a page to its token.
ENVELOPE_BYTES = 8 * 2**10

is_head = and_(versions.c.branch_id == branches.c.id, versions.c.version_number == branches.c.version_count)


class SqlReader:
    """`server.storage.repository.Reader` over one connection."""

    def __init__(self, connection: Connection, max_message_bytes: int, versions: VersionCache):
        self.connection = connection
        self._max_message_bytes = max_message_bytes
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
        self.get_model(model_rid, caller)
        key, place = model_id(model_rid), tuple_(branches.c.model_id, branches.c.name)
        query = (
            select(
                *VERSION_COLUMNS,
                literal(model_rid).label("model_rid"),
                branches.c.name.label("branch"),
                # A branch and its head both hold the name.
                version_bytes(model_rid, 2 * MAX_BYTES_A_CHARACTER * func.length(branches.c.name)).label("size"),
            )
            .join_from(branches, versions, is_head)
            .join(contents, contents.c.digest == versions.c.content_digest)
            # A range of the index in its own order: by an equal key, PostgreSQL expects the few branches that most
            # models have, and would as soon sort all of those as walk along them. No name is empty.
            .where(place > tuple_(key, page.after or ""), branches.c.model_id <= key)
            .order_by(branches.c.model_id, branches.c.name)
            .limit(page.size + 1)
        )
        rows = self.with_payloads(query, contents, "content_digest", lambda row: (row.branch,))
        return page_of(rows, that_fit(rows[: page.size]), "branch", to_branch)

    def list_versions(self, model_rid: str, branch: str, caller: Caller, page: PageRequest) -> Page[ModelVersion]:
        """See the contract."""
        self.get_model(model_rid, caller)
        query = (
            select(
                *VERSION_COLUMNS,
                literal(model_rid).label("model_rid"),
                literal(branch).label("branch"),
                version_bytes(model_rid, literal(len(branch.encode()))).label("size"),
            )
            .join_from(versions, contents, contents.c.digest == versions.c.content_digest)
            # As a value and not as a join: only then does PostgreSQL walk the index instead of sorting the branch.
            .where(versions.c.branch_id == branch_id(model_rid, branch))
            .order_by(versions.c.version_number.desc())
            .limit(page.size + 1)
        )
        if page.after is not None:
            query = query.where(versions.c.version_number < page.after)
        rows = self.with_payloads(query, contents, "content_digest", lambda row: (row.version_number.desc(),))
        return page_of(rows, that_fit(rows[: page.size]), "version_number", to_version)

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

    def _kept(self, version: StoredVersion) -> StoredVersion:
        """Return a version that was read, and keep it for the next who asks."""
        self._versions.put(version)
        return version

    def with_payloads(
        self,
        query: Select[*tuple[Any, ...]],
        shared: Table,
        reference: str,
        order: Callable[[Any], Sequence[ColumnElement[Any]]],
    ) -> Sequence[AnyRow]:
        """Run a query of rows with their `size`; add the `payload` to as many as fit into one message.

        Payloads are in a table that rows share, and a column refers to its key. Those of the other rows are NULL, and
        are not read: a thousand can be larger than memory. Whether a row is one that `fits` is in its column.
        """
        listed = query.subquery()
        # How much each row and those before it fill.
        filled = func.sum(listed.c.size).over(order_by=order(listed.c), rows=(None, 0)).label("filled")
        measured = select(listed, filled).subquery()
        fits = or_(
            measured.c.filled <= self._max_message_bytes - ENVELOPE_BYTES,
            measured.c.filled == measured.c.size,  # the first one
        )
        # A subquery for a row and not a join: where PostgreSQL expects more rows than there are, it would rather read
        # all that is shared than look for some of it.
        key = shared.primary_key.columns[0]
        payload = select(shared.c.payload).where(key == measured.c[reference], fits).scalar_subquery()
        payloads = select(measured, fits.label("fits"), payload.label("payload")).order_by(*order(measured.c))
        return self.connection.execute(payloads).all()


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


def model_id(model_rid: str) -> ScalarSelect[int]:
    """The key of the model with this RID."""
    return select(models.c.id).where(models.c.rid == model_rid).scalar_subquery()


def branch_id(model_rid: str, branch: str) -> ScalarSelect[int]:
    """The key of the branch of this name, of the model with this RID."""
    query = select(branches.c.id).where(branches.c.model_id == model_id(model_rid), branches.c.name == branch)
    return query.scalar_subquery()


def that_fit(rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
    """The rows that fit into one message."""
    return [row for row in rows if row.fits]


def page_of(rows: Sequence[AnyRow], kept: Sequence[AnyRow], position: str, to_item: Callable[[AnyRow], T]) -> Page[T]:
    """Make a page of the first rows, the kept ones; what is left of `rows` says that another page follows."""
    following = getattr(kept[-1], position) if len(kept) < len(rows) else None
    return Page([to_item(row) for row in kept], following)


def _to_grant(row: AnyRow) -> Grant:
    return Grant(resource_rid=row.resource_rid, principal=row.principal, role=row.role)
