"""Sterile services: items, loads, indicators, sterilisers; each step is one signed event."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, FiniteFloat, JsonValue, SecretStr

from service.domain import sterilisation as rules
from service.domain.sterilisation import BiologicalIndicator, Item, Load, Steriliser, to_document
from service.errors import NotAllowedError
from service.store import sterile
from service.store.database import reading
from service.web.access import AppDep, PersonDep
from service.web.polling import polled
from service.workflow import cycle_import, identity, sterilise

router = APIRouter(prefix="/api/v1/sterilisation", tags=["sterilisation"])

#: Steps that end in, or lead to, a patient: the person signs with their password.
_SIGNED = {"release"}


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


class CycleText(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str


class NewSteriliser(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    model: str
    validated: list[tuple[str, str]]


def _document(record: Item | Load | BiologicalIndicator | Steriliser) -> dict[str, Any]:
    return dict(to_document(record))


def _check_signature(app: AppDep, actor: PersonDep, body: Event) -> None:
    if body.event in _SIGNED and not identity.sign(
        app, actor, body.password.get_secret_value() if body.password else ""
    ):
        raise NotAllowedError(
            "This step needs your signature (your password again).",
            code="auth.signature",
            next_step="Enter your password and sign again.",
        )


@router.get("/rules")
def get_rules(_actor: PersonDep) -> dict[str, Any]:
    """The transition tables, from which forms are made."""
    return {
        "item": rules.describe(rules.ITEM_TRANSITIONS),
        "load": rules.describe(rules.LOAD_TRANSITIONS),
        "bi": rules.describe(rules.BI_TRANSITIONS),
        "steriliser": rules.describe(rules.STERILISER_TRANSITIONS),
        "cycles": [c.name for c in sterilise.SETTINGS.cycles],
        "indicators": [i.name for i in sterilise.SETTINGS.indicators],
    }


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
    _check_signature(app, actor, body)
    return _document(sterilise.item_event(app, item_id, body.event, body.data, actor))


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
    _check_signature(app, actor, body)
    return _document(sterilise.load_event(app, load_id, body.event, body.data, actor))


@router.post("/loads/{load_id}/cycle-record")
def import_cycle_record(load_id: str, body: CycleText, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """The steriliser's own record as CSV or JSON text; ends the cycle when everything is within its window."""
    return _document(cycle_import.import_cycle(app, load_id, body.text, actor))


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
