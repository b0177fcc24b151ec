"""CT slices of a case as pictures, for people who are logged in. Never kept by the browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from service.web import slices
from service.web.access import AppDep, PersonDep
from service.web.polling import polled
from service.web.slices import Area, PlaneName, View, ViewCache

router = APIRouter(prefix="/api/v1/cases", tags=["images"])


def _views(request: Request) -> ViewCache:
    state = request.app.state
    if not hasattr(state, "slice_views"):
        state.slice_views = ViewCache()
    cache: ViewCache = state.slice_views
    return cache


@dataclass(frozen=True)
class _Wanted:
    """`region` whole or vertebra; or a box of `half_mm` around x, y, z (LPS mm) when all three are given."""

    region: Literal["whole", "vertebra"] = "whole"
    x: float | None = None
    y: float | None = None
    z: float | None = None
    half_mm: Annotated[float, Query(ge=10, le=500)] = 60.0

    def area(self, view: View) -> Area:
        if self.x is not None and self.y is not None and self.z is not None:
            return Area((self.x, self.y, self.z), self.half_mm)
        return Area(view.centre) if self.region == "vertebra" else slices.WHOLE


WantedDep = Annotated[_Wanted, Depends()]


@router.get("/{case_id}/slices")
def get_slices(case_id: str, request: Request, app: AppDep, _actor: PersonDep, wanted: WantedDep) -> Response:
    """Planes of the planning CT: pixel grids and how a pixel maps to LPS mm."""
    view = _views(request).get(app, case_id)
    return polled(request, slices.document(view, wanted.area(view)), retry_after_s=10)


@router.get("/{case_id}/slices/{plane}.png")
def get_slice(
    case_id: str,
    plane: PlaneName,
    request: Request,
    app: AppDep,
    _actor: PersonDep,
    wanted: WantedDep,
    at: Annotated[float, Query(description="position along the normal, LPS mm")],
    level: Annotated[float, Query(ge=-1000, le=3000)] = 300.0,
    width: Annotated[float, Query(ge=1, le=6000)] = 1500.0,
    outline: bool = True,
) -> Response:
    """One slice through the planning CT, cut along the patient axes."""
    view = _views(request).get(app, case_id)
    png = slices.picture(view, plane, at, area=wanted.area(view), window=(level, width), outline=outline)
    # Pictures of a patient stay out of the browser's disk cache; the page keeps the few it needs in memory.
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})
