"""What is written down of a print that was sent: accepted, followed, unknown, certainly not started."""

from __future__ import annotations

from service.domain.case import CaseState
from service.domain.print_job import OVER, PrintState
from service.errors import DeviceUnsureError, SpineprintError
from service.ports import PrinterJob
from service.store import cases, prints, times
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.workflow.app import App
from service.workflow.jobs import tell_attention
from service.workflow.print_end import PRINTER, ended_badly, park_print, printed, void_and_park


def accepted(app: App, job: PrintJob, uuid: str, *, waits: bool = False) -> None:
    """`waits`: into the printer's own queue, from which it begins by itself."""
    now = app.clock.now()
    target = PrintState.QUEUED if waits else PrintState.PRINTING
    with transaction(app.engine) as connection:
        fresh = prints.get(connection, job.token)
        prints.change(connection, fresh, target, now, uuid=uuid, accepted_at=times.to_text(now), detail="")
        cases.note(
            connection,
            cases.get(connection, job.case_id),
            event="print_accepted",
            actor=PRINTER,
            now=now,
            data={"job": job.token, "uuid": uuid, "printer": job.printer}
            | ({"waits": True} if waits else {}),
        )


def unknown(app: App, job: PrintJob, detail: str) -> None:
    now = app.clock.now()
    with transaction(app.engine) as connection:
        prints.change(connection, prints.get(connection, job.token), PrintState.UNKNOWN, now, detail=detail)
        case = cases.get(connection, job.case_id)
        cases.note(
            connection,
            case,
            event="print_unknown",
            actor=PRINTER,
            now=now,
            data={"job": job.token, "detail": detail},
        )
    app.notifier.notify(
        "print", f"Nobody can say whether {job.token} runs on {job.printer}: look at the printer, then settle the job.",
        case_code=case.code,
    )  # fmt: skip


def not_started(app: App, token: str, error: SpineprintError) -> None:
    if isinstance(error, DeviceUnsureError):
        with reading(app.engine) as connection:
            job = prints.get(connection, token)
        unknown(app, job, error.message)
        return
    with transaction(app.engine) as connection:
        job = prints.get(connection, token)
        prints.change(connection, job, PrintState.NOT_STARTED, app.clock.now(), detail=error.message)
        prints.release(connection, job.printer, token)
        case = cases.get(connection, job.case_id)
        if error.code == "gcode.changed":
            # Started again it would meet the same file: only a new approval makes another one.
            void_and_park(connection, app, case, error)
        else:
            park_print(connection, app, case, error, CaseState.SLICED)
    tell_attention(app, case, error)


def record(app: App, job: PrintJob, told: PrinterJob, target: PrintState) -> None:
    now = app.clock.now()
    values: dict[str, object] = {
        "uuid": told.uuid or job.uuid,
        "progress": told.progress,
        "time_elapsed_s": told.time_elapsed_s,
        "time_total_s": told.time_total_s,
        "result": told.result,
        "detail": told.remark,
    }
    if target is PrintState.AWAITING_REMOVAL and job.finished_at is None:
        values["finished_at"] = times.to_text(now)
    if target in OVER:
        values["cleared_at"] = times.to_text(now)
    error = ended_badly(target) if target in (PrintState.ABORTED, PrintState.FAILED) else None
    with transaction(app.engine) as connection:
        fresh = prints.get(connection, job.token)
        if fresh.state in OVER:
            return
        fresh = prints.change(connection, fresh, target, now, **values)
        if target in OVER:
            prints.release(connection, job.printer, job.token)
        case = cases.get(connection, job.case_id)
        if target is PrintState.FINISHED:
            printed(connection, app, case, fresh, PRINTER)
        if error is not None:
            void_and_park(connection, app, case, error)
    if error is not None:
        tell_attention(app, case, error)
