"""One approval, one print: intent row, ask the device, send once, follow to the cleared plate.

No engine prevents double printing; this order does. Whatever instant the process is killed at, the replay first
asks the printer whether it has the job. A printer that cannot say parks the print as UNKNOWN for a person.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor, system
from service.domain.print_job import OVER, RUNNING, PrintState, observed
from service.errors import (
    ConflictError,
    DeviceError,
    DeviceUnsureError,
    InputRefusedError,
    NotFoundError,
    SpineprintError,
)
from service.ports import (
    JobRequest,
    LookupOutcome,
    Printer,
    PrinterJob,
    PrinterReading,
    PrinterState,
    SendOutcome,
)
from service.store import approvals, blobs, cases, outbox, prints, times
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.workflow import print_found
from service.workflow.app import App
from service.workflow.jobs import park, tell_attention
from service.workflow.printed_item import create_item

log = logging.getLogger("spineprint.print")

_PRINTER = system("printer")
#: After a replay the printer may still be digesting an upload of the killed process: ask, wait, ask again.
_SETTLE_S = 2.0
_ON_PLATE = frozenset({PrintState.PRINTING, PrintState.PAUSED, PrintState.AWAITING_REMOVAL})


def start_print(app: App, case_id: str, printer_name: str, actor: Actor, *, bed_clear: bool) -> PrintJob:
    """A person starts the print: the intent is recorded and the printer reserved, nothing is sent yet.

    Raises
    ------
    NotFoundError, ConflictError, NotAllowedError : see the guards of `CaseEvent.START_PRINT`.
    """
    if printer_name not in app.printers:
        raise NotFoundError(
            f"There is no printer '{printer_name}'.",
            next_step="Choose one of the configured printers.",
            code="printer.not_found",
        )
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        approval = approvals.standing(connection, case_id)
        gcode = blobs.current(connection, case_id).get("gcode")
        attempt = prints.attempts(connection, approval.id) + 1 if approval else 1
        token = f"SP-{case.code}-{(approval.id if approval else '0' * 6)[:6]}-{attempt}"
        # A reservation is taken only for a case that may print; a refusal rolls everything back.
        free = case.state is CaseState.SLICED and prints.reserve(connection, printer_name, token)
        cases.move(
            connection,
            case,
            CaseEvent.START_PRINT,
            actor=actor,
            now=now,
            guards={
                "bed_confirmed_clear": bed_clear,
                "printer_free": free,
                "approval_is_current": approval is not None and gcode is not None,
                "late_images_decided": not case.newer_images,
            },
            data={"printer": printer_name, "job": token, "gcode_sha256": gcode.sha256 if gcode else None},
            jobs=[JobRequest(f"send.{token}", "send_print", token, "printers", partition=printer_name)],
        )
        assert approval is not None and gcode is not None
        prints.add(
            connection, token=token, case_id=case_id, approval_id=approval.id, attempt=attempt, printer=printer_name,
            gcode_sha256=gcode.sha256, requested_by=actor.name, now=now,
        )  # fmt: skip
        return prints.get(connection, token)


def send_print(app: App, key: str, token: str) -> None:
    """Job on the printer's queue: bring the intent to the printer at most once."""
    with reading(app.engine) as connection:
        job = prints.get(connection, token)
        gcode = blobs.current(connection, job.case_id).get("gcode")
    if job.state in (PrintState.INTENT, PrintState.SENDING):
        try:
            _bring(app, job, gcode.path if gcode and gcode.sha256 == job.gcode_sha256 else None)
        except SpineprintError as exc:
            _not_started(app, token, exc)
    with transaction(app.engine) as connection:
        outbox.finish(connection, key, app.clock.now())


def _bring(app: App, job: PrintJob, gcode: Path | None) -> None:
    printer = app.printers.get(job.printer)
    if printer is None:
        raise _not_configured(job)
    if gcode is None or blobs.sha256_of(gcode) != job.gcode_sha256:
        raise InputRefusedError(
            "The G-code on disk is not the audited one.",
            code="gcode.changed",
            next_step="Have the plan approved again; the file will be made anew.",
        )
    if job.state is PrintState.SENDING and _has_already(app, printer, job):
        return
    reasons = printer.preflight(gcode)
    if reasons:
        raise DeviceError(
            f"The printer is not ready: {'; '.join(reasons)}.",
            code="printer.not_ready",
            next_step="Settle this at the printer, then resume the case and start the print again.",
        )
    if job.state is PrintState.INTENT:
        with transaction(app.engine) as connection:
            job = prints.change(connection, job, PrintState.SENDING, app.clock.now())
    result = printer.send(gcode, job.token)
    if result.outcome is SendOutcome.REFUSED:
        raise DeviceError(
            f"The printer refused the job: {result.detail}",
            code="printer.refused",
            next_step="Settle this at the printer, then resume the case and start the print again.",
        )
    if result.outcome is SendOutcome.ACCEPTED:
        _accepted(app, job, result.uuid)
    elif not _has_already(app, printer, job):
        raise DeviceError(
            f"The job did not reach the printer ({result.detail}).",
            code="printer.not_reached",
            next_step="Check the printer's network, then resume the case and start the print again.",
        )


