"""What the audit chain tells of a print that its own row does not: who stopped it, and a picture that was missed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection

from service.domain.people import Actor
from service.domain.print_outcome import Outcome, outcome_of
from service.store import audit, cases
from service.store.audit import AuditRow
from service.store.prints import PrintJob
from service.workflow.app import App

STOP_ASKED, STOP_REFUSED = "print_abort_asked", "print_abort_refused"
FIRST_LAYER_MISSED = "first_layer_missed"
#: `print_abort` says that the printer took the command; records of earlier versions have it alone.
_STOP_EVENTS = (STOP_ASKED, STOP_REFUSED, "print_abort")


def leave(connection: Connection, app: App, job: PrintJob, event: str, actor: Actor) -> None:
    case = cases.get(connection, job.case_id)
    cases.note(connection, case, event=event, actor=actor, now=app.clock.now(), data={"job": job.token})


def stopped_by(connection: Connection, jobs: Iterable[PrintJob]) -> dict[str, str]:
    """token -> who stopped it through this service; a job that nobody here stopped is not in it."""
    found: dict[str, str] = {}
    for row in _rows(connection, jobs, _STOP_EVENTS):
        token = str(row.data.get("job"))
        if row.event == STOP_REFUSED:
            found.pop(token, None)
        else:
            found[token] = row.actor
    return found


def outcomes(connection: Connection, jobs: Sequence[PrintJob]) -> dict[str, Outcome | None]:
    """token -> how it ended; None while it has not."""
    stopped = stopped_by(connection, [j for j in jobs if outcome_of(j.state, j.result) is Outcome.ABORTED])
    return {j.token: outcome_of(j.state, j.result, stopped_here=j.token in stopped) for j in jobs}


def missed_first_layer(connection: Connection, jobs: Iterable[PrintJob]) -> set[str]:
    """Of these, the ones whose first layer nobody took a picture of while it could be seen."""
    return {str(row.data.get("job")) for row in _rows(connection, jobs, (FIRST_LAYER_MISSED,))}


def _rows(connection: Connection, jobs: Iterable[PrintJob], events: Collection[str]) -> list[AuditRow]:
    subjects = {f"case:{job.case_id}" for job in jobs}
    return audit.events(connection, subjects, events) if subjects else []
