"""A complete O-arm scan finds its case; anything doubtful is refused or left to a person, with the reason."""

from __future__ import annotations

from sqlalchemy import Connection

from service.domain.case import RULES, CaseEvent, CaseState
from service.domain.people import Actor, system
from service.errors import ConflictError
from service.store import audit, cases, studies
from service.store import scans as scan_store
from service.store.cases import Case
from service.store.database import transaction
from service.store.studies import Study
from service.workflow.app import App
from service.workflow.jobs import entry_job

#: States in which a scan with the needle in place can belong to the case.
WAITING = RULES[CaseEvent.SCAN_ARRIVED].sources


def match(app: App, study_uid: str) -> None:
    """Attach a complete scan to the one waiting case of its patient, or say why not."""
    with transaction(app.engine) as connection:
        study = studies.need(connection, study_uid)
        if study.state != "COMPLETE":
            return  # it grew again, or was matched meanwhile
        stored = studies.instances_of(connection, study_uid)
        refusal = _identity_fault(study, {i.patient_id for i in stored})
        if refusal is None:
            candidates = _cases_of_patient(connection, study)
            waiting = [c for c in candidates if c.state in WAITING]
            if not waiting and any(c.state is CaseState.VERIFYING for c in candidates):
                return  # another scan of this patient is being measured: this one is matched after it
            refusal = _candidate_fault(candidates, waiting)
            if refusal is None:
                attach(app, connection, study, waiting[0], system("matching"))
                return
        code, reason, next_step = refusal
        studies.change(
            connection, study_uid, state="UNMATCHED", reason_code=code, reason=reason, next_step=next_step
        )
        audit.append(
            connection, at=app.clock.now(), actor="system:matching", subject=f"study:{study_uid}",
            event="scan_unmatched", data={"code": code},
        )  # fmt: skip
    app.notifier.notify("scan", f"An O-arm scan was set aside: {reason} {next_step}")


def assign(app: App, study_uid: str, case_id: str, actor: Actor) -> None:
    """A person says which case a set-aside scan belongs to; the patient must still be the same."""
    with transaction(app.engine) as connection:
        study = studies.need(connection, study_uid)
        case = cases.get(connection, case_id)
        planning = studies.need(connection, case.study_uid)
        if study.kind != "oarm" or study.state != "UNMATCHED":
            raise ConflictError(
                "This study is not a scan that waits for a case.",
                code="scan.state",
                next_step="See the list of scans.",
            )
        if not study.patient_id or study.patient_id != planning.patient_id:
            raise ConflictError(
                "The scan's patient is not the patient of this case.", code="scan.other_patient",
                next_step="Correct the identity in the PACS and send the scan again.",
            )  # fmt: skip
        attach(app, connection, study, case, actor)


def attach(app: App, connection: Connection, study: Study, case: Case, actor: Actor) -> None:
    now = app.clock.now()
    moved = cases.move(
        connection,
        case,
        CaseEvent.SCAN_ARRIVED,
        actor=system("matching"),
        now=now,
        data={"scan_study": study.study_uid, "images": study.instance_count, "attached_by": actor.name},
        jobs=entry_job(case, CaseState.VERIFYING),
    )
    scan_store.create(
        connection, study_uid=study.study_uid, revision=study.revision, case_id=moved.id,
        last_image_at=study.last_instance_at, now=now,
    )  # fmt: skip
    studies.change(connection, study.study_uid, state="MATCHED", reason_code="", reason="", next_step="")


def _identity_fault(study: Study, patient_ids: set[str]) -> tuple[str, str, str] | None:
    if len(patient_ids) > 1:
        return (
            "scan.mixed_patients",
            "The scan holds images of different patient IDs.",
            "Send the scan again from the O-arm with the right patient.",
        )
    if not study.patient_id:
        return (
            "scan.no_patient",
            "The scan has no patient ID.",
            "Register the patient at the O-arm and send again.",
        )
    return None


def _cases_of_patient(connection: Connection, study: Study) -> list[Case]:
    found = []
    for case in cases.listed(connection):
        planning = studies.need(connection, case.study_uid)
        same_birth = not (study.patient_birth_date and planning.patient_birth_date) or (
            study.patient_birth_date == planning.patient_birth_date
        )
        if planning.patient_id == study.patient_id and same_birth:
            found.append(case)
    return found


def _candidate_fault(candidates: list[Case], waiting: list[Case]) -> tuple[str, str, str] | None:
    if not candidates:
        return (
            "scan.other_patient",
            "No case of this patient exists here.",
            "Check the patient at the O-arm; when it is right, send the planning CT first.",
        )
    if not waiting:
        return (
            "scan.not_expected",
            "This patient's case is not at the stage where a needle scan is expected.",
            "Record issue and use of the model, then assign the scan to the case.",
        )
    if len(waiting) > 1:
        return (
            "scan.ambiguous",
            f"{len(waiting)} cases of this patient wait for a scan.",
            "Assign the scan to the right case (level).",
        )
    return None
