"""Inputs from a person, then the model: level and seeds (or a mask) -> plan, mesh, checks, pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.domain.case import CaseEvent, CaseState
from service.domain.edits import Edit
from service.domain.people import Actor, system
from service.domain.plan import LEVELS
from service.errors import InputRefusedError, SpineprintError, StorageError
from service.store import approvals, blobs, cases, studies
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow.app import App
from service.workflow.jobs import entry_job, progress_for

#: File of the model task -> kind of artifact.
PRODUCTS: Mapping[str, str] = {
    "mask.nii.gz": "mask",
    "mask.seg.nrrd": "mask_seg_nrrd",
    "plan.json": "plan",
    "model.stl": "mesh",
    "report.json": "model_report",
    "print.stl": "print_mesh",
    "blocker.stl": "blocker",
    "filler.stl": "filler",
    "print.json": "print_layout",
    "views.png": "views",
    "slices.png": "slices",
    "deviation.png": "deviation",
    "outer.nii.gz": "outer",
    "registration.npz": "registration",
    "plates.npz": "plates",
}
#: What the task leaves of a bone that was not trusted, for a person to correct and give back.
UNTRUSTED: Mapping[str, str] = {
    "untrusted/mask.nii.gz": "untrusted_mask",
    "untrusted/mask.seg.nrrd": "untrusted_mask_seg_nrrd",
    "untrusted/report.json": "untrusted_report",
}
#: Left with either; a build from an edited mask leaves none, and the one before stays what it was edited from.
HANDED_OUT: Mapping[str, str] = {"mask_handed_out.nii.gz": "mask_handed_out"}
#: Without these the model is not complete.
REQUIRED = ("mask.nii.gz", "plan.json", "model.stl", "report.json", "print.stl", "print.json")


@dataclass(frozen=True)
class ModelInputs:
    """What a person gives. Points are LPS mm of the planning CT; either a target point or a mask is needed."""

    level: str
    target: tuple[float, float, float] | None = None
    above: tuple[float, float, float] | None = None
    below: tuple[float, float, float] | None = None
    endplates: tuple[tuple[float, float, float], ...] | None = None
    """Upper front, upper back, lower front, lower back: four, or none."""
    surface_points: tuple[tuple[float, float, float], ...] = ()
    """On the outside of the target's bone, where the outline left it."""
    edits: tuple[Edit, ...] = ()
    mask: Path | None = None
    mask_label: int | None = None
    series_uid: str | None = None


def give_inputs(app: App, case_id: str, inputs: ModelInputs, actor: Actor) -> Case:
    """Store the inputs and start the build. Raises InputRefusedError, ConflictError, NotAllowedError."""
    if inputs.target is None and inputs.mask is None:
        raise InputRefusedError(
            "Neither a point inside the vertebral body nor a mask was given.",
            next_step="Give the target point (and better also one above and one below), or a mask.",
            code="inputs.missing",
        )
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)  # before anything is written in its name
        stored = studies.used_in(connection, case.study_uid, case.study_revision)
        series = {i.series_uid for i in stored}
    if inputs.series_uid and inputs.series_uid not in series:
        raise InputRefusedError(
            "The study of this case has no such series.",
            next_step="Choose one of the case's own series.",
            code="inputs.series",
        )
    kept_mask = None
    if inputs.mask is not None:
        kept_mask = blobs.keep(inputs.mask, app.case_folder(case_id), "input-mask")
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        document: dict[str, Any] = {
            "inspection": case.inputs.get("inspection", {}),
            "level": inputs.level,
            "target": inputs.target,
            "above": inputs.above,
            "below": inputs.below,
            "endplates": inputs.endplates,
            "surface_points": inputs.surface_points,
            "edits": [edit.to_document() for edit in inputs.edits],
            "mask": str(kept_mask[0]) if kept_mask else None,
            "mask_label": inputs.mask_label,
        }
        case = cases.move(
            connection,
            case,
            CaseEvent.GIVE_INPUTS,
            actor=actor,
            now=now,
            guards={"level_supported": inputs.level in LEVELS},
            data={k: v for k, v in document.items() if k != "inspection"}
            | {"mask_sha256": kept_mask[1] if kept_mask else None},
            changes={
                "level": inputs.level,
                "inputs": document,
                "planned_by": actor.name,
                "series_uid": inputs.series_uid or case.series_uid,
            },
            jobs=entry_job(case, CaseState.BUILDING),
        )
        approvals.void(connection, case_id, now)
        return case