def _not_configured(job: PrintJob) -> DeviceError:
    return DeviceError(
        f"Printer '{job.printer}' is not configured any more.",
        code="printer.not_found",
        next_step="Add it to the configuration or print on another one.",
    )


def _has_already(app: App, printer: Printer, job: PrintJob) -> bool:
    """Ask the printer for our job. True: settled here. False: the printer certainly does not have it."""
    for pause_s in (0.0, _SETTLE_S):
        time.sleep(pause_s)
        lookup = printer.find(job.token, job.uuid)
        if lookup.outcome is LookupOutcome.FOUND and lookup.job is not None:
            _accepted(app, job, lookup.job.uuid)
            return True
        if lookup.outcome is LookupOutcome.UNSURE:
            _unknown(app, job, lookup.detail or "the printer gave no clear answer")
            return True
    return False


def _accepted(app: App, job: PrintJob, uuid: str) -> None:
    now = app.clock.now()
    with transaction(app.engine) as connection:
        fresh = prints.get(connection, job.token)
        prints.change(
            connection, fresh, PrintState.PRINTING, now, uuid=uuid, accepted_at=times.to_text(now), detail=""
        )
        cases.note(
            connection,
            cases.get(connection, job.case_id),
            event="print_accepted",
            actor=_PRINTER,
            now=now,
            data={"job": job.token, "uuid": uuid, "printer": job.printer},
        )


def _unknown(app: App, job: PrintJob, detail: str) -> None:
    now = app.clock.now()
    with transaction(app.engine) as connection:
        prints.change(connection, prints.get(connection, job.token), PrintState.UNKNOWN, now, detail=detail)
        case = cases.get(connection, job.case_id)
        cases.note(
            connection,
            case,
            event="print_unknown",
            actor=_PRINTER,
            now=now,
            data={"job": job.token, "detail": detail},
        )
    app.notifier.notify(
        "print", f"Nobody can say whether {job.token} runs on {job.printer}: look at the printer, then settle the job.",
        case_code=case.code,
    )  # fmt: skip


def _not_started(app: App, token: str, error: SpineprintError) -> None:
    if isinstance(error, DeviceUnsureError):
        with reading(app.engine) as connection:
            job = prints.get(connection, token)
        _unknown(app, job, error.message)
        return
    with transaction(app.engine) as connection:
        job = prints.get(connection, token)
        prints.change(connection, job, PrintState.NOT_STARTED, app.clock.now(), detail=error.message)
        prints.release(connection, job.printer, token)
        case = cases.get(connection, job.case_id)
        _park(connection, app, case, error, CaseState.SLICED)
    tell_attention(app, case, error)


def poll(app: App, printer: Printer) -> PrinterReading:
    """Look at the printer once and bring our records up to what it says."""
    seen = printer.read()
    with transaction(app.engine) as connection:
        prints.save_reading(
            connection, printer.name, asdict(seen) | {"read_at": times.to_text(seen.read_at)}, seen.read_at
        )
    print_found.take_up_again(app, seen, printer.name)
    with reading(app.engine) as connection:
        open_jobs = prints.listed(connection, printer=printer.name, states=RUNNING - {PrintState.SENDING})
    if seen.state is not PrinterState.SILENT:
        for job in open_jobs:
            follow(app, printer, seen, job)
    return seen


def follow(app: App, printer: Printer, seen: PrinterReading, job: PrintJob) -> None:
    """Bring one print up to date from a reading, or from the printer's history when it runs no more."""
    told = seen.job if seen.job and _is_ours(seen.job, job) else None
    if told is None:
        lookup = printer.find(job.token, job.uuid)
        if lookup.outcome is LookupOutcome.UNSURE:
            return
        if lookup.outcome is LookupOutcome.ABSENT or lookup.job is None:
            if job.state is not PrintState.UNKNOWN:
                _unknown(app, job, "the printer does not know the job any more")
            return
        told = lookup.job
        if not told.state and not told.result:
            # In the history without an end, and not in the printer any more: it was cut off there.
            told = replace(told, cleared=True)
    target = observed(told.state, told.result, cleared=told.cleared)
    if target is PrintState.UNKNOWN:
        if job.state is not PrintState.UNKNOWN:
            _unknown(app, job, "the printer shows the job without an outcome (power cut or restart?)")
        return
    _record(app, job, told, target)


def _is_ours(told: PrinterJob, job: PrintJob) -> bool:
    # Two empty identifiers are not the same job: ours has none yet when the answer to its upload was lost.
    return told.name == job.token or bool(job.uuid and told.uuid == job.uuid)


