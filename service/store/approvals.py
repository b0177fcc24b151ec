"""Approvals: which person signed exactly which bytes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from service.store import blobs, times
from service.store.tables import approvals


@dataclass(frozen=True)
class Approval:
    id: str
    case_id: str
    plan_sha256: str
    mesh_sha256: str
    approved_by: str
    approved_at: datetime
    gcode_sha256: str = ""
    """The audited file made from these bytes; empty until it is sliced."""


def add(
    connection: Connection, *, case_id: str, plan_sha256: str, mesh_sha256: str, by: str, now: datetime
) -> Approval:
    void(connection, case_id, now)
    approval = Approval(secrets.token_hex(8), case_id, plan_sha256, mesh_sha256, by, now)
    connection.execute(
        insert(approvals).values(
            id=approval.id,
            case_id=case_id,
            plan_sha256=plan_sha256,
            mesh_sha256=mesh_sha256,
            approved_by=by,
            approved_at=times.to_text(now),
        )
    )
    return approval


def bind_gcode(connection: Connection, approval_id: str, gcode_sha256: str) -> None:
    """This audited file, and no other, may be printed under the approval."""
    connection.execute(
        update(approvals).where(approvals.c.id == approval_id).values(gcode_sha256=gcode_sha256)
    )


def void(connection: Connection, case_id: str, now: datetime) -> None:
    """End every approval of this case: its bytes are no longer what would be printed."""
    connection.execute(
        update(approvals)
        .where(approvals.c.case_id == case_id, approvals.c.voided_at.is_(None))
        .values(voided_at=times.to_text(now))
    )


def standing(connection: Connection, case_id: str) -> Approval | None:
    """The approval in force: not voided, and of the very bytes that are current now."""
    row = connection.execute(
        select(approvals)
        .where(approvals.c.case_id == case_id, approvals.c.voided_at.is_(None))
        .order_by(approvals.c.approved_at.desc())
    ).first()
    if row is None:
        return None
    current = blobs.current(connection, case_id)
    same = (
        "plan" in current
        and "mesh" in current
        and current["plan"].sha256 == row.plan_sha256
        and current["mesh"].sha256 == row.mesh_sha256
    )
    if not same:
        return None
    return Approval(
        row.id,
        row.case_id,
        row.plan_sha256,
        row.mesh_sha256,
        row.approved_by,
        times.from_text(row.approved_at),
        row.gcode_sha256,
    )
