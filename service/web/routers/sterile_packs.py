"""Labels, papers and the scan at the door of the operating room, and why each case is waiting."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, SecretStr

from service.domain.sterilisation import to_document
from service.results.label_zpl import label_zpl
from service.results.labels import label_pdf, lay_out
from service.results.sheet import Sheet, sheet_csv, sheet_pdf
from service.web.access import AppDep, PersonDep
from service.web.polling import polled
from service.workflow import door, sterile_sheets, waiting

Form = Literal["pdf", "csv"]
router = APIRouter(prefix="/api/v1/sterilisation", tags=["sterilisation"])


class DoorScan(BaseModel):
    """`wristband` is the patient ID as scanned; it is neither kept nor logged."""

    model_config = ConfigDict(extra="forbid")
    pack_code: str
    wristband: SecretStr
    pack_intact: bool
    pack_dry: bool


@router.get("/items/{item_id}/label.pdf")
def get_label_pdf(item_id: str, app: AppDep, _actor: PersonDep) -> Response:
    """The label of the pack as it is now, 80 by 50 mm; without a release it says NOT STERILE."""
    pdf = label_pdf(lay_out(door.label_data(app, item_id)))
    return Response(pdf, media_type="application/pdf", headers=_named("label.pdf"))


@router.get("/items/{item_id}/label.zpl")
def get_label_zpl(item_id: str, app: AppDep, _actor: PersonDep) -> Response:
    """The same in the language of thermal label printers (ZPL II, 203 dpi)."""
    zpl = label_zpl(lay_out(door.label_data(app, item_id)))
    return Response(zpl, media_type="application/vnd.zebra.zpl", headers=_named("label.zpl"))


@router.get("/waiting")
def list_waiting(request: Request, app: AppDep, _actor: PersonDep) -> Response:
    """Why each case is waiting, until when, and the latest start of print and release for its surgery date."""
    return polled(request, waiting.list_waiting(app), retry_after_s=10)


@router.post("/door")
def scan_at_door(body: DoorScan, app: AppDep, actor: PersonDep) -> dict[str, Any]:
    """Issue the scanned pack to the patient of the scanned wristband; every refusal is a stop and is recorded."""
    item = door.issue_by_scan(
        app, pack_code=body.pack_code, wristband=body.wristband.get_secret_value(), pack_intact=body.pack_intact,
        pack_dry=body.pack_dry, actor=actor,
    )  # fmt: skip
    return dict(to_document(item))


@router.get("/loads/{load_id}/record.{form}")
def get_load_record(load_id: str, form: Form, app: AppDep, _actor: PersonDep) -> Response:
    """The load record, as PDF or CSV."""
    return _written(sterile_sheets.load_record(app, load_id), form, "load-record")


@router.get("/items/{item_id}/passport.{form}")
def get_passport(item_id: str, form: Form, app: AppDep, _actor: PersonDep) -> Response:
    """The item from the hash of its CT to its discard, as PDF or CSV."""
    return _written(sterile_sheets.item_passport(app, item_id), form, "passport")


@router.get("/indicators/{bi_id}/recall.{form}")
def get_recall_sheet(bi_id: str, form: Form, app: AppDep, _actor: PersonDep) -> Response:
    """What a positive indicator calls back, to be printed and ticked off; PDF or CSV."""
    return _written(sterile_sheets.recall_sheet(app, bi_id), form, "recall")


@router.get("/summary/{month}.{form}")
def get_summary(month: str, form: Form, app: AppDep, _actor: PersonDep) -> Response:
    """The figures of a month such as 2026-01, as PDF or CSV."""
    return _written(sterile_sheets.monthly_summary(app, month), form, "summary")


def _written(sheet: Sheet, form: str, name: str) -> Response:
    if form == "pdf":
        return Response(sheet_pdf(sheet), media_type="application/pdf", headers=_named(f"{name}.pdf"))
    return Response(sheet_csv(sheet), media_type="text/csv", headers=_named(f"{name}.csv"))


def _named(name: str) -> dict[str, str]:
    # `no-store`: a label printed from an old copy would deny or claim a release.
    return {"Content-Disposition": f'inline; filename="{name}"', "Cache-Control": "no-store"}
