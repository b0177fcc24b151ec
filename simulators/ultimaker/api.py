"""The device API under /api/v1, reference sheet section 2."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import UploadFile

from simulators.ultimaker import tree
from simulators.ultimaker.auth import Client, DeniedError
from simulators.ultimaker.findings import header_findings
from simulators.ultimaker.gcode import plain_bytes, read_gcode
from simulators.ultimaker.job import EVENT_KEY_ADDED
from simulators.ultimaker.simulator import Simulator, Upload, UploadRefusedError

router = APIRouter(prefix="/api/v1")


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def sim_of(request: Request) -> Simulator:
    sim: Simulator = request.app.state.sim
    return sim


async def admit(request: Request) -> Client:
    """The paired client behind the request. Raises DeniedError.

    The body is read first, as the front web server of the printer does: a client that learns of a 401 only
    after its whole upload is what the sheet describes.
    """
    await request.body()
    uri = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return sim_of(request).gatekeeper.admit(request.headers.get("authorization", ""), request.method, uri)


async def payload(request: Request) -> Any:
    """JSON, urlencoded or multipart: whatever the client likes (sheet section 1)."""
    if "form" in request.headers.get("content-type", ""):
        return {name: part.text for name, part in (await _form(request)).items()}
    try:
        return json.loads(await request.body() or b"null")
    except ValueError as exc:
        raise ApiError(400, "Invalid JSON") from exc


def denied(request: Request, exc: Exception) -> Response:
    status, stale = (exc.status, exc.stale) if isinstance(exc, DeniedError) else (401, False)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = sim_of(request).gatekeeper.challenge(stale=stale)
    return JSONResponse({"message": "Authorization required."}, status, headers)


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
    upload, parts = await _file(request, sim.options.no_file_status)
    name = _job_name(parts, upload.filename or "")
    try:
        # only the reading leaves the event loop; the start itself is one step, so that two cannot both get in
        read = await asyncio.to_thread(Upload.read, upload.data)
        job = sim.begin(read, name, client.user, client.application)
    except UploadRefusedError as exc:
        raise ApiError(exc.status, str(exc)) from exc
    return JSONResponse({"message": "Print job accepted", "uuid": job.uuid}, 201)


@dataclass(frozen=True)
class Part:
    """One part of a form: a plain field has no filename."""

    name: str
    data: bytes
    filename: str | None = None

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


async def _form(request: Request) -> dict[str, Part]:
    """The parts by name, whatever the encoding; empty when the body is no form."""
    if "form" not in request.headers.get("content-type", ""):
        return {}
    parts = {}
    async with request.form(max_part_size=512 * 1024 * 1024) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                parts[name] = Part(name, await value.read(), value.filename or "")
            else:
                parts[name] = Part(name, str(value).encode())
    return parts


async def _file(request: Request, missing_status: int) -> tuple[Part, dict[str, Part]]:
    """The part `file`, and all parts. Raises ApiError when there is none."""
    parts = await _form(request)
    upload = parts.get("file")
    if upload is None or upload.filename is None:
        raise ApiError(missing_status, "No file")
    return upload, parts


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
    return events[max(0, offset) :][: max(0, count)]


@router.post("/history/events")
async def post_history_event(request: Request) -> dict[str, Any]:
    await admit(request)
    sim = sim_of(request)
    parts = await _form(request)
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
    return sim.machine.history.shown(early=sim.options.early_firmware)


# --- printer actions -------------------------------------------------------------------------------------


@router.post("/printer/validate_header")
async def validate_header(request: Request) -> list[dict[str, Any]]:
    await admit(request)
    sim = sim_of(request)
    if sim.options.early_firmware:
        raise ApiError(404, "Not found")
    upload, _ = await _file(request, 400)
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
    upload, _ = await _file(request, 400)
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
    return RedirectResponse(f"http://{_host(request)}:8080/?action={what}", 302)


def _host(request: Request) -> str:
    return urlsplit(str(request.url)).hostname or "localhost"


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
    try:
        found = tree.lookup(trees, parts) if parts else None
    except tree.NoSuchLeafError as exc:
        raise ApiError(404, "Not found") from exc
    if found is None:
        raise ApiError(404, "Not found")
    return JSONResponse(found)


def note_pairing(sim: Simulator, client: Client) -> None:
    """Pairing shows up in the event list."""
    sim.machine.history.event(
        sim.machine.now_s(),
        EVENT_KEY_ADDED,
        "API key added",
        client.id,
        client.application,
        client.user,
    )
