"""A print of ours that waits in the printer's own queue (cluster firmware): may it wait, or is it taken out.

What waits there begins by itself, perhaps hours later. So it waits only while the plate was seen clear lately, and
never behind another job: then it is taken out, which is believed when the printer shows that it is gone. A print that
our records had given up is taken out always: it would be a second start for one approval.
"""

from __future__ import annotations

from service.domain.people import Actor
from service.domain.print_job import OVER, PrintState
from service.errors import DeviceError, DeviceUnsureError
from service.ports import JobLookup, LookupOutcome, Printer, PrinterJob, PrinterReading
from service.store import audit, cases, prints
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.workflow import print_record
from service.workflow.app import App
from service.workflow.print_end import PRINTER
from service.workflow.print_guard import plate_seen

_BEGUN = frozenset({PrintState.PRINTING, PrintState.PAUSED, PrintState.AWAITING_REMOVAL})
_NEXT = "Look at the printer and its plate, then resume the case and start the print again."
_COPY = "print_copy_in_queue"
_LEFT_OVER = "It lay in the printer's queue after it had been given up, and was taken out."


def wait_or_withdraw(
    app: App, printer: Printer, seen: PrinterReading, job: PrintJob, told: PrinterJob
) -> None:
    """Our print is in the queue by this reading: let it wait, or take it out."""
    if _had_begun(app, job):
        _withdraw_begun(app, printer, job, told)
        return
    why = _why_not(app, seen, job, told)
    if not why:
        print_record.record(app, job, told, PrintState.QUEUED)
        return
    lookup = printer.withdraw(job.token, job.uuid)
    if lookup.outcome is LookupOutcome.ABSENT:
        print_record.not_started(
            app, job.token, DeviceError(f"The print was taken out of the printer's queue: {why}.",
                                        code="print.withdrawn", next_step=_NEXT),
        )  # fmt: skip
    elif not _has_begun(lookup):
        _tell_once(app, job, f"It is to be taken out of the printer's queue ({why}), but {_still(lookup)}.")


def _had_begun(app: App, job: PrintJob) -> bool:
    """By our records: what has begun once must not begin again, whatever became of it."""
    if job.state in _BEGUN or job.progress is not None:
        return True
    with reading(app.engine) as connection:
        told = audit.events(connection, {f"case:{job.case_id}"}, ("print_accepted",))
    return any(row.data.get("job") == job.token and not row.data.get("waits") for row in told)


def _withdraw_begun(app: App, printer: Printer, job: PrintJob, told: PrinterJob) -> None:
    """A print that had begun waits in the queue again (a power cut): taken out, and nobody can say how it ended."""
    lookup = printer.withdraw(job.token, told.uuid)
    gone = lookup.outcome is LookupOutcome.ABSENT or _has_begun(lookup)
    if not gone:
        _tell_once(app, job, f"It had begun, lies in the printer's queue again, and {_still(lookup)}.")
    elif job.state is not PrintState.UNKNOWN:
        print_record.unknown(app, job, "it had begun, lay in the printer's queue again, and was taken out")


def _why_not(app: App, seen: PrinterReading, job: PrintJob, told: PrinterJob) -> str:
    """Why a print may not wait any longer; empty when it may. What is on its way to the machine is let go."""
    if told.state != "queued":
        return ""
    if seen.job is not None and not seen.job.cleared:
        return "another job is in the printer, whose part would lie on the plate"
    if seen.waiting and seen.waiting[0] != told:
        return "another job waits before it, whose part would lie on the plate"
    if not plate_seen(app, job):
        changes = f" ({told.remark.rstrip('.')})" if told.remark else ""
        return f"it waited for too long since the plate was seen clear{changes}"
    return ""


def ours(seen: PrinterReading, job: PrintJob) -> PrinterJob | None:
    """The job in the queue that this print is; one of its name under another identifier is a copy."""
    return next(
        (t for t in seen.waiting if t.is_called(job.token) and (not job.uuid or t.uuid == job.uuid)), None
    )


