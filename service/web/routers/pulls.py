"""Fetch a study from a PACS by its accession number."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from service.store import pulls, studies
from service.store.database import reading
from service.store.pulls import Pull
from service.web.access import AppDep, PersonDep
from service.web.polling import polled
from service.workflow import pull

router = APIRouter(prefix="/api/v1/studies", tags=["intake"])


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    accession_number: str = Field(max_length=64)
    peer: str = Field(max_length=64, description="AE title of the PACS")
    study_uid: str = Field(
        "", max_length=64, description="which one, when several share the accession number"
    )


@router.post("/pull", status_code=202)
def ask(body: Wanted, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Planner or technician: find the study and have it sent to us. The same request twice is one."""
    found = pull.ask(
        app, accession_number=body.accession_number, peer=body.peer, actor=actor, study_uid=body.study_uid
    )
    with reading(app.engine) as connection:
        return _view(connection, found)


@router.get("/pull")
def list_requests(request: Request, app: AppDep, _actor: PersonDep) -> Response:
    """The newest 100 requests, with progress, failures, and the studies to choose from."""
    with reading(app.engine) as connection:
        body = [_view(connection, p) for p in pulls.listed(connection)]
    return polled(request, body, retry_after_s=2)


@router.get("/pull/{pull_id}")
def get_request(pull_id: str, request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        body = _view(connection, pulls.need(connection, pull_id))
    return polled(request, body, retry_after_s=1)


def _view(connection: Connection, p: Pull) -> dict[str, Any]:
    study = studies.get(connection, p.study_uid) if p.study_uid else None
    arrived = study.instance_count if study else 0
    return {
        "id": p.id,
        "peer": p.peer,
        "accession_number": p.accession_number,
        "study_uid": p.study_uid or None,
        "state": p.state,
        "line": f"{arrived} of {p.expected}" if p.expected is not None else f"{arrived} so far",
        "arrived": arrived,
        "expected": p.expected,
        "sub_operations": {
            "completed": p.completed, "failed": p.failed, "warned": p.warned, "remaining": p.remaining,
        },
        "candidates": list(p.candidates),
        "error": p.error,
        "requested_by": p.requested_by,
        "requested_at": p.requested_at,
        "updated_at": p.updated_at,
    }  # fmt: skip
