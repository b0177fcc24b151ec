"""What a person says about a print: how it ended when the printer cannot tell, and pause, go on, stop."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.case import CaseState
from service.domain.people import Actor
from service.domain.print_job import NEXT, PrintState
from service.errors import ConflictError, DeviceError, InputRefusedError
from service.ports import PrinterState, bare_name
from service.store import cases, prints, times
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.workflow import print_queued
from service.workflow.app import App
from service.workflow.jobs import tell_attention
from service.workflow.print_end import ended_badly, not_configured, park_print, printed, void_and_park
from service.workflow.print_found import was_found

NOT_STARTED = "not_started"
#: What a person may say of a print, and what it becomes by that.
OUTCOMES: Mapping[str, PrintState] = {
    "finished": PrintState.FINISHED,
    "failed": PrintState.FAILED,
    NOT_STARTED: PrintState.NOT_STARTED,
}
ON_PLATE = frozenset({PrintState.QUEUED, PrintState.PRINTING, PrintState.PAUSED, PrintState.AWAITING_REMOVAL})
#: Of a part that no printer will ever call taken off.
PLATE_NOT_CONFIRMED = (
    "The printer shows the print no more, and never noted that its plate was cleared: look at the plate, take the part "
    "off, and settle the print by what you see."
)
#: What can be asked of a print in each state; what waits in the printer's queue can only be taken back.
COMMANDS: Mapping[PrintState, frozenset[str]] = {
    PrintState.QUEUED: frozenset({"abort"}),
    PrintState.PRINTING: frozenset({"pause", "print", "abort"}),
    PrintState.PAUSED: frozenset({"pause", "print", "abort"}),
}


def settle(app: App, token: str, outcome: str, actor: Actor, note: str) -> PrintJob:
    """A person looked at the printer and says how a print ended: finished | failed | not_started.

    For a print that is UNKNOWN, or accepted by a printer that does not answer any more (its history wiped, its board
    dead), or ended on one that shows it no more and never noted that its plate was cleared (its board started anew):
    such a part would lie there for ever. An attempt that was given up though its file may have arrived takes
    `not_started` alone, which lets the next attempt go to another printer. Raises InputRefusedError, ConflictError.
    """
    if outcome not in OUTCOMES or not note.strip():
        raise InputRefusedError(
            "An outcome (finished, failed, not_started) and a note are needed.",
            next_step="Say what you saw at the printer.",
            code="print.settle",
        )
    target = OUTCOMES[outcome]
    now = app.clock.now()
    with transaction(app.engine) as connection:
        job = prints.get(connection, token)
        offered = settle_as(app, prints.printer_rows(connection), job)
        if outcome not in offered:
            raise ConflictError(
                "A print is settled by hand only where its outcome is unknown, or its printer does not answer or shows "
                f"it no more; this one as: {', '.join(offered) or 'nothing'}.",
                code="print.state",
                next_step="Load the print job again.",
            )
        if job.may_start_late:
            return _seen_not_to_run(connection, job, actor, note.strip(), now)
        # what lies in a printer's queue may begin when nobody looks: the next attempt asks that printer first
        seen_for_good = job.state is not PrintState.QUEUED or target is not PrintState.NOT_STARTED
        looked = times.to_text(now) if seen_for_good else None
        job = prints.change(connection, job, target, now, detail=note.strip(), cleared_at=looked)
        prints.release(connection, job.printer, token)
        case = cases.get(connection, job.case_id)
        cases.note(
            connection,
            case,
            event="print_settled",
            actor=actor,
            now=now,
            data={"job": token, "outcome": outcome, "note": note.strip()},
        )
        error = None
        if target is PrintState.FINISHED:
            printed(connection, app, case, job, actor)
        elif target is PrintState.FAILED:
            error = ended_badly(target)
            void_and_park(connection, app, case, error)
        else:
            error = DeviceError(
                "The print was not started.",
                code="print.not_started",
                next_step="Resume the case and start the print again.",
            )
            park_print(connection, app, case, error, CaseState.SLICED)
    if error is not None:
        tell_attention(app, case, error)
    return job


def _seen_not_to_run(
    connection: Connection, job: PrintJob, actor: Actor, note: str, now: datetime
) -> PrintJob:
    case = cases.get(connection, job.case_id)
    data = {"job": job.token, "outcome": NOT_STARTED, "note": note}
    cases.note(connection, case, event="print_settled", actor=actor, now=now, data=data)
    return prints.looked_at(connection, job, note, now)


def settle_as(app: App, rows: prints.PrinterRows, job: PrintJob) -> tuple[str, ...]:
    """The outcomes for which a person's word is taken for this print; none while its printer can tell."""
    if job.may_start_late:
        # it was seen that it did start: the record is about to follow it
        return () if was_found(job) else (NOT_STARTED,)
    seen = rows.get(job.printer, ("", None, None))[1]
    if job.state is PrintState.UNKNOWN or (job.state in ON_PLATE and _gone(app, rows, job)) or (
        job.state is PrintState.AWAITING_REMOVAL and seen is not None and shows_it_no_more(seen, job)
    ):  # fmt: skip
        return tuple(outcome for outcome, target in OUTCOMES.items() if _may_become(job, target))
    return ()


