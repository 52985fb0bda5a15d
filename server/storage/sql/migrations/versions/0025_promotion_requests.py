"""Requests for promotion, and what was said of them."""

import sqlalchemy as sa
from alembic import op

from server.storage.sql.migrations.guards import is_postgres

revision = "0025"
down_revision = "0024"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
IS_OPEN = "closed_as IS NULL"
IS_OF_A_FOLDER = "change_folder_rid IS NOT NULL"


def upgrade() -> None:
    """Add the tables. On PostgreSQL, a request that is closed cannot be changed by the role of the servers."""
    op.create_table(
        "promotion_requests",
        sa.Column("id", KEY, nullable=False),
        sa.Column("rid", TEXT, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("model_id", sa.BigInteger().with_variant(sa.Integer, "sqlite")),
        sa.Column("branch", TEXT, nullable=False),
        sa.Column("source_model_rid", TEXT),
        sa.Column("source_rid", TEXT),
        sa.Column("content_digest", sa.LargeBinary),
        sa.Column("head_rid", TEXT),
        sa.Column("error_count", sa.Integer, nullable=False),
        sa.Column("warning_count", sa.Integer, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("requested_by", TEXT, nullable=False),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("closed_as", sa.SmallInteger),
        sa.Column("closed_by", TEXT),
        sa.Column("closed_time", sa.BigInteger),
        sa.Column("promotion_rid", TEXT),
        sa.Column("version_rid", TEXT),
        sa.Column("change", sa.LargeBinary),
        sa.Column("change_digest", sa.LargeBinary),
        sa.Column("change_folder_rid", TEXT),
        sa.Column("made_revision", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_promotion_requests"),
        sa.UniqueConstraint("rid", name="uq_promotion_requests_rid"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_promotion_requests_model_id_models"),
    )
    op.create_index(
        "ix_promotion_requests_open",
        "promotion_requests",
        ["model_id", "branch", "source_rid"],
        unique=True,
        postgresql_where=sa.text(IS_OPEN),
        sqlite_where=sa.text(IS_OPEN),
    )
    op.create_index(
        "ix_promotion_requests_open_change",
        "promotion_requests",
        ["change_digest"],
        unique=True,
        postgresql_where=sa.text(IS_OPEN),
        sqlite_where=sa.text(IS_OPEN),
    )
    op.create_index("ix_promotion_requests_model_id_id", "promotion_requests", ["model_id", "id"])
    op.create_index(
        "ix_promotion_requests_change_folder_rid_id",
        "promotion_requests",
        ["change_folder_rid", "id"],
        postgresql_where=sa.text(IS_OF_A_FOLDER),
        sqlite_where=sa.text(IS_OF_A_FOLDER),
    )
    op.create_index(
        "ix_promotion_requests_open_id",
        "promotion_requests",
        ["id"],
        postgresql_where=sa.text(IS_OPEN),
        sqlite_where=sa.text(IS_OPEN),
    )
    op.create_table(
        "promotion_reviews",
        sa.Column("id", KEY, nullable=False),
        sa.Column("request_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("verdict", sa.SmallInteger, nullable=False),
        sa.Column("reviewed_by", TEXT, nullable=False),
        sa.Column("principals", TEXT, nullable=False),
        sa.Column("head_rid", TEXT),
        sa.Column("comment", TEXT),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("policy_revision", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_promotion_reviews"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["promotion_requests.id"], name="fk_promotion_reviews_request_id_promotion_requests"
        ),
    )
    op.create_index("ix_promotion_reviews_request_id_id", "promotion_reviews", ["request_id", "id"])
    if is_postgres():
        op.execute("ALTER TABLE promotion_requests ENABLE ROW LEVEL SECURITY")
        op.execute("CREATE POLICY all_can_be_read ON promotion_requests FOR SELECT USING (true)")
        op.execute(f"CREATE POLICY made_open ON promotion_requests FOR INSERT WITH CHECK ({IS_OPEN})")
        op.execute(
            f"CREATE POLICY closed_once ON promotion_requests FOR UPDATE USING ({IS_OPEN})"
            " WITH CHECK (closed_as IS NOT NULL)"
        )
