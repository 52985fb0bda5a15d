"""Which versions were yanked, and which of these yanks were taken back."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "yanks",
        sa.Column("id", KEY, nullable=False),
        sa.Column("rid", TEXT, nullable=False),
        sa.Column("version_id", KEY, nullable=False),
        sa.Column("root_rid", TEXT, nullable=False),
        sa.Column("scope", sa.SmallInteger, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("yanked_by", TEXT, nullable=False),
        sa.Column("yanked_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_yanks"),
        sa.UniqueConstraint("rid", name="uq_yanks_rid"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_yanks_version_id_versions"),
    )
    op.create_index("ix_yanks_root_rid_id", "yanks", ["root_rid", "id"])
    op.create_index("ix_yanks_version_id_id", "yanks", ["version_id", "id"])
    op.create_table(
        "unyanks",
        sa.Column("yank_id", KEY, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("unyanked_by", TEXT, nullable=False),
        sa.Column("unyanked_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("yank_id", name="pk_unyanks"),
        sa.ForeignKeyConstraint(["yank_id"], ["yanks.id"], name="fk_unyanks_yank_id_yanks"),
    )
