"""pictures of prints, and the lot of the filament"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_QA: dict[str, Any] = {"weight_g": None, "photos": []}

_records = sa.table(
    "sterile_records",
    sa.column("kind", sa.String),
    sa.column("id", sa.String),
    sa.column("document", sa.JSON),
)


def _change_items(change: Callable[[dict[str, Any]], None]) -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.select(_records.c.id, _records.c.document).where(_records.c.kind == "item"))
    for row in rows.all():
        document = json.loads(row.document) if isinstance(row.document, str) else dict(row.document)
        change(document)
        connection.execute(
            _records.update()
            .where(_records.c.kind == "item", _records.c.id == row.id)
            .values(document=document)
        )


def _add_weight(item: dict[str, Any]) -> None:
    # Parts from before have no weight to compare with: they cannot pass a new inspection, and are printed anew.
    item["design"] = {"part_weight_g": None, **item["design"]}
    item["qa"] = {**_QA, **item["qa"]} if item["qa"] else None


def _drop_weight(item: dict[str, Any]) -> None:
    item["design"] = {k: v for k, v in item["design"].items() if k != "part_weight_g"}
    item["qa"] = {k: v for k, v in item["qa"].items() if k not in _QA} if item["qa"] else None


def upgrade() -> None:
    _change_items(_add_weight)
    op.add_column(
        "print_jobs", sa.Column("filament_lot", sa.String(length=64), nullable=False, server_default="")
    )
    op.create_table(
        "print_pictures",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.String(length=32), nullable=False),
        sa.Column("taken_by", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["token"], ["print_jobs.token"], name=op.f("fk_print_pictures_token_print_jobs")
        ),
        sa.PrimaryKeyConstraint("token", "sha256", "kind", name=op.f("pk_print_pictures")),
    )


def downgrade() -> None:
    _change_items(_drop_weight)
    op.drop_table("print_pictures")
    op.drop_column("print_jobs", "filament_lot")
