"""CT slices of a case as pictures, for people who are logged in. Never kept by the browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service.web import slices
from service.web.access import AppDep, PersonDep
from service.web.polling import polled
from service.web.slices import PlaneName, Region, ViewCache

router = APIRouter(prefix="/api/v1/cases", tags=["images"])


def _views(request: Request) -> ViewCache:
    state = request.app.state
    if not hasattr(state, "slice_views"):
        state.slice_views = ViewCache()
    cache: ViewCache = state.slice_views
    return cache


@router.get("/{case_id}/slices")
def get_slices(
    case_id: str, request: Request, app: AppDep, _actor: PersonDep, region: Region = "whole"
) -> Response:
    """Planes of the planning CT: pixel grids and how a pixel maps to LPS mm."""
    view = _views(request).get(app, case_id)
    return polled(request, slices.document(view, region), retry_after_s=10)


@router.get("/{case_id}/slices/{plane}.png")
def get_slice(
    case_id: str,
    plane: PlaneName,
    request: Request,
    app: AppDep,
    _actor: PersonDep,
    at: Annotated[float, Query(description="position along the normal, LPS mm")],
    region: Region = "whole",
    level: Annotated[float, Query(ge=-1000, le=3000)] = 300.0,
    width: Annotated[float, Query(ge=1, le=6000)] = 1500.0,
    outline: bool = True,
) -> Response:
    """One slice through the planning CT, cut along the patient axes."""
    view = _views(request).get(app, case_id)
    png = slices.picture(view, plane, at, region=region, window=(level, width), outline=outline)
    # Pictures of a patient stay out of the browser's disk cache; the page keeps the few it needs in memory.
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})
