"""Results on their way to the PACS: the list, and a person's 'send again'."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from service.domain.people import Actor, Role
from service.store import cases, deliveries
from service.store.database import reading
from service.web.access import AppDep, PersonDep, has_role
from service.web.polling import polled
from service.web.views import delivery_view
from service.workflow import deliver

router = APIRouter(prefix="/api/v1/deliveries", tags=["results"])
SenderDep = Annotated[Actor, Depends(has_role(Role.ADMIN, Role.TECHNICIAN))]


@router.get("")
def list_deliveries(
    request: Request,
    app: AppDep,
    _actor: PersonDep,
    state: Literal["WAITING", "DELIVERED", "REFUSED", "DEAD"] | None = None,
) -> Response:
    """The newest 500 of all cases, each with its last answers. DEAD and REFUSED wait for a person."""
    with reading(app.engine) as connection:
        found = deliveries.listed(connection, state=state)
        codes = {c: cases.get(connection, c).code for c in {d.case_id for d in found}}
    body = [
        {"case_id": d.case_id, "case_code": codes[d.case_id]}
        | delivery_view(d)
        | {"history": list(d.history)}
        for d in found
    ]
    return polled(request, body, retry_after_s=5)


@router.post("/retry")
def retry_stuck(destination: str, app: AppDep, actor: SenderDep) -> dict[str, Any]:
    """Send again all that did not get through to one destination, e.g. after its PACS was down."""
    return {"destination": destination, "sent_again": deliver.retry_stuck(app, destination, actor)}


@router.post("/{delivery_id}/retry")
def retry_delivery(delivery_id: str, app: AppDep, actor: SenderDep) -> dict[str, Any]:
    """Send a result again: refused, given up, waiting for its next try, or not answered for by the PACS."""
    deliver.retry_delivery(app, delivery_id, actor)
    return {"id": delivery_id}
