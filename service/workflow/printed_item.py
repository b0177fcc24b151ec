"""A printed part enters the books of sterile services, with everything that was proven about it before."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.sterilisation import GcodeProof, Item, ItemDesign, PrintParameters
from service.errors import StorageError
from service.ports import SliceSettings
from service.store import blobs, sterile, studies
from service.store.cases import Case
from service.store.prints import PrintJob
from service.workflow.app import App

log = logging.getLogger("spineprint.printing")


def patient_reference(patient_id: str) -> str:
    """What stands for the patient on labels and records of sterile services: never the ID itself."""
    return hashlib.sha256(f"spineprint:{patient_id}".encode()).hexdigest()[:16]


def create_item(connection: Connection, app: App, case: Case, job: PrintJob) -> Item:
    """The printed part enters sterile services' books as PRINTED, with what was proven about it before."""
    current = blobs.current(connection, case.id)
    report = _model_report(current)
    study = studies.need(connection, case.study_uid)
    printing = SliceSettings()
    gas = report.get("gas_path", {})
    size = report.get("size_mm", [0.0, 0.0, 0.0])
    widths = gas.get("channels_mm") or []
    item = Item(
        id=job.token,
        design=ItemDesign(
            case_id=case.id,
            patient_reference=patient_reference(study.patient_id),
            level=case.level,
            engraved_id=case.code,
            stl_sha256=current["mesh"].sha256,
            size_mm=(float(size[0]), float(size[1]), float(size[2])),
            printing=PrintParameters(
                "PLA", printing.layer_mm, printing.nozzle_c, printing.bed_c, printing.print_speed_mm_s
            ),
            family="vertebra-model",
            sealed_cavities=gas.get("closed_voids"),
            openings_per_cavity=gas.get("openings_per_cavity"),
            narrowest_opening_mm=gas.get("narrowest_opening_mm"),
            longest_path_mm=gas.get("longest_path_mm"),
            # one channel that could not be measured leaves all unproven
            channels_mm=tuple(float(w) for w in widths) if widths and None not in widths else None,
            gcode=_gcode_proof(current, job),
            ct_acquired_at=_study_time(study.study_date),
            part_weight_g=_part_weight_g(current, job, printing),
        ),
        printed_by=job.requested_by,
    )
    sterile.add(connection, item, app.clock.now())
    return item


def _model_report(current: Mapping[str, blobs.Artifact]) -> dict[str, Any]:
    """Empty when it is damaged: the part is off the plate all the same, and nothing of it counts as proven."""
    report = current.get("model_report")
    if report is None:
        return {}
    try:
        blobs.check_intact(report)
        document = json.loads(report.path.read_text("utf-8"))
    except (StorageError, ValueError, OSError):
        log.warning("the model's report of a printed part cannot be read: nothing of it counts as proven")
        return {}
    return document if isinstance(document, dict) else {}


def _gcode_proof(current: Mapping[str, blobs.Artifact], job: PrintJob) -> GcodeProof | None:
    """The audit of the very file that was printed; None when it is not kept, or not the file recorded."""
    gcode, report = current.get("gcode"), current.get("gcode_report")
    if gcode is None or report is None or gcode.sha256 != job.gcode_sha256:
        return None
    try:
        blobs.check_intact(report)
        document = json.loads(report.path.read_text("utf-8"))
    except (StorageError, ValueError):
        return None  # the plate can be cleared all the same; the item is refused before loading
    measures = document.get("measures", {})
    free = [channel.get("free_radius_mm") for channel in measures.get("channels", [])]
    return GcodeProof(
        report_sha256=report.sha256,
        passed=document.get("passed") is True,
        part_over_mesh=measures.get("part_over_mesh"),
        layer_off_most=measures.get("layer_off_most"),
        channels_free_mm=tuple(None if r is None else round(2.0 * float(r), 3) for r in free),
    )


def _part_weight_g(
    current: Mapping[str, blobs.Artifact], job: PrintJob, printing: SliceSettings
) -> float | None:
    """What the part must weigh by the audit of the very file that was printed; None when that is not kept."""
    if _gcode_proof(current, job) is None:
        return None
    measures = json.loads(current["gcode_report"].path.read_text("utf-8")).get("measures", {})
    part, filler = measures.get("part_mm3"), measures.get("filler_mm3")
    if not isinstance(part, int | float) or not isinstance(filler, int | float):
        return None
    return round((part + filler) / 1000.0 * printing.material_density_g_cm3, 2)


def _study_time(study_date: str) -> datetime | None:
    try:
        return datetime.strptime(study_date, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
