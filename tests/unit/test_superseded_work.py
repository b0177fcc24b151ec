"""Work that took long ends after the case was given other inputs: nothing of it gets into the new model's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.domain.case import CaseState
from service.errors import ConflictError
from service.store import approvals, blobs, cases, outbox
from service.store.database import reading
from service.workflow import build, late_images
from tests.support_app import (
    PLANNER,
    SURGEON,
    HandQueue,
    Rig,
    approve_now,
    bring,
    make_rig,
    receive,
    study_quiet,
)

OTHER = build.ModelInputs("L2", target=(9.0, 9.0, 9.0))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


def another_model(rig: Rig, case_id: str, *, approved: bool) -> None:
    """Late images, inspected again, other inputs, built by another worker (and approved)."""
    other = HandQueue()

    def work(*kinds: str) -> None:
        for _ in range(4):
            outbox.relay(rig.app.engine, other, rig.clock.now())
            other.work(rig.app, *kinds)

    receive(rig, 7)
    study_quiet(rig)
    late_images.inspect_again(rig.app, case_id, SURGEON)
    study_quiet(rig)
    work("inspect")
    build.give_inputs(rig.app, case_id, OTHER, PLANNER)
    work("build")
    assert rig.case(case_id).state is CaseState.PLAN_READY
    if approved:
        approve_now(rig, case_id)


def test_gcode_of_the_model_before_is_never_bound_to_the_approval_of_another(rig: Rig) -> None:
    case = bring(rig, CaseState.APPROVED)
    rig.relay()
    slice_now = rig.tasks._slice
    sliced: list[str] = []

    def slow(argument: Any) -> dict[str, Any]:
        sliced.append(Path(argument["mesh"]).read_text("utf-8"))
        if len(sliced) == 1:
            another_model(rig, case.id, approved=True)
        return slice_now(argument)

    rig.tasks._slice = slow  # type: ignore[method-assign]
    rig.queue.work(rig.app, "slice")
    assert rig.case(case.id).state is CaseState.APPROVED, "the new approval still waits for its own slicing"
    with reading(rig.app.engine) as connection:
        standing = approvals.standing(connection, case.id)
        assert standing is not None and standing.gcode_sha256 == ""
        assert "gcode" not in blobs.current(connection, case.id)
    rig.run_jobs("slice")
    assert rig.case(case.id).state is CaseState.SLICED
    assert len(sliced) == 2 and "L2" in sliced[1] and "L2" not in sliced[0]
    with reading(rig.app.engine) as connection:
        standing = approvals.standing(connection, case.id)
        assert standing is not None
        assert standing.gcode_sha256 == blobs.current(connection, case.id)["gcode"].sha256


def test_a_case_that_left_its_state_and_came_back_is_not_the_one_the_work_began_on(rig: Rig) -> None:
    case = bring(rig, CaseState.PLAN_READY)
    with reading(rig.app.engine) as connection:
        assert cases.unmoved(connection, rig.case(case.id)).id == case.id
    before = rig.case(case.id)
    build.give_inputs(rig.app, case.id, OTHER, PLANNER)
    rig.run_jobs("build")
    assert rig.case(case.id).state is before.state
    with reading(rig.app.engine) as connection, pytest.raises(ConflictError) as refused:
        cases.unmoved(connection, before)
    assert refused.value.code == "case.stale"


def test_optional_files_of_the_model_before_are_not_those_of_the_new_one(rig: Rig) -> None:
    case = bring(rig, CaseState.PLAN_READY)
    model = rig.tasks._model

    def without_filler(argument: Any) -> dict[str, Any]:
        result = model(argument)
        (Path(argument["out"]) / "filler.stl").unlink()
        return result

    rig.tasks._model = without_filler  # type: ignore[method-assign]
    build.give_inputs(rig.app, case.id, OTHER, PLANNER)
    rig.run_jobs("build")
    approve_now(rig, case.id)
    rig.run_jobs("slice")
    argument = [a for kind, a in rig.tasks.calls if kind == "slice"][-1]
    assert "L2" in Path(argument["mesh"]).read_text("utf-8")
    assert argument["filler"] is None


def test_a_model_nobody_approved_is_not_published_for_the_one_before_it(rig: Rig) -> None:
    case = bring(rig, CaseState.APPROVED)
    rig.relay()
    another_model(rig, case.id, approved=False)
    rig.queue.work(rig.app, "publish_plan")
    assert not [a for kind, a in rig.tasks.calls if kind == "publish"]
    rig.run_jobs("slice")
    approve_now(rig, case.id)
    rig.run_jobs("publish_plan")
    assert len([a for kind, a in rig.tasks.calls if kind == "publish"]) == 1
