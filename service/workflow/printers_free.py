"""When each printer can take its next job: our own records and its last reading, put before the rules."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.print_job import RUNNING, PrintState
from service.domain.printer_free import Free, Running, free_at, is_paused
from service.store import blobs, cases, prints
from service.store.cases import Case
from service.store.prints import PrintJob
from service.workflow.app import App

_HOLDS = RUNNING | {PrintState.INTENT}


def all_printers(connection: Connection, app: App, now: datetime) -> dict[str, Free]:
    """By the name of each configured printer."""
    rows = prints.printer_rows(connection)
    found: dict[str, Free] = {}
    for name in app.printers:
        _, seen, read_at = rows.get(name, ("", None, None))
        found[name] = free_at(
            str(seen["state"]) if seen else None, read_at, _job(connection, app, name, seen, now), now
        )
    return found


def print_s(connection: Connection, app: App, case: Case) -> float:
    """How long this case prints: by its audit, else as the site counts with."""
    seconds = sliced_report(connection, case).get("print_time_s")
    if isinstance(seconds, int | float) and seconds > 0:
        return float(seconds)
    return app.sterile_settings.print_h * 3600.0


def sliced_report(connection: Connection, case: Case) -> dict[str, Any]:
    """What slicing and audit left: time, weight, cost, findings; empty before."""
    report = blobs.current(connection, case.id).get("gcode_report")
    read: dict[str, Any] = json.loads(report.path.read_text("utf-8")) if report else {}
    return read


def _job(
    connection: Connection, app: App, printer: str, seen: dict[str, Any] | None, now: datetime
) -> Running | None:
    """Our print on this printer or on its way there; else the job that its reading shows."""
    ours = prints.listed(connection, printer=printer, states=_HOLDS)
    if ours:
        return _running(connection, app, ours[0], now)
    shown = (seen or {}).get("job")
    if not shown or shown.get("cleared"):
        return None
    total = shown.get("time_total_s")
    return Running(
        float(total) if total else None,
        float(shown.get("time_elapsed_s") or 0),
        paused=is_paused(str(shown.get("state") or "")),
    )


def _running(connection: Connection, app: App, job: PrintJob, now: datetime) -> Running:
    total = job.time_total_s or print_s(connection, app, cases.get(connection, job.case_id))
    since_s = (now - job.updated_at).total_seconds() if job.state is PrintState.PRINTING else 0.0
    return Running(float(total), (job.time_elapsed_s or 0) + max(0.0, since_s), job.state)
