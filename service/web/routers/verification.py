"""The OR terminal's poll, and scans that wait for a person."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, SecretStr

from service.domain.people import Actor, Role, Scope
from service.store.database import reading
from service.web.access import AppDep, Caller, has_role, reader
from service.web.polling import polled
from service.workflow import acknowledge, compare, correct, intake, scan_pictures, scans, terminal

router = APIRouter(prefix="/api/v1", tags=["verification"])
TerminalDep = Annotated[Caller, Depends(reader(Scope.OR_TERMINAL))]
MatcherDep = Annotated[Actor, Depends(has_role(Role.SURGEON, Role.PLANNER, Role.THEATRE_NURSE))]
IntakeDep = Annotated[
    Actor, Depends(has_role(Role.PLANNER, Role.SURGEON, Role.TECHNICIAN, Role.THEATRE_NURSE))
]


class Assign(BaseModel):
    model_config = ConfigDict(extra="forbid")
    case_id: str


class Acknowledgement(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scan_id: str
    username: str
    password: SecretStr
    note: str = ""
    report_version: int | None = None
    """Of the verdict shown; without it whatever holds is signed."""


class NeedlePoints(BaseModel):
    """Planning CT, LPS, mm."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    pedicle: Literal["left", "right"]
    tip: tuple[float, float, float] | None = None
    entry: tuple[float, float, float] | None = None


class Undo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scan_id: str
    username: str
    password: SecretStr
    reason: str

    def signature(self) -> correct.Signature:
        return correct.Signature(self.username, self.password.get_secret_value(), self.reason)


class Correction(Undo):
    needles: list[NeedlePoints]


#: Who waits holds a thread of the server: more than these at once are answered like plain polls.
_waiting = threading.BoundedSemaphore(8)
_LOOK_EVERY_S = 0.2


@router.get("/cases/{case_id}/verification")
def get_verification(
    case_id: str,
    request: Request,
    app: AppDep,
    _caller: TerminalDep,
    wait_s: Annotated[float, Query(ge=0, le=20, description="with If-None-Match: wait for news")] = 0.0,
) -> Response:
    """none | receiving | computing | ready | not_measurable | failed, with age; made for polling, long or plain."""

    def answer() -> Response:
        with reading(app.engine) as connection:
            body = terminal.document(app, connection, case_id)
        return polled(request, body, retry_after_s=app.config.web.or_poll_s, volatile=("age_s",))

    response = answer()
    if response.status_code != 304 or not wait_s or not _waiting.acquire(blocking=False):
        return response
    try:
        until = time.monotonic() + wait_s
        while response.status_code == 304 and (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_EVERY_S))
            response = answer()
        return response
    finally:
        _waiting.release()


@router.post("/cases/{case_id}/verification/acknowledge")
def acknowledge_verdict(
    case_id: str, body: Acknowledgement, app: AppDep, _caller: TerminalDep
) -> dict[str, Any]:
    """A surgeon signs, with name and password, to have seen the verdict; the cement step is locked until then."""
    scan = acknowledge.acknowledge(
        app,
        case_id,
        body.scan_id,
        username=body.username,
        password=body.password.get_secret_value(),
        note=body.note,
        report_version=body.report_version,
    )
    return {"scan_id": scan.id, "by": scan.acknowledged_by, "at": scan.acknowledged_at}


@router.get("/cases/{case_id}/verification/scans")
def get_scans(case_id: str, request: Request, app: AppDep, _caller: TerminalDep) -> Response:
    """Every scan of the case in order, with what changed from one to the next, and every correction by hand."""
    with reading(app.engine) as connection:
        body = compare.document(connection, case_id)
    return polled(request, body, retry_after_s=app.config.web.or_poll_s)


@router.post("/cases/{case_id}/verification/corrections", status_code=201)
def correct_needle(case_id: str, body: Correction, app: AppDep, _caller: TerminalDep) -> dict[str, Any]:
    """A surgeon sets tip or entry by hand, signed with name and password; the automatic report stays on record."""
    changes = [correct.NeedleChange(n.pedicle, n.tip, n.entry) for n in body.needles]
    made = correct.correct(app, case_id, body.scan_id, changes, body.signature())
    return {"scan_id": made.scan_id, "number": made.number, "report": made.report}


@router.post("/cases/{case_id}/verification/corrections/undo", status_code=201)
def undo_correction(case_id: str, body: Undo, app: AppDep, _caller: TerminalDep) -> dict[str, Any]:
    """The newest correction that stands is taken back; both stay in the list."""
    made = correct.undo(app, case_id, body.scan_id, body.signature())
    return {"scan_id": made.scan_id, "number": made.number, "undoes": made.undoes}


@router.get("/cases/{case_id}/verification/scans/{scan_id}/pictures/{report_version}/{name}")
def get_picture(
    case_id: str, scan_id: str, report_version: int, name: str, app: AppDep, _caller: TerminalDep
) -> FileResponse:
    """A picture of a scan with one version of its report; the list is in the verification and in its scans."""
    picture = scan_pictures.file(app, case_id, scan_id, report_version, name)
    # Pictures of a patient stay out of the browser's disk cache.
    return FileResponse(
        picture.path, media_type="image/png", filename=f"{name}.png", content_disposition_type="inline",
        headers={"ETag": f'"{picture.sha256}"', "Cache-Control": "no-store"},
    )  # fmt: skip


@router.post("/cases/{case_id}/verification/scans/{scan_id}/pictures", status_code=202)
def make_pictures_again(case_id: str, scan_id: str, app: AppDep, _caller: TerminalDep) -> dict[str, Any]:
    """Pictures that failed are made once more; whoever may look at them may ask."""
    scan_pictures.again(app, case_id, scan_id)
    return {"scan_id": scan_id, "state": "making"}


@router.post("/studies/{study_uid}/assign")
def assign(study_uid: str, body: Assign, app: AppDep, actor: MatcherDep) -> dict[str, Any]:
    """Say which case a set-aside scan belongs to."""
    scans.assign(app, study_uid, body.case_id, actor)
    return {"study_uid": study_uid, "case_id": body.case_id}


@router.post("/studies/{study_uid}/use-now")
def use_now(study_uid: str, app: AppDep, actor: IntakeDep) -> dict[str, Any]:
    """Do not wait for more images."""
    intake.use_now(app, study_uid, actor)
    return {"study_uid": study_uid}
