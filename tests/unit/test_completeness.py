"""When a study is complete, what the live line says meanwhile, and images that come too late."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.ultimaker import UltimakerPrinter
from service.domain.case import CaseEvent, CaseState
from service.domain.people import Role
from service.errors import ConflictError, ImagingError, NotAllowedError
from service.store import approvals, audit, prints, studies
from service.store.database import reading
from service.store.studies import Study
from service.workflow import build, completeness, intake, intake_batch, late_images, person_steps, print_run
from tests.support_app import (
    PLANNER,
    STUDY,
    SURGEON,
    TECHNICIAN,
    HandNode,
    Rig,
    actor,
    approve_now,
    bring,
    hand_over,
    make_rig,
    new_case,
    receive,
    received,
    study_quiet,
    watch,
)
from tests.support_dicom import ct_slice, save

PEERS = {
    "quiet_s": 30,
    "oarm_quiet_s": 3,
    "peers": [
        {"ae_title": "SLOW", "host": "127.0.0.1", "port": 1, "roles": ["planning_ct"], "quiet_s": 300},
        {"ae_title": "FAST", "host": "127.0.0.1", "port": 1, "roles": ["planning_ct"], "quiet_s": 5},
        {"ae_title": "OARM", "host": "127.0.0.1", "port": 1, "roles": ["oarm"]},
    ],
}


@pytest.fixture
def rig(tmp_path: Path):
    made = make_rig(tmp_path, dicom=PEERS)
    # Starting a print only reserves the printer; nothing is sent here.
    made.with_printers({"um3": UltimakerPrinter("um3", "http://127.0.0.1:9", tmp_path / "um3.json")})
    yield made
    made.app.engine.dispose()


def receive_file(folder: Path, index: int) -> Path:
    """An image of the study that nobody has handed over yet."""
    dataset = ct_slice(index, size=4)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return save(dataset, folder / f"image-{index}.dcm")


def _study(rig: Rig) -> Study:
    with reading(rig.app.engine) as connection:
        return studies.need(connection, STUDY)


def _state_after(rig: Rig, seconds: float, open_associations: dict[str, str] | None = None) -> str:
    rig.clock.advance(seconds=seconds)
    intake.tick(rig.app, open_associations or {})
    return _study(rig).state


def _text(rig: Rig) -> str:
    with reading(rig.app.engine) as connection:
        live = completeness.live(rig.app, connection, [studies.need(connection, STUDY)])[STUDY]
    return live.text(rig.clock.now())


# --- quiet time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sender", "quiet_s"), [("SLOW", 300), ("FAST", 5), ("OTHER", 30), ("OARM", 3)])
def test_the_quiet_time_is_the_senders_own_else_that_of_the_kind(rig: Rig, sender: str, quiet_s: float):
    receive(rig, calling_ae=sender)
    assert _state_after(rig, quiet_s - 0.1) == "RECEIVING"
    assert _state_after(rig, 0.1) != "RECEIVING"


def test_each_of_several_senders_must_have_been_silent_for_its_own_time(rig: Rig):
    receive(rig, 0, calling_ae="SLOW", association="a1")
    rig.clock.advance(seconds=290)
    receive(rig, 1, calling_ae="FAST", association="a2")
    assert _state_after(rig, 4.9) == "RECEIVING"  # SLOW until 300, FAST until 295
    assert _state_after(rig, 5.0) == "RECEIVING"
    assert _state_after(rig, 0.2) == "COMPLETE"


def test_every_image_starts_its_senders_time_again(rig: Rig):
    for index in range(4):
        receive(rig, index, calling_ae="FAST")
        assert _state_after(rig, 4.9) == "RECEIVING"
    assert _state_after(rig, 0.1) == "COMPLETE"


def test_an_image_sent_again_starts_the_time_again_and_changes_nothing_else(rig: Rig):
    path = receive(rig, calling_ae="FAST", association="a1")
    before = _study(rig)
    rig.clock.advance(seconds=4.9)
    hand_over(rig, path, calling_ae="FAST", association="a2")
    assert _state_after(rig, 4.9) == "RECEIVING"
    assert _study(rig) == before
    # The association of the repeated image holds the study open, too.
    assert _state_after(rig, 60, {"a2": "FAST"}) == "RECEIVING"
    assert _state_after(rig, 0) == "COMPLETE"


def test_an_image_repeated_after_the_study_is_complete_opens_nothing(rig: Rig):
    path = receive(rig, calling_ae="FAST")
    assert _state_after(rig, 6) == "COMPLETE"
    hand_over(rig, path, calling_ae="FAST", association="a2")
    assert (_study(rig).state, _study(rig).revision) == ("COMPLETE", 1)


def test_the_same_file_handed_over_again_after_a_crash_is_not_a_sender_at_work(rig: Rig):
    """The node replays what it is not sure about: with the time it really came."""
    path = receive(rig, calling_ae="FAST", association="a1")
    instance = received(rig, path, calling_ae="FAST", association="a1")
    rig.clock.advance(seconds=4.9)
    intake.accept_instance(rig.app, instance)
    assert _state_after(rig, 0.1) == "COMPLETE"
    with reading(rig.app.engine) as connection:
        (source,) = studies.sources_of(connection, [STUDY])[STUDY]
    assert source.images == 1


def test_images_sorted_together_count_for_their_associations(rig: Rig, tmp_path: Path):
    first = receive(rig, 0, association="a0")
    paths = [receive_file(tmp_path, index) for index in range(1, 6)]
    together = []
    for index, path in enumerate(paths):
        rig.clock.advance(seconds=1)
        together.append(received(rig, path, association=f"a{index % 2 + 1}"))
    for _ in range(2):  # handed over again after a crash
        intake_batch.accept_instances(rig.app, together)
    with reading(rig.app.engine) as connection:
        sources = studies.sources_of(connection, [STUDY])[STUDY]
    assert {s.association: s.images for s in sources} == {"a0": 1, "a1": 3, "a2": 2}
    assert _study(rig).instance_count == 6
    assert max(s.last_at for s in sources) == rig.clock.now()
    assert first.is_file()


def test_a_conflicting_copy_is_a_sender_at_work(rig: Rig):
    receive(rig, 0, calling_ae="FAST")
    rig.clock.advance(seconds=4.9)
    receive(rig, 0, seed=5, calling_ae="FAST")
    assert _state_after(rig, 4.9) == "RECEIVING"
    assert _study(rig).instance_count == 1


def test_a_restart_of_the_node_gives_the_whole_time_again(rig: Rig):
    receive(rig, calling_ae="FAST")
    rig.clock.advance(seconds=3600)
    started = rig.clock.now()
    for seconds, state in ((4.9, "RECEIVING"), (0.1, "COMPLETE")):
        rig.clock.advance(seconds=seconds)
        intake.tick(rig.app, {}, started)
        assert _study(rig).state == state


def test_an_association_that_is_open_elsewhere_holds_the_study_too(rig: Rig):
    """Two machines with a node on one database."""
    receive(rig, calling_ae="FAST", association="a9")
    here, there = HandNode(), HandNode(open={"a9": "FAST"})
    rig.clock.advance(seconds=60)
    watch(rig, there, machine="there").look()
    intake.tick(rig.app, watch(rig, here, machine="here").look().open_associations)
    assert _study(rig).state == "RECEIVING"


def test_an_image_that_is_sorted_in_while_the_study_is_judged_wins(rig: Rig):
    receive(rig, 0, calling_ae="FAST")
    judged = _study(rig)
    receive(rig, 1, calling_ae="FAST")
    intake.complete(rig.app, judged)
    assert _study(rig).state == "RECEIVING"


# --- live line -----------------------------------------------------------------------------------------------


def test_the_line_of_a_study_that_is_arriving(rig: Rig):
    watching = watch(rig, HandNode())
    for index in range(3):
        receive(rig, index)
    rig.clock.advance(seconds=3)
    watching.look()
    assert _text(rig) == "3 slices, last 3 s ago, closes in 27 s"
    rig.clock.advance(seconds=27)
    watching.look()
    assert _text(rig) == "3 slices, last 30 s ago, closing now"


def test_the_line_counts_from_a_repeated_image_too(rig: Rig):
    watching = watch(rig, HandNode())
    path = receive(rig)
    rig.clock.advance(seconds=20)
    hand_over(rig, path)
    watching.look()
    assert _text(rig) == "1 slice, last 0 s ago, closes in 30 s"


def test_the_line_says_who_holds_the_study_open(rig: Rig):
    watching = watch(rig, HandNode(open={"a1": "PACS1", "a2": "CT9"}))
    receive(rig, calling_ae="PACS1", association="a1")
    rig.clock.advance(seconds=100)
    watching.look()
    assert _text(rig) == "1 slice, last 100 s ago, held open by PACS1"


def test_the_line_knows_how_many_are_expected(rig: Rig):
    watch(rig, HandNode()).look()
    receive(rig)
    with rig.app.engine.begin() as connection:
        studies.change(connection, STUDY, expected_instances=180)
    assert _text(rig) == "1 of 180 slices, last 0 s ago, closes in 30 s"
    study_quiet(rig)
    assert _text(rig) == "complete, 1 of 180 slices"


def test_the_line_says_that_nobody_listens(rig: Rig):
    watch(rig, HandNode()).look()
    receive(rig)
    rig.clock.advance(seconds=3600)
    assert _text(rig) == "1 slice, last 60 min ago, stays open: no DICOM node is running"


def test_the_line_of_a_later_revision(rig: Rig):
    watching = watch(rig, HandNode())
    new_case(rig)
    study_quiet(rig)
    assert _text(rig) == "complete, 3 slices"
    for index in (7, 8):
        receive(rig, index)
    rig.clock.advance(seconds=3)
    watching.look()
    late = "revision 2: 2 images arrived after completion"
    assert _text(rig) == f"5 slices, {late}, last 3 s ago, closes in 27 s"
    study_quiet(rig)
    assert _text(rig) == f"complete, 5 slices; {late}"


def test_pressed_use_now_says_so(rig: Rig):
    watch(rig, HandNode(open={"a1": "CT1"})).look()
    receive(rig, association="a1")
    intake.use_now(rig.app, STUDY, PLANNER)
    assert _text(rig) == "1 slice, last 0 s ago, closing now"


# --- late images ---------------------------------------------------------------------------------------------


def _late(rig: Rig, state: CaseState, *, complete: bool = True) -> Any:
    case = bring(rig, state)
    receive(rig, 50, calling_ae="FAST")
    if complete:
        study_quiet(rig)
    return rig.case(case.id)


@pytest.mark.parametrize("state", [CaseState.RECEIVED, CaseState.PLAN_READY, CaseState.SLICED])
def test_a_case_keeps_to_the_images_it_was_inspected_with(rig: Rig, state: CaseState):
    case = _late(rig, state)
    assert (case.state, case.newer_images, case.study_revision) == (state, True, 1)
    with reading(rig.app.engine) as connection:
        assert len(studies.used_in(connection, STUDY, case.study_revision)) == 3
        assert len(studies.used_in(connection, STUDY, 2)) == 4
        banner = late_images.banner(connection, case, studies.need(connection, STUDY))
    assert banner is not None
    assert (banner["revision"], banner["used_revision"], banner["used_images"]) == (2, 1, 3)
    assert [(a["images"], a["senders"]) for a in banner["arrivals"]] == [(1, ["FAST"])]
    assert banner["approved_by"] == (SURGEON.name if state is CaseState.SLICED else None)
    rig.run_jobs()
    assert rig.case(case.id).state is state  # nothing is built anew by itself


def test_a_model_built_after_late_images_uses_the_inspected_ones(rig: Rig):
    case = _late(rig, CaseState.RECEIVED)
    build.give_inputs(rig.app, case.id, build.ModelInputs("L1", target=(1.0, -2.0, 3.0)), PLANNER)
    rig.run_jobs("build")
    (files,) = [a["files"] for kind, a in rig.tasks.calls if kind == "model"]
    assert len(files) == 3
    assert rig.case(case.id).newer_images  # still to be decided


def test_a_damaged_image_replaced_later_is_replaced_from_that_revision_on(rig: Rig):
    case = bring(rig, CaseState.RECEIVED)
    with reading(rig.app.engine) as connection:
        first = studies.instances_of(connection, STUDY)[0]
    whole = Path(first.path).read_bytes()
    Path(first.path).write_bytes(whole[:-20])
    receive(rig, 0, seed=77)
    study_quiet(rig)
    with reading(rig.app.engine) as connection:
        old, new = (studies.used_in(connection, STUDY, r) for r in (1, 2))
    assert first.sha256 in {i.sha256 for i in old}
    assert first.sha256 not in {i.sha256 for i in new}
    assert len(old) == len(new) == 3
    assert rig.case(case.id).newer_images


def test_looking_at_the_new_images_leads_to_the_inputs_with_all_of_them(rig: Rig):
    case = _late(rig, CaseState.PLAN_READY)
    late_images.inspect_again(rig.app, case.id, PLANNER)
    assert rig.case(case.id).state is CaseState.RECEIVING
    rig.run_jobs("inspect")
    again = rig.case(case.id)
    assert (again.state, again.study_revision, again.newer_images) == (CaseState.RECEIVED, 2, False)
    assert len(rig.tasks.calls[-1][1]["files"]) == 4
    with reading(rig.app.engine) as connection:
        assert late_images.banner(connection, again, studies.need(connection, STUDY)) is None


def test_looking_while_images_are_arriving_waits_for_the_rest(rig: Rig):
    case = _late(rig, CaseState.RECEIVED, complete=False)
    late_images.inspect_again(rig.app, case.id, PLANNER)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.RECEIVING
    receive(rig, 51)
    study_quiet(rig)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.RECEIVED
    assert len(rig.tasks.calls[-1][1]["files"]) == 5


def test_only_a_surgeon_ends_an_approval_for_the_new_images(rig: Rig):
    case = _late(rig, CaseState.SLICED)
    with pytest.raises(ConflictError, match="only a surgeon"):
        late_images.inspect_again(rig.app, case.id, PLANNER)
    with pytest.raises(NotAllowedError):
        late_images.inspect_again(rig.app, case.id, TECHNICIAN)
    with reading(rig.app.engine) as connection:
        assert approvals.standing(connection, case.id) is not None
    late_images.inspect_again(rig.app, case.id, SURGEON)
    with reading(rig.app.engine) as connection:
        assert approvals.standing(connection, case.id) is None
        row = audit.history(connection, case.subject)[-1]
    assert (row.event, row.actor, row.data["approval_ended"]) == ("inspect_again", SURGEON.name, True)


def test_nothing_is_approved_or_printed_before_somebody_decides(rig: Rig):
    case = _late(rig, CaseState.PLAN_READY)
    with pytest.raises(ConflictError) as caught:
        approve_now(rig, case.id)
    assert caught.value.details["guards"] == ["late_images_decided"]
    late_images.keep(rig.app, case.id, PLANNER, 2)
    approve_now(rig, case.id)
    rig.run_jobs("slice")
    receive(rig, 51)
    with pytest.raises(ConflictError) as caught:
        print_run.start_print(rig.app, case.id, "um3", TECHNICIAN, bed_clear=True)
    assert caught.value.details["guards"] == ["late_images_decided"]
    with reading(rig.app.engine) as connection:
        assert prints.listed(connection, case_id=case.id) == []
    study_quiet(rig)
    late_images.keep(rig.app, case.id, SURGEON, 3)
    print_run.start_print(rig.app, case.id, "um3", TECHNICIAN, bed_clear=True)
    assert rig.case(case.id).state is CaseState.PRINTING


def test_keeping_the_model_is_on_record_with_name_and_revision(rig: Rig):
    case = _late(rig, CaseState.SLICED)
    kept = late_images.keep(rig.app, case.id, PLANNER, 2)
    assert (kept.state, kept.newer_images, kept.study_revision) == (CaseState.SLICED, False, 1)
    assert kept.kept_images == {"revision": 2, "by": PLANNER.name, "at": "2026-01-05T08:01:02.000000+00:00"}
    with reading(rig.app.engine) as connection:
        row = audit.history(connection, case.subject)[-1]
        assert approvals.standing(connection, case.id) is not None
    assert (row.event, row.actor) == ("keep_images", PLANNER.name)
    assert (row.data["kept_revision"], row.data["left_out_revision"]) == (1, 2)
    with pytest.raises(ConflictError):
        late_images.keep(rig.app, case.id, PLANNER, 2)


def test_nobody_keeps_a_model_against_images_they_have_not_seen(rig: Rig):
    case = _late(rig, CaseState.PLAN_READY)
    receive(rig, 51)
    with pytest.raises(ConflictError) as caught:
        late_images.keep(rig.app, case.id, PLANNER, 2)
    assert caught.value.code == "study.state"
    study_quiet(rig)
    with pytest.raises(ConflictError) as caught:
        late_images.keep(rig.app, case.id, PLANNER, 2)
    assert caught.value.code == "case.stale"
    assert rig.case(case.id).newer_images


def test_a_printed_part_can_be_kept_but_not_made_of_other_images(rig: Rig):
    case = _late(rig, CaseState.PRINTING)
    with pytest.raises(ConflictError) as caught:
        late_images.inspect_again(rig.app, case.id, SURGEON)
    assert caught.value.code == "case.state"
    assert late_images.keep(rig.app, case.id, SURGEON, 2).state is CaseState.PRINTING


def test_images_that_come_while_the_case_is_parked_are_told_too(rig: Rig):
    case = bring(rig, CaseState.BUILDING)
    rig.tasks.fail["model"] = ImagingError("No bone there.", next_step="Give other points.", code="test.bone")
    rig.run_jobs("build")
    parked = rig.case(case.id)
    receive(rig, 50)
    late = rig.case(case.id)
    assert (late.state, late.newer_images) == (CaseState.NEEDS_ATTENTION, True)
    assert late.attention == parked.attention


def test_new_images_that_are_refused_need_not_end_the_case(rig: Rig):
    case = _late(rig, CaseState.PLAN_READY)
    rig.tasks.fail["inspect_study"] = ImagingError("Mixed.", next_step="Send.", code="test.mixed")
    late_images.inspect_again(rig.app, case.id, PLANNER)
    rig.run_jobs("inspect")
    assert rig.case(case.id).state is CaseState.NEEDS_ATTENTION
    late_images.keep(rig.app, case.id, PLANNER, 2)
    back = person_steps.resume(rig.app, case.id, PLANNER)
    assert (back.state, back.study_revision) == (CaseState.RECEIVED, 1)
    assert back.inputs["inspection"]["slices"] == 3


def test_what_is_over_is_not_marked(rig: Rig):
    case = bring(rig, CaseState.RECEIVED)
    person_steps.cancel(rig.app, case.id, actor(Role.ADMIN), "wrong patient")
    version = rig.case(case.id).version
    receive(rig, 50)
    assert rig.case(case.id).version == version


def test_late_images_keep_their_own_count(rig: Rig):
    case = bring(rig, CaseState.RECEIVED)
    for index in (50, 51):
        receive(rig, index)
    study_quiet(rig)
    rig.clock.advance(hours=1)
    receive(rig, 52, calling_ae="FAST")
    with reading(rig.app.engine) as connection:
        arrivals = studies.arrivals_of(connection, STUDY)
        late = audit.history(connection, case.subject)
    assert [(a.revision, a.images, a.callers) for a in arrivals] == [
        (1, 3, ("CT1",)), (2, 2, ("CT1",)), (3, 1, ("FAST",)),
    ]  # fmt: skip
    assert arrivals[2].first_at - arrivals[1].last_at > timedelta(minutes=59)
    assert [r.event for r in late].count(CaseEvent.LATE_IMAGES) == 2


def test_both_databases_tell_the_same(any_rig: Rig):
    """What is counted and compared in SQL, on SQLite and on PostgreSQL."""
    rig = any_rig
    watching = watch(rig, HandNode(open={"a2": "PACS1"}))
    case = new_case(rig, association="a1")
    receive(rig, 0, seed=5, association="a1")
    study_quiet(rig)
    rig.run_jobs("inspect")
    path = receive(rig, 7, calling_ae="PACS1", association="a2")
    rig.clock.advance(seconds=2)
    hand_over(rig, path, calling_ae="PACS1", association="a2")
    watching.look()
    watching.look()
    assert _text(rig) == (
        "4 slices, revision 2: 1 image arrived after completion, last 0 s ago, held open by PACS1"
    )
    with reading(rig.app.engine) as connection:
        (s1,) = studies.series_of(connection, STUDY)
        assert (s1.images, s1.aside, studies.count_aside(connection)) == (4, 1, 1)
        assert [a.used is not None for a in studies.aside(connection)] == [True]
        assert {s.association: s.images for s in studies.sources_of(connection, [STUDY])[STUDY]} == {
            "a1": 1, "a2": 2,
        }  # fmt: skip
        assert studies.count_by_state(connection) == {("planning_ct", "RECEIVING"): 1}
        assert studies.last_heard(connection)["PACS1"] == rig.clock.now()
        assert len(studies.used_in(connection, STUDY, 1)) == 3
    assert rig.case(case.id).newer_images
