"""From stored images to a case: copies, mixtures, late images, completeness, and scans finding their case."""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.domain.case import CaseEvent, CaseState
from service.domain.people import system
from service.errors import ConflictError, DeviceError, GeometryError, ImagingError
from service.store import audit, cases, studies
from service.store import scans as scan_store
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.studies import Study
from service.store.tables import cases as case_table
from service.workflow import completeness, intake, person_steps, scans, terminal
from tests.support_app import (
    NURSE,
    PLANNER,
    STUDY,
    SURGEON,
    Rig,
    hand_over,
    make_rig,
    new_case,
    receive,
    study_quiet,
)

SCAN = "1.2.826.0.1.3680043.10.9999.7"
ROLES = {
    "peers": [
        {"ae_title": "OARM", "host": "127.0.0.1", "port": 1, "roles": ["oarm"]},
        {"ae_title": "PACS", "host": "127.0.0.1", "port": 1, "roles": ["planning_ct", "pacs"]},
        {"ae_title": "BOTH", "host": "127.0.0.1", "port": 1, "roles": ["planning_ct", "oarm"]},
    ]
}


@pytest.fixture
def rig(tmp_path: Path):
    made = make_rig(tmp_path, dicom=ROLES)
    yield made
    made.app.engine.dispose()


def _study(rig: Rig, study_uid: str = STUDY) -> Study:
    with reading(rig.app.engine) as connection:
        return studies.need(connection, study_uid)


def _put_in(rig: Rig, case: Case, state: CaseState) -> None:
    """The states behind printing are reached through sterile services; here only the state matters."""
    with transaction(rig.app.engine) as connection:
        connection.execute(case_table.update().where(case_table.c.id == case.id).values(state=state.value))


def _waiting_case(rig: Rig, state: CaseState = CaseState.USED, **options: Any) -> Case:
    case = new_case(rig, **options)
    study_quiet(rig)
    rig.run_jobs("inspect")
    _put_in(rig, case, state)
    return rig.case(case.id)


def _scan(rig: Rig, images: int = 2, *, study: str = SCAN, first: int = 0, **options: Any) -> None:
    for index in range(first, first + images):
        receive(rig, index, calling_ae="OARM", study=study, series=f"{study}.1", **options)


def _scan_arrives(rig: Rig, **options: Any) -> Study:
    _scan(rig, **options)
    study_quiet(rig)
    return _study(rig, options.get("study", SCAN))


# --- planning CT ---------------------------------------------------------------------------------------------


def test_the_first_image_makes_the_case(rig: Rig):
    case = new_case(rig, images=1)
    assert case.state is CaseState.RECEIVING
    assert _study(rig).kind == "planning_ct"
    assert (_study(rig).patient_id, _study(rig).instance_count) == ("TEST-1", 1)


def test_the_same_image_again_is_nothing_new(rig: Rig):
    path = receive(rig)
    for _ in range(3):
        hand_over(rig, path)
    assert _study(rig).instance_count == 1
    with reading(rig.app.engine) as connection:
        assert len(cases.listed(connection)) == 1
        assert len(studies.instances_of(connection, STUDY)) == 1


def test_a_conflicting_copy_is_kept_told_and_not_used(rig: Rig):
    case = new_case(rig)
    receive(rig, 0, seed=5)
    with reading(rig.app.engine) as connection:
        stored = studies.instances_of(connection, STUDY)
        told = [r.event for r in audit.history(connection, f"study:{STUDY}")]
    assert sorted(i.quarantined for i in stored) == [False, False, False, True]
    assert told == ["conflicting_copy"]
    assert "intake" in rig.notes.topics()
    assert _study(rig).instance_count == 3
    study_quiet(rig)
    rig.run_jobs("inspect")
    (kind, argument), *_ = rig.tasks.calls
    assert kind == "inspect_study"
    assert len(argument["files"]) == 3
    quarantined = next(i.path for i in stored if i.quarantined)
    assert quarantined not in argument["files"]
    assert rig.case(case.id).state is CaseState.RECEIVED


def test_mixed_patients_stop_the_case_with_words(rig: Rig):
    case = new_case(rig)
    receive(rig, 9, patient_id="OTHER-2")
    study_quiet(rig)
    rig.run_jobs("inspect")
    parked = rig.case(case.id)
    assert parked.state is CaseState.NEEDS_ATTENTION
    assert parked.attention is not None
    assert parked.attention["code"] == "intake.mixed_patients"
    assert "OTHER-2" not in str(parked.attention) + str(rig.notes.told)
    assert rig.tasks.calls == []


