"""sending: history, claims and commitment of deliveries; studies pulled from a PACS"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Filled by a default of the server, so that rows written before have a value too.
    with op.batch_alter_table("deliveries") as table:
        table.add_column(sa.Column("first_failed_at", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("history", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("claimed_by", sa.String(length=64), nullable=False, server_default=""))
        table.add_column(sa.Column("claimed_until", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("commit_state", sa.String(length=16), nullable=False, server_default=""))
        table.add_column(sa.Column("commit_next_at", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("commit_tries", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("commit_detail", sa.String(length=255), nullable=False, server_default=""))
        table.add_column(
            sa.Column("transaction_uid", sa.String(length=64), nullable=False, server_default="")
        )
    with op.batch_alter_table("studies") as table:
        table.add_column(sa.Column("expected_instances", sa.Integer(), nullable=True))
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=16), nullable=False),
        sa.Column("delivery_ids", sa.JSON(), nullable=False),
        sa.Column("asked_at", sa.String(length=32), nullable=False),
        sa.Column("reported_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitments")),
    )
    op.create_table(
        "pulls",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("peer", sa.String(length=16), nullable=False),
        sa.Column("accession_number", sa.String(length=16), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("candidates", sa.JSON(), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=True),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("warned", sa.Integer(), nullable=False),
        sa.Column("remaining", sa.Integer(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("requested_by", sa.String(length=64), nullable=False),
        sa.Column("requested_at", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pulls")),
    )
    op.create_index(op.f("ix_pulls_state"), "pulls", ["state"], unique=False)
    op.create_index(op.f("ix_pulls_study_uid"), "pulls", ["study_uid"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_pulls_study_uid"), table_name="pulls")
    op.drop_index(op.f("ix_pulls_state"), table_name="pulls")
    op.drop_table("pulls")
    op.drop_table("commitments")
    with op.batch_alter_table("studies") as table:
        table.drop_column("expected_instances")
    with op.batch_alter_table("deliveries") as table:
        for name in ("transaction_uid", "commit_detail", "commit_tries", "commit_next_at", "commit_state",
                     "claimed_until", "claimed_by", "history", "first_failed_at"):  # fmt: skip
            table.drop_column(name)
