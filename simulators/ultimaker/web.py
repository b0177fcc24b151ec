"""What the endpoints share: errors in the printer's shape, who may do what, bodies in any encoding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from simulators.ultimaker.auth import Client, DeniedError
from simulators.ultimaker.simulator import Simulator


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
        return {name: part.text for name, part in (await form_parts(request)).items()}
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


@dataclass(frozen=True)
class Part:
    """One part of a form: a plain field has no filename."""

    name: str
    data: bytes
    filename: str | None = None

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


async def form_parts(request: Request) -> dict[str, Part]:
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


async def file_part(request: Request, missing_status: int) -> tuple[Part, dict[str, Part]]:
    """The part `file`, and all parts. Raises ApiError when there is none."""
    parts = await form_parts(request)
    upload = parts.get("file")
    if upload is None or upload.filename is None:
        raise ApiError(missing_status, sim_of(request).options.no_file_text)
    return upload, parts