def test_a_study_without_ct_images_is_set_aside_with_the_reason(rig: Rig):
    receive(rig, Modality="MR")
    study_quiet(rig)
    study = _study(rig)
    assert (study.state, study.reason_code) == ("REFUSED", "intake.not_ct")
    assert "MR" in study.reason
    assert study.next_step
    with reading(rig.app.engine) as connection:
        assert cases.listed(connection) == []


def test_a_report_before_the_images_does_not_hide_them(rig: Rig):
    """PACS send the structured report or the localiser's series first as they please."""
    receive(rig, 0, Modality="SR")
    assert _study(rig).kind == "unknown"
    receive(rig, 1)
    study_quiet(rig)
    rig.run_jobs("inspect")
    assert _study(rig).kind == "planning_ct"
    with reading(rig.app.engine) as connection:
        case = cases.by_study(connection, STUDY)
    assert case is not None
    assert case.state is CaseState.RECEIVED


def test_images_that_follow_a_refused_study_make_a_case(rig: Rig):
    receive(rig, 0, Modality="SR")
    study_quiet(rig)
    assert _study(rig).state == "REFUSED"
    receive(rig, 1)
    assert (_study(rig).state, _study(rig).reason) == ("RECEIVING", "")
    study_quiet(rig)
    rig.run_jobs("inspect")
    with reading(rig.app.engine) as connection:
        case = cases.by_study(connection, STUDY)
    assert case is not None
    assert case.state is CaseState.RECEIVED
    assert not case.newer_images


def test_an_unreadable_file_is_told_once_and_stops_nothing(rig: Rig):
    folder = rig.app.config.data_dir / "dicom"
    folder.mkdir()
    bad = folder / "bad.dcm"
    bad.write_bytes(b"\0" * 128 + b"DICM\x02\x00")
    hand_over(rig, bad)
    hand_over(rig, bad)
    with reading(rig.app.engine) as connection:
        assert studies.count_unreadable(connection) == 1
    assert rig.notes.topics() == ["intake"]
    new_case(rig)


def test_complete_needs_quiet_and_no_open_association(rig: Rig):
    new_case(rig, association="a1")
    rig.clock.advance(seconds=rig.app.config.dicom.quiet_s - 0.1)
    intake.tick(rig.app, {})
    assert _study(rig).state == "RECEIVING"
    rig.clock.advance(seconds=3600)
    intake.tick(rig.app, {"a1": "PACS"})
    assert _study(rig).state == "RECEIVING"
    intake.tick(rig.app, {"a2": "PACS"})
    assert _study(rig).state == "COMPLETE"


def test_every_association_of_the_study_counts(rig: Rig):
    receive(rig, 0, association="a1")
    receive(rig, 1, association="a2")
    rig.clock.advance(seconds=3600)
    intake.tick(rig.app, {"a1": "PACS"})
    assert _study(rig).state == "RECEIVING"


def test_a_new_image_starts_the_quiet_time_again(rig: Rig):
    new_case(rig)
    rig.clock.advance(seconds=rig.app.config.dicom.quiet_s - 1)
    receive(rig, 7)
    rig.clock.advance(seconds=2)
    intake.tick(rig.app, {})
    assert _study(rig).state == "RECEIVING"


def test_a_person_may_say_that_it_is_complete(rig: Rig):
    new_case(rig, association="a1")
    intake.use_now(rig.app, STUDY, PLANNER)
    intake.tick(rig.app, {"a1": "PACS"})
    assert _study(rig).state == "COMPLETE"
    with pytest.raises(ConflictError):
        intake.use_now(rig.app, STUDY, PLANNER)
    with reading(rig.app.engine) as connection:
        (row,) = audit.history(connection, f"study:{STUDY}")
    assert (row.actor, row.event) == (PLANNER.name, "use_now")


def test_late_images_are_told_on_the_case(rig: Rig):
    case = _waiting_case(rig, CaseState.RECEIVED)
    receive(rig, 8)
    late = rig.case(case.id)
    assert (late.state, late.newer_images) == (CaseState.RECEIVED, True)
    assert (_study(rig).state, _study(rig).revision) == ("RECEIVING", 2)
    with reading(rig.app.engine) as connection:
        events = [r.event for r in audit.history(connection, case.subject)]
    assert events.count("late_images") == 1


def test_late_images_do_not_disturb_what_is_over(rig: Rig):
    case = _waiting_case(rig, CaseState.CLOSED)
    receive(rig, 8)
    assert rig.case(case.id).version == case.version


