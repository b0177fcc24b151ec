"""Pictures of a print: by the printer's camera, and photographs of the part. For people who are logged in."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import FileResponse

from service.domain.people import Actor, Role
from service.store import print_pictures as stored
from service.store import prints
from service.store.database import reading
from service.web.access import AppDep, PersonDep, has_role
from service.workflow import print_pictures

router = APIRouter(prefix="/api/v1/print-jobs", tags=["printing"])
InspectorDep = Annotated[Actor, Depends(has_role(Role.TECHNICIAN, Role.PLANNER))]


@router.get("/{token}/pictures")
def list_pictures(token: str, app: AppDep, _actor: PersonDep) -> list[dict[str, Any]]:
    with reading(app.engine) as connection:
        prints.get(connection, token)
        return [_view(p) for p in stored.listed(connection, token)]


@router.post("/{token}/pictures", status_code=201)
def add_picture(
    token: str, body: Annotated[bytes, Body(media_type="image/jpeg")], app: AppDep, actor: InspectorDep
) -> dict[str, Any]:
    """A photograph of the part for its inspection, JPEG or PNG; only its pixels are kept."""
    return _view(print_pictures.add_photo(app, token, body, actor))


@router.get("/{token}/pictures/{sha256}")
def get_picture(token: str, sha256: str, app: AppDep, _actor: PersonDep) -> FileResponse:
    with reading(app.engine) as connection:
        picture = stored.one(connection, token, sha256)
    path = print_pictures.intact(picture)
    return FileResponse(
        path, media_type="image/jpeg", filename=f"{token}-{picture.kind}.jpg", content_disposition_type="inline",
        headers={"ETag": f'"{picture.sha256}"', "Cache-Control": "no-store"},
    )  # fmt: skip


def _view(picture: stored.PrintPicture) -> dict[str, Any]:
    return {
        "kind": picture.kind,
        "sha256": picture.sha256,
        "size": picture.size,
        "taken_at": picture.taken_at,
        "taken_by": picture.taken_by,
        "href": f"/api/v1/print-jobs/{picture.token}/pictures/{picture.sha256}",
    }
