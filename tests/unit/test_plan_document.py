"""plan.json: what is written can be read back, equal plans have equal bytes, faults are named."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.plan import (
    LEVELS,
    ModelSettings,
    Plan,
    Trajectory,
    Vent,
    VertebraFrame,
    known_level,
    plan_from_document,
    plan_to_document,
)
from service.errors import InputRefusedError

_mm = st.floats(-2000, 2000)
_vec = st.tuples(_mm, _mm, _mm)
_unit = st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
_direction = _unit.filter(lambda v: math.hypot(*v) > 0.1).map(
    lambda v: (v[0] / math.hypot(*v), v[1] / math.hypot(*v), v[2] / math.hypot(*v))
)
_size = st.floats(0.1, 20)

plans = st.builds(
    Plan,
    level=st.sampled_from(LEVELS),
    frame_of_reference_uid=st.from_regex(r"[0-2](\.[1-9][0-9]{0,9}){1,5}", fullmatch=True),
    vertebra_frame=st.builds(VertebraFrame, origin=_vec, left=_unit, anterior=_unit, superior=_unit),
    body_centre=_vec,
    trajectories=st.lists(
        st.builds(
            Trajectory,
            pedicle=st.sampled_from(["left", "right"]),
            entry=_vec,
            target=_vec,
            sagittal_deg=st.floats(-90, 90),
            transverse_deg=st.floats(-90, 90),
            clearance_mm=st.floats(-5, 50),
        ),
        max_size=2,
        unique_by=lambda t: t.pedicle,
    ).map(tuple),
    model=st.builds(
        ModelSettings,
        shell_mm=_size,
        channel_diameter_mm=_size,
        sleeve_wall_mm=_size,
        vents=st.lists(
            st.builds(Vent, position=_vec, direction=_direction, diameter_mm=_size), max_size=3
        ).map(tuple),
    ),
)


def _bytes(plan: Plan) -> bytes:
    return json.dumps(plan_to_document(plan), sort_keys=True).encode()


@settings(max_examples=150, deadline=None)
@given(plans)
def test_a_plan_comes_back_within_its_rounding(plan: Plan):
    back = plan_from_document(json.loads(_bytes(plan)))
    assert back.level == plan.level
    assert back.frame_of_reference_uid == plan.frame_of_reference_uid
    assert len(back.trajectories) == len(plan.trajectories)
    for ours, theirs in zip(plan.trajectories, back.trajectories, strict=True):
        assert theirs.pedicle == ours.pedicle
        assert theirs.entry == pytest.approx(ours.entry, abs=1e-4)
        assert theirs.sagittal_deg == pytest.approx(ours.sagittal_deg, abs=1e-4)
    assert back.vertebra_frame.left == pytest.approx(plan.vertebra_frame.left, abs=1e-8)
    assert back.model.shell_mm == pytest.approx(plan.model.shell_mm, abs=1e-4)
    for ours_v, theirs_v in zip(plan.model.vents, back.model.vents, strict=True):
        assert theirs_v.direction == pytest.approx(ours_v.direction, abs=1e-8)


@settings(max_examples=150, deadline=None)
@given(plans)
def test_reading_and_writing_again_changes_no_byte(plan: Plan):
    once = _bytes(plan)
    assert _bytes(plan_from_document(json.loads(once))) == once


def _plan(**model: Any) -> Plan:
    frame = VertebraFrame((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
    path = Trajectory("left", (20.0, 30.0, 1.0), (5.0, -5.0, 0.0), 5.0, 20.0, 2.0)
    settings = ModelSettings(vents=(Vent((1.0, 2.0, 3.0), (0.0, 0.0, 1.0), 3.4),), **model)
    return Plan("L1", "1.2.3", frame, (0.0, -20.0, 0.0), (path,), settings)


def test_equal_plans_have_equal_bytes_whatever_their_numbers_are_written_as():
    assert _bytes(_plan(shell_mm=2)) == _bytes(_plan(shell_mm=2.0))
    assert _bytes(_plan(shell_mm=2.0 + 1e-9)) == _bytes(_plan(shell_mm=2.0))
    path = Trajectory("left", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), -1e-9, -0.0, 0.0)
    same = Trajectory("left", (-0.0, -1e-9, 0.0), (0.0, 0.0, 0.0), 1e-9, 0.0, 0.0)
    frame = _plan().vertebra_frame
    a, b = (Plan("L1", "1.2", frame, (0.0, 0.0, 0.0), (t,)) for t in (path, same))
    assert _bytes(a) == _bytes(b)


def test_the_direction_of_a_vent_is_read_as_a_unit_vector():
    vent = plan_from_document(_with("model/vents/0/direction", [0.0, -3.0, 4.0])).model.vents[0]
    assert vent.direction == (0.0, -0.6, 0.8)


@pytest.mark.parametrize("direction", [[0.0, 0.0, 0.0], [1e200, 1e308, 1e308 * 1.7], [1e-9, 0.0, 0.0]])
def test_a_vent_without_a_direction_is_refused(direction):
    with pytest.raises(InputRefusedError, match="direction") as refusal:
        plan_from_document(_with("model/vents/0/direction", direction))
    assert refusal.value.code == "plan.invalid"


def test_the_path_of_a_pedicle():
    plan = _plan()
    assert plan.trajectory("left") is plan.trajectories[0]
    assert plan.trajectory("right") is None


def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_bytes(_plan()))
    return document


def _with(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(_document())
    place: Any = document
    *parents, last = path.split("/")
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    if value is _GONE:
        del place[last]
    else:
        place[last] = value
    return document


_GONE = object()


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("schema", "spineprint.plan/2", "schema"),
        ("schema", _GONE, "schema"),
        ("level", "L6", "level"),
        ("level", ["L1"], "level"),
        ("level", None, "level"),
        ("frame_of_reference_uid", None, "frame_of_reference_uid"),
        ("frame_of_reference_uid", 12, "frame_of_reference_uid"),
        ("frame_of_reference_uid", _GONE, "frame_of_reference_uid"),
        ("vertebra_frame", [], "vertebra_frame"),
        ("vertebra_frame/left", [1, 0], "left"),
        ("vertebra_frame/left", "100", "left"),
        ("vertebra_frame/origin", [0, math.nan, 0], "origin"),
        ("body_centre", [0, True, 0], "body_centre"),
        ("body_centre", [0, 10**400, 0], "body_centre"),
        ("body_centre", _GONE, "body_centre"),
        ("trajectories", {}, "trajectories"),
        ("trajectories", [1], "trajectories"),
        ("trajectories/0/pedicle", "middle", "trajectories.pedicle"),
        ("trajectories/0/entry", [1, 2, "3"], "entry"),
        ("trajectories/0/sagittal_deg", math.inf, "sagittal_deg"),
        ("trajectories/0/clearance_mm", None, "clearance_mm"),
        ("model", None, "model"),
        ("model/shell_mm", "2", "shell_mm"),
        ("model/shell_mm", 0, "shell_mm"),
        ("model/shell_mm", -2.0, "shell_mm"),
        ("model/shell_mm", True, "shell_mm"),
        ("model/channel_diameter_mm", 10**400, "channel_diameter_mm"),
        ("model/channel_diameter_mm", -1, "channel_diameter_mm"),
        ("model/sleeve_wall_mm", -0.1, "sleeve_wall_mm"),
        ("model/vents", None, "vents"),
        ("model/vents/0/diameter_mm", 0, "diameter_mm"),
        ("model/vents/0/direction", [0, 0], "direction"),
    ],
)
def test_every_fault_is_named(path: str, value: object, where: str):
    with pytest.raises(InputRefusedError) as caught:
        plan_from_document(_with(path, value))
    assert caught.value.code == "plan.invalid"
    assert caught.value.details == {"where": where}
    assert where in caught.value.message


def test_two_paths_through_one_pedicle_are_refused():
    document = _document()
    document["trajectories"].append(document["trajectories"][0])
    with pytest.raises(InputRefusedError, match="trajectories"):
        plan_from_document(document)


@pytest.mark.parametrize("document", [[], None, "plan", 3])
def test_something_that_is_no_object_is_refused(document: Any):
    with pytest.raises(InputRefusedError):
        plan_from_document(document)


def test_a_level_is_taken_in_any_case_and_written_in_one() -> None:
    assert [known_level(name) for name in ("l1", " T12 ", "L5")] == ["L1", "T12", "L5"]
    for name in ("S1", "T7", "L6", "", None):
        with pytest.raises(InputRefusedError) as refused:
            known_level(name)
        assert refused.value.code == "input.level"
        assert "T8, T9" in refused.value.next_step and "L5" in refused.value.next_step
