"""What follows from the end of a print for its case, in the transaction that records the end."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor, system
from service.domain.print_job import PrintState
from service.domain.print_outcome import Outcome
from service.errors import DeviceError, SpineprintError
from service.store import approvals, cases, prints
from service.store.cases import Case
from service.store.prints import PrintJob
from service.workflow.app import App
from service.workflow.jobs import park
from service.workflow.print_trace import outcomes
from service.workflow.printed_item import create_item

PRINTER = system("printer")


def printed(connection: Connection, app: App, case: Case, job: PrintJob, actor: Actor) -> None:
    now = app.clock.now()
    cases.move(
        connection,
        case,
        CaseEvent.PRINT_CLEARED,
        actor=PRINTER,
        now=now,
        guards={"printer_says_finished": True},
        data={"job": job.token, "uuid": job.uuid, "settled_by": actor.name},
    )
    create_item(connection, app, case, job)


_ABORTED: Mapping[Outcome | None, str] = {
    Outcome.ABORTED_AT_PANEL: "The print was aborted at the printer's panel.",
    Outcome.STOPPED_HERE: "The print was stopped from here.",
}
_NEXT = "Discard the part. Resume to have the plan approved again, which allows one new print."


def ended_badly(target: PrintState) -> DeviceError:
    """The end as the printer tells it; who aborted a print is filled in where its case is parked."""
    if target is PrintState.ABORTED:
        return DeviceError("The print was aborted.", next_step=_NEXT, code="print.aborted")
    return DeviceError("The print failed.", next_step=_NEXT, code="print.failed")


def void_and_park(connection: Connection, app: App, case: Case, error: SpineprintError) -> None:
    approvals.void(connection, case.id, app.clock.now())
    _say_who_aborted(connection, case, error)
    park_print(connection, app, case, error, CaseState.PLAN_READY)


def _say_who_aborted(connection: Connection, case: Case, error: SpineprintError) -> None:
    """Into the error itself, so that the case and what people are told say the same."""
    newest = prints.listed(connection, case_id=case.id)[:1]
    for token, outcome in outcomes(connection, newest).items():
        if error.code == "print.aborted" and outcome in _ABORTED:
            error.message = _ABORTED[outcome]
            error.details = {**error.details, "job": token, "outcome": str(outcome)}


def park_print(
    connection: Connection, app: App, case: Case, error: SpineprintError, resume_state: CaseState
) -> None:
    """In the transaction that ends the print: a kill between the two would leave the case waiting for ever."""
    if case.state is CaseState.PRINTING:
        park(connection, app, case, error, resume_state)


def not_configured(job: PrintJob) -> DeviceError:
    return DeviceError(
        f"Printer '{job.printer}' is not configured any more.",
        code="printer.not_found",
        next_step="Add it to the configuration or print on another one.",
    )
