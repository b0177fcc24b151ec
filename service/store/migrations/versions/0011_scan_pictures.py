"""pictures of a scan, made after its report"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "scan_pictures",
        sa.Column("scan_id", sa.String(length=40), nullable=False),
        sa.Column("report_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("pictures", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_scan_pictures_scan_id_scans")),
        sa.PrimaryKeyConstraint("scan_id", "report_version", name=op.f("pk_scan_pictures")),
    )


def downgrade() -> None:
    op.drop_table("scan_pictures")
