"""Planned paths on an analytic vertebra against brute force and against limits that cannot be met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.errors import GeometryError
from service.geometry.angles import direction_from_angles
from service.geometry.given_paths import check_trajectory
from service.geometry.landmarks import find_landmarks
from service.geometry.trajectories import (
    PlanningLimits,
    find_entry,
    pedicle_section,
    plan_trajectories,
    wanted_target,
)
from tests.unit.vertebra_model import ModelVertebra, tilted_axes


@pytest.fixture(scope="module")
def bone():
    outer = ModelVertebra(axes=tilted_axes(9, -5, 4)).field()
    return outer, find_landmarks(outer, "L1")


def test_both_paths_keep_every_limit(bone) -> None:
    outer, landmarks = bone
    result = plan_trajectories(outer, landmarks)
    assert result.unmet == ()
    assert [t.pedicle for t in result.trajectories] == ["left", "right"]
    limits = PlanningLimits()
    for path in result.trajectories:
        assert -1e-6 <= path.sagittal_deg <= 15.0 + 1e-6
        assert 10.0 - 1e-6 <= path.transverse_deg <= 30.0 + 1e-6
        assert path.clearance_mm >= limits.needle_radius_mm + limits.min_margin_mm
        assert abs(outer.sample(np.array([path.entry]))[0]) < 0.05
        inside = np.linspace(path.entry, path.target, 60)[1:]
        assert outer.sample(inside).max() < 0.0
        offset = np.linalg.norm(np.array(path.target) - landmarks.body_centre)
        assert offset <= limits.target_tolerance_mm + 1e-6


def test_no_random_line_is_much_better(bone) -> None:
    outer, landmarks = bone
    limits = PlanningLimits()
    rng = np.random.default_rng(5)
    for path in plan_trajectories(outer, landmarks).trajectories:
        pedicle = next(p for p in landmarks.pedicles if p.side == path.pedicle)
        best = 0.0
        for _ in range(3000):
            direction = direction_from_angles(
                landmarks.frame,
                rng.uniform(*limits.sagittal_deg),
                rng.uniform(*limits.transverse_deg),
                path.pedicle,
            )
            offset = rng.standard_normal(3)
            offset *= limits.target_tolerance_mm * rng.random() / np.linalg.norm(offset)
            tip = landmarks.body_centre + offset
            section = pedicle_section(landmarks, pedicle, tip - 60 * direction, tip, limits)
            best = max(best, float(-outer.sample(section, outside=8.0).max()))
        assert path.clearance_mm > best - 0.3


def test_mirrored_bone_gives_mirrored_paths() -> None:
    outer = ModelVertebra().field()
    left, right = plan_trajectories(outer, find_landmarks(outer, "L1")).trajectories
    assert left.clearance_mm == pytest.approx(right.clearance_mm, abs=0.15)


def test_planning_is_deterministic(bone) -> None:
    outer, landmarks = bone
    assert plan_trajectories(outer, landmarks) == plan_trajectories(outer, landmarks)


def test_alternatives_differ_and_are_ranked_behind(bone) -> None:
    outer, landmarks = bone
    result = plan_trajectories(outer, landmarks)
    for path in result.trajectories:
        others = result.alternatives[path.pedicle]
        assert others
        assert all(o.clearance_mm <= path.clearance_mm + 0.3 for o in others)
        assert all(
            (o.sagittal_deg, o.transverse_deg) != (path.sagittal_deg, path.transverse_deg) for o in others
        )


def test_margin_that_does_not_fit_is_said() -> None:
    outer = ModelVertebra(pedicle_radius=1.7).field(step=0.8)
    result = plan_trajectories(outer, find_landmarks(outer, "T11"))
    assert result.unmet
    assert any("mm of bone remain" in reason or "No path" in reason for reason in result.unmet)


def test_missing_pedicle_is_said(bone) -> None:
    outer, landmarks = bone
    one = replace(landmarks, pedicles=tuple(p for p in landmarks.pedicles if p.side == "left"))
    result = plan_trajectories(outer, one)
    assert [t.pedicle for t in result.trajectories] == ["left"]
    assert any("right pedicle was not found" in reason for reason in result.unmet)
    with pytest.raises(GeometryError, match="right pedicle"):
        check_trajectory(outer, one, "right", (0.0, 0.0, 0.0), (1.0, 0.0, 0.0))


def test_edited_path_is_measured_anew(bone) -> None:
    outer, landmarks = bone
    path = plan_trajectories(outer, landmarks).trajectories[0]
    same, reasons = check_trajectory(outer, landmarks, path.pedicle, path.entry, path.target)
    assert same == path
    assert reasons == ()
    shifted = moved_by(path.entry, 3.0 * np.array(landmarks.frame.left))
    moved, reasons = check_trajectory(outer, landmarks, path.pedicle, shifted, path.target)
    assert moved.transverse_deg > path.transverse_deg + 2
    assert any("leaves the bone again" in reason for reason in reasons)


def moved_by(point, shift) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in np.array(point) + shift)
    return x, y, z


@pytest.mark.parametrize(
    ("along_mm", "says"), [(8.0, "8 mm inside"), (-5.0, "outside"), (-60.0, "60 mm outside")]
)
def test_an_entry_that_is_not_on_the_surface_is_said(bone, along_mm: float, says: str) -> None:
    outer, landmarks = bone
    for path in plan_trajectories(outer, landmarks).trajectories:
        forward = np.subtract(path.target, path.entry)
        entry = moved_by(path.entry, along_mm * forward / np.linalg.norm(forward))
        _, reasons = check_trajectory(outer, landmarks, path.pedicle, entry, path.target)
        assert any("the entry lies" in reason and says in reason for reason in reasons), reasons


def test_a_path_named_after_the_other_pedicle_is_refused(bone) -> None:
    outer, landmarks = bone
    left, right = plan_trajectories(outer, landmarks).trajectories
    for name, path in (("left", right), ("right", left)):
        with pytest.raises(GeometryError, match=f"named {name} runs on the side") as refused:
            check_trajectory(outer, landmarks, name, path.entry, path.target)
        assert refused.value.code == "geometry.path_side"
        assert refused.value.next_step


def test_a_path_that_leaves_the_bone_is_refused(bone) -> None:
    outer, landmarks = bone
    path = plan_trajectories(outer, landmarks).trajectories[0]
    left = np.array(landmarks.frame.left)
    forward = np.subtract(path.target, path.entry)
    cases = [
        # Both ends 7 mm towards the midline: the canal.
        (moved_by(path.entry, -7.0 * left), moved_by(path.target, -7.0 * left), "beside the pedicle"),
        # Starting in the canal beside the isthmus and crossing into the pedicle's front.
        (moved_by(path.entry, -7.0 * left), path.target, "canal"),
        (path.entry, moved_by(path.target, forward), "ends outside"),
        (path.target, path.entry, "from the back to the front"),
        (path.target, moved_by(path.target, 3.0 * forward), "from the back to the front"),
    ]
    for entry, target, says in cases:
        with pytest.raises(GeometryError, match=says) as refused:
            check_trajectory(outer, landmarks, "left", entry, target)
        assert refused.value.code in ("geometry.path_outside", "geometry.path_side")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("back_mm", "medial_mm", "outwards_deg"), [(0.5, 3.0, 30), (1.0, 2.0, 40), (2.0, 3.0, 50)]
)
def test_a_path_whose_line_comes_through_the_canal_is_refused(
    bone, side, back_mm: float, medial_mm: float, outwards_deg: float
) -> None:
    """From an entry inside the pedicle all looks like bone; the needle has crossed the canal to get there."""
    outer, landmarks = bone
    pedicle = next(p for p in landmarks.pedicles if p.side == side)
    forward = np.array(landmarks.frame.anterior)
    lateral = np.array(landmarks.frame.left) * (1.0 if side == "left" else -1.0)
    angle = np.radians(outwards_deg)
    way = np.cos(angle) * forward + np.sin(angle) * lateral
    entry = moved_by(pedicle.centre, -back_mm * forward - medial_mm * lateral)
    assert outer.sample(np.array([entry]), outside=8.0)[0] < 0
    with pytest.raises(GeometryError, match="canal") as refused:
        check_trajectory(outer, landmarks, side, entry, moved_by(entry, 8.0 * way))
    assert refused.value.code == "geometry.path_outside"


def test_the_clearance_of_an_entry_inside_the_pedicle_is_that_of_the_whole_way(bone) -> None:
    outer, landmarks = bone
    ahead = np.array(landmarks.frame.anterior)
    for path in plan_trajectories(outer, landmarks).trajectories:
        pedicle = next(p for p in landmarks.pedicles if p.side == path.pedicle)
        # Aside, so that the narrowest place is one that the inner entry leaves behind.
        outwards = 1.0 if path.pedicle == "left" else -1.0
        start = moved_by(path.entry, outwards * np.array(landmarks.frame.left))
        whole, _ = check_trajectory(outer, landmarks, path.pedicle, start, path.target)
        forward = np.subtract(path.target, start)
        before_isthmus = ((pedicle.centre - start) @ ahead - 0.5) / (forward @ ahead)
        entry = moved_by(start, before_isthmus * forward)
        inner, reasons = check_trajectory(outer, landmarks, path.pedicle, entry, path.target)
        assert inner.entry == entry
        assert inner.clearance_mm == pytest.approx(whole.clearance_mm, abs=0.1)
        assert any("inside the bone" in reason for reason in reasons)


def test_anterior_third_lies_in_front_of_the_centre(bone) -> None:
    outer, landmarks = bone
    ahead = (wanted_target(outer, landmarks, "anterior_third") - landmarks.body_centre) @ np.array(
        landmarks.frame.anterior
    )
    assert 3.0 < ahead < 8.0
    result = plan_trajectories(outer, landmarks, limits=PlanningLimits(target="anterior_third"))
    assert len(result.trajectories) == 2


def test_entry_is_the_first_crossing_and_gaps_are_refused(bone) -> None:
    outer, landmarks = bone
    forward = np.array(landmarks.frame.anterior)
    # Straight from behind through the midline the line crosses the arch and the canal: not a path in bone.
    assert find_entry(outer, landmarks.body_centre, forward) is None
