"""Print attempts and printer reservations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from service.domain.print_job import PrintState, check_step
from service.errors import ConflictError, NotFoundError
from service.store import times
from service.store.tables import print_jobs, printers

#: name -> (reserved token, last reading, when it was read)
PrinterRows = Mapping[str, tuple[str, dict[str, Any] | None, datetime | None]]


@dataclass(frozen=True)
class PrintJob:
    token: str
    case_id: str
    approval_id: str
    attempt: int
    printer: str
    state: PrintState
    gcode_sha256: str
    uuid: str
    requested_by: str
    requested_at: datetime
    accepted_at: datetime | None
    finished_at: datetime | None
    cleared_at: datetime | None
    result: str
    progress: float | None
    time_elapsed_s: int | None
    time_total_s: int | None
    detail: str
    updated_at: datetime
    filament_lot: str = ""
    sent_at: datetime | None = None
    """When the one send began; None: the printer was certainly never touched."""

    @property
    def may_start_late(self) -> bool:
        """Given up, though the file may have arrived, and nobody has looked at the printer since."""
        return self.state is PrintState.NOT_STARTED and self.sent_at is not None and self.cleared_at is None


def add(
    connection: Connection,
    *,
    token: str,
    case_id: str,
    approval_id: str,
    attempt: int,
    printer: str,
    gcode_sha256: str,
    requested_by: str,
    now: datetime,
    filament_lot: str = "",
) -> None:
    connection.execute(
        insert(print_jobs).values(
            token=token,
            case_id=case_id,
            approval_id=approval_id,
            attempt=attempt,
            printer=printer,
            state=PrintState.INTENT.value,
            gcode_sha256=gcode_sha256,
            requested_by=requested_by,
            requested_at=times.to_text(now),
            filament_lot=filament_lot,
            updated_at=times.to_text(now),
        )
    )


def get(connection: Connection, token: str) -> PrintJob:
    row = connection.execute(select(print_jobs).where(print_jobs.c.token == token)).one_or_none()
    if row is None:
        raise NotFoundError(
            "There is no such print job.", next_step="See the list of jobs.", code="print.not_found"
        )
    return _job(row)


def maybe(connection: Connection, token: str) -> PrintJob | None:
    """The print of this name; None for a job that is not ours."""
    row = connection.execute(select(print_jobs).where(print_jobs.c.token == token)).one_or_none()
    return None if row is None else _job(row)


def remark(connection: Connection, job: PrintJob, detail: str, now: datetime) -> None:
    """Say something about a print without moving it."""
    connection.execute(
        update(print_jobs)
        .where(print_jobs.c.token == job.token)
        .values(detail=detail, updated_at=times.to_text(now))
    )


def looked_at(connection: Connection, job: PrintJob, detail: str, now: datetime) -> PrintJob:
    """A person has seen that a print that was given up does not run."""
    remark(connection, job, detail, now)
    connection.execute(
        update(print_jobs).where(print_jobs.c.token == job.token).values(cleared_at=times.to_text(now))
    )
    return get(connection, job.token)


def attempts(connection: Connection, approval_id: str) -> int:
    query = select(func.count()).select_from(print_jobs).where(print_jobs.c.approval_id == approval_id)
    return int(connection.execute(query).scalar_one())


def listed(
    connection: Connection,
    *,
    case_id: str | None = None,
    printer: str | None = None,
    states: frozenset[PrintState] | None = None,
) -> list[PrintJob]:
    query = select(print_jobs).order_by(print_jobs.c.requested_at.desc()).limit(500)
    if case_id:
        query = query.where(print_jobs.c.case_id == case_id)
    if printer:
        query = query.where(print_jobs.c.printer == printer)
    if states is not None:
        query = query.where(print_jobs.c.state.in_([s.value for s in states]))
    return [_job(r) for r in connection.execute(query)]


def change(
    connection: Connection, job: PrintJob, target: PrintState, now: datetime, **values: object
) -> PrintJob:
    """Move a print on; refuses an impossible step and a job that changed meanwhile."""
    check_step(job.state, target)
    statement = (
        update(print_jobs)
        .where(print_jobs.c.token == job.token, print_jobs.c.state == job.state.value)
        .values(state=target.value, updated_at=times.to_text(now), **values)
    )
    if connection.execute(statement).rowcount != 1:
        raise ConflictError(
            "The print job changed meanwhile.", next_step="Load it again.", code="print.stale"
        )
    return get(connection, job.token)


def reserve(connection: Connection, printer: str, token: str) -> bool:
    """Hold the printer for one print; False when another has it."""
    known = connection.execute(
        select(printers).where(printers.c.name == printer).with_for_update()
    ).one_or_none()
    if known is None:
        connection.execute(insert(printers).values(name=printer, reserved_token=token))
        return True
    if known.reserved_token not in ("", token):
        return False
    connection.execute(update(printers).where(printers.c.name == printer).values(reserved_token=token))
    return True


def release(connection: Connection, printer: str, token: str) -> None:
    connection.execute(
        update(printers)
        .where(printers.c.name == printer, printers.c.reserved_token == token)
        .values(reserved_token="")
    )


def save_reading(connection: Connection, printer: str, reading: Mapping[str, Any], at: datetime) -> None:
    values = {"reading": dict(reading), "read_at": times.to_text(at)}
    if connection.execute(update(printers).where(printers.c.name == printer).values(**values)).rowcount == 0:
        connection.execute(insert(printers).values(name=printer, **values))


def printer_rows(connection: Connection) -> PrinterRows:
    rows = connection.execute(select(printers))
    return {
        r.name: (r.reserved_token, dict(r.reading) if r.reading else None, times.maybe(r.read_at))
        for r in rows
    }


def _job(r: Row[Any]) -> PrintJob:
    return PrintJob(
        token=r.token,
        case_id=r.case_id,
        approval_id=r.approval_id,
        attempt=r.attempt,
        printer=r.printer,
        state=PrintState(r.state),
        gcode_sha256=r.gcode_sha256,
        uuid=r.uuid,
        requested_by=r.requested_by,
        requested_at=times.from_text(r.requested_at),
        accepted_at=times.maybe(r.accepted_at),
        finished_at=times.maybe(r.finished_at),
        cleared_at=times.maybe(r.cleared_at),
        result=r.result,
        progress=r.progress,
        time_elapsed_s=r.time_elapsed_s,
        time_total_s=r.time_total_s,
        detail=r.detail,
        updated_at=times.from_text(r.updated_at),
        filament_lot=r.filament_lot,
        sent_at=times.maybe(r.sent_at),
    )
