"""The device API under /api/v1: the machine, the system, materials, the camera, and every leaf that can be read."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from simulators.ultimaker import tree
from simulators.ultimaker.findings import header_findings
from simulators.ultimaker.gcode import plain_bytes, read_gcode
from simulators.ultimaker.simulator import Simulator
from simulators.ultimaker.web import ApiError, admit, file_part, payload, sim_of

router = APIRouter(prefix="/api/v1")


# --- printer actions -------------------------------------------------------------------------------------


@router.post("/printer/validate_header")
async def validate_header(request: Request) -> list[dict[str, Any]]:
    await admit(request)
    sim = sim_of(request)
    if sim.options.early_firmware:
        raise ApiError(404, "Not found")
    upload, _ = await file_part(request, 400)
    try:
        plain = plain_bytes(upload.data)
    except ValueError as exc:
        raise ApiError(400, str(exc)) from exc
    gcode = await asyncio.to_thread(read_gcode, plain)
    return header_findings(gcode, sim.machine, sim.options)


@router.post("/printer/led/blink")
async def blink(request: Request) -> Response:
    await admit(request)
    given = await payload(request)
    if not isinstance(given, dict) or min(_number(given.get(k, 1)) for k in ("frequency", "count")) <= 0:
        raise ApiError(400, "frequency and count must be above 0")
    return Response(status_code=204)


@router.post("/printer/beep")
async def beep(request: Request) -> Response:
    await admit(request)
    await payload(request)
    return Response(status_code=204)


@router.put("/printer/{path:path}")
async def put_printer(request: Request, path: str) -> Response:
    await admit(request)
    given = await payload(request)
    sim, parts = sim_of(request), path.strip("/").split("/")
    try:
        tree.lookup(tree.printer_tree(sim), parts)
    except tree.NoSuchLeafError as exc:
        raise ApiError(404, "Not found") from exc
    now_s = sim.machine.now_s()
    if parts == ["bed", "temperature", "target"]:
        sim.machine.bed.set_target(_number(given), now_s)
    elif parts[-3:] == ["hotend", "temperature", "target"]:
        sim.machine.nozzles[int(parts[3])].set_target(_number(given), now_s)
    elif parts[0] == "led":
        _set_led(sim, parts[1:], given)
    elif parts[0] not in ("heads", "bed", "network"):
        raise ApiError(405, "Method Not Allowed")
    return Response(status_code=204)


def _set_led(sim: Simulator, parts: list[str], given: Any) -> None:
    wanted = {parts[0]: given} if parts else given
    if not isinstance(wanted, dict):
        raise ApiError(400, "hue, saturation, brightness expected")
    for key, value in wanted.items():
        if key in sim.led:
            sim.led[key] = _number(value)


def _number(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError) as exc:
        raise ApiError(400, "A number is expected") from exc


# --- system, materials, camera ---------------------------------------------------------------------------


@router.put("/system/{leaf}")
async def put_system(request: Request, leaf: str) -> Response:
    await admit(request)
    sim = sim_of(request)
    given = await payload(request)
    if leaf == "name":
        if not isinstance(given, str) or not given:
            raise ApiError(400, "Invalid name")
        sim.options.name = given
    elif leaf == "display_message":
        if not isinstance(given, dict) or not given.get("message"):
            raise ApiError(400, "message and button_caption are required")
        if sim.machine.status != "idle":
            raise ApiError(405, "Printer is busy")
        return JSONResponse({"message": "Message displayed", "result": True})
    elif leaf != "country":
        raise ApiError(405, "Method Not Allowed")
    return Response(status_code=204)


@router.get("/system/firmware/status")
async def firmware_status() -> str:
    return "IDLE"


@router.get("/system/firmware/{channel}")
async def firmware_channel(request: Request, channel: str) -> str:
    if channel not in ("stable", "latest", "testing"):
        raise ApiError(404, "Not found")
    return sim_of(request).options.firmware


@router.get("/materials")
async def materials(request: Request) -> list[str]:
    return list(_materials(request).values())


@router.get("/materials/{guid}")
async def material(request: Request, guid: str) -> str:
    found = _materials(request).get(guid)
    if found is None:
        raise ApiError(404, "GUID not found")
    return found


@router.post("/materials")
async def post_material(request: Request) -> dict[str, Any]:
    await admit(request)
    upload, _ = await file_part(request, 400)
    xml = upload.text
    guid = xml.partition("<GUID>")[2].partition("</GUID>")[0].strip()
    if guid:
        sim_of(request).materials[guid] = xml
    return {"message": "Material added" if guid else "Invalid material", "result": bool(guid)}


@router.delete("/materials/{guid}")
async def delete_material(request: Request, guid: str) -> dict[str, Any]:
    await admit(request)
    if sim_of(request).materials.pop(guid, None) is None:
        raise ApiError(404, "GUID not found")
    return {"message": "Material removed", "result": True}


def _materials(request: Request) -> dict[str, str]:
    return {**tree.BUILT_IN_MATERIALS, **sim_of(request).materials}


@router.get("/camera/{index}/{what}")
async def camera(request: Request, index: int, what: str) -> Response:
    if index != 0 or what not in ("stream", "snapshot"):
        raise ApiError(404, "Camera index not found")
    return RedirectResponse(f"http://{_host(request)}/?action={what}", 302)


def _host(request: Request) -> str:
    """Host and port the client used: the camera answers there too, see `simulators.ultimaker.camera`."""
    return urlsplit(str(request.url)).netloc or "localhost"


# --- everything that can be read ------------------------------------------------------------------------


@router.get("/{path:path}")
async def read_leaf(request: Request, path: str) -> Response:
    sim = sim_of(request)
    sim.tick()
    parts = [p for p in path.split("/") if p]
    trees: dict[str, Any] = {
        "printer": tree.printer_tree(sim),
        "print_job": tree.job_tree(sim),
        "system": tree.system_tree(sim),
        "camera": tree.camera_tree(_host(request)),
    }
    if sim.options.ambient_temperature:
        trees["ambient_temperature"] = {"current": sim.options.ambient_c}
    try:
        found = tree.lookup(trees, parts) if parts else None
    except tree.NoSuchLeafError as exc:
        raise ApiError(404, "Not found") from exc
    if found is None:
        raise ApiError(404, "Not found")
    return JSONResponse(found)
