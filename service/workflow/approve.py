"""A named person approves exactly these bytes; then they are sliced and audited."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor, system
from service.errors import InputRefusedError, ToolMissingError
from service.gcode.private_words import private_words
from service.ports import JobRequest
from service.store import approvals, blobs, cases, studies
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow.app import App
from service.workflow.build import fresh_folder, kept_isolation_folder
from service.workflow.jobs import entry_job, progress_for
from service.workflow.tasks.by_hand import SETTINGS_FILE

#: Argument of the slicing task -> kind of artifact.
_NEEDED = {"print_mesh": "print_mesh", "mesh": "mesh", "layout": "print_layout", "plan": "plan"}
_IF_THERE = ("blocker", "filler", "outer", "model_report")
#: File of the slicing task -> kind of artifact.
_PICTURES = {"print.errors.png": "print_errors", "print.bone.png": "print_bone_errors"}


def approve(
    app: App,
    case_id: str,
    actor: Actor,
    *,
    plan_sha256: str,
    mesh_sha256: str,
    acknowledged: Sequence[str],
    signed: bool,
) -> Case:
    """Sign the plan and mesh whose hashes the person saw.

    Parameters
    ----------
    acknowledged : codes of the warnings the person accepted, one by one.
    signed : the person's password was checked for this very request.

    Raises
    ------
    ConflictError, NotAllowedError : see the guards of `CaseEvent.APPROVE`.
    """
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        current = blobs.current(connection, case_id)
        report = (
            json.loads(current["model_report"].path.read_text("utf-8")) if "model_report" in current else {}
        )
        open_warnings = {str(w["code"]) for w in report.get("warnings", [])} - set(acknowledged)
        guards = {
            "hashes_are_current": "plan" in current
            and "mesh" in current
            and current["plan"].sha256 == plan_sha256
            and current["mesh"].sha256 == mesh_sha256,
            "checks_passed": report.get("passed") is True,
            "warnings_acknowledged": not open_warnings,
            "late_images_decided": not case.newer_images,
            "approver_is_not_planner": case.planned_by != actor.name,
            "signed": signed,
        }
        case = cases.move(
            connection,
            case,
            CaseEvent.APPROVE,
            actor=actor,
            now=now,
            guards=guards,
            data={
                "plan_sha256": plan_sha256,
                "mesh_sha256": mesh_sha256,
                "acknowledged": sorted(acknowledged),
            },
            jobs=(
                *entry_job(case, CaseState.APPROVED),
                JobRequest(
                    f"publish.plan.{case.id}.{mesh_sha256[:16]}", "publish_plan", case.id, "io", priority=20
                ),
            ),
        )
        approvals.add(
            connection,
            case_id=case_id,
            plan_sha256=plan_sha256,
            mesh_sha256=mesh_sha256,
            by=actor.name,
            now=now,
        )
        return case


def reject(app: App, case_id: str, actor: Actor, reason: str) -> Case:
    """Send the case back for new inputs, with the reason."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case = cases.move(
            connection,
            cases.get(connection, case_id),
            CaseEvent.REJECT,
            actor=actor,
            now=now,
            guards={"reason_given": bool(reason.strip())},
            data={"reason": reason.strip()},
        )
        approvals.void(connection, case_id, now)
        return case


def slice_approved(app: App, case: Case, key: str) -> None:
    """Job of APPROVED: slice the approved mesh, audit the G-code, keep both or neither."""
    with reading(app.engine) as connection:
        current = blobs.current(connection, case.id)
        approval = approvals.standing(connection, case.id)
        study = studies.need(connection, case.study_uid)
    if approval is None:
        raise InputRefusedError(
            "There is no approval of the present plan and model.",
            next_step="Cancel, or have the surgeon look at the plan again.",
            code="approval.missing",
        )
    for kind in (*_NEEDED.values(), *(k for k in _IF_THERE if k in current)):
        blobs.check_intact(current[kind])
    work = fresh_folder(app.work_folder(key))
    argument: dict[str, Any] = {name: str(current[kind].path) for name, kind in _NEEDED.items()}
    argument |= {kind: str(current[kind].path) if kind in current else None for kind in _IF_THERE}
    argument["out"] = str(work)
    argument["prices"] = app.config.costs.model_dump()
    # Through the child's pipe only: neither the queue nor any report holds them.
    argument["private_words"] = private_words(
        name=study.patient_name,
        patient_id=study.patient_id,
        birth_date=study.patient_birth_date,
        other=(study.accession_number,),
    )
    try:
        result = app.run_task("slice", argument, progress_for(app, case.id))
    except ToolMissingError:
        _keep_settings(app, case, work / SETTINGS_FILE)
        raise
    audit_report = result["audit"]
    if not audit_report["passed"]:
        findings = "; ".join(str(f.get("message", f)) for f in audit_report["findings"][:5])
        raise InputRefusedError(
            f"The G-code did not pass the audit: {findings}",
            next_step="Resume to slice again; if it repeats, change the plan.",
            code="gcode.audit_failed",
            details={"findings": audit_report["findings"][:20]},
        )
    folder = app.case_folder(case.id)
    gcode = blobs.keep(work / "print.gcode.gz", folder, "gcode")
    report = blobs.keep(work / "print.report.json", folder, "gcode_report")
    pictures = {
        kind: blobs.keep(work / name, folder, kind)
        for name, kind in _PICTURES.items()
        if (work / name).is_file()
    }
    now = app.clock.now()
    with transaction(app.engine) as connection:
        # Another model may have been built and approved while this one was sliced: its approval is not for this file.
        fresh = cases.unmoved(connection, case)
        blobs.record(connection, case.id, "gcode", gcode, now)
        blobs.record(connection, case.id, "gcode_report", report, now)
        for kind, kept in pictures.items():
            blobs.record(connection, case.id, kind, kept, now)
        standing = approvals.standing(connection, case.id)
        is_current = standing is not None and standing.id == approval.id
        if is_current:
            approvals.bind_gcode(connection, approval.id, gcode[1])
        cases.move(
            connection,
            fresh,
            CaseEvent.GCODE_READY,
            actor=system("slicer"),
            now=now,
            guards={"audit_passed": True, "approval_is_current": is_current},
            data={
                "gcode_sha256": gcode[1],
                "engine": result["engine"],
                "print_time_s": result["print_time_s"],
                "material_mm3": result["material_mm3"],
                **{k: result[k] for k in ("weight_g", "cost") if k in result},
            },
        )
    shutil.rmtree(work, ignore_errors=True)
    # Nothing is corrected any more.
    shutil.rmtree(kept_isolation_folder(app, case.id), ignore_errors=True)


def _keep_settings(app: App, case: Case, settings: Path) -> None:
    """Beside the meshes among the case's files, for somebody who slices by hand."""
    if settings.is_file():
        kept = blobs.keep(settings, app.case_folder(case.id), "print_settings")
        with transaction(app.engine) as connection:
            blobs.record(connection, case.id, "print_settings", kept, app.clock.now())
