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
    Column("expected_instances", Integer),  # as the PACS told when the study was pulled
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
    Column("revision", Integer, nullable=False, default=1),  # of the study, with which it came
    Column(
        "superseded_in", Integer
    ),  # revision from which another copy is used; None: never used, or still is
)

#: Who sends a study: one row per association that carried it, also when it brought nothing new.
study_sources = Table(
    "study_sources",
    metadata,
    Column("study_uid", _UID, ForeignKey("studies.study_uid"), primary_key=True),
    Column("association", String(64), primary_key=True),
    Column("calling_ae", String(16), nullable=False),
    Column("images", Integer, nullable=False),  # handed over, also those that were here already
    Column("last_at", _TIME, nullable=False),
)
Index("ix_study_sources_association", study_sources.c.association)
Index("ix_study_sources_caller", study_sources.c.calling_ae, study_sources.c.last_at)

unreadable = Table(
    "unreadable",
    metadata,
    Column("path", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", _TIME, nullable=False),
)

#: What each process with a DICOM node last said about it; the other processes read it here.
node_status = Table(
    "node_status",
    metadata,
    Column("name", String(80), primary_key=True),  # host:port
    Column("document", JSON, nullable=False),
    Column("updated_at", _TIME, nullable=False),
)

#: Rejections, refusals and faults of the DICOM nodes; the same again within an hour counts `times` up.
node_events = Table(
    "node_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("called_ae", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("what", Text, nullable=False),
    Column("next_step", Text, nullable=False),
    Column("first_at", _TIME, nullable=False),
    Column("last_at", _TIME, nullable=False, index=True),
    Column("times", Integer, nullable=False),
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
    Column(
        "study_revision", Integer, nullable=False, default=0
    ),  # the images it was inspected with; 0: not yet
    Column(
        "newer_images", Boolean, nullable=False, default=False
    ),  # later ones came and nobody has decided yet
    Column("kept_images", JSON),  # {revision, by, at}: later images were seen and left out
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
    Column("gcode_sha256", String(64), nullable=False, default=""),  # of the audited file; empty until sliced
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
    Column("sent_at", _TIME),  # when the one send began; empty: the printer was certainly never touched
    Column("accepted_at", _TIME),
    Column("finished_at", _TIME),
    Column("cleared_at", _TIME),
    Column("result", String(16), nullable=False, default=""),
    Column("progress", Float),
    Column("time_elapsed_s", Integer),
    Column("time_total_s", Integer),
    Column("detail", Text, nullable=False, default=""),
    Column("updated_at", _TIME, nullable=False),
    Column(
        "filament_lot", String(64), nullable=False, default=""
    ),  # read off the spool by who cleared the plate
    UniqueConstraint("approval_id", "attempt", name="uq_print_jobs_approval_attempt"),
)

print_pictures = Table(
    "print_pictures",
    metadata,
    Column("token", String(64), ForeignKey("print_jobs.token"), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),  # first_layer | end | inspection
    Column("path", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("taken_at", _TIME, nullable=False),
    Column("taken_by", String(64), nullable=False),
)

printers = Table(
    "printers",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("reserved_token", String(64), nullable=False, default=""),
    Column("reading", JSON),
    Column("read_at", _TIME),
)

printer_notes = Table(
    "printer_notes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("printer", String(32), nullable=False, index=True),
    Column("kind", String(24), nullable=False),
    Column("note", Text, nullable=False),
    Column("noted_by", String(64), nullable=False),
    Column("noted_at", _TIME, nullable=False),
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

#: Records of sterilisers exactly as they came, whatever was decided about them; the files are named by content.
cycle_files = Table(
    "cycle_files",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("load_id", String(64), primary_key=True, index=True),
    Column("name", String(128), nullable=False),
    Column("path", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("received_at", _TIME, nullable=False),
    Column("received_from", String(64), nullable=False),  # a person, or token:<name> of a steriliser
    Column("verdict", Text, nullable=False),  # "" | what is wrong with it
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
    Column("acknowledged_by", String(64), nullable=False, server_default=""),
    Column("acknowledged_at", _TIME),
    Column("last_image_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    UniqueConstraint("study_uid", "study_revision", name="uq_scans_study_revision"),
)

needle_corrections = Table(
    "needle_corrections",
    metadata,
    Column("scan_id", _ID, ForeignKey("scans.id"), primary_key=True),
    Column("number", Integer, primary_key=True),  # 1, 2, ... for each scan; rows are never changed
    Column("kind", String(8), nullable=False),  # SET | UNDO
    Column("by", String(64), nullable=False),
    Column("at", _TIME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changes", JSON, nullable=False),  # [{pedicle, from: {tip, entry}, to: {tip, entry}}]
    Column("undoes", Integer),  # number of the correction that an UNDO takes back
    Column("report", JSON),  # what holds from here on; null: the automatic report again
)

#: Pictures of a scan with one version of its report; a stage of its own after the report.
scan_pictures = Table(
    "scan_pictures",
    metadata,
    Column("scan_id", _ID, ForeignKey("scans.id"), primary_key=True),
    Column("report_version", Integer, primary_key=True),
    Column("state", String(16), nullable=False),  # MAKING | READY | FAILED
    Column("tries", Integer, nullable=False, default=1),
    Column("error", JSON),
    Column(
        "pictures", JSON, nullable=False, default=list
    ),  # [{name, kind, pedicle, title, path, sha256, ...}]
    Column("updated_at", _TIME, nullable=False),
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
    Column("state", String(16), nullable=False, index=True),  # WAITING | DELIVERED | REFUSED | DEAD
    Column("tries", Integer, nullable=False, default=0),
    Column("next_try_at", _TIME, nullable=False),
    Column("last_status", String(255), nullable=False, default=""),
    Column("created_at", _TIME, nullable=False),
    Column("delivered_at", _TIME),
    Column("first_failed_at", _TIME),  # of the present run of failures
    Column("history", JSON, nullable=False, default=list),  # the last answers: [{at, answer}]
    Column("claimed_by", String(64), nullable=False, default=""),  # the worker that is sending it
    Column("claimed_until", _TIME),
    Column(
        "commit_state", String(16), nullable=False, default=""
    ),  # "" | WANTED | ASKED | COMMITTED | REFUSED
    Column("commit_next_at", _TIME),  # when to ask (again)
    Column("commit_tries", Integer, nullable=False, default=0),
    Column("commit_detail", String(255), nullable=False, default=""),
    Column("transaction_uid", _UID, nullable=False, default=""),  # of the last storage commitment request
    UniqueConstraint("destination", "sop_uid", name="uq_deliveries_destination_sop"),
)

#: One row per storage commitment request: a report may come late, after another request for the same objects.
commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", _UID, primary_key=True),
    Column("destination", String(16), nullable=False),
    Column("delivery_ids", JSON, nullable=False),
    Column("asked_at", _TIME, nullable=False),
    Column("reported_at", _TIME),
)

pulls = Table(
    "pulls",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("peer", String(16), nullable=False),
    Column("accession_number", String(16), nullable=False),
    Column("study_uid", _UID, nullable=False, default="", index=True),
    Column(
        "state", String(16), nullable=False, index=True
    ),  # QUEUED | FINDING | MOVING | AMBIGUOUS | DONE | FAILED
    Column("candidates", JSON, nullable=False, default=list),
    Column("expected", Integer),  # instances of the study, when the PACS told
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("warned", Integer, nullable=False, default=0),
    Column("remaining", Integer),
    Column("error", JSON),
    Column("requested_by", String(64), nullable=False),
    Column("requested_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
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
    Column(
        "bound_to", String(64), nullable=False, default=""
    ),  # the one steriliser a machine's token speaks for
    Column("created_at", _TIME, nullable=False),
    Column("revoked_at", _TIME),
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
