"""an approval is bound to its G-code; maintenance notes of printers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

#: The G-code of a case that was sliced for the approval in force; an approval that still waits is bound when sliced.
_BIND = """
UPDATE approvals SET gcode_sha256 = (
    SELECT artifacts.sha256 FROM artifacts
    WHERE artifacts.case_id = approvals.case_id AND artifacts.kind = 'gcode' AND artifacts.current
)
WHERE voided_at IS NULL
AND EXISTS (SELECT 1 FROM cases WHERE cases.id = approvals.case_id
            AND cases.state IN ('SLICED', 'PRINTING', 'NEEDS_ATTENTION'))
AND EXISTS (SELECT 1 FROM artifacts
            WHERE artifacts.case_id = approvals.case_id AND artifacts.kind = 'gcode' AND artifacts.current)
"""


def upgrade() -> None:
    op.add_column(
        "approvals", sa.Column("gcode_sha256", sa.String(length=64), nullable=False, server_default="")
    )
    op.execute(_BIND)
    op.create_table(
        "printer_notes",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("printer", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("noted_by", sa.String(length=64), nullable=False),
        sa.Column("noted_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_printer_notes")),
    )
    op.create_index(op.f("ix_printer_notes_printer"), "printer_notes", ["printer"])


def downgrade() -> None:
    op.drop_index(op.f("ix_printer_notes_printer"), table_name="printer_notes")
    op.drop_table("printer_notes")
    op.drop_column("approvals", "gcode_sha256")