def withdraw_strays(app: App, printer: Printer, seen: PrinterReading) -> None:
    """Take out of the queue what our records had given up as not started, and every further copy of a print.

    A copy comes of an upload that was cut off for us and sent again, or of somebody who repeats the job at another
    program: it would be a second print for one approval.
    """
    for told in seen.waiting:
        with reading(app.engine) as connection:
            job = prints.maybe(connection, told.bare_name)
        if job is None or job.printer != printer.name:
            continue
        if job.state is PrintState.NOT_STARTED:
            _withdraw_given_up(app, printer, job, told)
        elif _is_copy(seen, job, told):
            printer.withdraw(job.token, told.uuid)  # seen at the next look, and tried again then
            _tell_of_copy(app, job, told)


def _is_copy(seen: PrinterReading, job: PrintJob, told: PrinterJob) -> bool:
    if job.state in (PrintState.INTENT, PrintState.SENDING):
        return False  # being sent: which of them is ours is not known yet
    if job.uuid and job.state not in OVER:
        return told.uuid != job.uuid
    in_machine = seen.job is not None and seen.job.is_called(job.token) and seen.job.uuid != told.uuid
    return job.state in OVER or in_machine


def _tell_of_copy(app: App, job: PrintJob, told: PrinterJob) -> None:
    with transaction(app.engine) as connection:
        case = cases.get(connection, job.case_id)
        known = audit.events(connection, {f"case:{case.id}"}, (_COPY,))
        if any(row.data.get("uuid") == told.uuid for row in known):
            return
        data = {"job": job.token, "printer": job.printer, "uuid": told.uuid}
        cases.note(connection, case, event=_COPY, actor=PRINTER, now=app.clock.now(), data=data)
    app.notifier.notify(
        "print", f"A further copy of {job.token} lies in the queue of {job.printer}, and is taken out: one approval "
        "allows one print.",
        case_code=case.code,
    )  # fmt: skip


def _withdraw_given_up(app: App, printer: Printer, job: PrintJob, told: PrinterJob) -> None:
    lookup = printer.withdraw(job.token, told.uuid)
    if not _has_begun(lookup):  # what has begun is taken up again by the next look
        gone = lookup.outcome is LookupOutcome.ABSENT
        _tell_once(
            app,
            job,
            _LEFT_OVER
            if gone
            else f"It lies in the printer's queue after it was given up: {_still(lookup)}.",
        )


def withdraw_by(app: App, printer: Printer, job: PrintJob, actor: Actor) -> bool:
    """A person takes a waiting print back. False: it has begun meanwhile, and is to be stopped like any other.

    Raises DeviceUnsureError when the printer does not show that it is gone.
    """
    lookup = printer.withdraw(job.token, job.uuid)
    if _has_begun(lookup):
        return False
    if lookup.outcome is not LookupOutcome.ABSENT:
        raise DeviceUnsureError(
            f"The print was to be taken out of the printer's queue, and {_still(lookup)}.",
            code="print.withdraw_unsure",
            next_step="Look at the printer; try again, or remove the job at its display.",
        )
    print_record.not_started(
        app, job.token, DeviceError(f"The print was taken out of the printer's queue by {actor.name}.",
                                    code="print.withdrawn", next_step=_NEXT),
    )  # fmt: skip
    return True


def _has_begun(lookup: JobLookup) -> bool:
    return lookup.outcome is LookupOutcome.FOUND and lookup.job is not None and not lookup.job.waits


def _still(lookup: JobLookup) -> str:
    if lookup.outcome is LookupOutcome.FOUND:
        return "it has begun" if _has_begun(lookup) else "it is still there"
    if lookup.outcome is LookupOutcome.ABSENT:
        return "it was taken out"
    return f"the printer does not say whether it is still there ({lookup.detail.rstrip('.') or 'no words'})"


def _tell_once(app: App, job: PrintJob, detail: str) -> None:
    """Into the record and to people; said again only in other words."""
    with transaction(app.engine) as connection:
        fresh = prints.get(connection, job.token)
        if fresh.detail == detail:
            return
        prints.remark(connection, fresh, detail, app.clock.now())
        case = cases.get(connection, job.case_id)
        cases.note(
            connection, case, event="print_in_queue", actor=PRINTER, now=app.clock.now(),
            data={"job": job.token, "printer": job.printer, "detail": detail},
        )  # fmt: skip
    app.notifier.notify("print", f"{job.token} on {job.printer}: {detail}", case_code=case.code)
