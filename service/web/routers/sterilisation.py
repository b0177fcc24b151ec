"""Sterile services: items, loads, indicators, sterilisers; each step is one signed event."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, FiniteFloat, JsonValue, SecretStr

from service.domain import sterilisation as rules
from service.domain.sterilisation import BiologicalIndicator, Item, Load, Steriliser, to_document
from service.store import sterile
from service.store.database import reading
from service.web.access import AppDep, PersonDep
from service.web.polling import polled
from service.workflow import identity, sterile_settings, sterilise

router = APIRouter(prefix="/api/v1/sterilisation", tags=["sterilisation"])


class Event(BaseModel):
    model_config = ConfigDict(extra="forbid")
    event: str
    data: dict[str, JsonValue] = {}
    password: SecretStr | None = None


class NewLoad(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    steriliser_id: str
    cycle_name: str
    planned_aeration_c: FiniteFloat
    purpose: str = "routine"


class NewBi(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    product: str
    lot: str
    expires_at: AwareDatetime
    load_id: str


class NewSteriliser(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    model: str
    validated: list[tuple[str, str]]


def _document(record: Item | Load | BiologicalIndicator | Steriliser) -> dict[str, Any]:
    return dict(to_document(record))


def _signed(app: AppDep, actor: PersonDep, machine: str, body: Event) -> bool:
    """Whether the person signed; a password is looked at only where the step asks for one."""
    wanted = body.password is not None and sterilise.needs_signature(machine, body.event)
    return wanted and identity.sign(app, actor, body.password.get_secret_value() if body.password else "")


@router.get("/rules")
def get_rules(app: AppDep, _actor: PersonDep) -> dict[str, Any]:
    """The transition tables, from which forms are made."""
    return {
        "item": rules.describe(rules.ITEM_TRANSITIONS),
        "load": rules.describe(rules.LOAD_TRANSITIONS),
        "bi": rules.describe(rules.BI_TRANSITIONS),
        "steriliser": rules.describe(rules.STERILISER_TRANSITIONS),
        "cycles": [c.name for c in app.sterile_settings.cycles],
        "indicators": [i.name for i in app.sterile_settings.indicators],
    }


@router.get("/settings")
def get_settings(app: AppDep, _actor: PersonDep) -> list[dict[str, Any]]:
    """Every number of sterile services in force, with the mark of its provenance and its source."""
    return [asdict(row) for row in sterile_settings.rows(app.sterile_settings)]


@router.get("/items")
def list_items(request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        return polled(request, [_document(i) for i in sterile.listed(connection, Item)], retry_after_s=5)


@router.get("/items/{item_id}")
def get_item(item_id: str, request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        return polled(request, _document(sterile.get(connection, Item, item_id)), retry_after_s=5)


@router.post("/items/{item_id}/events")
def item_event(item_id: str, body: Event, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """`scanned_patient_id` may be given for `issue` instead of `scanned_patient_reference`."""
    signed = _signed(app, actor, "item", body)
    return _document(sterilise.item_event(app, item_id, body.event, body.data, actor, signed=signed))


@router.get("/loads")
def list_loads(request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        return polled(request, [_document(x) for x in sterile.listed(connection, Load)], retry_after_s=5)


@router.post("/loads", status_code=201)
def open_load(body: NewLoad, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    load = sterilise.open_load(
        app, load_id=body.id, steriliser_id=body.steriliser_id, cycle_name=body.cycle_name,
        planned_aeration_c=body.planned_aeration_c, purpose=body.purpose, actor=actor,
    )  # fmt: skip
    return _document(load)


@router.get("/loads/{load_id}")
def get_load(load_id: str, request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        return polled(request, _document(sterile.get(connection, Load, load_id)), retry_after_s=5)


@router.post("/loads/{load_id}/events")
def load_event(load_id: str, body: Event, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    signed = _signed(app, actor, "load", body)
    return _document(sterilise.load_event(app, load_id, body.event, body.data, actor, signed=signed))


@router.get("/indicators")
def list_indicators(request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        return polled(
            request, [_document(b) for b in sterile.listed(connection, BiologicalIndicator)], retry_after_s=5
        )


@router.post("/indicators", status_code=201)
def register_bi(body: NewBi, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    bi = sterilise.register_bi(
        app, bi_id=body.id, product=body.product, lot=body.lot, expires_at=body.expires_at, load_id=body.load_id,
        actor=actor,
    )  # fmt: skip
    return _document(bi)


@router.post("/indicators/{bi_id}/events")
def bi_event(bi_id: str, body: Event, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    return _document(sterilise.bi_event(app, bi_id, body.event, body.data, actor))


@router.get("/sterilisers")
def list_sterilisers(request: Request, app: AppDep, _actor: PersonDep) -> Response:
    with reading(app.engine) as connection:
        return polled(
            request, [_document(s) for s in sterile.listed(connection, Steriliser)], retry_after_s=5
        )


@router.post("/sterilisers", status_code=201)
def register_steriliser(body: NewSteriliser, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    device = Steriliser(body.id, body.model, tuple((c, f) for c, f in body.validated))
    return _document(sterilise.register_steriliser(app, device, actor))


@router.post("/sterilisers/{device_id}/events")
def steriliser_event(device_id: str, body: Event, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Out of service by hand, or back in service on a documented repair and negative empty-chamber cycles."""
    signed = _signed(app, actor, "steriliser", body)
    return _document(sterilise.steriliser_event(app, device_id, body.event, body.data, actor, signed=signed))
