"""Studies that people asked a PACS for, by accession number: one row per request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from service.errors import NotFoundError
from service.store import times
from service.store.tables import pulls, studies

QUEUED, FINDING, MOVING = "QUEUED", "FINDING", "MOVING"
AMBIGUOUS, DONE, FAILED = "AMBIGUOUS", "DONE", "FAILED"
OPEN = (QUEUED, FINDING, MOVING)


@dataclass(frozen=True)
class Pull:
    id: str
    peer: str
    accession_number: str
    study_uid: str
    state: str
    candidates: tuple[dict[str, Any], ...]
    expected: int | None
    completed: int
    failed: int
    warned: int
    remaining: int | None
    error: dict[str, Any] | None
    requested_by: str
    requested_at: datetime
    updated_at: datetime


def add(
    connection: Connection,
    *,
    pull_id: str,
    peer: str,
    accession_number: str,
    study_uid: str,
    by: str,
    now: datetime,
) -> None:
    at = times.to_text(now)
    connection.execute(
        insert(pulls).values(
            id=pull_id,
            peer=peer,
            accession_number=accession_number,
            study_uid=study_uid,
            state=QUEUED,
            requested_by=by,
            requested_at=at,
            updated_at=at,
        )
    )


def open_one(connection: Connection, *, peer: str, accession_number: str, study_uid: str) -> Pull | None:
    """A request for the same that is still being worked on; without a study UID any with this accession number is."""
    query = select(pulls).where(
        pulls.c.peer == peer, pulls.c.accession_number == accession_number, pulls.c.state.in_(OPEN)
    )
    if study_uid:
        query = query.where(pulls.c.study_uid == study_uid)
    row = connection.execute(query).first()
    return _pull(row) if row else None


def need(connection: Connection, pull_id: str) -> Pull:
    row = connection.execute(select(pulls).where(pulls.c.id == pull_id)).one_or_none()
    if row is None:
        raise NotFoundError(
            "There is no such request to a PACS.",
            next_step="See the list of requests.",
            code="pull.not_found",
        )
    return _pull(row)


def listed(connection: Connection, limit: int = 100) -> list[Pull]:
    """The newest first."""
    rows = connection.execute(select(pulls).order_by(pulls.c.requested_at.desc(), pulls.c.id).limit(limit))
    return [_pull(r) for r in rows]


def change(connection: Connection, pull_id: str, now: datetime, **values: object) -> None:
    connection.execute(
        update(pulls).where(pulls.c.id == pull_id).values(updated_at=times.to_text(now), **values)
    )


def expected_of(connection: Connection, study_uid: str) -> int | None:
    """How many instances the PACS said the study has, the last time it was asked."""
    row = connection.execute(
        select(pulls.c.expected)
        .where(pulls.c.study_uid == study_uid, pulls.c.expected.is_not(None))
        .order_by(pulls.c.updated_at.desc())
        .limit(1)
    ).one_or_none()
    return row.expected if row else None


def tell_study(connection: Connection, study_uid: str, expected: int) -> None:
    """For a study that is here already; one that comes later asks `expected_of`."""
    connection.execute(
        update(studies).where(studies.c.study_uid == study_uid).values(expected_instances=expected)
    )


def _pull(r: Row[Any]) -> Pull:
    return Pull(
        id=r.id,
        peer=r.peer,
        accession_number=r.accession_number,
        study_uid=r.study_uid,
        state=r.state,
        candidates=tuple(r.candidates or ()),
        expected=r.expected,
        completed=r.completed,
        failed=r.failed,
        warned=r.warned,
        remaining=r.remaining,
        error=r.error,
        requested_by=r.requested_by,
        requested_at=times.from_text(r.requested_at),
        updated_at=times.from_text(r.updated_at),
    )
