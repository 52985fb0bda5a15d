"""How many bytes of model files count for each principal and each folder, for the bounds of `serve`."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# Of versions that were created: a promotion copies no bytes.
CREATED = """
FROM versions v
JOIN contents c ON c.digest = v.content_digest
JOIN files f ON f.digest = c.file_digest
JOIN branches b ON b.id = v.branch_id
JOIN models m ON m.id = b.model_id
WHERE NOT EXISTS (SELECT 1 FROM promotions p WHERE p.version_id = v.id)
"""


def upgrade() -> None:
    """Add the table, and count the files of the versions that are there."""
    op.create_table(
        "file_usage",
        sa.Column("holder", text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_file_usage"),
    )
    for holder in ("v.created_by", "m.parent_folder_rid"):
        op.execute(f"INSERT INTO file_usage (holder, size) SELECT {holder}, sum(f.size) {CREATED} GROUP BY {holder}")
