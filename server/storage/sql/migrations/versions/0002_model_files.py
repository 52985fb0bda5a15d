"""Model files: uploads, the files that are complete, and which content has which file."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables of files; what is stored already has none."""
    op.create_table(
        "files",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("object_name", text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_files"),
        sa.UniqueConstraint("object_name", name="uq_files_object_name"),
    )
    # As SQL, because SQLite takes a reference only with its column, and Alembic only on its own.
    binary = sa.LargeBinary().compile(dialect=op.get_bind().dialect)
    op.execute(
        f"ALTER TABLE contents ADD COLUMN file_digest {binary}"
        " CONSTRAINT fk_contents_file_digest_files REFERENCES files (digest)"
    )
    op.create_index("ix_contents_file_digest", "contents", ["file_digest"])
    op.create_table(
        "uploads",
        sa.Column("id_digest", sa.LargeBinary, nullable=False),
        sa.Column("caller", text, nullable=False),
        sa.Column("model_id", key, nullable=False),
        sa.Column("object_name", text, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("file_digest", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id_digest", name="pk_uploads"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_uploads_model_id_models"),
        sa.ForeignKeyConstraint(["file_digest"], ["files.digest"], name="fk_uploads_file_digest_files"),
        sa.UniqueConstraint("object_name", name="uq_uploads_object_name"),
    )
    op.create_index("ix_uploads_expire_time", "uploads", ["expire_time"])
    op.create_index("ix_uploads_file_digest", "uploads", ["file_digest"])
    identity = op.create_table(
        "identity",
        sa.Column("registry_id", text, nullable=False),
        sa.PrimaryKeyConstraint("registry_id", name="pk_identity"),
    )
    op.bulk_insert(identity, [{"registry_id": uuid.uuid4().hex}])
