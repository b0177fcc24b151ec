"""The tables. Times are UTC ISO-8601 strings with microseconds, so that SQLite and PostgreSQL agree to the byte."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_TIME = String(32)
_UID = String(64)
_ID = String(40)

studies = Table(
    "studies",
    metadata,
    Column("study_uid", _UID, primary_key=True),
    Column("kind", String(16), nullable=False),  # planning_ct | oarm | unknown
    Column("state", String(16), nullable=False),  # RECEIVING | COMPLETE | MATCHED | UNMATCHED | REFUSED
    Column("revision", Integer, nullable=False, default=1),
    Column("patient_id", String(64), nullable=False, default=""),
    Column("patient_name", String(324), nullable=False, default=""),
    Column("patient_birth_date", String(8), nullable=False, default=""),
    Column("accession_number", String(16), nullable=False, default=""),
    Column("study_date", String(8), nullable=False, default=""),
    Column("calling_ae", String(16), nullable=False, default=""),
    Column("instance_count", Integer, nullable=False, default=0),
    Column("first_instance_at", _TIME, nullable=False),
    Column("last_instance_at", _TIME, nullable=False),
    Column("completed_at", _TIME),
    Column("use_now", Boolean, nullable=False, default=False),
    Column("reason_code", String(64), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("next_step", Text, nullable=False, default=""),
)

instances = Table(
    "instances",
    metadata,
    Column("sop_uid", _UID, primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("study_uid", _UID, ForeignKey("studies.study_uid"), nullable=False, index=True),
    Column("series_uid", _UID, nullable=False),
    Column("sop_class_uid", _UID, nullable=False),
    Column("transfer_syntax_uid", _UID, nullable=False),
    Column("patient_id", String(64), nullable=False, default=""),
    Column("modality", String(16), nullable=False, default=""),
    Column("path", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("association", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", _TIME, nullable=False),
    Column("quarantined", Boolean, nullable=False, default=False),
)

unreadable = Table(
    "unreadable",
    metadata,
    Column("path", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", _TIME, nullable=False),
)

cases = Table(
    "cases",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("code", String(12), nullable=False, unique=True),
    Column("state", String(24), nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("state_version", Integer, nullable=False),  # version at which the present state was entered
    Column("study_uid", _UID, ForeignKey("studies.study_uid"), nullable=False, unique=True),
    Column("level", String(4), nullable=False, default=""),
    Column("series_uid", _UID, nullable=False, default=""),
    Column("inputs", JSON, nullable=False, default=dict),
    Column("planned_by", String(64), nullable=False, default=""),
    Column("surgery_at", _TIME),
    Column("attention", JSON),  # {code, message, next_step, retryable, resume_state}
    Column("newer_images", Boolean, nullable=False, default=False),
    Column("progress", JSON),  # {stage, fraction, at}
    Column("created_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("case_id", _ID, ForeignKey("cases.id"), nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("current", Boolean, nullable=False, default=True),
    Column("created_at", _TIME, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("case_id", _ID, ForeignKey("cases.id"), nullable=False, index=True),
    Column("plan_sha256", String(64), nullable=False),
    Column("mesh_sha256", String(64), nullable=False),
    Column("approved_by", String(64), nullable=False),
    Column("approved_at", _TIME, nullable=False),
    Column("voided_at", _TIME),
)

print_jobs = Table(
    "print_jobs",
    metadata,
    Column("token", String(64), primary_key=True),  # the job's name on the printer
    Column("case_id", _ID, ForeignKey("cases.id"), nullable=False, index=True),
    Column("approval_id", _ID, ForeignKey("approvals.id"), nullable=False),
    Column("attempt", Integer, nullable=False, default=1),
    Column("printer", String(32), nullable=False, index=True),
    Column("state", String(24), nullable=False),
    Column("gcode_sha256", String(64), nullable=False),
    Column("uuid", String(64), nullable=False, default=""),
    Column("requested_by", String(64), nullable=False),
    Column("requested_at", _TIME, nullable=False),
    Column("accepted_at", _TIME),
    Column("finished_at", _TIME),
    Column("cleared_at", _TIME),
    Column("result", String(16), nullable=False, default=""),
    Column("progress", Float),
    Column("time_elapsed_s", Integer),
    Column("time_total_s", Integer),
    Column("detail", Text, nullable=False, default=""),
    Column("updated_at", _TIME, nullable=False),
    UniqueConstraint("approval_id", "attempt", name="uq_print_jobs_approval_attempt"),
)

printers = Table(
    "printers",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("reserved_token", String(64), nullable=False, default=""),
    Column("reading", JSON),
    Column("read_at", _TIME),
)

sterile_records = Table(
    "sterile_records",
    metadata,
    Column("kind", String(16), primary_key=True),  # item | load | bi | steriliser
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String(24), nullable=False),
    Column("case_id", _ID, index=True),
    Column("load_id", String(64), index=True),
    Column("document", JSON, nullable=False),
    Column("updated_at", _TIME, nullable=False),
)

scans = Table(
    "scans",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("study_uid", _UID, ForeignKey("studies.study_uid"), nullable=False),
    Column("study_revision", Integer, nullable=False, default=1),
    Column("case_id", _ID, ForeignKey("cases.id"), index=True),
    Column("state", String(16), nullable=False),  # COMPUTING | READY | NOT_MEASURABLE | FAILED
    Column("stage", String(64), nullable=False, default=""),
    Column("fraction", Float, nullable=False, default=0.0),
    Column("report", JSON),
    Column("error", JSON),
    Column("last_image_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    UniqueConstraint("study_uid", "study_revision", name="uq_scans_study_revision"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("case_id", _ID, ForeignKey("cases.id"), nullable=False, index=True),
    Column("destination", String(16), nullable=False),
    Column("sop_uid", _UID, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("path", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),  # WAITING | DELIVERED | REFUSED
    Column("tries", Integer, nullable=False, default=0),
    Column("next_try_at", _TIME, nullable=False),
    Column("last_status", String(255), nullable=False, default=""),
    Column("created_at", _TIME, nullable=False),
    Column("delivered_at", _TIME),
    UniqueConstraint("destination", "sop_uid", name="uq_deliveries_destination_sop"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", _TIME, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("subject", String(80), nullable=False, index=True),  # e.g. case:<id>
    Column("event", String(64), nullable=False),
    Column("data", Text, nullable=False),  # canonical JSON
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

#: One row: the end of the chain. Locked while a row is added, so that the chain never forks.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("argument", Text, nullable=False),
    Column("queue", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("partition", String(32)),
    Column("created_at", _TIME, nullable=False),
    Column("sent_at", _TIME),
    Column("finished_at", _TIME),
)
Index("ix_outbox_unsent", outbox.c.sent_at, outbox.c.created_at)

users = Table(
    "users",
    metadata,
    Column("username", String(64), primary_key=True),
    Column("display_name", String(128), nullable=False),
    Column("roles", JSON, nullable=False),
    Column("password_hash", String(255), nullable=False),
    Column("active", Boolean, nullable=False, default=True),
    Column("failed_logins", Integer, nullable=False, default=0),
    Column("locked_until", _TIME),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("username", String(64), ForeignKey("users.username"), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("revoked_at", _TIME),
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
