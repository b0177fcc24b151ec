"""Cases: list, detail, history, inputs, approval, artifacts."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, SecretStr

from service.domain.case import CaseState
from service.domain.edits import (
    LEAST_RADIUS_MM,
    MOST_EDITS,
    MOST_RADIUS_MM,
    EditKind,
    edits_from_document,
)
from service.domain.people import Actor, Role, Scope
from service.domain.plan import MOST_SURFACE_POINTS
from service.store import audit, blobs, cases, studies
from service.store.database import reading
from service.web.access import AppDep, Caller, PersonDep, has_role, reader
from service.web.polling import polled
from service.web.views import STUDY_VOLATILE, case_detail, case_view, live_view, waiting_sentence
from service.workflow import (
    approve,
    build,
    completeness,
    identity,
    late_images,
    person_steps,
    sterilise,
    waiting,
)
from service.workflow.app import App

router = APIRouter(prefix="/api/v1/cases", tags=["cases"])
SchedulerDep = Annotated[Actor, Depends(has_role(Role.PLANNER, Role.SURGEON, Role.TECHNICIAN))]
BoardDep = Annotated[Caller, Depends(reader(Scope.BOARD, Scope.OR_TERMINAL))]
Point = Annotated[
    list[FiniteFloat], Field(min_length=3, max_length=3, description="LPS mm of the planning CT")
]

_MEDIA = {".stl": "model/stl", ".json": "application/json", ".png": "image/png", ".pdf": "application/pdf",
          ".gz": "application/gzip", ".dcm": "application/dicom"}  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EditBody(_Body):
    kind: EditKind
    centre: Point
    radius_mm: float = Field(ge=LEAST_RADIUS_MM, le=MOST_RADIUS_MM)
    normal: Point | None = Field(None, description="For a cut: to the side that goes")


class Inputs(_Body):
    level: Literal["T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    target: Point | None = None
    above: Point | None = None
    below: Point | None = None
    endplates: list[Point] | None = Field(
        None,
        min_length=4,
        max_length=4,
        description="For a fractured body: upper front, upper back, lower front, lower back, mid-sagittal",
    )
    surface_points: list[Point] = Field(
        [],
        max_length=MOST_SURFACE_POINTS,
        description="On the outer surface of the target bone, where the outline left it",
    )
    edits: list[EditBody] = Field(
        [], max_length=MOST_EDITS, description="Corrections by hand, applied in their order"
    )
    series_uid: str | None = None


class Approval(_Body):
    plan_sha256: str
    mesh_sha256: str
    acknowledged: list[str] = []
    password: SecretStr = Field(description="The signature: the approver's own password, again")


class Reason(_Body):
    reason: str


class KeepImages(_Body):
    revision: int = Field(description="of the study, as the page showed it")


class Surgery(_Body):
    at: AwareDatetime | None


@router.get("")
def list_cases(request: Request, app: AppDep, caller: BoardDep, state: CaseState | None = None) -> Response:
    with reading(app.engine) as connection:
        found = cases.listed(connection, states=[state] if state else None)
        body = []
        by_uid = {c.study_uid: studies.need(connection, c.study_uid) for c in found}
        arriving = [by_uid[c.study_uid] for c in found if c.state is CaseState.RECEIVING or c.newer_images]
        live = completeness.live(app, connection, arriving)
        for case in found:
            study = by_uid[case.study_uid]
            row = case_view(case) | {"waiting_for": waiting_sentence(connection, case, study)}
            if case.surgery_at is not None:
                row["schedule"] = waiting.schedule(connection, app, case)
            if study.study_uid in live:
                row["live"] = live_view(live[study.study_uid], app.clock.now())
            if caller.person:
                row["patient_name"] = study.patient_name
            body.append(row)
    return polled(request, body, retry_after_s=2, volatile=STUDY_VOLATILE)


@router.get("/{case_id}")
def get_case(case_id: str, request: Request, app: AppDep, caller: BoardDep) -> Response:
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
        body = case_detail(app, connection, case, roles=caller.person.roles if caller.person else None)
    return polled(request, body, retry_after_s=1, volatile=STUDY_VOLATILE)


@router.get("/{case_id}/events")
def get_events(case_id: str, request: Request, app: AppDep, _caller: PersonDep) -> Response:
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
        rows = audit.history(connection, case.subject)
    body = [
        {"seq": r.seq, "at": r.at, "actor": r.actor, "event": r.event, "data": r.data, "hash": r.hash}
        for r in rows
    ]
    return polled(request, body, retry_after_s=2)


@router.post("/{case_id}/inputs", status_code=202)
def give_inputs(case_id: str, body: Inputs, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Level and points: the model is built from them."""
    inputs = build.ModelInputs(
        level=body.level, target=_point(body.target), above=_point(body.above), below=_point(body.below),
        endplates=_points(body.endplates) or None, surface_points=_points(body.surface_points),
        edits=edits_from_document([e.model_dump(exclude_none=True) for e in body.edits]), series_uid=body.series_uid,
    )  # fmt: skip
    return case_view(build.give_inputs(app, case_id, inputs, actor))


