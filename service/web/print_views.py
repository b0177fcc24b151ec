"""What the outside sees of printers and prints. Never a patient's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.print_job import PrintState
from service.domain.print_outcome import OUTCOME_TEXT, Outcome, told
from service.ports import PrinterState, bare_name
from service.store import prints
from service.store.prints import PrinterRows, PrintJob
from service.workflow import print_trace
from service.workflow.app import App
from service.workflow.print_settle import ON_PLATE, is_silent, settle_as, shows_it_no_more

P = PrintState

_PRINTING = "The part is being printed."
_SHOWN_NO_MORE = (
    "The print has ended and its printer shows it no more: look at the plate, and settle "
    "the print by what you find."
)
_RUNNING_TEXT: Mapping[PrintState, str] = {
    P.UNKNOWN: "Nobody can say whether the print runs: look at the printer and settle the job.",
    P.PAUSED: "The print is paused.",
    P.QUEUED: "The print waits in the printer's own queue, which begins it by itself: see why at the print job.",
}
_ENDED_TEXT: Mapping[Outcome, str] = {
    Outcome.FINISHED: "The print has finished: take the part off and confirm the plate at the printer.",
    Outcome.ABORTED_AT_PANEL: "The print was aborted at the printer's panel: clear the plate and confirm it there.",
    Outcome.STOPPED_HERE: "The print was stopped from here: clear the plate and confirm it at the printer.",
    Outcome.ABORTED: "The print was aborted: clear the plate and confirm it at the printer.",
    Outcome.FAILED: "The print has failed: clear the plate and confirm it at the printer.",
    Outcome.UNKNOWN: "The print has ended and the printer does not say how: look at the part before it is taken off.",
}


def print_view(connection: Connection, app: App, job: PrintJob) -> dict[str, Any]:
    return print_views(connection, app, [job])[0]


def print_views(connection: Connection, app: App, jobs: Sequence[PrintJob]) -> list[dict[str, Any]]:
    outcomes, stopped = print_trace.outcomes(connection, jobs), print_trace.stopped_by(connection, jobs)
    missed = print_trace.missed_first_layer(connection, jobs)
    rows = prints.printer_rows(connection)
    return [
        _columns(job)
        | {
            "outcome": outcomes[job.token],
            "outcome_text": _text(outcomes[job.token]),
            "stopped_by": stopped.get(job.token) if outcomes[job.token] is Outcome.STOPPED_HERE else None,
            "first_layer_missed": job.token in missed,
            "printer_silent_since": silent_since(rows, job),
            "can_settle": bool(settle_as(app, rows, job)),
            "settle_as": settle_as(app, rows, job),
        }
        for job in jobs
    ]


def _columns(job: PrintJob) -> dict[str, Any]:
    return {
        "id": job.token,
        "case_id": job.case_id,
        "printer": job.printer,
        "state": job.state.value,
        "uuid": job.uuid or None,
        "attempt": job.attempt,
        "gcode_sha256": job.gcode_sha256,
        "requested_by": job.requested_by,
        "requested_at": job.requested_at,
        "accepted_at": job.accepted_at,
        "finished_at": job.finished_at,
        "cleared_at": job.cleared_at,
        "result": job.result or None,
        "progress": job.progress,
        "time_elapsed_s": job.time_elapsed_s,
        "time_total_s": job.time_total_s,
        "detail": job.detail or None,
        "filament_lot": job.filament_lot or None,
        "updated_at": job.updated_at,
    }


def _text(outcome: Outcome | None) -> str | None:
    return None if outcome is None else OUTCOME_TEXT[outcome]


def silent_since(rows: PrinterRows, job: PrintJob) -> datetime | None:
    """For a part that may lie on it: when its printer last answered, if it does not answer now."""
    if not is_silent(rows, job.printer) or job.state not in ON_PLATE | {P.UNKNOWN}:
        return None
    return rows[job.printer][2]


def printer_end(connection: Connection, rows: PrinterRows) -> dict[str, dict[str, str | None]]:
    """name -> how the job ended that lies on this printer; only the printers on which one does."""
    lying = {
        name: seen.get("job") or {}
        for name, (_, seen, _) in rows.items()
        if seen and seen.get("state") == PrinterState.AWAITING_REMOVAL.value
    }
    ours = _ours(connection, lying.values())
    stopped = print_trace.stopped_by(connection, ours.values())
    found: dict[str, dict[str, str | None]] = {}
    for name, job in lying.items():
        outcome, token = told(str(job.get("result") or "")), _bare(job)
        if outcome is Outcome.ABORTED and token in ours:
            outcome = Outcome.STOPPED_HERE if token in stopped else Outcome.ABORTED_AT_PANEL
        found[name] = {"outcome": outcome.value, "outcome_text": OUTCOME_TEXT[outcome]}
    return found


def _ours(connection: Connection, jobs: Iterable[Mapping[str, Any]]) -> dict[str, PrintJob]:
    found = [prints.maybe(connection, _bare(job)) for job in jobs]
    return {job.token: job for job in found if job is not None}


def _bare(job: Mapping[str, Any]) -> str:
    return bare_name(str(job.get("name") or ""))


def print_sentence(connection: Connection, case_id: str) -> str:
    """What a case that is printing waits for."""
    jobs = prints.listed(connection, case_id=case_id)
    if not jobs:
        return _PRINTING
    job = jobs[0]
    rows = prints.printer_rows(connection)
    since = silent_since(rows, job)
    if since is not None:
        return (
            f"The printer has been silent since {since:%Y-%m-%d %H:%M} UTC: look at it, and settle the print "
            "by what you see if it does not come back."
        )
    outcome = print_trace.outcomes(connection, [job])[job.token]
    if job.state is P.AWAITING_REMOVAL and outcome is not None:
        _, seen, _ = rows.get(job.printer, ("", None, None))
        if seen and shows_it_no_more(seen, job):
            return _SHOWN_NO_MORE
        return _ENDED_TEXT[outcome]
    return _RUNNING_TEXT.get(job.state, _PRINTING)
