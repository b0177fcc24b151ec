"""Studies received, health, metrics, audit check; and the clock of a simulation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from service import __version__
from service.domain.people import Actor, Role, Scope
from service.errors import ConflictError, NotFoundError
from service.ops import clock
from service.ops.loops import Loop
from service.store import audit, cases, deliveries, studies
from service.store.audit_export import export_lines
from service.store.database import reading
from service.web import node_metrics, node_views
from service.web.access import AppDep, Caller, PersonDep, caller_if_any, has_role, reader
from service.web.polling import polled
from service.web.views import STUDY_VOLATILE, study_detail, study_views
from service.workflow import deliver

router = APIRouter()
MetricsDep = Annotated[Caller, Depends(reader(Scope.METRICS))]
WatcherDep = Annotated[Actor, Depends(has_role(Role.ADMIN, Role.TECHNICIAN))]
AdminDep = Annotated[Actor, Depends(has_role(Role.ADMIN))]


class Advance(BaseModel):
    model_config = ConfigDict(extra="forbid")
    hours: float


@router.get("/health/live", tags=["operations"])
def live() -> dict[str, str]:
    return {"status": "alive", "version": __version__}


@router.get("/health/ready", tags=["operations"])
def ready(request: Request, app: AppDep) -> JSONResponse:
    """Named checks; says only good or bad to callers without login."""
    checks = _checks(app, cast(list[Loop], request.app.state.loops))
    # A result that a PACS does not take is a person's matter, and a slow PACS its own: the service can do its work.
    good = all(c["ok"] for name, c in checks.items() if not name.startswith(("deliveries", "loop.deliver-")))
    body: dict[str, Any] = {"status": "ready" if good else "not ready"}
    caller = caller_if_any(request, app)
    if caller is not None and (caller.person or Scope.METRICS in caller.scopes):
        body["checks"] = checks
    return JSONResponse(body, status_code=200 if good else 503)


def _checks(app: AppDep, loops: list[Loop]) -> dict[str, dict[str, Any]]:
    checks: dict[str, dict[str, Any]] = {}
    try:
        with reading(app.engine) as connection:
            alarms = deliveries.alarms(connection)
        checks["database"] = {"ok": True}
        checks["deliveries"] = {"ok": not any(alarms.values()), **alarms}
    except SQLAlchemyError as exc:
        checks["database"] = {"ok": False, "fault": type(exc).__name__}
    free_mb = shutil.disk_usage(app.config.data_dir).free >> 20
    checks["disk"] = {"ok": free_mb > app.config.dicom.disk_reserve_mb, "free_mb": free_mb}
    for loop in loops:
        checks[f"loop.{loop.name}"] = {"ok": loop.seconds_since_ok < 120, "failures": loop.failures}
    return checks


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, _actor: PersonDep) -> dict[str, Any]:
    return cast(FastAPI, request.app).openapi()


@router.get("/docs", include_in_schema=False)
def docs(_actor: PersonDep) -> HTMLResponse:
    """The interactive description, for people who are logged in."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="spineprint",
        swagger_js_url="/vendor/swagger/swagger-ui-bundle.js",
        swagger_css_url="/vendor/swagger/swagger-ui.css",
        swagger_favicon_url="/vendor/swagger/favicon-32x32.png",
    )


@router.get("/metrics", tags=["operations"])
def metrics(app: AppDep, _caller: MetricsDep) -> Response:
    """Prometheus text."""
    registry = CollectorRegistry()
    by_state = Gauge("spineprint_cases", "Cases by state", ["state"], registry=registry)
    by_delivery = Gauge("spineprint_deliveries", "Results to the PACS by state", ["state"], registry=registry)
    by_commitment = Gauge(
        "spineprint_deliveries_commitment",
        "Delivered results by storage commitment",
        ["state"],
        registry=registry,
    )
    waiting = Gauge(
        "spineprint_delivery_oldest_waiting_seconds", "Age of the oldest undelivered result", ["destination"],
        registry=registry,
    )  # fmt: skip
    free = Gauge("spineprint_disk_free_bytes", "Free bytes of the data folder", registry=registry)
    unreadable = Gauge("spineprint_unreadable_files", "Received files that cannot be read", registry=registry)
    with reading(app.engine) as connection:
        for case in cases.listed(connection, limit=100_000):
            by_state.labels(case.state.value).inc()
        for state, n in deliveries.counts(connection).items():
            by_delivery.labels(state).set(n)
        for state, n in deliveries.commit_counts(connection).items():
            by_commitment.labels(state).set(n)
        for destination, since in deliveries.oldest_waiting(connection).items():
            waiting.labels(destination).set(max(0.0, (app.clock.now() - since).total_seconds()))
        unreadable.set(studies.count_unreadable(connection))
        node_metrics.fill(registry, connection, app.clock.now())
    free.set(shutil.disk_usage(app.config.data_dir).free)
    if app.door:
        # Counted by this process: the one with the web role.
        web = Gauge(
            "spineprint_web_images_total", "Images over HTTP since start", ["event"], registry=registry
        )
        for event, n in app.door.counters().items():
            web.labels(event).set(n)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/v1/operations/dicom", tags=["operations"])
