"""A print we gave up as not started, found on the printer after all: running, or in its history.

An upload can be cut off for us and whole for the printer, which then reads it for longer than we ask for it. The
record follows the machine: the print is taken up again, before anybody starts it a second time. What began and ended
while nobody looked is found when the next attempt asks for it. Its record is marked then, and not reopened at once,
because that attempt has the case in its hands; the mark outlives a crash, and the next look at any printer acts on it.
"""

from __future__ import annotations

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import system
from service.domain.print_job import OVER, PrintState
from service.ports import PrinterReading
from service.store import approvals, cases, prints
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.workflow.app import App

_PRINTER = system("printer")
_DETAIL = "The printer has the job after all."
_FOUND = "The printer has started the job after all; it is about to be followed from there."
_STRAY = "The printer has a job that our records had given up, and the case has moved on."
_BESIDE = "The printer has a job that our records had given up, while another attempt is under way elsewhere."


def mark(app: App, job: PrintJob) -> None:
    """The next attempt has found this one, which had been given up, on its printer."""
    with transaction(app.engine) as connection:
        fresh = prints.get(connection, job.token)
        if fresh.may_start_late:
            _remarked(connection, app, fresh, _FOUND)


def was_found(job: PrintJob) -> bool:
    return job.may_start_late and job.detail == _FOUND


def take_up_again(app: App, seen: PrinterReading, printer: str) -> None:
    """Reopen the print that the printer shows, and those that were found, where our record says "never started".

    A print becomes UNKNOWN with the printer reserved, for the poll to follow. Where the case has moved on (cancelled,
    approved anew, another attempt under way on another printer), people are told once and nothing is moved.
    """
    with reading(app.engine) as connection:
        shown = prints.maybe(connection, seen.job.bare_name) if seen.job is not None else None
        given_up = prints.listed(connection, states=frozenset({PrintState.NOT_STARTED}))
    tokens = {job.token for job in given_up if was_found(job)}
    if shown is not None and shown.printer == printer:
        tokens.add(shown.token)
    for token in sorted(tokens):
        _take_up(app, token)


def _take_up(app: App, token: str) -> None:
    with transaction(app.engine) as connection:
        job = prints.get(connection, token)
        printer = job.printer
        if job.state is not PrintState.NOT_STARTED:
            return
        case = cases.get(connection, job.case_id)
        rival = _under_way(connection, case)
        if rival is not None and rival.printer == printer:
            return  # another attempt is being sent; it will be refused as busy, and then this one is taken up
        waits = rival is None and _waits_for_a_print(connection, case, job)
        if waits and prints.reserve(connection, printer, job.token):
            _reopen(connection, app, case, job)
        elif waits or not _remarked(connection, app, job, _STRAY if rival is None else _BESIDE):
            return
    beside = f", while {rival.token} is on its way to {rival.printer}" if rival is not None else ""
    app.notifier.notify(
        "print",
        f"{job.token} was started by {printer}, though it was given up{beside}: look at the printer.",
        case_code=case.code,
    )


def _waits_for_a_print(connection: Connection, case: Case, job: PrintJob) -> bool:
    """For this very model: a print of an approval that was replaced is not the one the case waits for."""
    approval = approvals.standing(connection, case.id)
    if approval is None or approval.id != job.approval_id:
        return False
    resume = (case.attention or {}).get("resume_state")
    return case.state is CaseState.SLICED or (
        case.state is CaseState.NEEDS_ATTENTION and resume == CaseState.SLICED.value
    )


def _under_way(connection: Connection, case: Case) -> PrintJob | None:
    """Another attempt that is not over."""
    jobs = prints.listed(connection, case_id=case.id)
    return next((job for job in jobs if job.state not in OVER), None)


def _remarked(connection: Connection, app: App, job: PrintJob, detail: str) -> bool:
    """False when the record says so already, or that it was found: people are told once."""
    if job.detail in (detail, _FOUND):
        return False
    prints.remark(connection, job, detail, app.clock.now())
    return True


def _reopen(connection: Connection, app: App, case: Case, job: PrintJob) -> None:
    now = app.clock.now()
    prints.change(connection, job, PrintState.UNKNOWN, now, detail=_DETAIL)
    cases.move(
        connection,
        case,
        CaseEvent.PRINT_FOUND,
        actor=_PRINTER,
        now=now,
        guards={"case_waits_for_a_print": True},
        data={"job": job.token, "printer": job.printer},
    )
