"""Changes that promotions make, of `server.storage.contract`, as SQL."""

from __future__ import annotations

from functools import cached_property

from sqlalchemy import bindparam, insert, select

from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion, PromotionKind
from server.storage.contract import BranchEnd, Comparison, EarlierRequest, RequestKey, Verdict
from server.storage.sql.engine import upsert, wait_for_standbys
from server.storage.sql.files import SqlFileTransaction
from server.storage.sql.keys import model_id
from server.storage.sql.prepared import Prepared
from server.storage.sql.promotions import SqlPromotionReader, branch_end, to_branch_end
from server.storage.sql.rows import timestamp
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
        [end] = branch_end.all(self.connection, {"branch_key": key, "to_branch": branch, "number": number})
        return to_branch_end(end)

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
        values = {
            "request_caller": key.caller,
            "request_rpc": key.rpc,
            "request_key": key.request_id,
            "request_digest": request.digest,
            "made": " ".join(request.results),
            "now_ms": self._clock_ms(),
        }
        if claim.one_or_none(self.connection, values) is not None:
            return None
        # The COMMIT that carried it out may have been interrupted while it waited for a standby.
        wait_for_standbys(self.connection)
        return self.find_request(key)

    def add_promotion(self, promotion: Promotion, verdict: Verdict | None) -> None:
        """See the contract."""
        values = {
            "promotion_rid": promotion.rid,
            "promotion_kind": promotion.kind,
            "source_model": promotion.source_model_rid,
            "source_version": promotion.source_model_version_rid,
            "verdict_key": None if verdict is None else verdict.key,
            "given_reason": promotion.reason if promotion.HasField("reason") else None,
            "version": promotion.model_version_rid,
        }
        _record.all(self.connection, values)
        self.promoted.append(promotion.kind)

    def add_policy(
        self, model_rid: str, branch: str, mode: CompatibilityMode.ValueType, changed_by: str
    ) -> BranchPolicy:
        """See the contract."""
        changed_ms = self._clock_ms()
        self.connection.execute(
            insert(branch_policies).values(
                model_id=model_id(model_rid),
                branch=branch,
                compatibility=mode,
                changed_by=changed_by,
                changed_time=changed_ms,
            )
        )
        # And not what is read now, which somebody else may have set meanwhile.
        return BranchPolicy(
            model_rid=model_rid,
            branch=branch,
            compatibility=mode,
            changed_by=changed_by,
            changed_time=timestamp(changed_ms),
        )

    def _lock_branch(self, model_rid: str, branch: str, numbers: int) -> tuple[int, int]:
        """Take the next numbers of a branch; others wait for it until this transaction ends.

        Return its key and the last number taken.
        """
        values = {"to_model": model_rid, "to_branch": branch, "numbers": numbers}
        [(key, number)] = _lock.all(self.connection, values)
        return key, number


_lock = Prepared(
    lambda connection: (
        upsert(connection, branches)
        .values(
            model_id=model_id(bindparam("to_model")), name=bindparam("to_branch"), version_count=bindparam("numbers")
        )
        .on_conflict_do_update(
            index_elements=[branches.c.model_id, branches.c.name],
            set_={"version_count": branches.c.version_count + bindparam("numbers")},
        )
        .returning(branches.c.id, branches.c.version_count)
    )
)
# Claims a request for what it makes, and has a row only if nobody did before.
claim = Prepared(
    lambda connection: (
        upsert(connection, requests)
        .values(
            caller=bindparam("request_caller"),
            rpc=bindparam("request_rpc"),
            request_id=bindparam("request_key"),
            digest=bindparam("request_digest"),
            results=bindparam("made"),
            created_time=bindparam("now_ms"),
        )
        .on_conflict_do_nothing()
        .returning(requests.c.digest)
    )
)
_given = {
    "rid": "promotion_rid",
    "kind": "promotion_kind",
    "source_model_rid": "source_model",
    "source_rid": "source_version",
    "verdict_id": "verdict_key",
    "reason": "given_reason",
}
_made = {
    "version_id": versions.c.id,
    "model_id": branches.c.model_id,
    "created_time": versions.c.created_time,
    "created_by": versions.c.created_by,
}
_record = Prepared(
    insert(promotions).from_select(
        [*_given, *_made],
        select(*(bindparam(name, type_=promotions.c[column].type) for column, name in _given.items()), *_made.values())
        .join_from(versions, branches)
        .where(versions.c.rid == bindparam("version")),
    )
)
