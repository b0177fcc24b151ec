"""Images that come after their study was complete: told at once, used only when a person says so.

A case keeps to the images it was inspected with (`cases.study_revision`). Later ones make a new revision of the
study; a person has them inspected, which leads back to the inputs, or keeps what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from service.domain.case import RULES, CaseEvent, CaseState
from service.domain.people import Actor, Role, system
from service.domain.print_job import RUNNING, PrintState
from service.errors import ConflictError
from service.store import approvals, cases, prints, studies, times
from service.store.cases import Case
from service.store.database import transaction
from service.store.studies import Study
from service.workflow.app import App
from service.workflow.jobs import entry_job


def note(app: App, connection: Connection, case: Case, study: Study, calling_ae: str) -> None:
    """Mark the case whose complete study grows again. `study` is as it was before the image."""
    if case.state not in RULES[CaseEvent.LATE_IMAGES].sources or _inspection_is_due(case):
        return  # over, or the inspection that is still to come sees them
    cases.move(
        connection,
        case,
        CaseEvent.LATE_IMAGES,
        actor=system("dicom"),
        now=app.clock.now(),
        data={"revision": study.revision + 1, "sender": calling_ae},
        changes={"newer_images": True},
    )
    app.notifier.notify("intake", "Images arrived after the study was complete.", case_code=case.code)


def inspect_again(app: App, case_id: str, actor: Actor) -> Case:
    """Look at all images there are now. The inputs are asked for again; an approval ends."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        approved = approvals.standing(connection, case_id) is not None
        # An intent counts too: its job is on the way to the printer.
        running = prints.listed(connection, case_id=case_id, states=RUNNING | {PrintState.INTENT})
        moved = cases.move(
            connection,
            case,
            CaseEvent.INSPECT_AGAIN,
            actor=actor,
            now=now,
            guards={
                "newer_images": _has_newer_images(connection, case),
                "may_end_the_approval": not approved or Role.SURGEON in (actor.roles or ()),
                "nothing_on_the_printer": not running,
            },
            data={"approval_ended": approved},
            changes={"newer_images": False, "kept_images": None},
            jobs=entry_job(case, CaseState.RECEIVING),
        )
        approvals.void(connection, case_id, now)
        return moved


def keep(app: App, case_id: str, actor: Actor, revision: int) -> Case:
    """Go on with the earlier images, knowing that later ones came.

    Parameters
    ----------
    revision : the revision of the study the person saw; when more came since, nothing is decided.
    """
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        study = studies.need(connection, case.study_uid)
        if study.state == "RECEIVING":
            raise ConflictError(
                "Images of this study are still arriving.",
                next_step="Wait until the study is complete (or press 'Use now'), then decide.",
                code="study.state",
            )
        if study.revision != revision:
            raise ConflictError(
                "More images arrived than the page showed.",
                next_step="Load the page again and decide about all of them.",
                code="case.stale",
            )
        return cases.move(
            connection,
            case,
            CaseEvent.KEEP_IMAGES,
            actor=actor,
            now=now,
            guards={"newer_images": _is_undecided(case)},
            data={"kept_revision": case.study_revision, "left_out_revision": revision},
            changes={
                "newer_images": False,
                "kept_images": {"revision": revision, "by": actor.name, "at": times.to_text(now)},
                **_back_to_the_inputs(case),
            },
        )


def _inspection_is_due(case: Case) -> bool:
    """Parked by an inspection: it is done again by itself when more images come, or by resuming."""
    return (case.attention or {}).get("resume_state") == CaseState.RECEIVING


def _is_undecided(case: Case) -> bool:
    """Newer images that nobody has decided about, or that were looked at and refused."""
    return bool(case.study_revision) and (case.newer_images or _inspection_is_due(case))


def _back_to_the_inputs(case: Case) -> dict[str, object]:
    """A case whose later images were refused continues with its first inspection, which still stands."""
    if not _inspection_is_due(case):
        return {}
    step = "Resume the case: it goes on with the earlier images, at the inputs."
    return {
        "attention": {**(case.attention or {}), "resume_state": CaseState.RECEIVED.value, "next_step": step}
    }


def _has_newer_images(connection: Connection, case: Case) -> bool:
    """Also after somebody kept the earlier ones: that decision may be taken back."""
    return studies.need(connection, case.study_uid).revision > case.study_revision


def banner(connection: Connection, case: Case, study: Study) -> Mapping[str, Any] | None:
    """What a person must know to decide, or None when the case has all images of its study."""
    if not case.study_revision or study.revision <= case.study_revision or case.state is CaseState.RECEIVING:
        return None
    arrivals = studies.arrivals_of(connection, case.study_uid)
    approval = approvals.standing(connection, case.id)
    return {
        "revision": study.revision,
        "used_revision": case.study_revision,
        "used_images": sum(a.images for a in arrivals if a.revision <= case.study_revision),
        "arrivals": [
            {"revision": a.revision, "images": a.images, "series": a.series, "first_at": a.first_at,
             "last_at": a.last_at, "senders": list(a.callers)}
            for a in arrivals if a.revision > case.study_revision
        ],
        "receiving": study.state == "RECEIVING",
        "decided": not _is_undecided(case),
        "kept": case.kept_images,
        "approved_by": approval.approved_by if approval else None,
        "approved_at": approval.approved_at if approval else None,
    }  # fmt: skip