def _may_become(job: PrintJob, target: PrintState) -> bool:
    # what the printer itself called aborted or failed stays so: nobody is asked for that
    told_bad = job.state is PrintState.AWAITING_REMOVAL and job.result in ("Aborted", "Failed")
    return target in NEXT[job.state] and not (told_bad and target is PrintState.FINISHED)


def shows_it_no_more(seen: Mapping[str, Any], job: PrintJob) -> bool:
    """By this reading the printer is idle or has another job. Booting, in a menu or silent it says nothing of it."""
    held = seen.get("job")
    if not held:
        return bool(seen.get("state") == PrinterState.IDLE.value)
    ours = bare_name(str(held.get("name") or "")) == job.token or (job.uuid and held.get("uuid") == job.uuid)
    return not ours


def _gone(app: App, rows: prints.PrinterRows, job: PrintJob) -> bool:
    """The printer will not tell: it is not configured any more, or its last reading is that it was silent."""
    return job.printer not in app.printers or is_silent(rows, job.printer)


def tell_plate_not_confirmed(app: App, job: PrintJob) -> None:
    with reading(app.engine) as connection:
        case = cases.get(connection, job.case_id)
    app.notifier.notify("print", f"{job.token} on {job.printer}: {PLATE_NOT_CONFIRMED}", case_code=case.code)


def is_silent(rows: prints.PrinterRows, printer: str) -> bool:
    _, seen, _ = rows.get(printer, ("", None, None))
    return seen is not None and seen.get("state") == PrinterState.SILENT.value


def command(app: App, token: str, target: str, actor: Actor) -> None:
    """'pause' | 'print' (resume) | 'abort', on behalf of a person. Raises DeviceError, ConflictError.

    A print that waits in the printer's own queue is taken out of it by 'abort': nothing was printed, and the approval
    stands.
    """
    with reading(app.engine) as connection:
        job = prints.get(connection, token)
    if target not in COMMANDS.get(job.state, ()):
        raise ConflictError(
            f"The print is {job.state}; there is nothing to {target}.",
            code="print.state",
            next_step="Load the print job again.",
        )
    printer = app.printers.get(job.printer)
    if printer is None:
        raise not_configured(job)
    if job.state is PrintState.QUEUED and print_queued.withdraw_by(app, printer, job, actor):
        return
    printer.command(target, job.token, job.uuid)
    with transaction(app.engine) as connection:
        cases.note(
            connection,
            cases.get(connection, job.case_id),
            event=f"print_{target}",
            actor=actor,
            now=app.clock.now(),
            data={"job": token},
        )