def build(app: App, case: Case, key: str) -> None:
    """Job of BUILDING: run the model task, keep its products, show the plan."""
    work = fresh_folder(app.work_folder(key))
    argument = build_argument(app, case, work)
    try:
        result = app.run_task("model", argument, progress_for(app, case.id))
    except SpineprintError:
        _keep_untrusted(app, case, work)
        raise
    missing = [name for name in REQUIRED if not (work / name).is_file()]
    if missing:
        raise StorageError(
            f"The model task left out {', '.join(missing)}.",
            next_step="Resume the case to try again.",
            code="task.incomplete",
        )
    kept = _kept(app, case, work, {**PRODUCTS, **HANDED_OUT})
    now = app.clock.now()
    with transaction(app.engine) as connection:
        fresh = cases.unmoved(connection, case)
        for kind, files in kept.items():
            blobs.record(connection, case.id, kind, files, now)
        # What this model has none of (a filler, a blocker) must not be taken from an earlier one.
        gone = [kind for kind in PRODUCTS.values() if kind not in kept]
        blobs.outdate(connection, case.id, [*gone, *UNTRUSTED.values()])
        cases.move(
            connection,
            fresh,
            CaseEvent.MODEL_BUILT,
            actor=system("model"),
            now=now,
            data={
                "plan_sha256": kept["plan"][1],
                "mesh_sha256": kept["mesh"][1],
                "warnings": result.get("warnings", []),
                "passed": result.get("passed"),
            },
        )
    shutil.rmtree(work, ignore_errors=True)


def _kept(app: App, case: Case, work: Path, products: Mapping[str, str]) -> dict[str, tuple[Path, str, int]]:
    return {
        kind: blobs.keep(work / name, app.case_folder(case.id), kind)
        for name, kind in products.items()
        if (work / name).is_file()
    }


def _keep_untrusted(app: App, case: Case, work: Path) -> None:
    """Among the case's files, where the words of the refusal send the person."""
    kept = _kept(app, case, work, {**UNTRUSTED, **HANDED_OUT})
    now = app.clock.now()
    with transaction(app.engine) as connection:
        for kind, files in kept.items():
            blobs.record(connection, case.id, kind, files, now)


def build_argument(app: App, case: Case, work: Path) -> dict[str, Any]:
    """The JSON argument of the model task for this case."""
    with reading(app.engine) as connection:
        # What came after the inspection never gets into a model by itself.
        stored = studies.used_in(connection, case.study_uid, case.study_revision)
        handed_out = blobs.current(connection, case.id).get("mask_handed_out")
    settings = app.config.model
    return {
        "files": [i.path for i in stored if i.series_uid == case.series_uid],
        "series_uid": case.series_uid,
        "level": case.level,
        "target": case.inputs.get("target"),
        "above": case.inputs.get("above"),
        "below": case.inputs.get("below"),
        "endplates": case.inputs.get("endplates"),
        "surface_points": case.inputs.get("surface_points"),
        "edits": case.inputs.get("edits"),
        "mask": case.inputs.get("mask"),
        "mask_label": case.inputs.get("mask_label"),
        "handed_out": str(handed_out.path) if handed_out else None,
        "case_code": case.code,
        "out": str(work),
        "keep_isolation": str(kept_isolation_folder(app, case.id)),
        "settings": json.loads(settings.model_dump_json()),
    }


def kept_isolation_folder(app: App, case_id: str) -> Path:
    """Where the last isolation waits for a correction: scratch, in no backup, gone with the approval."""
    return app.work_folder(f"isolation-{case_id}")


def fresh_folder(folder: Path) -> Path:
    """An empty folder for one run; what an interrupted run left is thrown away."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
