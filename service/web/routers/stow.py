"""STOW-RS: storing instances over the web (PS3.18 section 10.5)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.domain.people import Scope
from service.errors import InputRefusedError, SpineprintError
from service.web import multipart, receiving
from service.web.access import AppDep, Caller, image_bringer
from service.workflow.app import App
from service.workflow.upload import Taken, Upload, Verdict, door_of

router = APIRouter(prefix="/dicom-web", tags=["DICOMweb"])
StorerDep = Annotated[Caller, Depends(image_bringer(Scope.DICOM_WEB))]
_MEDIA_TYPE = "application/dicom"

_OUT_OF_RESOURCES, _PROCESSING_FAILURE = 0xA700, 0x0110
_NOT_THIS_STUDY, _CANNOT_UNDERSTAND = 0xA900, 0xC000
_REASONS: Mapping[str, int] = {
    "storage.full": _OUT_OF_RESOURCES,
    "storage.failed": _PROCESSING_FAILURE,
    "upload.other_study": _NOT_THIS_STUDY,
    "dicom.class": 0x0122,
    "dicom.syntax": 0xC122,
}
"""Failure reasons (0008,1197) of PS3.18 table I.2-2; whatever else is refused is Cxxx, cannot understand."""
_CONTENT_DIFFERS = 0xB007
"""Warning reason (0008,1196): data set does not match SOP class; here, the file header does not match the data set."""


class MediaTypeError(InputRefusedError):
    default_code = "stow.media_type"
    http_status = 415


@router.post("/studies")
async def store(request: Request, app: AppDep, caller: StorerDep) -> Response:
    """Store instances: multipart/related; type="application/dicom", one Part-10 file in each part."""
    return await _store(request, app, caller, "")


@router.post("/studies/{study}")
async def store_in_study(study: str, request: Request, app: AppDep, caller: StorerDep) -> Response:
    """The same, for instances of one study only; those of another are refused."""
    return await _store(request, app, caller, study)


async def _store(request: Request, app: App, caller: Caller, study: str) -> Response:
    boundary = _boundary(request)
    door = door_of(app)
    who = receiving.who_brings(caller, request, way="stow", upload_id=secrets.token_hex(16))
    taken: list[Taken] = []
    fault: SpineprintError | None = None
    try:
        with (
            receiving.one_of_few(),
            door.carrying(who.origin),
            multipart.scratch_folder(door.scratch) as folder,
        ):
            work = Upload(app, who, only_study=study)
            async with aclosing(
                multipart.parts_of(request.stream(), boundary, folder, door.require_room)
            ) as parts:
                async for part in parts:
                    taken.append(await run_in_threadpool(_take, work, part))
    except ClientDisconnect:
        fault = SpineprintError("The sender hung up.", code="upload.cancelled")
        return Response(status_code=400)  # nobody reads it
    except receiving.BusyError as error:
        fault = error
        return receiving.retry_later(error, receiving.BUSY_S)
    except SpineprintError as error:
        fault = error
        if not taken:
            raise
    finally:
        receiving.tell_log(who, taken, fault)
    if not taken:
        raise multipart.BadMultipartError(
            "The request holds no instance.", next_step="Send one Part-10 file in each part."
        )
    if fault is not None:
        # What came whole before is stored and named in the answer; the rest is one failure without an identity.
        taken.append(Taken("", Verdict.REFUSED, error=fault))
    return _answer(taken)


def _boundary(request: Request) -> bytes:
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/related"):
        raise MediaTypeError(
            "Instances are taken as multipart/related only.",
            next_step='Send Content-Type: multipart/related; type="application/dicom"; boundary=...',
        )
    boundary, options = multipart.boundary_of(content_type, "multipart/related")
    if options.get("type", _MEDIA_TYPE).lower() != _MEDIA_TYPE:
        raise MediaTypeError(
            "Only whole instances (application/dicom) are taken, not metadata with bulk data.",
            next_step='Send Content-Type: multipart/related; type="application/dicom"; boundary=...',
        )
    return boundary


def _take(work: Upload, part: multipart.Part) -> Taken:
    if part.error is not None:
        return Taken("", Verdict.REFUSED, error=part.error)
    encoding = part.headers.get("content-transfer-encoding", "binary").lower()
    if part.media_type not in ("", _MEDIA_TYPE) or encoding not in ("binary", "8bit", "7bit"):
        return Taken("", Verdict.REFUSED, error=MediaTypeError(
            "A part is not application/dicom in binary.", next_step="Send one Part-10 file in each part."
        ))  # fmt: skip
    return work.take(part.path, "")


def _answer(taken: list[Taken]) -> Response:
    """Store Instances Response Module (PS3.18 annex I): 200 all well, 202 in part, 409 none, 507 no room."""
    good = [t for t in taken if t.verdict not in (Verdict.REFUSED, Verdict.NOT_DICOM)]
    bad = [t for t in taken if t.verdict in (Verdict.REFUSED, Verdict.NOT_DICOM)]
    body: dict[str, Any] = {"00081190": {"vr": "UR"}}  # nothing can be retrieved here
    if good:
        body["00081199"] = _sequence([_stored(t) for t in good])
    if named := [t for t in bad if t.sop_instance_uid]:
        body["00081198"] = _sequence([_identity(t) | _reason(t) for t in named])
    if nameless := [t for t in bad if not t.sop_instance_uid]:
        body["0008119A"] = _sequence([_reason(t) for t in nameless])
    headers = {}
    status = 200
    if bad:
        status = 202 if good else 409
        if receiving.disk_full(taken) is not None:
            status, headers = 507, {"Retry-After": str(receiving.FULL_S)}
    elif any(t.differs for t in good):
        status = 202
    return JSONResponse(body, status_code=status, media_type="application/dicom+json", headers=headers)


def _stored(taken: Taken) -> dict[str, Any]:
    warning = {"00081196": {"vr": "US", "Value": [_CONTENT_DIFFERS]}} if taken.differs else {}
    return _identity(taken) | {"00081190": {"vr": "UR"}} | warning


def _identity(taken: Taken) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [taken.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [taken.sop_instance_uid]},
    }


def _reason(taken: Taken) -> dict[str, Any]:
    reason = _REASONS.get(taken.error.code, _CANNOT_UNDERSTAND) if taken.error else _CANNOT_UNDERSTAND
    return {"00081197": {"vr": "US", "Value": [reason]}}


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}
