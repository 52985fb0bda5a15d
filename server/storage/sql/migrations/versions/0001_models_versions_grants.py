"""Models, branches, versions with shared contents, and grants."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "models",
        sa.Column("id", key, nullable=False),
        sa.Column("rid", text, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("name_digest", sa.LargeBinary, nullable=False),
        sa.Column("parent_folder_rid", text, nullable=False),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("created_by", text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("rid", name="uq_models_rid"),
        sa.UniqueConstraint("parent_folder_rid", "name_digest", name="uq_models_parent_folder_rid_name_digest"),
    )
    op.create_index("ix_models_parent_folder_rid_rid", "models", ["parent_folder_rid", "rid"])
    op.create_table(
        "branches",
        sa.Column("id", key, nullable=False),
        sa.Column("model_id", key, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("version_count", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_branches"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_branches_model_id_models"),
        sa.UniqueConstraint("model_id", "name", name="uq_branches_model_id_name"),
    )
    op.create_table(
        "contents",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_contents"),
    )
    op.create_table(
        "versions",
        sa.Column("id", key, nullable=False),
        sa.Column("rid", text, nullable=False),
        sa.Column("branch_id", key, nullable=False),
        sa.Column("version_number", sa.Integer, nullable=False),
        sa.Column("content_digest", sa.LargeBinary, nullable=False),
        sa.Column("source", sa.LargeBinary),
        sa.Column("legacy_source", text),
        sa.Column("root_rid", text, nullable=False),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("created_by", text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["branch_id"], ["branches.id"], name="fk_versions_branch_id_branches"),
        sa.ForeignKeyConstraint(["content_digest"], ["contents.digest"], name="fk_versions_content_digest_contents"),
        sa.UniqueConstraint("rid", name="uq_versions_rid"),
        sa.UniqueConstraint("branch_id", "version_number", name="uq_versions_branch_id_version_number"),
    )
    op.create_table(
        "grants",
        sa.Column("resource_rid", text, nullable=False),
        sa.Column("principal", text, nullable=False),
        sa.Column("role", sa.SmallInteger, nullable=False),
        sa.PrimaryKeyConstraint("resource_rid", "principal", name="pk_grants"),
    )
    op.create_index("ix_grants_principal_resource_rid", "grants", ["principal", "resource_rid"])
    op.create_table(
        "grant_changes",
        sa.Column("id", key, nullable=False),
        sa.Column("resource_rid", text, nullable=False),
        sa.Column("principal", text, nullable=False),
        sa.Column("role", sa.SmallInteger),
        sa.Column("changed_by", text, nullable=False),
        sa.Column("changed_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_grant_changes"),
    )
    op.create_index("ix_grant_changes_resource_rid_id", "grant_changes", ["resource_rid", "id"])