@router.post("/{case_id}/mask", status_code=202)
def give_mask(
    case_id: str,
    app: AppDep,
    actor: PersonDep,
    file: Annotated[
        UploadFile, File(description="DICOM SEG, NIfTI (.nii, .nii.gz) or NRRD of the one vertebra")
    ],
    level: Annotated[str, Form()],
    label: Annotated[int | None, Form()] = None,
) -> dict[str, Any]:
    """A mask made elsewhere instead of points."""
    path = _upload(app, file)
    try:
        inputs = build.ModelInputs(level=level, mask=path, mask_label=label)
        return case_view(build.give_inputs(app, case_id, inputs, actor))
    finally:
        path.unlink(missing_ok=True)


@router.post("/{case_id}/approve")
def approve_case(case_id: str, body: Approval, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    signed = identity.sign(app, actor, body.password.get_secret_value())
    case = approve.approve(
        app, case_id, actor, plan_sha256=body.plan_sha256, mesh_sha256=body.mesh_sha256,
        acknowledged=body.acknowledged, signed=signed,
    )  # fmt: skip
    return case_view(case)


@router.post("/{case_id}/reject")
def reject_case(case_id: str, body: Reason, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    return case_view(approve.reject(app, case_id, actor, body.reason))


@router.post("/{case_id}/inspect-again", status_code=202)
def inspect_again(case_id: str, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Look at the images that came late, too: back to the inspection, then the inputs; an approval ends."""
    return case_view(late_images.inspect_again(app, case_id, actor))


@router.post("/{case_id}/keep-images")
def keep_images(case_id: str, body: KeepImages, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Go on with the earlier images, knowing that later ones came."""
    return case_view(late_images.keep(app, case_id, actor, body.revision))


@router.post("/{case_id}/resume")
def resume_case(case_id: str, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    return case_view(person_steps.resume(app, case_id, actor))


@router.post("/{case_id}/cancel")
def cancel_case(case_id: str, body: Reason, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    return case_view(person_steps.cancel(app, case_id, actor, body.reason))


@router.post("/{case_id}/close")
def close_case(case_id: str, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    return case_view(sterilise.close_case(app, case_id, actor))


@router.put("/{case_id}/surgery")
def set_surgery(case_id: str, body: Surgery, app: AppDep, actor: SchedulerDep) -> dict[str, Any]:
    """The date orders the print room's work."""
    at: datetime | None = body.at
    return case_view(person_steps.set_surgery_time(app, case_id, actor, at))


@router.get("/{case_id}/artifacts/{kind}")
def get_artifact(case_id: str, kind: str, app: AppDep, _actor: PersonDep) -> FileResponse:
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
        artifact = blobs.one(connection, case_id, kind)
    name = f"{case.code}-{kind}{''.join(artifact.path.suffixes)}"
    media = _MEDIA.get(artifact.path.suffix, "application/octet-stream")
    return FileResponse(
        artifact.path, media_type=media, filename=name,
        content_disposition_type="inline" if media.startswith(("image/", "application/pdf", "application/json"))
        else "attachment", headers={"ETag": f'"{artifact.sha256}"'},
    )  # fmt: skip


def _points(values: list[list[float]] | None) -> tuple[tuple[float, float, float], ...]:
    return tuple((p[0], p[1], p[2]) for p in values or ())


def _point(values: list[float] | None) -> tuple[float, float, float] | None:
    return (values[0], values[1], values[2]) if values else None


def _upload(app: App, file: UploadFile) -> Path:
    """Keep an uploaded file under a name of ours; only its ending is taken over."""
    name = (file.filename or "").lower()
    suffix = next((s for s in (".nii.gz", ".nii", ".nrrd", ".dcm") if name.endswith(s)), ".dcm")
    folder = app.config.data_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{secrets.token_hex(8)}{suffix}"
    try:
        with path.open("wb") as f:
            while block := file.file.read(1 << 20):
                f.write(block)
    except BaseException:
        # A part of a mask is of no use to anybody, least of all on a disk that is full.
        path.unlink(missing_ok=True)
        raise
    return path
