"""From a stored instance to a complete, inspected study and its case.

Nothing here is between the wire and Success: the node hands over what is already durable, and hands it over
again after a crash, so every step is idempotent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor, system
from service.errors import ConflictError, ImagingError
from service.imaging.instance_header import InstanceHeader, read_header
from service.imaging.series import is_whole
from service.ports import JobRequest, ReceivedInstance
from service.store import audit, cases, outbox, pulls, studies, times
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.studies import StoredInstance, Study
from service.workflow import completeness, late_images, scans
from service.workflow.app import App
from service.workflow.jobs import entry_job, progress_for

log = logging.getLogger("spineprint.intake")

_RECEIVER = system("dicom")


def accept_instance(app: App, instance: ReceivedInstance) -> None:
    """Sort one durable instance into its study; the sink of the DICOM node."""
    try:
        header = read_header(instance.path)
    except ImagingError as exc:
        with transaction(app.engine) as connection:
            fresh = studies.record_unreadable(connection, instance, exc.message)
        if fresh:
            app.notifier.notify("intake", f"A received file is kept but unreadable: {exc.message}")
        return
    with transaction(app.engine) as connection:
        sort(app, connection, header, instance)


def sort(app: App, connection: Connection, header: InstanceHeader, instance: ReceivedInstance) -> None:
    """One instance into its study, whatever is there already."""
    copies = studies.copies_of(connection, header.sop_instance_uid)
    known = instance.sha256 in {c.sha256 for c in copies}
    study = studies.get(connection, header.study_uid) or _new_study(app, connection, header, instance)
    # Whatever it brings, the sender is still at it: its quiet time starts again.
    studies.heard(connection, study.study_uid, instance)
    if known:
        return
    damaged = _damaged_copy(copies, header, instance)
    conflicting = bool(copies) and damaged is None
    studies.insert_instance(
        connection,
        instance,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_uid=header.sop_instance_uid,
        patient_id=header.patient_id,
        modality=header.modality,
        quarantined=conflicting,
        revision=_revision_of_the_next(study),
    )
    if conflicting:
        _record_conflicting_copy(app, connection, study, header)
        return
    if damaged is not None:
        studies.set_aside(connection, damaged, _revision_of_the_next(study))
        _note_copy(app, connection, study, header, "damaged_copy_replaced")
    was_complete = study.state != "RECEIVING"
    _count_instance(app, connection, study, instance, added=0 if damaged else 1)
    if study.kind == "unknown" and (kind := study_kind(app, instance.calling_ae, header)) != "unknown":
        # The first object was a report or the like; the images say what the study is.
        studies.change(connection, study.study_uid, kind=kind)
        study = studies.need(connection, study.study_uid)
    if study.kind == "planning_ct" and header.modality == "CT":
        case = cases.by_study(connection, study.study_uid)
        if case is None:
            cases.create(connection, study_uid=study.study_uid, now=app.clock.now(), actor=_RECEIVER)
        elif was_complete:
            late_images.note(app, connection, case, study, instance.calling_ae)


def tick(app: App, open_associations: Mapping[str, str], listening_since: datetime | None = None) -> None:
    """Complete the studies that have been quiet long enough and that no open association still carries.

    A scan that came over one association is measured as soon as that is closed; its answer waits for the quiet time.

    `listening_since` is the start of the node: the silence before it was ours, not the sender's, and a sender
    that was cut off by our restart gets the whole quiet time to send the rest.
    """
    with reading(app.engine) as connection:
        waiting = studies.listed(connection, states=("RECEIVING",))
        sources = studies.sources_of(connection, [s.study_uid for s in waiting])
    for study in waiting:
        own = sources[study.study_uid]
        held = completeness.held_by(own, open_associations)
        is_quiet = app.clock.now() >= completeness.closes_at(app, study, own, listening_since)
        early = completeness.may_begin(study, own, open_associations, listening_since)
        if study.use_now or early or (is_quiet and not held):
            complete(app, study)
    # Scans that stopped growing but have no case yet: cut off before matching, or waiting for the scan in work.
    with reading(app.engine) as connection:
        unmatched = studies.listed(connection, kind="oarm", states=("COMPLETE",))
    for study in unmatched:
        scans.match(app, study.study_uid)


def use_now(app: App, study_uid: str, actor: Actor) -> None:
    """A person declares the study complete as it is."""
    with transaction(app.engine) as connection:
        study = studies.need(connection, study_uid)
        if study.state != "RECEIVING":
            raise ConflictError(
                "This study is not being received any more.", next_step="See its case.", code="study.state"
            )
        studies.change(connection, study_uid, use_now=True)
        audit.append(
            connection,
            at=app.clock.now(),
            actor=actor.name,
            subject=f"study:{study_uid}",
            event="use_now",
            data={"instances": study.instance_count},
        )


def complete(app: App, study: Study) -> None:
    """The study stopped growing: hand it on by its kind."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        if not study.use_now and _has_grown(connection, study):
            return  # an image was sorted in since this was judged: its sender gets the whole time again
        studies.change(
            connection, study.study_uid, state="COMPLETE", completed_at=times.to_text(now), use_now=False
        )
        if study.kind == "oarm":
            return  # `tick` matches it next, whatever happens in between
        case = cases.by_study(connection, study.study_uid)
        if case is None:
            found = sorted(
                {i.modality or "unknown" for i in studies.instances_of(connection, study.study_uid)}
            )
            studies.change(
                connection, study.study_uid, state="REFUSED", reason_code="intake.not_ct",
                reason=f"The study has no CT images (found: {', '.join(found)}).",
                next_step="Route the spine CT instead; these images stay stored.",
            )  # fmt: skip
            app.notifier.notify("intake", "A study without CT images was received and set aside.")
        elif case.state is CaseState.RECEIVING:
            _start_inspection(app, connection, case)
        elif (
            case.state is CaseState.NEEDS_ATTENTION
            and (case.attention or {}).get("resume_state") == "RECEIVING"
        ):
            cases.move(
                connection, case, CaseEvent.IMAGES_COMPLETED, actor=_RECEIVER, now=now,
                guards={"attention_is_about_images": True}, jobs=entry_job(case, CaseState.RECEIVING),
            )  # fmt: skip