def _record(app: App, job: PrintJob, told: PrinterJob, target: PrintState) -> None:
    now = app.clock.now()
    values: dict[str, object] = {
        "uuid": told.uuid or job.uuid,
        "progress": told.progress,
        "time_elapsed_s": told.time_elapsed_s,
        "time_total_s": told.time_total_s,
        "result": told.result,
        "detail": "",
    }
    if target is PrintState.AWAITING_REMOVAL and job.finished_at is None:
        values["finished_at"] = times.to_text(now)
    if target in OVER:
        values["cleared_at"] = times.to_text(now)
    error = _ended_badly(target) if target in (PrintState.ABORTED, PrintState.FAILED) else None
    with transaction(app.engine) as connection:
        fresh = prints.get(connection, job.token)
        if fresh.state in OVER:
            return
        fresh = prints.change(connection, fresh, target, now, **values)
        if target in OVER:
            prints.release(connection, job.printer, job.token)
        case = cases.get(connection, job.case_id)
        if target is PrintState.FINISHED:
            _printed(connection, app, case, fresh, _PRINTER)
        if error is not None:
            _void_and_park(connection, app, case, error)
    if error is not None:
        tell_attention(app, case, error)


def _printed(connection: Connection, app: App, case: Case, job: PrintJob, actor: Actor) -> None:
    now = app.clock.now()
    cases.move(
        connection,
        case,
        CaseEvent.PRINT_CLEARED,
        actor=_PRINTER,
        now=now,
        guards={"printer_says_finished": True},
        data={"job": job.token, "uuid": job.uuid, "settled_by": actor.name},
    )
    create_item(connection, app, case, job)


def _ended_badly(target: PrintState) -> DeviceError:
    return DeviceError(
        f"The print was {'stopped' if target is PrintState.ABORTED else 'reported as failed'} at the printer.",
        next_step="Discard the part. Resume to have the plan approved again, which allows one new print.",
        code="print.aborted" if target is PrintState.ABORTED else "print.failed",
    )


def _void_and_park(connection: Connection, app: App, case: Case, error: SpineprintError) -> None:
    approvals.void(connection, case.id, app.clock.now())
    _park(connection, app, case, error, CaseState.PLAN_READY)


def _park(
    connection: Connection, app: App, case: Case, error: SpineprintError, resume_state: CaseState
) -> None:
    """In the transaction that ends the print: a kill between the two would leave the case waiting for ever."""
    if case.state is CaseState.PRINTING:
        park(connection, app, case, error, resume_state)


def settle(app: App, token: str, outcome: str, actor: Actor, note: str) -> PrintJob:
    """A person looked at the printer and says how a print ended: finished | failed | not_started.

    For a print that is UNKNOWN, or accepted by a printer that does not answer any more (its history wiped, its board
    dead): such a part would lie there for ever. Raises InputRefusedError, ConflictError.
    """
    targets = {
        "finished": PrintState.FINISHED,
        "failed": PrintState.FAILED,
        "not_started": PrintState.NOT_STARTED,
    }
    if outcome not in targets or not note.strip():
        raise InputRefusedError(
            "An outcome (finished, failed, not_started) and a note are needed.",
            next_step="Say what you saw at the printer.",
            code="print.settle",
        )
    target = targets[outcome]
    now = app.clock.now()
    with transaction(app.engine) as connection:
        job = prints.get(connection, token)
        if job.state is not PrintState.UNKNOWN and not (
            job.state in _ON_PLATE and _gone(connection, app, job)
        ):
            raise ConflictError(
                "Only a print whose outcome is unknown, or whose printer does not answer, can be settled by hand.",
                code="print.state",
                next_step="Load the print job again.",
            )
        job = prints.change(connection, job, target, now, detail=note.strip(), cleared_at=times.to_text(now))
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
            _printed(connection, app, case, job, actor)
        elif target is PrintState.FAILED:
            error = _ended_badly(target)
            _void_and_park(connection, app, case, error)
        else:
            error = DeviceError(
                "The print was not started.",
                code="print.not_started",
                next_step="Resume the case and start the print again.",
            )
            _park(connection, app, case, error, CaseState.SLICED)
    if error is not None:
        tell_attention(app, case, error)
    return job


def _gone(connection: Connection, app: App, job: PrintJob) -> bool:
    """The printer will not tell: it is not configured any more, or its last reading is that it was silent."""
    if job.printer not in app.printers:
        return True
    _, seen, _ = prints.printer_rows(connection).get(job.printer, ("", None, None))
    return seen is not None and seen.get("state") == PrinterState.SILENT.value


def command(app: App, token: str, target: str, actor: Actor) -> None:
    """'pause' | 'print' (resume) | 'abort', on behalf of a person. Raises DeviceError, ConflictError."""
    with reading(app.engine) as connection:
        job = prints.get(connection, token)
    if job.state not in (PrintState.PRINTING, PrintState.PAUSED):
        raise ConflictError(
            f"The print is {job.state}; there is nothing to {target}.",
            code="print.state",
            next_step="Load the print job again.",
        )
    printer = app.printers.get(job.printer)
    if printer is None:
        raise _not_configured(job)
    printer.command(target)
    with transaction(app.engine) as connection:
        cases.note(
            connection,
            cases.get(connection, job.case_id),
            event=f"print_{target}",
            actor=actor,
            now=app.clock.now(),
            data={"job": token},
        )
