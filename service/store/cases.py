"""Cases: reading, and the one way to change a state.

`move` is one transaction with everything that belongs together: version-checked state change, audit row, and
the jobs that the new state asks for (outbox). A stale caller changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from service.domain.case import CaseEvent, CaseState, next_state
from service.domain.people import Actor
from service.errors import ConflictError, NotFoundError
from service.ports import JobRequest
from service.store import audit, outbox, times
from service.store.tables import cases

_CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without characters that are misread on plastic


@dataclass(frozen=True)
class Case:
    id: str
    code: str
    state: CaseState
    version: int
    state_version: int
    study_uid: str
    level: str
    series_uid: str
    inputs: dict[str, Any]
    planned_by: str
    surgery_at: datetime | None
    attention: dict[str, Any] | None
    study_revision: int
    newer_images: bool
    kept_images: dict[str, Any] | None
    progress: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime

    @property
    def subject(self) -> str:
        return f"case:{self.id}"


def create(connection: Connection, *, study_uid: str, now: datetime, actor: Actor) -> Case:
    case_id = secrets.token_hex(8)
    code = "".join(secrets.choice(_CODE_ALPHABET) for _ in range(6))
    connection.execute(
        insert(cases).values(
            id=case_id,
            code=code,
            state=CaseState.RECEIVING.value,
            version=1,
            state_version=1,
            study_uid=study_uid,
            inputs={},
            created_at=times.to_text(now),
            updated_at=times.to_text(now),
        )
    )
    audit.append(
        connection,
        at=now,
        actor=actor.name,
        subject=f"case:{case_id}",
        event="created",
        data={"code": code, "to": CaseState.RECEIVING.value},
    )
    return get(connection, case_id)


def get(connection: Connection, case_id: str) -> Case:
    row = connection.execute(select(cases).where(cases.c.id == case_id)).one_or_none()
    if row is None:
        raise NotFoundError(
            "There is no such case.", next_step="See the list of cases.", code="case.not_found"
        )
    return _case(row)


def unmoved(connection: Connection, case: Case) -> Case:
    """The case as it is now, for work that took time and must not end in a state it was not begun for.

    Raises
    ------
    ConflictError : the case left that state meanwhile, even when it came back to it (code `case.stale`).
    """
    fresh = get(connection, case.id)
    if (fresh.state, fresh.state_version) != (case.state, case.state_version):
        raise _stale()
    return fresh


def by_study(connection: Connection, study_uid: str) -> Case | None:
    row = connection.execute(select(cases).where(cases.c.study_uid == study_uid)).one_or_none()
    return _case(row) if row else None


def listed(
    connection: Connection, *, states: Iterable[CaseState] | None = None, limit: int = 500
) -> list[Case]:
    query = select(cases).order_by(cases.c.created_at.desc()).limit(limit)
    if states is not None:
        query = query.where(cases.c.state.in_([s.value for s in states]))
    return [_case(r) for r in connection.execute(query)]


def move(
    connection: Connection,
    case: Case,
    event: CaseEvent,
    *,
    actor: Actor,
    now: datetime,
    guards: Mapping[str, bool] | None = None,
    data: Mapping[str, object] | None = None,
    changes: Mapping[str, object] | None = None,
    jobs: Sequence[JobRequest] = (),
) -> Case:
    """Apply `event` to `case` inside the caller's transaction.

    Parameters
    ----------
    changes : further columns of the case to set in the same statement.
    jobs : to run once this transaction is committed; the same key twice is one job.

    Raises
    ------
    ConflictError : the rules refuse, or the case changed since it was read (code `case.stale`).
    NotAllowedError : the actor's roles do not allow it.
    """
    resume = (case.attention or {}).get("resume_state")
    target = next_state(
        case.state,
        event,
        roles=actor.roles,
        guards=guards or {},
        resume_state=CaseState(resume) if resume else None,
    )
    version = case.version + 1
    values: dict[str, object] = {"state": target.value, "version": version, "updated_at": times.to_text(now)}
    if target is not case.state or event is CaseEvent.RESUME:
        values |= {"state_version": version, "progress": None}
    if target is not CaseState.NEEDS_ATTENTION:
        values["attention"] = None
    values |= dict(changes or {})
    statement = update(cases).where(cases.c.id == case.id, cases.c.version == case.version).values(**values)
    if connection.execute(statement).rowcount != 1:
        raise _stale()
    audit.append(
        connection,
        at=now,
        actor=actor.name,
        subject=case.subject,
        event=event.value,
        data={"from": case.state.value, "to": target.value, **(data or {})},
    )
    outbox.put(connection, jobs, now)
    return get(connection, case.id)


def _stale() -> ConflictError:
    return ConflictError(
        "The case was changed by somebody else meanwhile.",
        next_step="Load it again and repeat the step if it still applies.",
        code="case.stale",
    )


def note(
    connection: Connection, case: Case, *, event: str, actor: Actor, now: datetime, data: Mapping[str, object]
) -> None:
    """Record something that happened to a case without changing its state."""
    audit.append(connection, at=now, actor=actor.name, subject=case.subject, event=event, data=data)


def set_progress(connection: Connection, case_id: str, stage: str, fraction: float, now: datetime) -> None:
    """Progress is shown, not recorded: no version, no audit row."""
    connection.execute(
        update(cases)
        .where(cases.c.id == case_id)
        .values(progress={"stage": stage, "fraction": round(fraction, 3), "at": times.to_text(now)})
    )


def set_surgery_time(connection: Connection, case_id: str, at: datetime | None) -> None:
    connection.execute(
        update(cases).where(cases.c.id == case_id).values(surgery_at=times.to_text(at) if at else None)
    )


def _case(row: Row[Any]) -> Case:
    return Case(
        id=row.id,
        code=row.code,
        state=CaseState(row.state),
        version=row.version,
        state_version=row.state_version,
        study_uid=row.study_uid,
        level=row.level,
        series_uid=row.series_uid,
        inputs=dict(row.inputs or {}),
        planned_by=row.planned_by,
        surgery_at=times.maybe(row.surgery_at),
        attention=dict(row.attention) if row.attention else None,
        study_revision=row.study_revision,
        newer_images=bool(row.newer_images),
        kept_images=dict(row.kept_images) if row.kept_images else None,
        progress=dict(row.progress) if row.progress else None,
        created_at=times.from_text(row.created_at),
        updated_at=times.from_text(row.updated_at),
    )