def test_images_that_come_during_the_inspection_are_inspected_too(rig: Rig):
    """Else they would silently become part of the model without having passed the gate."""
    case = new_case(rig)
    study_quiet(rig)
    rig.relay()
    arrive_during = rig.tasks.__call__

    def run_task(kind: str, argument: Any, progress: Any) -> dict[str, Any]:
        if len(rig.tasks.calls) == 0:
            receive(rig, 8)
        return arrive_during(kind, argument, progress)

    from dataclasses import replace

    rig.app = replace(rig.app, run_task=run_task)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.RECEIVING
    study_quiet(rig)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.RECEIVED
    assert [len(a["files"]) for _, a in rig.tasks.calls] == [3, 4]


def test_a_bad_series_is_inspected_again_when_the_missing_images_come(rig: Rig):
    case = new_case(rig)
    rig.tasks.fail["inspect_study"] = ImagingError(
        "Slices 4 to 6 are missing.", code="imaging.gap", next_step="Send."
    )
    study_quiet(rig)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.NEEDS_ATTENTION
    del rig.tasks.fail["inspect_study"]
    receive(rig, 5)
    assert rig.case(case.id).state is CaseState.NEEDS_ATTENTION
    study_quiet(rig)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.RECEIVED


#: What a header of the operating room does not claim to be: a diagnostic scanner's current and kernel.
_CONE_BEAM = {"XRayTubeCurrent": "25", "ConvolutionKernel": ""}


@pytest.mark.parametrize(
    ("calling_ae", "attributes", "kind"),
    [
        ("OARM", {}, "oarm"),
        ("OARM", {"Modality": "XA"}, "oarm"),
        ("CT1", {}, "planning_ct"),
        ("CT1", {"Manufacturer": "Medtronic", "ManufacturerModelName": "O-arm O2", **_CONE_BEAM}, "oarm"),
        ("CT1", {"Manufacturer": "Medtronic"}, "planning_ct"),  # one weak hint is not enough
        ("CT1", {"SeriesDescription": "O-ARM cone beam", **_CONE_BEAM}, "oarm"),
        ("PACS", {}, "planning_ct"),
        ("PACS", {"StudyDescription": "Planning for O-arm"}, "planning_ct"),  # the configured role decides
        ("PACS", {"Modality": "MR"}, "unknown"),
        ("BOTH", {"SeriesDescription": "Intra-op O-arm spin", **_CONE_BEAM}, "oarm"),
        ("BOTH", {}, "planning_ct"),
    ],
)
def test_what_a_study_is(rig: Rig, calling_ae: str, attributes: dict[str, str], kind: str):
    receive(rig, calling_ae=calling_ae, **attributes)
    assert _study(rig).kind == kind


# --- scans ---------------------------------------------------------------------------------------------------


def test_a_scan_finds_the_one_waiting_case(rig: Rig):
    case = _waiting_case(rig)
    assert _scan_arrives(rig).state == "MATCHED"
    moved = rig.case(case.id)
    assert moved.state is CaseState.VERIFYING
    with reading(rig.app.engine) as connection:
        (scan,) = scan_store.of_case(connection, case.id)
        assert terminal.document(rig.app, connection, case.id)["status"] == "computing"
    assert scan.state == "COMPUTING"


@pytest.mark.parametrize(
    ("state", "options", "code"),
    [
        (CaseState.USED, {"patient_id": "OTHER-2"}, "scan.other_patient"),
        (CaseState.USED, {"PatientBirthDate": "19600202"}, "scan.other_patient"),
        (CaseState.USED, {"patient_id": ""}, "scan.no_patient"),
        (CaseState.SLICED, {}, "scan.not_expected"),
        (CaseState.CLOSED, {}, "scan.not_expected"),
    ],
)
def test_a_doubtful_scan_is_set_aside(rig: Rig, state: CaseState, options: dict[str, Any], code: str):
    case = _waiting_case(rig, state)
    study = _scan_arrives(rig, **options)
    assert (study.state, study.reason_code) == ("UNMATCHED", code)
    assert study.next_step
    assert rig.case(case.id).state is state
    assert "OTHER-2" not in str(rig.notes.told)


def test_a_scan_of_two_patients_is_set_aside(rig: Rig):
    _waiting_case(rig)
    _scan(rig)
    _scan(rig, images=1, first=5, patient_id="OTHER-2")
    study_quiet(rig)
    assert _study(rig, SCAN).reason_code == "scan.mixed_patients"


