"""Images that a person uploads on a page: single files, folders file by file, zips."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import ClientDisconnect

from service.errors import SpineprintError, StorageError
from service.store import cases, studies
from service.store.database import reading
from service.web import multipart, receiving
from service.web.access import AppDep, Caller, PersonDep, image_bringer
from service.web.polling import polled
from service.web.views import STUDY_VOLATILE, study_views
from service.workflow.unpack import is_zip
from service.workflow.upload import Bringer, Taken, Upload, Verdict, door_of, shown

router = APIRouter(prefix="/api/v1/uploads", tags=["intake"])
BringerDep = Annotated[Caller, Depends(image_bringer())]
_MOST_NAMED = 200
"""Files named in an answer; the counts are of all."""


@router.post("")
async def upload(
    request: Request,
    app: AppDep,
    caller: BringerDep,
    upload: Annotated[
        str | None, Query(pattern="^[0-9a-f]{32}$", description="joins the requests of one upload")
    ] = None,
) -> Response:
    """Files of a multipart/form-data body: DICOM files, and zips of them. Says what became of each."""
    boundary, _ = multipart.boundary_of(request.headers.get("content-type", ""), "multipart/form-data")
    door = door_of(app)
    who = receiving.who_brings(caller, request, way="page", upload_id=upload or secrets.token_hex(16))
    taken: list[Taken] = []
    fault: SpineprintError | None = None
    try:
        with (
            receiving.one_of_few(),
            door.carrying(who.origin),
            multipart.scratch_folder(door.scratch) as folder,
        ):
            work = Upload(app, who)
            zips: list[tuple[Path, str]] = []
            async with aclosing(
                multipart.parts_of(request.stream(), boundary, folder, door.require_room)
            ) as parts:
                async for part in parts:
                    await _take(work, part, taken, zips)
            for path, name in zips:
                await _unpack(request, work, (path, name), taken)
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
    full = receiving.disk_full(taken)
    if full is not None:
        return receiving.retry_later(full, receiving.FULL_S)
    return JSONResponse(_report(who, taken, fault))


async def _take(work: Upload, part: multipart.Part, taken: list[Taken], zips: list[tuple[Path, str]]) -> None:
    name = part.file_name
    if name is None:
        return  # a field of the form, not a file
    if part.error is not None:
        taken.append(Taken(shown(name), Verdict.REFUSED, error=part.error))
    elif await run_in_threadpool(is_zip, part.path):
        # Later: while the body still comes, asking whether the sender is there would swallow some of it.
        zips.append((part.path.rename(part.path.with_suffix(".zip")), name))
    else:
        taken.append(await run_in_threadpool(work.take, part.path, name))


async def _unpack(request: Request, work: Upload, zipped: tuple[Path, str], taken: list[Taken]) -> None:
    """Entry by entry: a long zip ends soon after the person who sent it has cancelled."""
    path, name = zipped
    async for one in iterate_in_threadpool(work.take_zip(path, name, path.parent)):
        taken.append(one)
        if await request.is_disconnected():
            raise ClientDisconnect


def _report(who: Bringer, taken: list[Taken], fault: SpineprintError | None) -> dict[str, Any]:
    def named(verdict: Verdict) -> list[Taken]:
        return [t for t in taken if t.verdict is verdict]

    refused = named(Verdict.REFUSED)
    return {
        "upload": who.origin.association.rpartition(":")[2],
        "stored": len(named(Verdict.STORED)),
        "already_here": len(named(Verdict.ALREADY_HERE)),
        "kept_aside": len(named(Verdict.KEPT_ASIDE)),
        "not_dicom": len(named(Verdict.NOT_DICOM)),
        "not_dicom_names": [t.name for t in named(Verdict.NOT_DICOM)][:_MOST_NAMED],
        "refused": len(refused),
        "refusals": [_refusal(t.name, t.error) for t in refused[:_MOST_NAMED] if t.error],
        "cut_off": _refusal("", fault) if fault else None,
        "studies": sorted({t.study_uid for t in taken if t.study_uid and t.verdict is not Verdict.REFUSED}),
    }


def _refusal(name: str, error: SpineprintError) -> dict[str, Any]:
    retry = error.retryable or isinstance(error, StorageError)
    return {"name": name, "code": error.code, "message": error.message, "next_step": error.next_step,
            "retryable": retry}  # fmt: skip


@router.get("/studies")
def uploaded_studies(
    request: Request,
    app: AppDep,
    _actor: PersonDep,
    study: Annotated[list[str], Query(max_length=50, description="study instance UIDs")],
) -> Response:
    """What became of the studies of an upload: how far they are, and their cases as soon as there are any."""
    found = []
    with reading(app.engine) as connection:
        for uid in study:
            known = studies.get(connection, uid)
            case = cases.by_study(connection, uid)
            found.append(
                {
                    "study_uid": uid,
                    "study": study_views(app, connection, [known], identity=True)[0] if known else None,
                    "case": {"id": case.id, "code": case.code, "state": case.state.value} if case else None,
                }
            )
    return polled(request, found, retry_after_s=2, volatile=STUDY_VOLATILE)
