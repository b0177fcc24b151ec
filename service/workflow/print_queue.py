"""The print room's queue: sliced cases by the time of their operation, with a forecast; the next one started."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from service.domain.case import CaseState
from service.domain.people import Actor
from service.domain.print_queue import Forecast, Waiting, forecast, in_order
from service.domain.sterilisation_schedule import plan_back
from service.errors import ConflictError, NotFoundError
from service.store import blobs, cases
from service.store.cases import Case
from service.store.database import reading
from service.store.prints import PrintJob
from service.workflow import print_run, printers_free
from service.workflow.app import App


def list_queue(app: App) -> list[dict[str, Any]]:
    """One row a waiting case, the next to print first.

    A row without a forecast says why: no printer that can be counted on, a time of sterile services that is not
    configured, or an operation whose time has passed.
    """
    after_print, now = _after_print(app), app.clock.now()
    with reading(app.engine) as connection:
        waiting = _waiting(connection, app)
        free = printers_free.all_printers(connection, app, now)
    usable = {name: f.at for name, f in free.items() if f.at is not None}
    out = [f"{name} {f.reason}" for name, f in free.items() if f.at is None]
    forecasts = [] if after_print is None else forecast(waiting, usable, after_print, now)
    planned = {f.waiting.case_id: f for f in forecasts}
    why = _no_forecast(after_print, out, usable)
    return [
        {"place": place, **_row(case, planned.get(case.case_id)), "overdue": case.overdue(now),
         "no_forecast": None if case.case_id in planned else _OVERDUE if case.overdue(now) else why,
         "not_counted": out}
        for place, case in enumerate(in_order(waiting, now), start=1)
    ]  # fmt: skip


_OVERDUE = "The time of the operation has passed: set another one, or start the print on the case's page."


def _no_forecast(after_print: timedelta | None, out: list[str], usable: Mapping[str, datetime]) -> str | None:
    if after_print is None:
        return "A time of sterile services is not configured."
    if not usable:
        return f"No printer can be counted on: {'; '.join(out)}." if out else "No printer is configured."
    return None


def start_next(
    app: App,
    printer_name: str,
    actor: Actor,
    *,
    case_id: str,
    seen_gcode_sha256: str,
    bed_clear: bool,
    filament_lot: str = "",
) -> PrintJob:
    """Start the case the caller was told is next, on this printer, whose plate a person has seen to be clear.

    Parameters
    ----------
    case_id, seen_gcode_sha256 : of the first row of the queue, whose audit and predicted print the person saw.

    Raises
    ------
    NotFoundError : nothing waits, or no such printer. ConflictError, NotAllowedError : as `start_print`, and when
    another case is next or only overdue ones wait.
    """
    now = app.clock.now()
    with reading(app.engine) as connection:
        waiting = in_order(_waiting(connection, app), now)
    if not waiting:
        raise NotFoundError(
            "No case waits for a printer.", next_step="See the list of cases.", code="print.queue_empty"
        )
    if waiting[0].overdue(now):
        raise ConflictError(
            "Only cases whose operation should have been already wait for a printer.",
            next_step="Set the time of the operation, or start the print on the page of the case.",
            code="print.overdue",
        )
    if waiting[0].case_id != case_id:
        raise ConflictError(
            f"Another case is next: {waiting[0].code}.",
            next_step="Ask for the queue again, look at that case's audit and predicted print, then start it.",
            code="print.not_next",
            details={"case_id": waiting[0].case_id},
        )
    return print_run.start_print(
        app, case_id, printer_name, actor, bed_clear=bed_clear, filament_lot=filament_lot,
        seen_gcode_sha256=seen_gcode_sha256,
    )  # fmt: skip


def _waiting(connection: Connection, app: App) -> list[Waiting]:
    """Sliced cases that may be printed; those with undecided images wait for a person first."""
    found = cases.listed(connection, states=(CaseState.SLICED,))
    return [_waits(connection, app, case) for case in found if not case.newer_images]


def _waits(connection: Connection, app: App, case: Case) -> Waiting:
    gcode = blobs.current(connection, case.id).get("gcode")
    print_s = printers_free.print_s(connection, app, case)
    report = printers_free.sliced_report(connection, case)
    return Waiting(
        case.id, case.code, case.created_at, case.surgery_at, print_s, gcode.sha256 if gcode else "",
        weight_g=report.get("weight_g"), cost=report.get("cost"),
    )  # fmt: skip


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
        "gcode_sha256": case.gcode_sha256 or None, "weight_g": case.weight_g, "cost": case.cost,
        "printer": None, "print_start": None, "ready_by": None, "late_h": None,
    }  # fmt: skip
    if plan is not None:
        row |= {
            "printer": plan.printer, "print_start": plan.print_start, "ready_by": plan.ready_by, "late_h": plan.late_h,
        }  # fmt: skip
    return row