def test_two_waiting_cases_leave_the_choice_to_a_person(rig: Rig):
    first = _waiting_case(rig)
    second = _waiting_case(rig, study="1.2.9", series="1.2.9.1")
    assert _scan_arrives(rig).reason_code == "scan.ambiguous"
    scans.assign(rig.app, SCAN, second.id, SURGEON)
    assert rig.case(second.id).state is CaseState.VERIFYING
    assert rig.case(first.id).state is CaseState.USED
    assert (_study(rig, SCAN).state, _study(rig, SCAN).reason) == ("MATCHED", "")
    with pytest.raises(ConflictError) as caught:
        scans.assign(rig.app, SCAN, first.id, SURGEON)
    assert caught.value.code == "scan.state"


def test_nobody_can_assign_the_scan_of_another_patient(rig: Rig):
    case = _waiting_case(rig)
    _scan_arrives(rig, patient_id="OTHER-2")
    with pytest.raises(ConflictError) as caught:
        scans.assign(rig.app, SCAN, case.id, SURGEON)
    assert caught.value.code == "scan.other_patient"


def test_a_kill_between_completing_and_matching_loses_no_scan(rig: Rig):
    case = _waiting_case(rig)
    _scan(rig)
    intake.complete(rig.app, _study(rig, SCAN))  # and then the process is gone
    assert _study(rig, SCAN).state == "COMPLETE"
    intake.tick(rig.app, {})
    assert rig.case(case.id).state is CaseState.VERIFYING


def test_a_part_of_a_scan_is_never_answered_for(rig: Rig):
    """The rest comes while the first part is measured: that answer is dropped, and the whole is measured anew."""
    case = _waiting_case(rig)
    _scan_arrives(rig)
    _scan(rig, images=2, first=5)
    study_quiet(rig)
    assert _study(rig, SCAN).state == "COMPLETE"  # waits for its turn
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.USED
    with reading(rig.app.engine) as connection:
        (part,) = scan_store.of_case(connection, case.id)
        shown = terminal.document(rig.app, connection, case.id)
    assert (part.state, part.report, part.error["code"]) == ("NOT_MEASURABLE", None, "scan.superseded")
    assert (shown["status"], shown["images"]) == ("receiving", 4)
    intake.tick(rig.app, {})
    assert rig.case(case.id).state is CaseState.VERIFYING
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.VERIFIED
    with reading(rig.app.engine) as connection:
        assert [(s.study_revision, s.state) for s in scan_store.of_case(connection, case.id)] == [
            (2, "READY"), (1, "NOT_MEASURABLE"),
        ]  # fmt: skip
    assert len(rig.tasks.calls[-1][1]["scan_files"]) == 4


def test_a_scan_over_one_closed_association_is_measured_before_the_quiet_time_is_over(rig: Rig):
    case = _waiting_case(rig)
    _scan(rig, images=20, association="o1")
    intake.tick(rig.app, {"o1": "OARM"})
    assert _study(rig, SCAN).state == "RECEIVING"  # still open
    intake.tick(rig.app, {})
    assert rig.case(case.id).state is CaseState.VERIFYING
    begun = rig.clock.now()
    started = time.monotonic()
    threading.Timer(0.4, lambda: rig.clock.advance(seconds=10)).start()
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.VERIFIED
    with reading(rig.app.engine) as connection:
        (scan,) = scan_store.of_case(connection, case.id)
    # The answer was there at once and was held back until the sender had been silent long enough.
    assert time.monotonic() - started > 0.35
    assert (scan.updated_at - begun).total_seconds() >= rig.app.config.dicom.oarm_quiet_s


def test_an_association_that_our_restart_closed_is_no_sign_of_completeness(rig: Rig):
    case = _waiting_case(rig)
    _scan(rig, images=20, association="o1")
    rig.clock.advance(seconds=1)
    intake.tick(rig.app, {}, listening_since=rig.clock.now())
    assert (_study(rig, SCAN).state, rig.case(case.id).state) == ("RECEIVING", CaseState.USED)
    intake.tick(rig.app, {}, listening_since=rig.clock.now() - timedelta(seconds=1, minutes=1))
    assert rig.case(case.id).state is CaseState.VERIFYING


def test_a_person_who_said_use_now_does_not_wait_for_the_quiet_time(rig: Rig):
    case = _waiting_case(rig)
    _scan(rig, images=4, association="o1")
    intake.use_now(rig.app, SCAN, SURGEON)
    intake.tick(rig.app, {"o1": "OARM"})
    assert rig.case(case.id).state is CaseState.VERIFYING
    rig.run_verify(case)  # the clock stands still: waiting would never end
    assert rig.case(case.id).state is CaseState.VERIFIED