def inspect(app: App, case: Case, _key: str) -> None:
    """Job of RECEIVING: the geometry gate over what arrived; then RECEIVED."""
    with reading(app.engine) as connection:
        stored = studies.instances_of(connection, case.study_uid)
        study = studies.need(connection, case.study_uid)
    if study.state == "RECEIVING":
        return  # more images came meanwhile; the next completion starts the inspection again
    patients = sorted({i.patient_id for i in stored})
    if len(patients) > 1:
        raise ImagingError(
            f"The study holds images of {len(patients)} different patient IDs.",
            next_step="Correct the study in the PACS and send it again under a new study UID; cancel this case.",
            code="intake.mixed_patients",
        )
    files = [i.path for i in stored if not i.quarantined and i.modality == "CT"]
    result = app.run_task("inspect_study", {"files": files}, progress_for(app, case.id))
    with transaction(app.engine) as connection:
        if studies.need(connection, case.study_uid).revision != study.revision:
            return  # images came while these were inspected: the next completion inspects them all
        fresh = cases.get(connection, case.id)
        cases.move(
            connection,
            fresh,
            CaseEvent.STUDY_COMPLETE,
            actor=system("inspection"),
            now=app.clock.now(),
            data={"series": result["series_uid"], "slices": result["slices"], "warnings": result["warnings"]},
            changes={
                "series_uid": result["series_uid"],
                "inputs": {"inspection": result},
                "study_revision": study.revision,
                "newer_images": False,
                "kept_images": None,
            },
        )


def _start_inspection(app: App, connection: Connection, case: Case) -> None:
    # The state stays RECEIVING, so the key carries the study's revision: each completion inspects once.
    study = studies.need(connection, case.study_uid)
    key = f"inspect.{case.id}.r{study.revision}.{case.state_version}"
    outbox.put(connection, [JobRequest(key, "inspect", case.id, "io")], app.clock.now())


def _new_study(app: App, connection: Connection, header: InstanceHeader, instance: ReceivedInstance) -> Study:
    at = times.to_text(instance.received_at)
    studies.insert_study(
        connection,
        {
            "study_uid": header.study_uid,
            "kind": study_kind(app, instance.calling_ae, header),
            "state": "RECEIVING",
            "patient_id": header.patient_id,
            "patient_name": header.patient_name,
            "patient_birth_date": header.patient_birth_date,
            "accession_number": header.accession_number,
            "study_date": header.study_date,
            "expected_instances": pulls.expected_of(connection, header.study_uid),
            "calling_ae": instance.calling_ae,
            "first_instance_at": at,
            "last_instance_at": at,
        },
    )
    return studies.need(connection, header.study_uid)


def study_kind(app: App, calling_ae: str, header: InstanceHeader) -> str:
    """planning_ct | oarm | unknown: the configured role of the sender decides, then the header's hints.

    A CT of which neither tells anything is taken for a planning CT: a person sees the case before anything is made.
    """
    roles = sorted({r for p in app.config.dicom.peers if p.ae_title == calling_ae for r in p.roles})
    kind = app.recognise(header.info, roles)
    if kind == "oarm":
        return kind
    return "planning_ct" if header.modality == "CT" else "unknown"


def _damaged_copy(
    copies: Sequence[StoredInstance], header: InstanceHeader, instance: ReceivedInstance
) -> StoredInstance | None:
    """The copy in use, when it is of the same series, cut off or damaged, and the new one is whole."""
    in_use = next((c for c in copies if not c.quarantined), None)
    if in_use is None or in_use.series_uid != header.series_uid or in_use.patient_id != header.patient_id:
        return None
    return in_use if not is_whole(Path(in_use.path)) and is_whole(instance.path) else None


def _revision_of_the_next(study: Study) -> int:
    """With which revision an image comes that is sorted in now: a complete study is opened again."""
    return study.revision if study.state == "RECEIVING" else study.revision + 1


def _has_grown(connection: Connection, study: Study) -> bool:
    fresh = studies.need(connection, study.study_uid)
    return (fresh.instance_count, fresh.revision) != (study.instance_count, study.revision)


def _count_instance(
    app: App, connection: Connection, study: Study, instance: ReceivedInstance, *, added: int = 1
) -> None:
    reopened: dict[str, object] = {}
    if study.state != "RECEIVING":
        reopened = {"state": "RECEIVING", "revision": _revision_of_the_next(study), "reason_code": "", "reason": "",
                    "next_step": ""}  # fmt: skip
    studies.change(
        connection,
        study.study_uid,
        instance_count=study.instance_count + added,
        last_instance_at=times.to_text(max(instance.received_at, study.last_instance_at)),
        **reopened,
    )


def _record_conflicting_copy(app: App, connection: Connection, study: Study, header: InstanceHeader) -> None:
    _note_copy(app, connection, study, header, "conflicting_copy")
    app.notifier.notify(
        "intake", "An image came twice with different content; both are kept, the first is used."
    )


def _note_copy(app: App, connection: Connection, study: Study, header: InstanceHeader, event: str) -> None:
    audit.append(
        connection,
        at=app.clock.now(),
        actor=_RECEIVER.name,
        subject=f"study:{study.study_uid}",
        event=event,
        data={"sop_instance_uid": header.sop_instance_uid},
    )
