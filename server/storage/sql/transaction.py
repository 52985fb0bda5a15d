"""The changes of `server.storage.contract.Transaction` as SQL."""

from __future__ import annotations

import hashlib

from sqlalchemy import bindparam, delete, insert

from modelregistry.v1.access_service_pb2 import Grant, Role
from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.core.errors import ResourceNameAlreadyExists
from server.storage.contract import BranchEnd, StoredVersion
from server.storage.sql.engine import upsert
from server.storage.sql.keys import branch_id
from server.storage.sql.prepared import Prepared
from server.storage.sql.promotion_changes import SqlPromotionTransaction
from server.storage.sql.rows import appended_to, content_of
from server.storage.sql.tables import contents, grant_changes, grants, models


class SqlTransaction(SqlPromotionTransaction):
    """`server.storage.contract.Transaction` over one connection; who made the connection commits."""

    def add_model(self, model: Model) -> Model:
        """See the contract."""
        stored = Model()
        stored.CopyFrom(model)
        created_ms = stored.created_time.ToMilliseconds() if stored.HasField("created_time") else self._clock_ms()
        stored.created_time.FromMilliseconds(created_ms)
        statement = (
            upsert(self.connection, models)
            .values(
                rid=stored.rid,
                name=stored.name,
                name_digest=hashlib.sha256(stored.name.encode()).digest(),
                parent_folder_rid=stored.parent_folder_rid,
                created_time=created_ms,
                created_by=stored.created_by,
            )
            .on_conflict_do_nothing(index_elements=[models.c.parent_folder_rid, models.c.name_digest])
            .returning(models.c.id)
        )
        if self.connection.execute(statement).one_or_none() is None:
            raise ResourceNameAlreadyExists(parent_folder_rid=model.parent_folder_rid, display_name=model.name)
        return stored

    def put_content(self, version: ModelVersion, file_digest: bytes | None = None) -> bytes:
        """See the contract."""
        digest, payload = content_of(version, file_digest)
        self._require_fitting(payload)
        row = {"content_digest": digest, "content": payload, "bytes": len(payload), "digest_of_files": file_digest}
        _put_content.all(self.connection, row)
        return digest

    def append_version(
        self,
        version: ModelVersion,
        content_digest: bytes,
        legacy_source: str | None = None,
        branch: BranchEnd | None = None,
    ) -> ModelVersion:
        """See the contract."""
        stored = ModelVersion()
        stored.CopyFrom(version)
        stored.DiscardUnknownFields()
        end = branch or self.extend_branch(version.model_rid, version.branch)
        stored.version_number = end.next_number
        if version.HasField("created_time"):
            created_ms = version.created_time.ToMilliseconds()
        else:
            # Read under the lock, and a clock that was set back does not show.
            created_ms = max(self._clock_ms(), end.head.created_ms if end.head else 0)
        stored.created_time.FromMilliseconds(created_ms)
        _append.all(
            self.connection,
            {
                "to_model": version.model_rid,
                "to_branch": version.branch,
                "new_rid": stored.rid,
                "number": stored.version_number,
                "digest": content_digest,
                "source_message": None if legacy_source else stored.source.SerializeToString(deterministic=True),
                "legacy": legacy_source,
                "root": stored.root_model_version_rid,
                "created_ms": created_ms,
                "creator": stored.created_by,
            },
        )
        return stored

    def set_grant(self, grant: Grant, changed_by: str) -> None:
        """See the contract."""
        statement = upsert(self.connection, grants).values(
            resource_rid=grant.resource_rid, principal=grant.principal, role=grant.role
        )
        self.connection.execute(
            statement.on_conflict_do_update(
                index_elements=[grants.c.resource_rid, grants.c.principal], set_={"role": grant.role}
            )
        )
        self._record_grant_change(grant.resource_rid, grant.principal, grant.role, changed_by)

    def remove_grant(self, resource_rid: str, principal: str, changed_by: str) -> None:
        """See the contract."""
        removed = self.connection.execute(
            delete(grants).where(grants.c.resource_rid == resource_rid, grants.c.principal == principal)
        )
        if removed.rowcount:
            self._record_grant_change(resource_rid, principal, None, changed_by)

    def _record_grant_change(
        self, resource_rid: str, principal: str, role: Role.ValueType | None, changed_by: str
    ) -> None:
        self.connection.execute(
            insert(grant_changes).values(
                resource_rid=resource_rid,
                principal=principal,
                role=role,
                changed_by=changed_by,
                changed_time=self._clock_ms(),
            )
        )

    def _kept(self, version: StoredVersion) -> StoredVersion:
        """Keep nothing that may still be rolled back."""
        return version


_put_content = Prepared(
    lambda connection: (
        upsert(connection, contents)
        .values(
            digest=bindparam("content_digest"),
            payload=bindparam("content"),
            size=bindparam("bytes"),
            file_digest=bindparam("digest_of_files"),
        )
        .on_conflict_do_nothing(index_elements=[contents.c.digest])
    )
)
_append = Prepared(
    appended_to(branch_id(bindparam("to_model"), bindparam("to_branch"))).values(legacy_source=bindparam("legacy"))
)