def test_an_image_after_an_early_start_makes_a_revision_and_no_answer_on_the_part(rig: Rig):
    case = _waiting_case(rig)
    _scan(rig, images=20, association="o1")
    intake.tick(rig.app, {})
    assert rig.case(case.id).state is CaseState.VERIFYING
    _scan(rig, images=1, first=30, association="o2")
    rig.run_verify(case)
    assert (rig.case(case.id).state, _study(rig, SCAN).revision) == (CaseState.USED, 2)
    with reading(rig.app.engine) as connection:
        assert terminal.document(rig.app, connection, case.id)["status"] == "receiving"
    # It used a second association: from now on the whole quiet time.
    intake.tick(rig.app, {})
    assert _study(rig, SCAN).state == "RECEIVING"
    study_quiet(rig)
    intake.tick(rig.app, {})
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.VERIFIED


@pytest.mark.parametrize(
    ("images", "associations", "kind", "begins"),
    [(20, 1, "oarm", True), (19, 1, "oarm", False), (20, 2, "oarm", False), (20, 1, "planning_ct", False)],
)
def test_who_may_be_measured_early(rig: Rig, images: int, associations: int, kind: str, begins: bool):
    for index in range(images):
        receive(rig, index, calling_ae="OARM" if kind == "oarm" else "PACS", study=SCAN, series=f"{SCAN}.1",
                association=f"o{index % associations}")  # fmt: skip
    study = _study(rig, SCAN)
    assert study.kind == kind
    with reading(rig.app.engine) as connection:
        sources = studies.sources_of(connection, [SCAN])[SCAN]
    assert completeness.may_begin(study, sources, {}) is begins
    assert not completeness.may_begin(study, sources, {"o0": "OARM"})
    assert not completeness.may_begin(dataclasses.replace(study, revision=2), sources, {})


def test_a_scan_that_cannot_be_measured_gives_the_reason_and_waits_for_the_next(rig: Rig):
    case = _waiting_case(rig)
    rig.tasks.fail["verify"] = GeometryError("The metal hides the vertebra.", next_step="Scan again.")
    _scan_arrives(rig)
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.USED
    with reading(rig.app.engine) as connection:
        shown = terminal.document(rig.app, connection, case.id)
    assert (shown["status"], shown["reason"]) == ("not_measurable", "The metal hides the vertebra.")


def test_a_verification_that_failed_is_computed_again_when_resumed(rig: Rig):
    """A failure of ours (memory, disk, a crash) must not cost the patient another scan."""
    case = _waiting_case(rig)
    rig.tasks.fail["verify"] = DeviceError("crash", code="task.crashed", next_step="Resume.")
    _scan_arrives(rig)
    rig.run_verify(case)
    parked = rig.case(case.id)
    assert parked.state is CaseState.NEEDS_ATTENTION
    with reading(rig.app.engine) as connection:
        assert terminal.document(rig.app, connection, case.id)["status"] == "failed"
    del rig.tasks.fail["verify"]
    assert person_steps.resume(rig.app, case.id, NURSE).state is CaseState.VERIFYING
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.VERIFIED
    with reading(rig.app.engine) as connection:
        assert terminal.document(rig.app, connection, case.id)["status"] == "ready"


def test_the_terminal_says_that_images_arrive(rig: Rig):
    case = _waiting_case(rig)
    with reading(rig.app.engine) as connection:
        assert terminal.document(rig.app, connection, case.id)["status"] == "none"
    _scan(rig, images=3)
    rig.clock.advance(seconds=1.5)
    with reading(rig.app.engine) as connection:
        shown = terminal.document(rig.app, connection, case.id)
    assert (shown["status"], shown["images"], shown["age_s"]) == ("receiving", 3, 1.5)


def test_the_terminal_says_why_a_scan_of_its_patient_was_set_aside(rig: Rig):
    case = _waiting_case(rig, CaseState.PRINTED)
    assert _scan_arrives(rig).state == "UNMATCHED"
    with reading(rig.app.engine) as connection:
        shown = terminal.document(rig.app, connection, case.id)
    assert shown["status"] == "failed"
    assert "stage" in shown["reason"]
    assert shown["next_step"]


def test_only_the_system_lets_a_scan_arrive(rig: Rig):
    case = _waiting_case(rig)
    from service.errors import NotAllowedError

    with pytest.raises(NotAllowedError), transaction(rig.app.engine) as connection:
        cases.move(connection, case, CaseEvent.SCAN_ARRIVED, actor=SURGEON, now=rig.clock.now())
    with transaction(rig.app.engine) as connection:
        cases.move(connection, case, CaseEvent.SCAN_ARRIVED, actor=system("matching"), now=rig.clock.now())
