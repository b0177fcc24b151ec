"""The queue under /cluster-api/v1, where the firmware has it (sheet section 4.2). Both slash forms are taken."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from simulators.ultimaker.api import ruled_name
from simulators.ultimaker.cluster import QueuedJob
from simulators.ultimaker.simulator import Simulator, Upload, UploadRefusedError
from simulators.ultimaker.web import ApiError, file_part, payload, sim_of


async def _open(request: Request) -> None:
    """Not there without cluster firmware; no login in the `open` mode, and none possible here in the other."""
    options = sim_of(request).options
    if not options.cluster_size:
        raise HTTPException(404)
    if options.cluster_mode != "open" and request.method != "GET":
        await request.body()
        raise ApiError(401, "Authorization required.")


router = APIRouter(prefix="/cluster-api/v1", dependencies=[Depends(_open)])


@router.get("/printers")
@router.get("/printers/")
async def printers(request: Request) -> list[dict[str, Any]]:
    return sim_of(request).cluster.printers()


@router.get("/print_jobs")
@router.get("/print_jobs/")
async def print_jobs(request: Request) -> list[dict[str, Any]]:
    sim = sim_of(request)
    sim.tick()
    hidden = sim.faults.told("job_404")
    if sim.faults.told("queue_empty"):
        return []
    shown = [sim.cluster.view(job) for job in sim.cluster.jobs if not (hidden and job.started)]
    odd = sim.faults.told("odd_state")
    for view in shown:
        if odd is not None and view["started"]:
            view["status"] = odd.value
    return shown


@router.get("/print_jobs/history/recently_completed")
@router.get("/print_jobs/history/recently_completed/")
async def recently_completed(request: Request) -> list[dict[str, Any]]:
    sim = sim_of(request)
    sim.tick()
    return [] if sim.faults.told("history_empty") else [sim.cluster.view(job) for job in sim.cluster.done]


@router.get("/print_jobs/{uuid}")
@router.get("/print_jobs/{uuid}/")
async def print_job(request: Request, uuid: str) -> dict[str, Any]:
    sim = sim_of(request)
    sim.tick()
    return sim.cluster.view(_job(sim, uuid))


@router.post("/print_jobs")
@router.post("/print_jobs/")
async def post_print_job(request: Request) -> dict[str, Any]:
    sim = sim_of(request)
    upload, parts = await file_part(request, sim.options.no_file_status)
    owner, require = (parts[key].text if key in parts else "" for key in ("owner", "require_printer_name"))
    file_name = upload.filename or ""
    name = ruled_name(sim, file_name if sim.options.keeps_file_ending else _bare(file_name))
    try:
        # only the reading leaves the event loop, as with the direct upload
        read = await asyncio.to_thread(Upload.read, upload.data)
        job = sim.queue(read, upload.data, name, owner, require)
    except UploadRefusedError as exc:
        raise ApiError(exc.status, str(exc)) from exc
    return sim.cluster.view(job)


@router.put("/print_jobs/{uuid}/action")
@router.put("/print_jobs/{uuid}/action/")
async def action(request: Request, uuid: str) -> Response:
    sim, given = sim_of(request), await payload(request)
    sim.tick()
    job = _job(sim, uuid)
    wanted = given.get("action") if isinstance(given, dict) else None
    if wanted in ("duplicate", "reprint"):
        sim.cluster.repeat(job)
    elif wanted not in ("pause", "print", "abort"):
        raise ApiError(400, "Unknown action")
    elif job.status != "begun":
        raise ApiError(405, "Not printing")
    elif wanted == "pause":
        sim.machine.pause("api")
    else:
        (sim.machine.resume if wanted == "print" else sim.machine.abort)()
    sim.tick()
    return Response(status_code=204)


@router.put("/print_jobs/{uuid}")
@router.put("/print_jobs/{uuid}/")
async def force(request: Request, uuid: str) -> Response:
    sim, given = sim_of(request), await payload(request)
    job = _job(sim, uuid)
    if not isinstance(given, dict) or not isinstance(given.get("force"), bool):
        raise ApiError(400, "force is true or false")
    job.force = given["force"]
    sim.tick()
    return Response(status_code=204)


@router.post("/print_jobs/{uuid}/action/move")
async def move(request: Request, uuid: str) -> Response:
    sim, given = sim_of(request), await payload(request)
    position = given.get("to_position") if isinstance(given, dict) else None
    if not isinstance(position, int):
        raise ApiError(400, "to_position is a number")
    sim.cluster.move(_job(sim, uuid), position)
    return Response(status_code=204)


@router.delete("/print_jobs/{uuid}")
@router.delete("/print_jobs/{uuid}/")
async def delete(request: Request, uuid: str) -> Response:
    sim = sim_of(request)
    sim.tick()
    job = _job(sim, uuid)
    if job.status != "queued":
        raise ApiError(sim.options.cluster_delete_begun_status, "Not queued")
    sim.cluster.remove(job)
    sim.save()
    return Response(status_code=204)


def _job(sim: Simulator, uuid: str) -> QueuedJob:
    found = sim.cluster.get(uuid)
    if found is None:
        raise ApiError(404, "Not found")
    return found


def _bare(filename: str) -> str:
    return filename.removesuffix(".gz").removesuffix(".gcode").removesuffix(".ufp")
