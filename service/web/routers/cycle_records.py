"""Cycle records as files: brought by a person, posted by a steriliser, listed, given back byte by byte, signed for."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.concurrency import run_in_threadpool

from service.domain.people import Actor, Scope
from service.domain.sterilisation import to_document
from service.errors import InputRefusedError
from service.store import cycle_files
from service.store.cycle_files import CycleFile
from service.store.database import reading
from service.web.access import AppDep, Caller, PersonDep, machine
from service.web.polling import polled
from service.workflow import cycle_import, identity
from service.workflow.app import App

router = APIRouter(prefix="/api/v1/sterilisation", tags=["sterilisation"])
SteriliserDep = Annotated[Caller, Depends(machine(Scope.STERILISER))]


class CycleRecord(BaseModel):
    """The whole file: as `text`, or byte by byte as `base64`. `password` is the operator's signature."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = None
    base64: str | None = None
    name: str = Field("record", max_length=200)
    password: SecretStr | None = None


class Signature(BaseModel):
    model_config = ConfigDict(extra="forbid")
    password: SecretStr


@router.post("/loads/{load_id}/cycle-record")
def import_cycle_record(load_id: str, body: CycleRecord, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """The steriliser's own record as CSV or JSON; kept as received, it ends the cycle when all is within its window."""
    raw, signed = _raw(body), _sign(app, actor, body.password)
    load = cycle_import.import_cycle(app, load_id, raw, actor, name=body.name, signed=signed)
    return dict(to_document(load))


@router.get("/loads/{load_id}/cycle-records")
def list_cycle_records(load_id: str, request: Request, app: AppDep, _actor: PersonDep) -> Response:
    """Every record that came for this load, with its SHA-256, its sender and what was found wrong with it."""
    with reading(app.engine) as connection:
        found = cycle_files.listed(connection, load_id)
    return polled(request, [_document(f) for f in found], retry_after_s=5)


@router.get("/loads/{load_id}/cycle-records/{sha256}")
def get_cycle_record(load_id: str, sha256: str, app: AppDep, _actor: PersonDep) -> Response:
    """The file exactly as it came."""
    with reading(app.engine) as connection:
        file = cycle_files.get(connection, load_id, sha256)
    name = f"{file.sha256[:16]}-{file.name}".encode("ascii", "replace").decode().replace("?", "_")
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-SHA256": file.sha256}
    return Response(cycle_files.content(file), media_type="application/octet-stream", headers=headers)


@router.post("/loads/{load_id}/cycle-records/{sha256}/accept")
def accept_cycle_record(
    load_id: str, sha256: str, body: Signature, app: AppDep, actor: PersonDep
) -> dict[str, Any]:
    """The operator signs for a record that the steriliser posted; it ends the cycle."""
    signed = _sign(app, actor, body.password)
    return dict(to_document(cycle_import.accept_cycle(app, load_id, sha256, actor, signed=signed)))


@router.post("/sterilisers/{device_id}/cycle-record", status_code=201)
async def post_cycle_record(
    device_id: str, request: Request, app: AppDep, caller: SteriliserDep, name: str = "record"
) -> dict[str, Any]:
    """For a steriliser with its own token: the file as the body. It waits with the running load for a signature."""
    raw = await request.body()
    file = await run_in_threadpool(
        cycle_import.receive_cycle,
        app,
        device_id,
        raw,
        name=name,
        token=caller.screen,
        bound_to=caller.bound_to,
    )
    return _document(file)


def _raw(body: CycleRecord) -> bytes:
    given = [v for v in (body.text, body.base64) if v is not None]
    if len(given) == 1:
        if body.text is not None:
            return body.text.encode()
        try:
            return base64.b64decode(given[0], validate=True)
        except binascii.Error:
            pass
    raise InputRefusedError(
        "The record must be given once: as text, or as valid base64.",
        next_step="Choose the file of the steriliser and send it again.",
        code="cycle.format",
    )


def _sign(app: App, actor: Actor, password: SecretStr | None) -> bool:
    return password is not None and identity.sign(app, actor, password.get_secret_value())


def _document(file: CycleFile) -> dict[str, Any]:
    return {
        "sha256": file.sha256, "load_id": file.load_id, "name": file.name, "size": file.size,
        "received_at": file.received_at.isoformat(), "received_from": file.received_from, "verdict": file.verdict,
        "fits": file.verdict == "",
    }  # fmt: skip
