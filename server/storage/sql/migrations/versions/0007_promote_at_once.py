"""The function with which servers of one release promoted in one round trip. Later ones do not call it."""

from alembic import op

revision = "0007"
down_revision = "0006"

# Its statements see what was committed before each of them, and so does the one after the lock. Nothing is written
# before nothing can speak against the promotion any more: there is nothing to undo. What it returns nothing for,
# the server does step by step. Releases to come make functions of other names, so that servers of this one
# find theirs.
PROMOTE = """
CREATE FUNCTION promote_at_once_1(
    to_model text, to_branch text, source_model text, source_version text, digest bytea, root text,
    source_message bytea, new_rid text, promotion_rid text, kind smallint, reason text, creator text,
    principals text[], is_admin boolean, least_role smallint, now_ms bigint, rules_version integer, expected_head text,
    request_caller text, request_rpc text, request_key text, request_digest bytea
) RETURNS TABLE (number integer, created_ms bigint)
LANGUAGE plpgsql AS $$
DECLARE
    branch_key bigint;
    model_key bigint;
    head_number integer;
    head record;
    verdict record;
    verdict_key bigint;
    version_key bigint;
BEGIN
    SELECT b.id, m.id, b.version_count INTO branch_key, model_key, head_number
    FROM models m JOIN branches b ON b.model_id = m.id AND b.name = to_branch
    WHERE m.rid = to_model AND (is_admin OR least_role <= (
        SELECT max(g.role) FROM grants g
        WHERE g.resource_rid IN (m.rid, m.parent_folder_rid) AND g.principal = ANY (principals)
    ))
    FOR UPDATE OF b;
    IF NOT FOUND THEN RETURN; END IF;

    SELECT v.rid, v.content_digest, v.created_time, coalesce((
            SELECT p.compatibility FROM branch_policies p
            WHERE p.model_id = model_key AND p.branch = to_branch ORDER BY p.id DESC LIMIT 1
        ), 2) AS mode
    INTO head
    FROM versions v WHERE v.branch_id = branch_key AND v.version_number = head_number;
    IF NOT FOUND OR head.rid <> expected_head THEN RETURN; END IF;

    -- Whoever lost a role while this waited for the branch has lost it.
    IF NOT is_admin AND (
        SELECT count(*) FROM models m
        WHERE (m.rid = to_model AND least_role <= (
                SELECT max(g.role) FROM grants g
                WHERE g.resource_rid IN (m.rid, m.parent_folder_rid) AND g.principal = ANY (principals)
            ))
            OR (m.rid = source_model AND m.rid <> to_model AND EXISTS (
                SELECT FROM grants g
                WHERE g.resource_rid IN (m.rid, m.parent_folder_rid) AND g.principal = ANY (principals)
            ))
    ) < (CASE WHEN source_model = to_model THEN 1 ELSE 2 END) THEN RETURN; END IF;

    IF head.mode <> 1 AND head.content_digest <> digest THEN
        SELECT d.id, d.error_count INTO verdict FROM verdicts d
        WHERE d.head_digest = head.content_digest AND d.candidate_digest = digest AND d.rules = rules_version LIMIT 1;
        IF NOT FOUND OR (head.mode = 3 AND verdict.error_count > 0) THEN RETURN; END IF;
        verdict_key := verdict.id;
    END IF;

    IF request_key IS NOT NULL THEN
        INSERT INTO requests (caller, rpc, request_id, digest, results, created_time)
        VALUES (request_caller, request_rpc, request_key, request_digest, new_rid, now_ms) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN RETURN; END IF;
    END IF;

    number := head_number + 1;
    created_ms := greatest(now_ms, head.created_time);
    UPDATE branches SET version_count = number WHERE id = branch_key;
    INSERT INTO versions (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)
    VALUES (new_rid, branch_key, number, digest, source_message, root, created_ms, creator)
    RETURNING id INTO version_key;
    INSERT INTO promotions (
        rid, kind, version_id, model_id, source_model_rid, source_rid, verdict_id, reason, created_time, created_by
    )
    VALUES (
        promotion_rid, kind, version_key, model_key, source_model, source_version, verdict_key, reason,
        created_ms, creator
    );
    RETURN NEXT;
END $$
"""


def upgrade() -> None:
    """Make the function, where there are functions."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(PROMOTE)
