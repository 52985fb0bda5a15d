"""A promotion against which nothing speaks: one call of a function on PostgreSQL, four statements on SQLite.

Both make the same checks, and where one fails they do nothing: `server.rules.promotion` then finds out what to answer.
 SQLite has no functions, and a round trip to it costs nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, case, func, insert, select, update

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import ModelVersion
from server.core.caller import Caller
from server.storage.contract import Comparison, Plain
from server.storage.sql.access import model_is_visible, role_on_model
from server.storage.sql.engine import settings_of
from server.storage.sql.keys import is_head
from server.storage.sql.prepared import Prepared, for_callers, principals
from server.storage.sql.promotion_changes import claim
from server.storage.sql.promotions import head_and_policy, stored_verdict
from server.storage.sql.rows import appended_to
from server.storage.sql.tables import branches, models, promotions, versions

_source_model = models.alias("source_model")

# The parameters of promote_at_once_1, in order; migration 0007 has the function, 0008 says how it is planned.
_PARAMETERS = (
    "to_model",
    "to_branch",
    "source_model",
    "source_version",
    "digest",
    "root",
    "source_message",
    "new_rid",
    "promotion_rid",
    "kind",
    "reason",
    "creator",
    "principals",
    "is_admin",
    "least_role",
    "now_ms",
    "rules_version",
    "expected_head",
    "request_caller",
    "request_rpc",
    "request_key",
    "request_digest",
)
# Set before the function begins, since it needs them, and for no longer than this one statement.
_settings = and_(
    func.set_config("lock_timeout", bindparam("patience"), True).is_not(None),
    func.set_config("synchronous_commit", bindparam("synchronous_commit"), True).is_not(None),
)
_to_model = case((_settings, bindparam(_PARAMETERS[0])))
_called = func.promote_at_once_1(_to_model, *map(bindparam, _PARAMETERS[1:])).table_valued("number", "created_ms")
_call = Prepared(select(_called.c.number, _called.c.created_ms))


def with_function(
    connection: Connection, plain: Plain, caller: Caller, now_ms: int, patience_seconds: float
) -> ModelVersion | None:
    """Promote on a connection without a transaction, where others keep no lock from it for longer than that."""
    settings = settings_of(connection)
    row = _call.one_or_none(
        connection,
        _values(plain, now_ms)
        | {
            "principals": list(caller.principals),
            "is_admin": caller.is_admin,
            # As little as it is set to wait anyway. Zero would be for ever.
            "patience": f"{max(1, min(int(patience_seconds * 1000), int(settings['lock_timeout'])))}ms",
            "synchronous_commit": settings["synchronous_commit"],
        },
    )
    return None if row is None else _stored(plain, row.number, row.created_ms)


def in_steps(connection: Connection, plain: Plain, caller: Caller, now_ms: int) -> ModelVersion | None:
    """Promote in a transaction that nobody else writes beside."""
    values = _values(plain, now_ms)
    found = _branch(caller).one_or_none(connection, values | principals(caller))
    if found is None or found.role is None or found.role < plain.role or found.source_key is None:
        return None
    if plain.expected_head_rid not in (None, found.rid):
        return None
    verdict_key = None
    if found.compatibility != COMPATIBILITY_MODE_OFF and found.content_digest != plain.content_digest:
        comparison = Comparison(found.content_digest, plain.content_digest, plain.rules)
        verdict = stored_verdict.one_or_none(connection, comparison._asdict())
        if verdict is None or (found.compatibility == COMPATIBILITY_MODE_ENFORCE and verdict.error_count):
            return None
        verdict_key = verdict.id
    if plain.claim is not None and claim.one_or_none(connection, values | {"made": plain.version.rid}) is None:
        return None
    values |= {
        "branch_key": found.branch_key,
        "model_key": found.model_key,
        "number": found.version_count + 1,
        "created_ms": max(now_ms, found.created_time),
        "verdict_key": verdict_key,
    }
    _extend.all(connection, values)
    values["version_key"] = _append.all(connection, values)[0].id
    _record.all(connection, values)
    return _stored(plain, values["number"], values["created_ms"])


def _values(plain: Plain, now_ms: int) -> dict[str, Any]:
    version, record = plain.version, plain.record
    key, request = plain.claim or (None, None)
    return {
        "to_model": version.model_rid,
        "to_branch": version.branch,
        "source_model": record.source_model_rid,
        "source_version": record.source_model_version_rid,
        "digest": plain.content_digest,
        "root": version.root_model_version_rid,
        "source_message": version.source.SerializeToString(deterministic=True),
        "new_rid": version.rid,
        "promotion_rid": record.rid,
        "kind": record.kind,
        "reason": record.reason if record.HasField("reason") else None,
        "creator": version.created_by,
        "least_role": plain.role,
        "now_ms": now_ms,
        "rules_version": plain.rules,
        "expected_head": plain.expected_head_rid,
        "request_caller": key and key.caller,
        "request_rpc": key and key.rpc,
        "request_key": key and key.request_id,
        "request_digest": request and request.digest,
    }


def _stored(plain: Plain, number: int, created_ms: int) -> ModelVersion:
    plain.version.version_number = number
    plain.version.created_time.FromMilliseconds(created_ms)
    return plain.version


# SQLite's statements


@for_callers
def _branch(caller: Caller) -> Select[*tuple[Any, ...]]:
    """The branch with its head and its policy, the caller's role, and whether the caller sees the source's model."""
    source = (
        select(_source_model.c.id)
        .where(_source_model.c.rid == bindparam("source_model"), model_is_visible(caller, _source_model))
        .scalar_subquery()
    )
    return (
        select(
            branches.c.id.label("branch_key"),
            branches.c.version_count,
            models.c.id.label("model_key"),
            *head_and_policy(bindparam("to_branch")),
            role_on_model(caller).label("role"),
            source.label("source_key"),
        )
        .select_from(models)
        .join(branches, and_(branches.c.model_id == models.c.id, branches.c.name == bindparam("to_branch")))
        .join(versions, is_head)
        .where(models.c.rid == bindparam("to_model"))
    )


_extend = Prepared(
    update(branches).where(branches.c.id == bindparam("branch_key")).values(version_count=bindparam("number"))
)
_append = Prepared(appended_to(bindparam("branch_key")).returning(versions.c.id))
_record = Prepared(
    insert(promotions).values(
        rid=bindparam("promotion_rid"),
        kind=bindparam("kind"),
        version_id=bindparam("version_key"),
        model_id=bindparam("model_key"),
        source_model_rid=bindparam("source_model"),
        source_rid=bindparam("source_version"),
        verdict_id=bindparam("verdict_key"),
        reason=bindparam("reason"),
        created_time=bindparam("created_ms"),
        created_by=bindparam("creator"),
    )
)
