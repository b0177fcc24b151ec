"""The device API under /api/v1: pairing, the print job, the history (reference sheet sections 2 to 4)."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from simulators.ultimaker import tree
from simulators.ultimaker.simulator import Simulator, Upload, UploadRefusedError
from simulators.ultimaker.web import ApiError, Part, admit, file_part, form_parts, payload, sim_of

router = APIRouter(prefix="/api/v1")


# --- auth ------------------------------------------------------------------------------------------------


@router.post("/auth/request")
async def auth_request(request: Request) -> dict[str, str]:
    given = await payload(request)
    if not isinstance(given, dict) or not given.get("application") or not given.get("user"):
        raise ApiError(400, "application and user are required")
    client = sim_of(request).gatekeeper.request(
        str(given["application"]), str(given["user"]), str(given.get("exclusion_key", ""))
    )
    return {"id": client.id, "key": client.key}


@router.get("/auth/check/{client_id}")
async def auth_check(request: Request, client_id: str) -> dict[str, str]:
    return {"message": sim_of(request).gatekeeper.check(client_id)}


@router.get("/auth/verify")
async def auth_verify(request: Request) -> dict[str, str]:
    await admit(request)
    return {"message": "ok"}


# --- print job -------------------------------------------------------------------------------------------


@router.post("/print_job")
async def post_print_job(request: Request) -> Response:
    client = await admit(request)
    sim = sim_of(request)
    upload, parts = await file_part(request, sim.options.no_file_status)
    file_name = upload.filename or ""
    name = file_name if sim.options.keeps_file_ending and file_name else _job_name(parts, file_name)
    name = ruled_name(sim, name)
    beside: dict[str, str] = {key: parts[key].text for key in ("owner", "created_at") if key in parts}
    if (beside and sim.options.owner_part == "refuse") or (
        file_name.endswith(".ufp") and not sim.options.takes_ufp
    ):
        raise ApiError(sim.options.bad_header_status, "Not supported")
    try:
        # only the reading leaves the event loop; the start itself is one step, so that two cannot both get in
        read = await asyncio.to_thread(Upload.read, upload.data)
        job = sim.begin(read, name, client.user, client.application, beside)
    except UploadRefusedError as exc:
        raise ApiError(exc.status, str(exc)) from exc
    return JSONResponse({"message": "Print job accepted", "uuid": job.uuid}, 201)


def ruled_name(sim: Simulator, name: str) -> str:
    """The name by the firmware's rule (sheet section 9.7: not known)."""
    options = sim.options
    if options.job_name_rule == "refuse" and len(name) > options.job_name_length:
        raise ApiError(400, "Invalid job name")
    if options.job_name_rule == "cut":
        return name[: options.job_name_length]
    if options.job_name_rule == "plain":
        return "".join(sign if sign.isalnum() else "_" for sign in name.lower())
    return name


def _job_name(parts: dict[str, Part], filename: str) -> str:
    """`jobname`, or the odd `job_name` sent as a file part, or the file name (sheet section 4.1)."""
    given = parts.get("jobname") or parts.get("job_name")
    if given is not None and given.text:
        return given.text
    return filename.removesuffix(".gz").removesuffix(".gcode")


@router.put("/print_job/state")
async def put_print_job_state(request: Request) -> Response:
    await admit(request)
    sim = sim_of(request)
    given = await payload(request)
    target = given.get("target") if isinstance(given, dict) else given
    sim.tick()
    if tree.job_tree(sim) is None:
        raise ApiError(404, "Not found")
    if target == "pause":
        sim.machine.pause("api")
    elif target == "print":
        sim.machine.resume()
    elif target == "abort":
        sim.machine.abort()
    else:
        raise ApiError(400, "target must be print, pause or abort")
    sim.tick()
    return Response(status_code=204)


# --- history ---------------------------------------------------------------------------------------------


@router.get("/history/print_jobs")
async def history_jobs(request: Request, offset: int = 0, count: int = 50) -> list[dict[str, Any]]:
    return _history(request)[max(0, offset) :][: max(0, count)]


@router.get("/history/print_jobs/{uuid}")
async def history_job(request: Request, uuid: str) -> dict[str, Any]:
    for entry in _history(request):
        if entry["uuid"] == uuid:
            return entry
    raise ApiError(404, "Not found")


@router.get("/history/events")
async def history_events(
    request: Request, offset: int = 0, count: int = 50, type_id: int | None = None
) -> list[dict[str, Any]]:
    sim = sim_of(request)
    sim.tick()
    events = [e for e in sim.machine.history.events if type_id in (None, e["type_id"])]
    told: list[dict[str, Any]] = tree.told_times(sim, events[max(0, offset) :][: max(0, count)])
    return told


@router.post("/history/events")
async def post_history_event(request: Request) -> dict[str, Any]:
    await admit(request)
    sim = sim_of(request)
    parts = await form_parts(request)
    if "type_id" not in parts or parts["type_id"].text != "4":
        raise ApiError(400, "Only maintenance events can be entered")
    given = [p.text for name, p in parts.items() if name.startswith("parameters")]
    sim.machine.history.event(sim.machine.now_s(), 4, "Maintenance", *given)
    return {"message": "Event added", "result": True}


def _history(request: Request) -> list[dict[str, Any]]:
    sim = sim_of(request)
    sim.tick()
    if sim.faults.told("history_empty"):
        return []
    told: list[dict[str, Any]] = tree.told_times(
        sim, sim.machine.history.shown(early=sim.options.early_firmware)
    )
    return told
