"""Moving a case: one transaction, and of two movers at most one wins, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Role, system
from service.errors import ConflictError, NotAllowedError, NotFoundError, StorageError
from service.ports import JobRequest
from service.store import approvals, audit, blobs, cases, people, prints
from service.store.database import reading, transaction
from service.store.tables import cases as case_table
from service.store.tables import outbox, users
from service.workflow import approve, build, person_steps, sterilise
from service.workflow.jobs import case_job, raise_attention
from service.workflow.printed_item import create_item
from tests.support_app import (
    NURSE,
    PLANNER,
    SURGEON,
    TECHNICIAN,
    Rig,
    actor,
    add_people,
    approve_now,
    bring,
    new_case,
    park,
)


def _events(rig: Rig, case_id: str) -> list[str]:
    with reading(rig.app.engine) as connection:
        return [r.event for r in audit.history(connection, f"case:{case_id}")]


def _jobs(rig: Rig) -> list[str]:
    with reading(rig.app.engine) as connection:
        return [r.key for r in connection.execute(outbox.select())]


def test_a_move_is_state_audit_and_job_together(any_rig: Rig):
    case = new_case(any_rig)
    job = JobRequest("build.x.2", "build", case.id, "cpu")
    with transaction(any_rig.app.engine) as connection:
        moved = cases.move(
            connection, case, CaseEvent.STUDY_COMPLETE, actor=system("t"), now=any_rig.clock.now(),
            data={"why": "test"}, changes={"level": "L1"}, jobs=[job, job],
        )  # fmt: skip
    assert (moved.state, moved.version, moved.state_version) == (CaseState.RECEIVED, 2, 2)
    assert moved.level == "L1"
    assert _events(any_rig, case.id) == ["created", "study_complete"]
    assert _jobs(any_rig).count("build.x.2") == 1


def test_a_failure_in_the_transaction_leaves_nothing(any_rig: Rig):
    case = new_case(any_rig)
    with pytest.raises(RuntimeError), transaction(any_rig.app.engine) as connection:
        cases.move(
            connection, case, CaseEvent.STUDY_COMPLETE, actor=system("t"), now=any_rig.clock.now(),
            jobs=[JobRequest("k", "build", case.id, "cpu")],
        )  # fmt: skip
        raise RuntimeError
    assert any_rig.case(case.id) == case
    assert _events(any_rig, case.id) == ["created"]
    assert "k" not in _jobs(any_rig)


def test_a_stale_move_changes_nothing(any_rig: Rig):
    case = bring(any_rig, CaseState.PLAN_READY)
    approve_now(any_rig, case.id)
    events, jobs = _events(any_rig, case.id), _jobs(any_rig)
    with pytest.raises(ConflictError) as caught, transaction(any_rig.app.engine) as connection:
        cases.move(
            connection,
            case,
            CaseEvent.REJECT,
            actor=SURGEON,
            now=any_rig.clock.now(),
            guards={"reason_given": True},
        )
    assert caught.value.code == "case.stale"
    assert any_rig.case(case.id).state is CaseState.APPROVED
    assert (_events(any_rig, case.id), _jobs(any_rig)) == (events, jobs)


def test_a_second_approval_is_refused(any_rig: Rig):
    case = bring(any_rig, CaseState.PLAN_READY)
    approve_now(any_rig, case.id)
    with pytest.raises(ConflictError) as caught:
        approve_now(any_rig, case.id)
    assert caught.value.code == "case.state"


def _race(*movers: Any) -> list[str]:
    """Run them at once; what each came to."""
    start, results = threading.Barrier(len(movers)), ["?"] * len(movers)

    def run(n: int) -> None:
        start.wait(10)
        try:
            movers[n]()
            results[n] = "won"
        except ConflictError as exc:
            results[n] = exc.code

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(movers))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    return results


@pytest.mark.parametrize("_round", range(3))
def test_of_movers_that_saw_the_same_version_one_wins(any_rig: Rig, _round: int):
    """Without the one-writer lock of `transaction`: the version alone must decide."""
    case = new_case(any_rig)

    def move() -> None:
        with any_rig.app.engine.begin() as connection:
            cases.move(connection, case, CaseEvent.STUDY_COMPLETE, actor=system("t"), now=any_rig.clock.now())

    results = _race(*[move] * 4)
    assert sorted(results) == ["case.stale"] * 3 + ["won"]
    assert _events(any_rig, case.id).count("study_complete") == 1
    assert any_rig.case(case.id).version == 2


def test_approve_and_reject_at_once(any_rig: Rig):
    case = bring(any_rig, CaseState.PLAN_READY)
    results = _race(
        lambda: approve_now(any_rig, case.id),
        lambda: approve.reject(any_rig.app, case.id, SURGEON, "too steep"),
    )
    assert results.count("won") == 1
    state = any_rig.case(case.id).state
    assert state is (CaseState.APPROVED if results[0] == "won" else CaseState.RECEIVED)


def test_one_printer_is_reserved_once(any_rig: Rig):
    won: list[bool] = []

    def take(token: str) -> None:
        with transaction(any_rig.app.engine) as connection:
            won.append(prints.reserve(connection, "um3", token))

    _race(lambda: take("a"), lambda: take("b"), lambda: take("c"))
    assert sorted(won) == [False, False, True]


def test_wrong_passwords_side_by_side_all_count(any_rig: Rig):
    add_people(any_rig.app, "surgeon")

    def fail() -> None:
        with any_rig.app.engine.begin() as connection:
            people.count_failed_login(connection, "surgeon")

    _race(*[fail] * 4)
    with reading(any_rig.app.engine) as connection:
        assert connection.execute(users.select()).one().failed_logins == 4


def test_reading_sees_one_moment(any_rig: Rig):
    case = new_case(any_rig)
    with reading(any_rig.app.engine) as connection:
        assert cases.get(connection, case.id).version == 1
        with transaction(any_rig.app.engine) as other:
            cases.move(other, case, CaseEvent.STUDY_COMPLETE, actor=system("t"), now=any_rig.clock.now())
        assert cases.get(connection, case.id).version == 1
    assert any_rig.case(case.id).version == 2


# --- jobs of a case ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("full", code="storage.full", next_step="Free space."), "storage.full"),
        (OSError(28, "No space left on device"), "storage.full"),
        (OSError(13, "Permission denied"), "storage.write"),
        (KeyError("print_mesh"), "job.defect"),
        (StopIteration(), "job.defect"),
    ],
)
def test_whatever_a_job_raises_the_case_says_so_and_can_be_resumed(rig: Rig, error: Exception, code: str):
    case = bring(rig, CaseState.BUILDING)
    rig.tasks.fail["model"] = error
    rig.run_jobs("build")
    parked = rig.case(case.id)
    assert parked.state is CaseState.NEEDS_ATTENTION
    assert parked.attention is not None
    assert parked.attention["code"] == code
    assert parked.attention["next_step"]
    assert "attention" in rig.notes.topics()
    del rig.tasks.fail["model"]
    assert person_steps.resume(rig.app, case.id, PLANNER).state is CaseState.RECEIVED


def test_a_failed_slicing_runs_again_when_resumed(rig: Rig):
    case = bring(rig, CaseState.APPROVED)
    rig.tasks.fail["slice"] = StorageError("full", code="storage.full")
    rig.run_jobs("slice")
    assert rig.case(case.id).state is CaseState.NEEDS_ATTENTION
    del rig.tasks.fail["slice"]
    person_steps.resume(rig.app, case.id, TECHNICIAN)
    rig.run_jobs("slice")
    assert rig.case(case.id).state is CaseState.SLICED


def test_a_job_that_comes_twice_does_its_work_once(rig: Rig):
    case = bring(rig, CaseState.PLAN_READY)
    built = [kind for kind, _ in rig.tasks.calls].count("model")
    key = next(k for k in rig.queue.jobs if k.startswith("build."))
    from service.bootstrap import handlers

    handlers(rig.app)["build"](key, case.id)
    assert [kind for kind, _ in rig.tasks.calls].count("model") == built
    assert rig.case(case.id) == case


def test_a_late_failure_of_an_earlier_stay_does_not_park_the_case(rig: Rig):
    case = bring(rig, CaseState.BUILDING)
    rig.run_jobs("build")
    build.give_inputs(rig.app, case.id, build.ModelInputs("L2", target=(0.0, 0.0, 0.0)), PLANNER)
    raise_attention(rig.app, case, StorageError("old"), CaseState.RECEIVED)
    assert rig.case(case.id).state is CaseState.BUILDING


def test_a_job_for_a_case_in_another_state_is_done_with(rig: Rig):
    """Else it would be taken up again for ever."""
    case = bring(rig, CaseState.PLAN_READY)
    with transaction(rig.app.engine) as connection:
        from service.store import outbox as store

        store.put(connection, [JobRequest("build.old.1", "build", case.id, "cpu")], rig.clock.now())
    case_job(rig.app, CaseState.BUILDING, build.build)("build.old.1", case.id)
    with reading(rig.app.engine) as connection:
        row = connection.execute(outbox.select().where(outbox.c.key == "build.old.1")).one()
    assert row.finished_at is not None


# --- approval and files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "guard"),
    [
        ({"plan_sha256": "0" * 64}, "hashes_are_current"),
        ({"mesh_sha256": ""}, "hashes_are_current"),
        ({"acknowledged": []}, "warnings_acknowledged"),
        ({"signed": False}, "signed"),
        ({"by": "planner"}, "approver_is_not_planner"),
    ],
)
def test_an_approval_needs_all_of_it(rig: Rig, changes: dict[str, Any], guard: str):
    case = bring(rig, CaseState.PLAN_READY)
    if changes == {"by": "planner"}:
        changes = {"by": type(SURGEON)("planner", SURGEON.person)}
    with pytest.raises(ConflictError) as caught:
        approve_now(rig, case.id, **changes)
    assert caught.value.details == {"guards": [guard]}


def test_a_model_that_failed_its_checks_is_not_approved(rig: Rig):
    rig.tasks.model_report = {"passed": False}
    case = bring(rig, CaseState.PLAN_READY)
    with pytest.raises(ConflictError) as caught:
        approve_now(rig, case.id)
    assert caught.value.details == {"guards": ["checks_passed"]}


def test_new_inputs_void_the_approval_of_the_old_model(rig: Rig):
    case = bring(rig, CaseState.SLICED)
    park(rig, case.id, StorageError("x"), CaseState.PLAN_READY)
    person_steps.resume(rig.app, case.id, PLANNER)
    build.give_inputs(rig.app, case.id, build.ModelInputs("L2", target=(9.0, 9.0, 9.0)), PLANNER)
    rig.run_jobs("build")
    with reading(rig.app.engine) as connection:
        assert approvals.standing(connection, case.id) is None


@pytest.mark.parametrize("kind", ["plan", "mesh", "print_mesh", "print_layout"])
def test_a_file_changed_after_the_signature_is_not_sliced(rig: Rig, kind: str):
    case = bring(rig, CaseState.APPROVED)
    with reading(rig.app.engine) as connection:
        path = blobs.current(connection, case.id)[kind].path
    path.write_text("something else")
    rig.run_jobs("slice")
    parked = rig.case(case.id)
    assert parked.attention is not None
    assert parked.attention["code"] == "storage.changed"


def test_a_spoilt_file_is_not_taken_for_the_one_to_keep(tmp_path: Path):
    source = tmp_path / "model.stl"
    source.write_bytes(b"good")
    path, digest, _ = blobs.keep(source, tmp_path / "kept", "mesh")
    path.write_bytes(b"baad")
    again, _, _ = blobs.keep(source, tmp_path / "kept", "mesh")
    assert blobs.sha256_of(again) == digest


@pytest.mark.parametrize("case_id", ["..", ".", "nobody"])
def test_nothing_is_written_in_the_name_of_a_case_that_does_not_exist(rig: Rig, tmp_path: Path, case_id: str):
    mask = tmp_path / "m.nii.gz"
    mask.write_bytes(b"mask")
    before = sorted(p for p in rig.app.config.data_dir.rglob("*") if "sqlite3" not in p.name)
    with pytest.raises(NotFoundError):
        build.give_inputs(rig.app, case_id, build.ModelInputs("L1", mask=mask), PLANNER)
    assert sorted(p for p in rig.app.config.data_dir.rglob("*") if "sqlite3" not in p.name) == before


def test_a_series_of_another_study_is_refused(rig: Rig):
    from service.errors import InputRefusedError

    case = bring(rig, CaseState.RECEIVED)
    with pytest.raises(InputRefusedError) as caught:
        build.give_inputs(
            rig.app, case.id, build.ModelInputs("L1", target=(0.0, 0.0, 0.0), series_uid="1.2.3"), PLANNER
        )
    assert caught.value.code == "inputs.series"
    assert rig.case(case.id).state is CaseState.RECEIVED


def test_roles_hold_in_the_use_cases(rig: Rig):
    case = bring(rig, CaseState.RECEIVED)
    with pytest.raises(NotAllowedError):
        build.give_inputs(rig.app, case.id, build.ModelInputs("L1", target=(0.0, 0.0, 0.0)), NURSE)
    with pytest.raises(NotAllowedError):
        person_steps.cancel(rig.app, case.id, TECHNICIAN, "because")
    with pytest.raises(ConflictError):
        person_steps.cancel(rig.app, case.id, PLANNER, "   ")
    assert person_steps.cancel(rig.app, case.id, PLANNER, "wrong patient").state is CaseState.CANCELLED


# --- the item's steps and the case's -------------------------------------------------------------------------


def _with_item(rig: Rig, state: CaseState) -> tuple[Any, Any]:
    """A case in `state` whose printed part is in sterile services' books."""
    case = bring(rig.with_printers({"um3": None}), CaseState.PRINTING)  # type: ignore[dict-item]
    with transaction(rig.app.engine) as connection:
        (job,) = prints.listed(connection, case_id=case.id)
        item = create_item(connection, rig.app, case, job)
        connection.execute(case_table.update().where(case_table.c.id == case.id).values(state=state.value))
    return rig.case(case.id), item


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CaseState.ISSUED, CaseState.USED),
        # The scan came before the nurse found time to record the use.
        (CaseState.VERIFIED, CaseState.VERIFIED),
        (CaseState.VERIFYING, CaseState.VERIFYING),
        (CaseState.USED, CaseState.USED),
    ],
)
def test_use_can_be_recorded_after_the_scan_too(rig: Rig, before: CaseState, after: CaseState):
    case, item = _with_item(rig, before)
    with transaction(rig.app.engine) as connection:
        sterilise._step_case(connection, rig.app, case, item, "use", NURSE)
    assert rig.case(case.id).state is after
    assert _events(rig, case.id)[-1] in ("use", "item_use")


def test_a_rejected_part_parks_its_case_and_allows_one_new_print_after_a_new_approval(rig: Rig):
    case, item = _with_item(rig, CaseState.PRINTED)
    inspector = actor(Role.PLANNER, Role.TECHNICIAN, name="inspector")
    sterilise.item_event(rig.app, item.id, "reject", {"reason": "warped"}, inspector)
    parked = rig.case(case.id)
    assert parked.state is CaseState.NEEDS_ATTENTION
    assert parked.attention is not None
    assert parked.attention["code"] == "part.rejected"
    with reading(rig.app.engine) as connection:
        assert approvals.standing(connection, case.id) is None
    assert person_steps.resume(rig.app, case.id, PLANNER).state is CaseState.PLAN_READY
