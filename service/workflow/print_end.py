"""What follows from the end of a print for its case, in the transaction that records the end."""

from __future__ import annotations

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor, system
from service.domain.print_job import PrintState
from service.errors import DeviceError, SpineprintError
from service.store import approvals, cases
from service.store.cases import Case
from service.store.prints import PrintJob
from service.workflow.app import App
from service.workflow.jobs import park
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


def ended_badly(target: PrintState) -> DeviceError:
    return DeviceError(
        f"The print was {'stopped' if target is PrintState.ABORTED else 'reported as failed'} at the printer.",
        next_step="Discard the part. Resume to have the plan approved again, which allows one new print.",
        code="print.aborted" if target is PrintState.ABORTED else "print.failed",
    )


def void_and_park(connection: Connection, app: App, case: Case, error: SpineprintError) -> None:
    approvals.void(connection, case.id, app.clock.now())
    park_print(connection, app, case, error, CaseState.PLAN_READY)


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
