"""What the outside sees of our records. `identity=True` only for people; never for the board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from service.domain.case import RULES, CaseEvent, CaseState
from service.domain.people import Role
from service.domain.sterilisation import Item
from service.store import blobs, cases, deliveries, prints, scans, sterile, studies
from service.store.cases import Case
from service.store.deliveries import Delivery
from service.store.studies import Study
from service.web.print_views import print_sentence, print_views
from service.workflow import completeness, late_images, waiting
from service.workflow.app import App
from service.workflow.completeness import Live


def case_view(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "code": case.code,
        "state": case.state.value,
        "version": case.version,
        "level": case.level or None,
        "surgery_at": case.surgery_at,
        "attention": case.attention,
        "newer_images": case.newer_images,
        "progress": case.progress,
        "created_at": case.created_at,
        "updated_at": case.updated_at,
    }


def case_detail(
    app: App, connection: Connection, case: Case, *, roles: frozenset[Role] | None
) -> dict[str, Any]:
    """The whole case for a person; `roles` None leaves out who the patient is."""
    study = studies.need(connection, case.study_uid)
    artifacts = blobs.current(connection, case.id)
    view = case_view(case) | {
        "waiting_for": waiting_sentence(connection, case, study),
        "study": study_views(app, connection, [study], identity=roles is not None)[0],
        "late_images": late_images.banner(connection, case, study),
        "schedule": waiting.schedule(connection, app, case),
        "inputs": _inputs(case),
        "inspection": case.inputs.get("inspection"),
        "planned_by": case.planned_by or None,
        "artifacts": {
            kind: {
                "sha256": a.sha256,
                "size": a.size,
                "created_at": a.created_at,
                "href": f"/api/v1/cases/{case.id}/artifacts/{kind}",
            }
            for kind, a in sorted(artifacts.items())
        },
        "print_jobs": print_views(connection, app, prints.listed(connection, case_id=case.id)),
        "items": [
            {"id": i.id, "state": i.state.value, "load_id": i.load_id or None, "inspection": inspection_view(i)}
            for i in sterile.items_of_case(connection, case.id)
        ],
        "scans": [
            {"id": s.id, "state": s.state, "stage": s.stage, "verdict": (s.report or {}).get("verdict"),
             "error": s.error}
            for s in scans.of_case(connection, case.id)
        ],
        "deliveries": [delivery_view(d) for d in deliveries.of_case(connection, case.id)],
    }  # fmt: skip
    if roles is not None:
        view["possible_events"] = possible_events(case, roles, late=view["late_images"] is not None)
    return view


def inspection_view(item: Item) -> dict[str, Any] | None:
    """What a second person measured on the part, beside what was expected."""
    if item.qa is None:
        return None
    return {
        "by": item.qa.reviewer,
        "at": item.qa.at,
        "size_mm": item.qa.size_mm,
        "designed_mm": item.design.size_mm,
        "weight_g": item.qa.weight_g,
        "predicted_g": item.design.part_weight_g,
        "photos": len(item.qa.photos),
    }


def _inputs(case: Case) -> dict[str, Any]:
    shown = {k: v for k, v in case.inputs.items() if k != "inspection"}
    if shown.get("mask"):
        shown["mask"] = Path(shown["mask"]).name  # where it lies on the server is nobody's business
    return shown


def possible_events(case: Case, roles: frozenset[Role], *, late: bool) -> list[str]:
    """What this person may try now (guards are judged when it is tried)."""
    possible = [e for e, rule in RULES.items() if case.state in rule.sources and rule.roles & roles]
    return [e.value for e in possible if late or e not in (CaseEvent.INSPECT_AGAIN, CaseEvent.KEEP_IMAGES)]


_WAITING: dict[CaseState, str] = {
    CaseState.RECEIVED: "A planner must give the level and a point inside the vertebral body (or a mask).",
    CaseState.BUILDING: "The model is being built.",
    CaseState.PLAN_READY: "A surgeon must review and approve the plan and the model.",
    CaseState.APPROVED: "The approved model is being sliced and its G-code audited.",
    CaseState.SLICED: "A technician must confirm the clear build plate and start the print.",
    CaseState.PRINTED: "A second person must inspect the printed part.",
    CaseState.ISSUED: "The pack is in the operating room.",
    CaseState.USED: "The O-arm scan with the needle in place is awaited.",
    CaseState.VERIFYING: "The O-arm scan is being measured.",
    CaseState.VERIFIED: "The verdict is shown in the operating room; the model must be discarded to close the case.",
    CaseState.CLOSED: "Nothing: the case is closed.",
    CaseState.CANCELLED: "Nothing: the case was cancelled.",
}


def waiting_sentence(connection: Connection, case: Case, study: Study) -> str:
    """'Why is this case waiting?' in one sentence."""
    if case.state is CaseState.NEEDS_ATTENTION and case.attention:
        return f"{case.attention.get('message')} {case.attention.get('next_step')}".strip()
    if case.newer_images and case.state in (CaseState.PLAN_READY, CaseState.SLICED):
        return "A planner or surgeon must decide about the images that arrived late."
    if case.state is CaseState.RECEIVING:
        return f"Images are arriving ({study.instance_count} so far)."
    if case.state is CaseState.QA_PASSED:
        items = sterile.items_of_case(connection, case.id)
        return f"Sterile services: the part is {items[-1].state.value}." if items else "Sterile services."
    if case.state is CaseState.PRINTING:
        return print_sentence(connection, case.id)
    return _WAITING.get(case.state, "The case waits for a person.")


#: What of a study's view changes by itself; see `service.web.polling`.
STUDY_VOLATILE = ("last_s", "closes_in_s", "text")


def study_views(
    app: App, connection: Connection, found: Sequence[Study], *, identity: bool
) -> list[dict[str, Any]]:
    live = completeness.live(app, connection, found)
    now = app.clock.now()
    return [_study_view(study, live_view(live[study.study_uid], now), identity=identity) for study in found]


def live_view(live: Live, now: datetime) -> dict[str, Any]:
    """How a study stands. Ages are as of the answer; a page counts on from them."""
    left = live.closes_in_s(now)
    return {
        "slices": live.slices,
        "expected": live.expected,
        "receiving": live.receiving,
        "late_images": live.late_images,
        "last_at": live.last_at,
        "closes_at": live.closes_at,
        "held_by": list(live.held_by),
        "lead": live.lead,
        "tail": live.tail,
        "last_s": round(live.last_s(now), 1),
        "closes_in_s": None if left is None else round(left, 1),
        "text": live.text(now),
    }


def _study_view(study: Study, live: dict[str, Any], *, identity: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "study_uid": study.study_uid,
        "kind": study.kind,
        "state": study.state,
        "revision": study.revision,
        "instances": study.instance_count,
        "last_instance_at": study.last_instance_at,
        "calling_ae": study.calling_ae,
        "reason_code": study.reason_code or None,
        "reason": study.reason or None,
        "next_step": study.next_step or None,
        "live": live,
    }
    if identity:
        view["patient"] = {
            "id": study.patient_id,
            "name": study.patient_name,
            "birth_date": study.patient_birth_date,
            "accession_number": study.accession_number,
            "study_date": study.study_date,
        }
    return view


def delivery_view(d: Delivery) -> dict[str, Any]:
    """`proven` is only what the destination has committed to; `delivered` is its word for having stored it."""
    return {
        "id": d.id,
        "destination": d.destination,
        "kind": d.kind,
        "sop_instance_uid": d.sop_uid,
        "state": d.state,
        "tries": d.tries,
        "last_status": d.last_status,
        "next_try_at": d.next_try_at if d.state == "WAITING" else None,
        "failing_since": d.first_failed_at,
        "delivered_at": d.delivered_at,
        "commitment": d.commit_state or None,
        "commitment_detail": d.commit_detail or None,
        "proven": d.proven,
        "can_retry": d.state != "DELIVERED" or d.commit_state == "REFUSED",
    }


def study_detail(app: App, connection: Connection, study: Study) -> dict[str, Any]:
    """One study with its series, who sent it, and what each revision added; for people."""
    case = cases.by_study(connection, study.study_uid)
    sources = studies.sources_of(connection, [study.study_uid])[study.study_uid]
    heard = completeness.last_heard(study, sources)
    return study_views(app, connection, [study], identity=True)[0] | {
        "completed_at": study.completed_at,
        "case": {"id": case.id, "code": case.code, "state": case.state.value} if case else None,
        "series": [asdict(s) for s in studies.series_of(connection, study.study_uid)],
        "revisions": [asdict(a) for a in studies.arrivals_of(connection, study.study_uid)],
        "senders": [
            {
                "calling_ae": ae,
                "associations": sum(s.calling_ae == ae for s in sources),
                "last_at": at,
                "quiet_s": completeness.quiet_seconds(app, study, ae),
            }
            for ae, at in sorted(heard.items())
        ],
    }


def age_s(app: App, at: datetime | None) -> float | None:
    return round(max(0.0, (app.clock.now() - at).total_seconds()), 1) if at else None
