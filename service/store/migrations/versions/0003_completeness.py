"""who sends a study, which images a case was made from, and what the DICOM nodes say"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("instances", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("instances", sa.Column("superseded_in", sa.Integer(), nullable=True))
    op.add_column("cases", sa.Column("study_revision", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("cases", sa.Column("kept_images", sa.JSON(), nullable=True))
    # All images so far count as revision 1, and what was inspected so far was inspected with all of them.
    op.execute("UPDATE cases SET study_revision = 1 WHERE state <> 'RECEIVING'")
    op.create_table(
        "study_sources",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["studies.study_uid"], name=op.f("fk_study_sources_study_uid_studies")
        ),
        sa.PrimaryKeyConstraint("study_uid", "association", name=op.f("pk_study_sources")),
    )
    op.create_index("ix_study_sources_association", "study_sources", ["association"], unique=False)
    op.create_index("ix_study_sources_caller", "study_sources", ["calling_ae", "last_at"], unique=False)
    op.execute(
        "INSERT INTO study_sources (study_uid, association, calling_ae, images, last_at) "
        "SELECT study_uid, association, MIN(calling_ae), COUNT(*), MAX(received_at) FROM instances "
        "GROUP BY study_uid, association"
    )
    op.create_table(
        "node_status",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_node_status")),
    )
    op.create_table(
        "node_events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("next_step", sa.Text(), nullable=False),
        sa.Column("first_at", sa.String(length=32), nullable=False),
        sa.Column("last_at", sa.String(length=32), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node_events")),
    )
    op.create_index(op.f("ix_node_events_last_at"), "node_events", ["last_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_node_events_last_at"), table_name="node_events")
    op.drop_table("node_events")
    op.drop_table("node_status")
    op.drop_index("ix_study_sources_caller", table_name="study_sources")
    op.drop_index("ix_study_sources_association", table_name="study_sources")
    op.drop_table("study_sources")
    op.drop_column("cases", "kept_images")
    op.drop_column("cases", "study_revision")
    op.drop_column("instances", "superseded_in")
    op.drop_column("instances", "revision")
