"""sterile services: proofs of the print, raw cycle records, tokens of sterilisers"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0003"

#: Items from before have no such proof: they are refused before loading, and a new part is printed.
_NEW = {"channels_mm": None, "gcode": None}

_records = sa.table(
    "sterile_records",
    sa.column("kind", sa.String),
    sa.column("id", sa.String),
    sa.column("document", sa.JSON),
)


def _change_designs(change: Any) -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.select(_records.c.id, _records.c.document).where(_records.c.kind == "item"))
    for row in rows.all():
        document = json.loads(row.document) if isinstance(row.document, str) else dict(row.document)
        document["design"] = change(document["design"])
        connection.execute(
            _records.update()
            .where(_records.c.kind == "item", _records.c.id == row.id)
            .values(document=document)
        )


def upgrade() -> None:
    op.create_table(
        "cycle_files",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("load_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.String(length=32), nullable=False),
        sa.Column("received_from", sa.String(length=64), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "load_id", name=op.f("pk_cycle_files")),
    )
    op.create_index(op.f("ix_cycle_files_load_id"), "cycle_files", ["load_id"], unique=False)
    op.add_column("tokens", sa.Column("bound_to", sa.String(length=64), nullable=False, server_default=""))
    _change_designs(lambda design: {**_NEW, **design})


def downgrade() -> None:
    _change_designs(lambda design: {k: v for k, v in design.items() if k not in _NEW})
    op.drop_column("tokens", "bound_to")
    op.drop_index(op.f("ix_cycle_files_load_id"), table_name="cycle_files")
    op.drop_table("cycle_files")
