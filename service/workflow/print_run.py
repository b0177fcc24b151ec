"""One approval, one print: intent row, ask the device, send once, follow to the cleared plate.

No engine prevents double printing; this order does. Whatever instant the process is killed at, the replay first
asks the printer whether it has the job. A printer that cannot say parks the print as UNKNOWN for a person.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor
from service.domain.print_job import RUNNING, PrintState, observed
from service.errors import (
    DeviceError,
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
from service.store import approvals, audit, blobs, cases, outbox, prints, times
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.workflow import print_found, print_queued, print_record, print_settle
from service.workflow.app import App
from service.workflow.print_end import PRINTER, not_configured
from service.workflow.print_guard import check_earlier_attempts, check_file, check_plate_seen
from service.workflow.print_settle import PLATE_NOT_CONFIRMED, shows_it_no_more

log = logging.getLogger("spineprint.print")

#: After a replay the printer may still be digesting an upload of the killed process: ask, wait, ask again.
_SETTLE_S = 2.0
_COPY = "print_copy_at_printer"


def start_print(
    app: App,
    case_id: str,
    printer_name: str,
    actor: Actor,
    *,
    bed_clear: bool,
    filament_lot: str = "",
    seen_gcode_sha256: str | None = None,
) -> PrintJob:
    """A person starts the print: the intent is recorded and the printer reserved, nothing is sent yet.

    Parameters
    ----------
    filament_lot : as read off the spool by the one who looked at the plate; empty when it is not known.
    seen_gcode_sha256 : of the file whose audit and predicted print the person had on the screen; None when nothing
        was shown.

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
    lot = _checked_lot(filament_lot)
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
                "approval_is_current": approval is not None
                and gcode is not None
                and approval.gcode_sha256 == gcode.sha256,
                "gcode_shown_is_current": seen_gcode_sha256 is None
                or (gcode is not None and seen_gcode_sha256 == gcode.sha256),
                "late_images_decided": not case.newer_images,
            },
            data={
                "printer": printer_name,
                "job": token,
                "filament_lot": lot,
                "gcode_sha256": gcode.sha256 if gcode else None,
                "prediction_shown": seen_gcode_sha256 is not None,
            },
            jobs=[JobRequest(f"send.{token}", "send_print", token, "printers", partition=printer_name)],
        )
        assert approval is not None and gcode is not None
        prints.add(
            connection, token=token, case_id=case_id, approval_id=approval.id, attempt=attempt, printer=printer_name,
            gcode_sha256=gcode.sha256, requested_by=actor.name, now=now, filament_lot=lot,
        )  # fmt: skip
        return prints.get(connection, token)


def _checked_lot(text: str) -> str:
    lot = text.strip()
    if len(lot) > 64 or not lot.isprintable():
        raise InputRefusedError(
            "A filament lot has at most 64 printable characters.",
            next_step="Copy the lot from the spool's label.",
            code="print.lot",
        )
    return lot


def send_print(app: App, key: str, token: str) -> None:
    """Job on the printer's queue: bring the intent to the printer at most once."""
    with reading(app.engine) as connection:
        job = prints.get(connection, token)
        gcode = blobs.current(connection, job.case_id).get("gcode")
    if job.state in (PrintState.INTENT, PrintState.SENDING):
        try:
            _bring(app, job, gcode.path if gcode and gcode.sha256 == job.gcode_sha256 else None)
        except SpineprintError as exc:
            print_record.not_started(app, token, exc)
    with transaction(app.engine) as connection:
        outbox.finish(connection, key, app.clock.now())


def _bring(app: App, job: PrintJob, gcode: Path | None) -> None:
    printer = app.printers.get(job.printer)
    if job.state is PrintState.SENDING:
        # The killed process may have sent it: whatever is wrong here, the printer is asked first.
        if printer is None:
            print_record.unknown(
                app, job, f"it may have been sent to {job.printer}, which is not configured any more"
            )
            return
        if _has_already(app, printer, job):
            return
    if printer is None:
        raise not_configured(job)
    gcode = check_file(gcode, job)
    check_plate_seen(app, job)
    check_earlier_attempts(app, job)
    reasons = printer.preflight(gcode)
    if reasons:
        raise DeviceError(
            f"The printer is not ready: {'; '.join(reasons)}.",
            code="printer.not_ready",
            next_step="Settle this at the printer, then resume the case and start the print again.",
        )
    if job.state is PrintState.INTENT:
        now = app.clock.now()
        with transaction(app.engine) as connection:
            job = prints.change(connection, job, PrintState.SENDING, now, sent_at=times.to_text(now))
    result = printer.send(gcode, job.token)
    if result.outcome is SendOutcome.REFUSED:
        raise DeviceError(
            f"The printer refused the job: {result.detail}",
            code="printer.refused",
            next_step="Settle this at the printer, then resume the case and start the print again.",
        )
    if result.outcome is SendOutcome.ACCEPTED:
        print_record.accepted(app, job, result.uuid, waits=result.waits)
    elif not _has_already(app, printer, job):
        raise DeviceError(
            f"The job did not reach the printer ({result.detail}).",
            code="printer.not_reached",
            next_step="Check the printer's network, then resume the case and start the print again.",
        )


