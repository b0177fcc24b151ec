"""At the door of the operating room: the pack and the wristband are scanned, and the pack is issued or stopped.

Also the label that makes this possible. A stop is recorded in the audit chain with its reasons; the wristband's
content is not: it is turned into the reference that stands on the label, and forgotten.
"""

from __future__ import annotations

from service.domain.people import Actor
from service.domain.sterilisation import Item, ItemState
from service.errors import ConflictError, NotFoundError, SpineprintError
from service.results.label_code import PackCode, read_code
from service.results.labels import LabelData
from service.store import audit, prints, sterile
from service.store.database import reading, transaction
from service.workflow.app import App
from service.workflow.sterilise import item_event


def label_data(app: App, item_id: str) -> LabelData:
    """What the label of this item's pack says now. Raises ConflictError when it is not packed."""
    with reading(app.engine) as connection:
        item = sterile.get(connection, Item, item_id)
        job = prints.maybe(connection, item_id)
    pack, design = item.pack, item.design
    if pack is None:
        raise ConflictError(
            "The item is not packed, so there is nothing to label.",
            next_step="Pack the item first; the label carries the number of its pack.",
            code="label.not_packed",
        )
    # A recalled or expired pack keeps the record of its release, but no label may claim it.
    limit = app.sterile_settings.material(design.printing.material)
    release = item.release if item.state in (ItemState.RELEASED, ItemState.ISSUED) else None
    return LabelData(
        code=PackCode(pack.pack_id, design.case_id, design.level, design.patient_reference),
        case_code=design.engraved_id,
        packed_at=pack.at,
        use_by=pack.expires_at,
        pouch_lot=pack.pouch_lot,
        load_id=item.load_id,
        released_by=release.released_by if release else "",
        released_at=release.at if release else None,
        warmest_c=limit.max_process_c if limit else None,
        gtin=app.config.labels.gtin,
        resterilisable=app.sterile_settings.resterilisation_limit > 0,
        filament_lot=job.filament_lot if job else "",
    )


def issue_by_scan(
    app: App, *, pack_code: str, wristband: str, pack_intact: bool, pack_dry: bool, actor: Actor
) -> Item:
    """Issue the scanned pack for the patient with this wristband (the patient ID), or stop.

    Raises
    ------
    InputRefusedError : the code is not one of our labels (`label.code`), or patient, pack or date do not fit.
    NotFoundError : no pack of this number and case is in the books (`label.unknown_pack`).
    ConflictError, NotAllowedError : not released, already issued or used; wrong role.
    """
    code = read_code(pack_code)
    item = _find(app, code)
    data = {
        "scanned_pack_id": code.pack_id,
        "scanned_case_id": code.case_id,
        "scanned_level": code.level,
        "scanned_patient_id": wristband.strip(),
        "pack_intact": pack_intact,
        "pack_dry": pack_dry,
    }
    try:
        if code.patient_reference != item.design.patient_reference:
            raise ConflictError(
                "STOP: the patient reference on the label is not that of this item.",
                next_step="Keep the pack out of the room and call sterile services: the label is wrong.",
                code="label.reference",
            )
        return item_event(app, item.id, "issue", data, actor)
    except SpineprintError as exc:
        _record_stop(app, item, exc, actor)
        raise


def _find(app: App, code: PackCode) -> Item:
    with reading(app.engine) as connection:
        for item in sterile.items_of_case(connection, code.case_id):
            if item.pack is not None and item.pack.pack_id == code.pack_id:
                return item
    raise NotFoundError(
        "STOP: no pack with this number and case is in the books of sterile services.",
        next_step="Do not use the pack. Call sterile services.",
        code="label.unknown_pack",
    )


def _record_stop(app: App, item: Item, why: SpineprintError, actor: Actor) -> None:
    refused = why.details.get("refused")
    names = sorted(refused) if isinstance(refused, dict) else []
    with transaction(app.engine) as connection:
        audit.append(
            connection, at=app.clock.now(), actor=actor.name, subject=f"item:{item.id}", event="door_stop",
            data={"code": why.code, "refused": names, "state": item.state.value},
        )  # fmt: skip
