"""verdicts acknowledged by a surgeon; the audited layer farthest from solid in the proof of a print"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_records = sa.table(
    "sterile_records",
    sa.column("kind", sa.String),
    sa.column("id", sa.String),
    sa.column("document", sa.JSON),
)


def _change_proofs(change: Any) -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.select(_records.c.id, _records.c.document).where(_records.c.kind == "item"))
    for row in rows.all():
        document = json.loads(row.document) if isinstance(row.document, str) else dict(row.document)
        proof = document["design"].get("gcode")
        if proof is None:
            continue
        document["design"]["gcode"] = change(proof)
        connection.execute(
            _records.update()
            .where(_records.c.kind == "item", _records.c.id == row.id)
            .values(document=document)
        )


def upgrade() -> None:
    op.add_column(
        "scans", sa.Column("acknowledged_by", sa.String(length=64), nullable=False, server_default="")
    )
    op.add_column("scans", sa.Column("acknowledged_at", sa.String(length=32), nullable=True))
    # Parts audited before have no such figure: they are refused before loading, and a new part is printed.
    _change_proofs(lambda proof: {"layer_off_most": None, **proof})


def downgrade() -> None:
    _change_proofs(lambda proof: {k: v for k, v in proof.items() if k != "layer_off_most"})
    with op.batch_alter_table("scans") as batch:
        batch.drop_column("acknowledged_at")
        batch.drop_column("acknowledged_by")