def _has_already(app: App, printer: Printer, job: PrintJob) -> bool:
    """Ask the printer for our job. True: settled here. False: the printer certainly does not have it."""
    for pause_s in (0.0, _SETTLE_S):
        time.sleep(pause_s)
        lookup = printer.find(job.token, job.uuid)
        if lookup.outcome is LookupOutcome.FOUND and lookup.job is not None:
            print_record.accepted(app, job, lookup.job.uuid, waits=lookup.job.waits)
            return True
        if lookup.outcome is LookupOutcome.UNSURE:
            print_record.unknown(app, job, lookup.detail or "the printer gave no clear answer")
            return True
    return False


def poll(app: App, printer: Printer) -> PrinterReading:
    """Look at the printer once and bring our records up to what it says."""
    seen = printer.read()
    with transaction(app.engine) as connection:
        seen = _silent_since(seen, prints.printer_rows(connection).get(printer.name))
        prints.save_reading(
            connection, printer.name, asdict(seen) | {"read_at": times.to_text(seen.read_at)}, seen.read_at
        )
    print_queued.withdraw_strays(app, printer, seen)
    print_found.take_up_again(app, seen, printer.name)
    with reading(app.engine) as connection:
        open_jobs = prints.listed(connection, printer=printer.name, states=RUNNING - {PrintState.SENDING})
    if seen.state is not PrinterState.SILENT:
        for job in open_jobs:
            follow(app, printer, seen, job)
    return seen


def _silent_since(
    seen: PrinterReading, stored: tuple[str, dict[str, Any] | None, datetime | None] | None
) -> PrinterReading:
    """A silence goes back to the last answer that we have, also to one of before a restart."""
    last = None if stored is None else stored[2]
    if seen.state is not PrinterState.SILENT or last is None or last >= seen.read_at:
        return seen
    return replace(seen, read_at=last)


def follow(app: App, printer: Printer, seen: PrinterReading, job: PrintJob) -> None:
    """Bring one print up to date from a reading, or from the printer's history when it runs no more."""
    told = seen.job if seen.job and _is_ours(seen.job, job) else print_queued.ours(seen, job)
    if told is None:
        lookup = printer.find(job.token, job.uuid)
        if lookup.outcome is LookupOutcome.UNSURE:
            return
        if lookup.job is None or not lookup.job.state:
            _tell_of_copy(app, printer, seen.job, job)
        if lookup.outcome is LookupOutcome.ABSENT or lookup.job is None:
            if job.state is not PrintState.UNKNOWN:
                print_record.unknown(app, job, "the printer does not know the job any more")
            return
        told = lookup.job
        if not told.state and not told.result:
            # In the history without an end, and not in the printer any more: it was cut off there.
            told = replace(told, cleared=True)
        elif not (told.state or told.cleared) and shows_it_no_more(asdict(seen), job):
            told = replace(told, remark=PLATE_NOT_CONFIRMED)
    target = observed(told.state, told.result, cleared=told.cleared)
    if target is PrintState.QUEUED:
        print_queued.wait_or_withdraw(app, printer, seen, job, told)
        return
    if target is PrintState.UNKNOWN:
        if job.state is not PrintState.UNKNOWN:
            print_record.unknown(
                app, job, "the printer shows the job without an outcome (power cut or restart?)"
            )
        return
    print_record.record(app, job, told, target)
    if told.remark == PLATE_NOT_CONFIRMED != job.detail:
        print_settle.tell_plate_not_confirmed(app, job)


def _is_ours(told: PrinterJob, job: PrintJob) -> bool:
    # Two empty identifiers are not the same job: ours has none yet when the answer to its upload was lost. Our name
    # under another identifier may be a reprint: whether it is ours is for the printer's interface to say.
    return told.uuid == job.uuid if told.uuid and job.uuid else told.is_called(job.token)


def _tell_of_copy(app: App, printer: Printer, shown: PrinterJob | None, job: PrintJob) -> None:
    """The machine has a job of our name that is not ours, our file chosen again at its panel. People are told once."""
    if shown is None or not shown.is_called(job.token):
        return
    with reading(app.engine) as connection:
        case = cases.get(connection, job.case_id)
        known = audit.events(connection, {f"case:{case.id}"}, (_COPY,))
    if any(row.data.get("uuid") == shown.uuid for row in known):
        return
    again = printer.read().job
    if again is None or again.uuid != shown.uuid:
        return  # it ended between the look and the question: nobody can say whether it was a copy
    with transaction(app.engine) as connection:
        data = {"job": job.token, "printer": job.printer, "uuid": shown.uuid}
        cases.note(connection, case, event=_COPY, actor=PRINTER, now=app.clock.now(), data=data)
    app.notifier.notify(
        "print", f"{job.token} is printed once more by {job.printer}, and not from here: one approval allows one "
        "print. Stop it at the printer; that part is not for use.",
        case_code=case.code,
    )  # fmt: skip
