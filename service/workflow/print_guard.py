"""What must hold at the moment a print is sent, however long ago a person asked for it.

Each check raises a DeviceError or InputRefusedError in words; nothing has been sent then by this attempt.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from service.errors import DeviceError, InputRefusedError
from service.ports import JobLookup, LookupOutcome
from service.store import blobs, prints
from service.store.database import reading
from service.store.prints import PrintJob
from service.workflow import print_found
from service.workflow.app import App

#: A plate that was seen clear is not known to be clear for ever: the service may have been down since.
PLATE_SEEN_FOR = timedelta(minutes=15)
#: A time server may set the clock back by so much.
_CLOCKS_AGREE = timedelta(minutes=1)


def plate_seen(app: App, job: PrintJob) -> bool:
    """Whether the plate was seen clear lately enough for this print to begin now.

    A plate seen clear in times to come says that the clock was set back: nobody knows how long ago it was.
    """
    return -_CLOCKS_AGREE <= app.clock.now() - job.requested_at <= PLATE_SEEN_FOR


def check_plate_seen(app: App, job: PrintJob) -> None:
    age = app.clock.now() - job.requested_at
    if not plate_seen(app, job):
        raise DeviceError(
            f"The plate was seen clear {_in_words(age)} ago, and the print was not sent since."
            if age >= timedelta(0)
            else "The clock was set back since the plate was seen clear, so nobody knows how long ago that was.",
            code="print.plate_not_seen",
            next_step="Look at the plate, then resume the case and start the print again.",
        )


def _in_words(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


def check_file(gcode: Path | None, job: PrintJob) -> Path:
    """The audited file, whole on the disk."""
    try:
        if gcode is not None and blobs.sha256_of(gcode) == job.gcode_sha256:
            return gcode
        what = "is not the audited one"
    except OSError:
        what = "cannot be read"
    raise InputRefusedError(
        f"The G-code on disk {what}.",
        code="gcode.changed",
        next_step="Have disk and backup checked. Resume to have the plan approved again; the file is made anew.",
    )


def check_earlier_attempts(app: App, job: PrintJob) -> None:
    """An upload that was cut off for us may be whole for its printer, which then starts it late.

    Every earlier attempt of this approval whose file may have arrived is asked for where it went, unless a person has
    looked there since.
    """
    with reading(app.engine) as connection:
        others = prints.listed(connection, case_id=job.case_id)
    for other in others:
        if other.token != job.token and other.approval_id == job.approval_id and other.may_start_late:
            _check_absent(app, other)


def _check_absent(app: App, other: PrintJob) -> None:
    printer = app.printers.get(other.printer)
    if print_found.was_found(other):
        lookup = JobLookup(LookupOutcome.FOUND)  # what was seen once needs no second answer
    elif printer is None:
        lookup = JobLookup(LookupOutcome.UNSURE)
    else:
        lookup = printer.find(other.token, other.uuid)
    outcome = lookup.outcome
    if outcome is LookupOutcome.FOUND and lookup.job is not None and lookup.job.waits:
        raise DeviceError(
            f"The earlier attempt {other.token} waits in the queue of {other.printer}, which may begin it by itself.",
            code="print.waits_there",
            next_step="It is taken out of that queue. Look at that printer, then resume the case and start the print "
            "again; should it have begun meanwhile, the case goes on with that print.",
        )
    if outcome is LookupOutcome.FOUND:
        print_found.mark(app, other)
        raise DeviceError(
            f"The earlier attempt {other.token} was started by {other.printer} after all.",
            code="print.found",
            next_step="Look at that printer. The case goes on with that print; nothing else is to be started.",
        )
    if outcome is LookupOutcome.UNSURE:
        raise DeviceError(
            f"{other.printer} does not say whether it has the earlier attempt {other.token}.",
            code="print.earlier_unsure",
            next_step=f"Look at {other.printer}. When it does not print {other.token}, say so on that attempt (settle: "
            "not started), then resume the case and start the print again.",
        )
