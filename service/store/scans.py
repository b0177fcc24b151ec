"""Intra-operative scans and what was measured on them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from service.errors import NotFoundError
from service.store import times
from service.store.tables import scans


@dataclass(frozen=True)
class Scan:
    id: str
    study_uid: str
    study_revision: int
    case_id: str | None
    state: str
    stage: str
    fraction: float
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    last_image_at: datetime
    updated_at: datetime
    acknowledged_by: str = ""
    """The surgeon who acknowledged the verdict; empty: nobody yet."""
    acknowledged_at: datetime | None = None


def create(
    connection: Connection,
    *,
    study_uid: str,
    revision: int,
    case_id: str,
    last_image_at: datetime,
    now: datetime,
) -> str:
    """One row per study revision; asking again returns the row that exists."""
    known = connection.execute(
        select(scans.c.id).where(scans.c.study_uid == study_uid, scans.c.study_revision == revision)
    ).one_or_none()
    if known:
        return str(known.id)
    scan_id = secrets.token_hex(8)
    connection.execute(
        insert(scans).values(
            id=scan_id,
            study_uid=study_uid,
            study_revision=revision,
            case_id=case_id,
            state="COMPUTING",
            stage="waiting",
            last_image_at=times.to_text(last_image_at),
            updated_at=times.to_text(now),
        )
    )
    return scan_id


def change(connection: Connection, scan_id: str, now: datetime, **values: object) -> None:
    connection.execute(
        update(scans).where(scans.c.id == scan_id).values(updated_at=times.to_text(now), **values)
    )


def acknowledge(connection: Connection, scan_id: str, *, by: str, at: datetime) -> None:
    """`updated_at` stays: it is when the answer came."""
    connection.execute(
        update(scans)
        .where(scans.c.id == scan_id)
        .values(acknowledged_by=by, acknowledged_at=times.to_text(at))
    )


def set_state(connection: Connection, scan_id: str, state: str) -> None:
    """`updated_at` stays: it is when the automatic answer came."""
    connection.execute(update(scans).where(scans.c.id == scan_id).values(state=state))


def lock_again(connection: Connection, scan_id: str) -> None:
    """What was acknowledged holds no more; who had done so stays in the audit trail."""
    connection.execute(
        update(scans).where(scans.c.id == scan_id).values(acknowledged_by="", acknowledged_at=None)
    )


def of_case(connection: Connection, case_id: str) -> list[Scan]:
    """Newest first."""
    rows = connection.execute(
        select(scans).where(scans.c.case_id == case_id).order_by(scans.c.last_image_at.desc(), scans.c.id)
    )
    return [_scan(r) for r in rows]


def get(connection: Connection, scan_id: str) -> Scan:
    row = connection.execute(select(scans).where(scans.c.id == scan_id)).one_or_none()
    if row is None:
        raise NotFoundError(
            "There is no such scan.", next_step="See the case's scans.", code="scan.not_found"
        )
    return _scan(row)


def _scan(r: Row[Any]) -> Scan:
    return Scan(
        id=r.id,
        study_uid=r.study_uid,
        study_revision=r.study_revision,
        case_id=r.case_id,
        state=r.state,
        stage=r.stage,
        fraction=float(r.fraction),
        report=dict(r.report) if r.report else None,
        error=dict(r.error) if r.error else None,
        last_image_at=times.from_text(r.last_image_at),
        updated_at=times.from_text(r.updated_at),
        acknowledged_by=r.acknowledged_by,
        acknowledged_at=times.from_text(r.acknowledged_at) if r.acknowledged_at else None,
    )
