"""The print room's queue: sliced cases by the time of their operation, with a forecast; the next one started."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from service.domain.case import CaseState
from service.domain.people import Actor
from service.domain.print_job import RUNNING, PrintState
from service.domain.print_queue import Forecast, Waiting, forecast, in_order
from service.domain.sterilisation_schedule import plan_back
from service.errors import ConflictError, NotFoundError
from service.store import blobs, cases, prints
from service.store.cases import Case
from service.store.database import reading
from service.store.prints import PrintJob
from service.workflow import print_run
from service.workflow.app import App


def list_queue(app: App) -> list[dict[str, Any]]:
    """One row a waiting case, the next to print first.

    Without a printer, or with a time of sterile services that is not configured, there is no forecast.
    """
    after_print = _after_print(app)
    with reading(app.engine) as connection:
        waiting = _waiting(connection, app)
        free = {name: _free_at(connection, app, name) for name in app.printers}
    forecasts = [] if after_print is None else forecast(waiting, free, after_print)
    planned = {f.waiting.case_id: f for f in forecasts}
    return [
        {"place": place, **_row(case, planned.get(case.case_id))}
        for place, case in enumerate(in_order(waiting), start=1)
    ]


def start_next(
    app: App, printer_name: str, actor: Actor, *, bed_clear: bool, filament_lot: str = ""
) -> PrintJob:
    """Start the first case of the queue on this printer, whose plate a person has seen to be clear.

    A case that somebody else takes at the same moment is passed over for the next one.

    Raises
    ------
    NotFoundError : nothing waits, or no such printer. ConflictError, NotAllowedError : as `start_print`.
    """
    with reading(app.engine) as connection:
        waiting = in_order(_waiting(connection, app))
    for case in waiting:
        try:
            return print_run.start_print(
                app, case.case_id, printer_name, actor, bed_clear=bed_clear, filament_lot=filament_lot
            )
        except ConflictError:
            with reading(app.engine) as connection:
                taken = cases.get(connection, case.case_id).state is not CaseState.SLICED
            if not taken:
                raise
    raise NotFoundError(
        "No case waits for a printer.", next_step="See the list of cases.", code="print.queue_empty"
    )


def _waiting(connection: Connection, app: App) -> list[Waiting]:
    """Sliced cases that may be printed; those with undecided images wait for a person first."""
    found = cases.listed(connection, states=(CaseState.SLICED,))
    return [
        Waiting(c.id, c.code, c.created_at, c.surgery_at, _print_s(connection, app, c))
        for c in found
        if not c.newer_images
    ]


def _print_s(connection: Connection, app: App, case: Case) -> float:
    report = blobs.current(connection, case.id).get("gcode_report")
    seconds = json.loads(report.path.read_text("utf-8")).get("print_time_s") if report else None
    return (
        float(seconds)
        if isinstance(seconds, int | float) and seconds > 0
        else app.sterile_settings.print_h * 3600.0
    )


def _free_at(connection: Connection, app: App, printer: str) -> datetime:
    now = app.clock.now()
    left_s = 0.0
    for job in prints.listed(connection, printer=printer, states=RUNNING | {PrintState.INTENT}):
        if job.state is PrintState.AWAITING_REMOVAL:
            continue
        total_s = job.time_total_s or _print_s(connection, app, cases.get(connection, job.case_id))
        left_s = max(left_s, total_s - (job.time_elapsed_s or 0))
    return now + timedelta(seconds=left_s)


def _after_print(app: App) -> timedelta | None:
    """From the end of a print to the pack in theatre: the way back from an operation, without the print.

    None when the cycle, aeration or indicator the site counts with has no known time.
    """
    moment = datetime(2000, 1, 1)  # noqa: DTZ001  # only the difference counts
    plan = plan_back(moment, app.sterile_settings, print_h=0.0)
    return None if plan is None else moment - plan.latest_print_start


def _row(case: Waiting, plan: Forecast | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case_id": case.case_id, "code": case.code, "surgery_at": case.surgery_at, "print_time_s": case.print_s,
        "printer": None, "print_start": None, "ready_by": None, "late_h": None,
    }  # fmt: skip
    if plan is not None:
        row |= {
            "printer": plan.printer, "print_start": plan.print_start, "ready_by": plan.ready_by, "late_h": plan.late_h,
        }  # fmt: skip
    return row
