"""Questions about branches, verdicts, requests and policies, of `server.storage.contract`, as SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, func, select

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_WARN
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from server.core.caller import Caller
from server.storage.contract import (
    BranchEnd,
    Comparison,
    EarlierRequest,
    Head,
    RequestKey,
    StoredVersion,
    Verdict,
)
from server.storage.sql.keys import branch_id, is_head, model_id
from server.storage.sql.prepared import Prepared
from server.storage.sql.promotion_records import SqlPromotionRecordReader
from server.storage.sql.reader import stored_versions
from server.storage.sql.rows import AnyRow, timestamp, to_stored_version
from server.storage.sql.tables import (
    branch_policies,
    branches,
    contents,
    models,
    requests,
    verdicts,
    versions,
)


class SqlPromotionReader(SqlPromotionRecordReader):
    """Questions about promotions, those about their records among them."""

    def get_branch_end(self, model_rid: str, branch: str) -> BranchEnd:
        """See the contract."""
        query = (
            select(func.coalesce(branches.c.version_count + 1, 1).label("next_number"), *head_and_policy(branch))
            .select_from(models)
            .outerjoin(branches, and_(branches.c.model_id == models.c.id, branches.c.name == branch))
            .outerjoin(versions, is_head)
            .where(models.c.rid == model_rid)
        )
        return to_branch_end(self.connection.execute(query).one())

    def find_numbered_version(
        self, model_rid: str, branch: str, version_number: int, caller: Caller
    ) -> StoredVersion | None:
        """See the contract."""
        query = stored_versions(caller).where(
            versions.c.branch_id == branch_id(model_rid, branch), versions.c.version_number == version_number
        )
        row = self.connection.execute(query).one_or_none()
        return None if row is None else to_stored_version(row)

    def find_verdict(self, comparison: Comparison) -> Verdict | None:
        """See the contract."""
        row = stored_verdict.one_or_none(self.connection, comparison._asdict())
        return None if row is None else Verdict(row.id, row.error_count)

    def get_findings(self, verdict: Verdict) -> Promotion:
        """See the contract."""
        payload = self.connection.scalars(select(verdicts.c.payload).where(verdicts.c.id == verdict.key)).one()
        return Promotion.FromString(payload)

    def get_model_api(self, content_digest: bytes) -> ModelApi:
        """See the contract."""
        query = select(contents.c.payload).where(contents.c.digest == content_digest)
        return ModelVersion.FromString(self.connection.scalars(query).one()).model_api

    def find_request(self, key: RequestKey) -> EarlierRequest | None:
        """See the contract."""
        row = stored_request.one_or_none(self.connection, key._asdict())
        return None if row is None else EarlierRequest(row.digest, tuple(row.results.split()))

    def get_policy(self, model_rid: str, branch: str) -> BranchPolicy:
        """See the contract."""
        query = select(branch_policies).where(
            branch_policies.c.model_id == model_id(model_rid), branch_policies.c.branch == branch
        )
        row = self.connection.execute(query.order_by(branch_policies.c.id.desc()).limit(1)).one_or_none()
        policy = BranchPolicy(model_rid=model_rid, branch=branch, compatibility=COMPATIBILITY_MODE_WARN)
        if row is not None:
            policy.compatibility = row.compatibility
            policy.changed_by = row.changed_by
            policy.changed_time.CopyFrom(timestamp(row.changed_time))
        return policy


# The verdict on the contents of a Comparison, whose fields are the parameters.
stored_verdict = Prepared(
    select(verdicts.c.id, verdicts.c.error_count)
    .where(*(verdicts.c[name] == bindparam(name) for name in Comparison._fields))
    .limit(1)
)
# What was carried out under a RequestKey, whose fields are the parameters.
stored_request = Prepared(
    select(requests.c.digest, requests.c.results).where(
        *(requests.c[name] == bindparam(name) for name in RequestKey._fields)
    )
)


def head_and_policy(branch: str | BindParameter[str]) -> list[ColumnElement[Any]]:
    """The columns of `to_branch_end` but for the number, beside `versions` with the head or NULL, and `models`."""
    policy = (
        select(branch_policies.c.compatibility)
        .where(branch_policies.c.model_id == models.c.id, branch_policies.c.branch == branch)
        .order_by(branch_policies.c.id.desc())
        .limit(1)
        .correlate(models)
        .scalar_subquery()
    )
    return [
        versions.c.rid,
        versions.c.content_digest,
        versions.c.created_time,
        func.coalesce(policy, COMPATIBILITY_MODE_WARN).label("compatibility"),
    ]


def to_branch_end(row: AnyRow) -> BranchEnd:
    """Return the end of a branch as its row says."""
    head = None if row.rid is None else Head(row.rid, row.content_digest, row.created_time)
    return BranchEnd(row.next_number, head, row.compatibility)


# Where a branch goes on that has taken its next number already.
branch_end = Prepared(
    select(branches.c.version_count.label("next_number"), *head_and_policy(bindparam("to_branch")))
    .join_from(branches, models)
    .outerjoin(
        versions, and_(versions.c.branch_id == branches.c.id, versions.c.version_number == bindparam("number") - 1)
    )
    .where(branches.c.id == bindparam("branch_key"))
)