def dicom(request: Request, app: AppDep, _actor: WatcherDep) -> Response:
    """The DICOM nodes: open associations, what was turned away and why, peers, files set aside, disk."""
    with reading(app.engine) as connection:
        body = node_views.dicom_operations(app, connection)
    return polled(request, body, retry_after_s=2, volatile=node_views.VOLATILE)


@router.post("/api/v1/operations/peers/{ae_title:path}/echo", tags=["operations"])
def echo(ae_title: str, app: AppDep, _actor: WatcherDep) -> dict[str, Any]:
    """Call a peer with C-ECHO and say whether it answers."""
    peer = next((p for p in app.config.dicom.peers if p.ae_title == ae_title), None)
    if peer is None or app.sender is None:
        raise NotFoundError(
            "There is no such DICOM peer.",
            next_step="Add it under [[dicom.peers]] and restart the service.",
            code="peer.not_found",
        )
    if not node_views.can_be_called(peer):
        raise ConflictError(
            f"{peer.ae_title} has no single address to call; its rule is for incoming calls only.",
            next_step="Give it the address and port of the machine under [[dicom.peers]].",
            code="peer.no_address",
        )
    started = time.monotonic()
    answers = app.sender.echo(deliver.address_of(peer))
    return {"ae_title": peer.ae_title, "answers": answers, "ms": round((time.monotonic() - started) * 1000)}


@router.get("/api/v1/studies", tags=["intake"])
def list_studies(request: Request, app: AppDep, _actor: PersonDep, state: str | None = None) -> Response:
    """Everything received, also what belongs to no case, with the reason."""
    with reading(app.engine) as connection:
        found = studies.listed(connection, states=(state,) if state else ())
        body = study_views(app, connection, found, identity=True)
    return polled(request, body, retry_after_s=2, volatile=STUDY_VOLATILE)


@router.get("/api/v1/studies/{study_uid}", tags=["intake"])
def get_study(study_uid: str, request: Request, app: AppDep, _actor: PersonDep) -> Response:
    """One study: its series, who sent it and how long each sender must be silent, what each revision added."""
    with reading(app.engine) as connection:
        body = study_detail(app, connection, studies.need(connection, study_uid))
    return polled(request, body, retry_after_s=2, volatile=STUDY_VOLATILE)


@router.get("/api/v1/audit/check", tags=["operations"])
def check_audit(app: AppDep, _admin: AdminDep) -> dict[str, Any]:
    """Recompute the whole chain."""
    with reading(app.engine) as connection:
        broken = audit.verify_chain(connection)
    return {"whole": broken is None, "first_break": broken}


@router.get("/api/v1/audit/export", tags=["operations"])
def export_audit(app: AppDep, _admin: AdminDep) -> StreamingResponse:
    """The whole chain as JSON lines; `spineprint audit check FILE` proves it without the database."""

    def lines() -> Iterator[str]:
        with reading(app.engine) as connection:
            yield from export_lines(connection)

    return StreamingResponse(
        lines(), media_type="application/x-ndjson",
        headers={"Content-Disposition": 'attachment; filename="audit.jsonl"'},
    )  # fmt: skip


@router.get("/api/v1/clock", tags=["operations"])
def get_clock(app: AppDep, _actor: PersonDep) -> dict[str, Any]:
    return {"now": app.clock.now(), "simulated": app.config.simulation.enabled}


@router.post("/api/v1/simulation/advance", tags=["operations"])
def advance(body: Advance, app: AppDep, _actor: PersonDep) -> dict[str, Any]:
    """Let hours pass at once; refused on a real service."""
    return {"now": clock.advance(app.clock, body.hours)}
