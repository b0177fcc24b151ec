"""What the terminal in the operating room sees: one small, truthful document per case."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.case import CaseState
from service.store import cases, corrections, scans, studies
from service.store.cases import Case
from service.store.scans import Scan
from service.workflow import scan_pictures
from service.workflow.acknowledge import cement_step
from service.workflow.app import App

#: State of the newest scan -> word of the contract.
STATUS = {"COMPUTING": "computing", "READY": "ready", "NOT_MEASURABLE": "not_measurable", "FAILED": "failed"}


def document(app: App, connection: Connection, case_id: str) -> dict[str, Any]:
    """status: none | receiving | computing | ready | not_measurable | failed; `age_s` counts from the last image."""
    case = cases.get(connection, case_id)
    of_case = scans.of_case(connection, case_id)
    newest = _newest_loose_study(connection, case)
    body: dict[str, Any] = {"case_code": case.code, "level": case.level or None, "scans": len(of_case)}
    if newest is not None and (not of_case or newest.is_newer_than(of_case[0])):
        body |= newest.part
    elif of_case:
        body |= _scan_part(connection, of_case[0], case)
    else:
        body |= {"status": "none", "since": case.updated_at}
    shown = of_case[0] if of_case and body.get("scan_id") == of_case[0].id else None
    body["cement_step"] = cement_step(case, shown)
    if shown is not None and shown.acknowledged_by:
        body["acknowledged"] = {"by": shown.acknowledged_by, "at": shown.acknowledged_at}
    body["age_s"] = round(max(0.0, (app.clock.now() - body["since"]).total_seconds()), 1)
    return body


def _scan_part(connection: Connection, scan: Scan, case: Case) -> dict[str, Any]:
    report, version = corrections.effective(connection, scan)
    part: dict[str, Any] = {
        "status": STATUS[scan.state],
        "scan_id": scan.id,
        "stage": scan.stage or None,
        "fraction": scan.fraction,
        "since": scan.last_image_at,
        "answered_at": scan.updated_at,
    }
    if report is not None:
        part |= {"report": report, "report_version": version}
        part["pictures"] = scan_pictures.document(connection, scan, version)
    if scan.error is not None:
        part |= {"reason": scan.error.get("message"), "next_step": scan.error.get("next_step")}
    elif scan.report is not None and scan.state == "NOT_MEASURABLE":
        part["reason"] = scan.report.get("reason")
    elif scan.state == "COMPUTING" and case.state is CaseState.NEEDS_ATTENTION and case.attention:
        # The computation ended without an answer of its own: nobody computes any more.
        part |= {"status": "failed", "reason": case.attention.get("message"),
                 "next_step": case.attention.get("next_step")}  # fmt: skip
    return part


@dataclass(frozen=True)
class _Loose:
    """A scan study of the case's patient that is not attached to the case (yet)."""

    study_uid: str
    revision: int
    last_image_at: datetime
    part: dict[str, Any]

    def is_newer_than(self, scan: Scan) -> bool:
        """Also the same study when it grew within one tick of the clock."""
        grew = self.study_uid == scan.study_uid and self.revision > scan.study_revision
        return grew or self.last_image_at > scan.last_image_at


def _newest_loose_study(connection: Connection, case: Case) -> _Loose | None:
    planning = studies.need(connection, case.study_uid)
    for study in studies.listed(connection, kind="oarm", states=("RECEIVING", "COMPLETE", "UNMATCHED")):
        if not planning.patient_id or study.patient_id != planning.patient_id:
            continue
        part: dict[str, Any] = {"since": study.last_instance_at, "images": study.instance_count}
        if study.state == "UNMATCHED":
            part |= {"status": "failed", "reason": study.reason, "next_step": study.next_step}
        else:
            part["status"] = "receiving"
        return _Loose(study.study_uid, study.revision, study.last_instance_at, part)
    return None
