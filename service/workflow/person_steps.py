"""Steps a person takes on a case whatever its state: resume, cancel, date of surgery."""

from __future__ import annotations

import shutil
from datetime import datetime

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor
from service.domain.print_job import RUNNING, PrintState
from service.store import cases, prints
from service.store.cases import Case
from service.store.database import transaction
from service.workflow import verify
from service.workflow.app import App
from service.workflow.build import kept_isolation_folder
from service.workflow.jobs import entry_job


def resume(app: App, case_id: str, actor: Actor) -> Case:
    """Continue a parked case where its reason said it continues; the job of that state runs again."""
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        back = CaseState(str((case.attention or {}).get("resume_state", CaseState.RECEIVED.value)))
        moved = cases.move(
            connection, case, CaseEvent.RESUME, actor=actor, now=app.clock.now(), jobs=entry_job(case, back)
        )
        if moved.state is CaseState.VERIFYING:
            verify.recompute(connection, app, moved)
    return moved


def cancel(app: App, case_id: str, actor: Actor, reason: str) -> Case:
    with transaction(app.engine) as connection:
        # An intent counts too: its job is on the way to the printer.
        running = prints.listed(connection, case_id=case_id, states=RUNNING | {PrintState.INTENT})
        case = cases.move(
            connection,
            cases.get(connection, case_id),
            CaseEvent.CANCEL,
            actor=actor,
            now=app.clock.now(),
            guards={"reason_given": bool(reason.strip()), "nothing_on_the_printer": not running},
            data={"reason": reason.strip()},
        )
    # the isolated bone was kept for corrections, and nobody corrects a cancelled case
    shutil.rmtree(kept_isolation_folder(app, case_id), ignore_errors=True)
    return case


def set_surgery_time(app: App, case_id: str, actor: Actor, at: datetime | None) -> Case:
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        cases.set_surgery_time(connection, case_id, at)
        cases.note(
            connection,
            case,
            event="surgery_time",
            actor=actor,
            now=app.clock.now(),
            data={"at": at.isoformat() if at else None},
        )
        return cases.get(connection, case_id)
