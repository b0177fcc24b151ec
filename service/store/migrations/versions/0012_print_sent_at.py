"""when the one send of a print began"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    with op.batch_alter_table("print_jobs") as table:
        table.add_column(sa.Column("sent_at", sa.String(length=32), nullable=True))
    # Of older attempts nobody recorded it: each but a bare intent may have reached its printer.
    op.execute("UPDATE print_jobs SET sent_at = updated_at WHERE state <> 'INTENT'")


def downgrade() -> None:
    with op.batch_alter_table("print_jobs") as table:
        table.drop_column("sent_at")
