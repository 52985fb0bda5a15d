"""Changes that promotions make, of `server.storage.promotions`, as SQL."""

from __future__ import annotations

from functools import cached_property

from sqlalchemy import insert, literal, select

from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion, PromotionKind
from server.storage.promotions import BranchEnd, Comparison, EarlierRequest, RequestKey, Verdict
from server.storage.sql.engine import upsert, wait_for_standbys
from server.storage.sql.files import SqlFileTransaction
from server.storage.sql.promotions import SqlPromotionReader, branch_end, to_branch_end
from server.storage.sql.reader import model_id
from server.storage.sql.tables import branch_policies, branches, promotions, requests, verdicts, versions


class SqlPromotionTransaction(SqlPromotionReader, SqlFileTransaction):
    """Changes that promotions make."""

    @cached_property
    def promoted(self) -> list[PromotionKind.ValueType]:
        """What kind each promotion of this transaction is, which may yet be rolled back."""
        return []

    def hold_branch(self, model_rid: str, branch: str) -> None:
        """See the contract."""
        self._lock_branch(model_rid, branch, numbers=0)

    def extend_branch(self, model_rid: str, branch: str) -> BranchEnd:
        """See the contract."""
        key, number = self._lock_branch(model_rid, branch, numbers=1)
        return to_branch_end(self.connection.execute(branch_end(key, branch, number)).one())

    def add_verdict(self, comparison: Comparison, findings: Promotion) -> Verdict:
        """See the contract."""
        payload = findings.SerializeToString(deterministic=True)
        statement = insert(verdicts).values(
            **comparison._asdict(), error_count=findings.error_count, payload=payload, size=len(payload)
        )
        key = self.connection.scalars(statement.returning(verdicts.c.id)).one()
        return Verdict(key, findings.error_count)

    def claim_request(self, key: RequestKey, request: EarlierRequest) -> EarlierRequest | None:
        """See the contract."""
        row = {"digest": request.digest, "results": " ".join(request.results), "created_time": self._clock_ms()}
        statement = upsert(self.connection, requests).values(**key._asdict(), **row)
        claimed = self.connection.execute(statement.on_conflict_do_nothing().returning(requests.c.digest))
        if claimed.one_or_none() is not None:
            return None
        # The COMMIT that carried it out may have been interrupted while it waited for a standby.
        wait_for_standbys(self.connection)
        return self.find_request(key)

    def add_promotion(self, promotion: Promotion, verdict: Verdict | None) -> None:
        """See the contract."""
        given = {
            "rid": promotion.rid,
            "kind": promotion.kind,
            "source_model_rid": promotion.source_model_rid,
            "source_rid": promotion.source_model_version_rid,
            "verdict_id": None if verdict is None else verdict.key,
            "reason": promotion.reason if promotion.HasField("reason") else None,
        }
        made = {
            "version_id": versions.c.id,
            "model_id": branches.c.model_id,
            "created_time": versions.c.created_time,
            "created_by": versions.c.created_by,
        }
        values = [literal(value, promotions.c[name].type) for name, value in given.items()]
        row = select(*values, *made.values()).join_from(versions, branches)
        row = row.where(versions.c.rid == promotion.model_version_rid)
        self.connection.execute(insert(promotions).from_select([*given, *made], row))
        self.promoted.append(promotion.kind)

    def add_policy(
        self, model_rid: str, branch: str, mode: CompatibilityMode.ValueType, changed_by: str
    ) -> BranchPolicy:
        """See the contract."""
        self.connection.execute(
            insert(branch_policies).values(
                model_id=model_id(model_rid),
                branch=branch,
                compatibility=mode,
                changed_by=changed_by,
                changed_time=self._clock_ms(),
            )
        )
        return self.get_policy(model_rid, branch)

    def _lock_branch(self, model_rid: str, branch: str, numbers: int) -> tuple[int, int]:
        """Take the next numbers of a branch; others wait for it until this transaction ends.

        Return its key and the last number taken.
        """
        statement = (
            upsert(self.connection, branches)
            .values(model_id=model_id(model_rid), name=branch, version_count=numbers)
            .on_conflict_do_update(
                index_elements=[branches.c.model_id, branches.c.name],
                set_={"version_count": branches.c.version_count + numbers},
            )
            .returning(branches.c.id, branches.c.version_count)
        )
        key, number = self.connection.execute(statement).one()
        return key, number
