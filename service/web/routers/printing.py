"""The printer room: printers, print jobs, starting and settling prints. Never a patient's name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from service.domain.people import Actor, Role, Scope
from service.domain.printer_notes import NoteKind
from service.store import prints
from service.store.database import reading
from service.store.prints import PrintJob
from service.web.access import AppDep, Caller, PersonDep, has_role, reader
from service.web.polling import polled
from service.web.print_views import print_view, print_views, printer_end
from service.web.views import age_s
from service.workflow import print_queue, print_run, print_settle, print_stop, printer_care
from service.workflow.app import App

router = APIRouter(prefix="/api/v1", tags=["printing"])
BoardDep = Annotated[Caller, Depends(reader(Scope.BOARD))]
_LISTEN_S = 4.0
CareDep = Annotated[Actor, Depends(has_role(Role.TECHNICIAN, Role.ADMIN))]
TechnicianDep = Annotated[Actor, Depends(has_role(Role.TECHNICIAN))]


class StartPrint(BaseModel):
    model_config = ConfigDict(extra="forbid")
    printer: str
    bed_clear: bool
    filament_lot: str = ""
    gcode_sha256: str
    """Of the G-code whose audit and predicted print you looked at; refused when it is not the current one."""


class StartNext(BaseModel):
    model_config = ConfigDict(extra="forbid")
    case_id: str
    """Of the first row of the queue, as you were told it."""
    gcode_sha256: str
    """Of that row: you looked at the audit and the predicted print of this file."""
    bed_clear: bool
    filament_lot: str = ""


class Settle(BaseModel):
    model_config = ConfigDict(extra="forbid")
    outcome: Literal["finished", "failed", "not_started"]
    note: str


class Command(BaseModel):
    model_config = ConfigDict(extra="forbid")
    target: Literal["pause", "print", "abort"]


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: NoteKind
    note: str = ""


@router.get("/printers")
def list_printers(request: Request, app: AppDep, _caller: BoardDep) -> Response:
    with reading(app.engine) as connection:
        rows = prints.printer_rows(connection)
        ends = printer_end(connection, rows)
        care = {name: printer_care.summary_of(connection, name) for name in app.printers}
    body = []
    for name in app.printers:
        reserved, seen, read_at = rows.get(name, ("", None, None))
        body.append(
            {"name": name, "reserved_for": reserved or None, "reading": seen, "read_at": read_at,
             "age_s": age_s(app, read_at), "care": care[name]} | ends.get(name, {"outcome": None, "outcome_text": None})
        )  # fmt: skip
    return polled(request, body, retry_after_s=2, volatile=("age_s",))


@router.post("/printers/discover")
def discover(app: AppDep, _actor: CareDep) -> list[dict[str, Any]]:
    """Printers that announce themselves on the service's network (multicast DNS); takes some seconds."""
    return printer_care.discover(app, _LISTEN_S)


@router.get("/printers/{name}/notes")
def list_notes(name: str, request: Request, app: AppDep, _actor: PersonDep) -> Response:
    """What was done to a printer, newest first, with the hours it has printed since."""
    with reading(app.engine) as connection:
        body = printer_care.log_of(connection, name)
    return polled(request, body, retry_after_s=10)


@router.post("/printers/{name}/notes", status_code=201)
def add_note(name: str, body: Note, app: AppDep, actor: CareDep) -> dict[str, Any]:
    """Note what you did to a printer (nozzle changed, bed levelled ...). It cannot be taken back."""
    return printer_care.add_note(app, name, body.kind, body.note, actor)


@router.get("/print-jobs")
def list_jobs(request: Request, app: AppDep, _caller: BoardDep, case_id: str | None = None) -> Response:
    with reading(app.engine) as connection:
        body = print_views(connection, app, prints.listed(connection, case_id=case_id))
    return polled(request, body, retry_after_s=2)


@router.get("/print-jobs/{token}")
def get_job(token: str, request: Request, app: AppDep, _caller: BoardDep) -> Response:
    with reading(app.engine) as connection:
        body = print_view(connection, app, prints.get(connection, token))
    return polled(request, body, retry_after_s=2)


@router.post("/cases/{case_id}/print", status_code=202)
def start_print(case_id: str, body: StartPrint, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Start the print on a plate a person has seen to be clear."""
    job = print_run.start_print(
        app, case_id, body.printer, actor, bed_clear=body.bed_clear, filament_lot=body.filament_lot,
        seen_gcode_sha256=body.gcode_sha256,
    )  # fmt: skip
    return _shown(app, job)


@router.get("/print-queue")
def list_queue(request: Request, app: AppDep, _caller: BoardDep) -> Response:
    """Sliced cases by the time of their operation, overdue ones last; when each can be ready, or why none can say."""
    rows = print_queue.list_queue(app)
    # the forecast moves with the clock; order, dates and printers are what a poll waits for
    return polled(request, rows, retry_after_s=10, volatile=("print_start", "ready_by", "late_h"))


@router.post("/printers/{name}/next", status_code=202)
def start_next(name: str, body: StartNext, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Start the case that the queue names first on this printer, whose plate you have seen to be clear."""
    job = print_queue.start_next(
        app, name, actor, case_id=body.case_id, seen_gcode_sha256=body.gcode_sha256, bed_clear=body.bed_clear,
        filament_lot=body.filament_lot,
    )  # fmt: skip
    return _shown(app, job)


@router.post("/print-jobs/{token}/settle")
def settle(token: str, body: Settle, app: AppDep, actor: TechnicianDep) -> dict[str, Any]:
    """Say what you saw at the printer, for a print whose outcome is unknown."""
    return _shown(app, print_settle.settle(app, token, body.outcome, actor, body.note))


@router.post("/print-jobs/{token}/command", status_code=202)
def command(token: str, body: Command, app: AppDep, actor: TechnicianDep) -> dict[str, str]:
    print_stop.command(app, token, body.target, actor)
    return {"asked": body.target}


def _shown(app: App, job: PrintJob) -> dict[str, Any]:
    with reading(app.engine) as connection:
        return print_view(connection, app, job)
