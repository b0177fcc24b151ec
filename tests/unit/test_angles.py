"""The facts sheet's test vectors (section 3) and the properties behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.plan import VertebraFrame
from service.errors import GeometryError
from service.geometry import angles as ang
from service.geometry.volume import Volume

FRAME = VertebraFrame(
    origin=(0.0, 0.0, 0.0), left=(1.0, 0.0, 0.0), anterior=(0.0, -1.0, 0.0), superior=(0.0, 0.0, 1.0)
)
ENTRY, TARGET = np.array([18.0, 28.0, 6.0]), np.array([2.0, -8.0, -2.0])


def rotation(z_deg: float, x_deg: float) -> np.ndarray:
    z, x = math.radians(z_deg), math.radians(x_deg)
    rz = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    return rz @ rx


def turned(frame: VertebraFrame, r: np.ndarray) -> VertebraFrame:
    axes = [tuple(float(v) for v in r @ np.array(a)) for a in (frame.left, frame.anterior, frame.superior)]
    return VertebraFrame(frame.origin, *axes)


def test_left_and_mirrored_right_give_the_sheet_values() -> None:
    expected = pytest.approx((12.5288, 23.9625, 23.4541), abs=1e-4)
    assert ang.angles(FRAME, ENTRY, TARGET, "left") == expected
    mirror = np.array([-1.0, 1.0, 1.0])
    assert ang.angles(FRAME, ENTRY * mirror, TARGET * mirror, "right") == expected


def test_rotated_with_the_frame_gives_the_same() -> None:
    r = rotation(10.0, 8.0)
    assert ang.angles(turned(FRAME, r), r @ ENTRY, r @ TARGET, "left") == pytest.approx(
        (12.5288, 23.9625, 23.4541), abs=1e-4
    )


def test_actual_against_planned() -> None:
    entry, tip = np.array([19.0, 28.5, 6.4]), np.array([2.9, -9.1, -1.2])
    depth, lateral = ang.depth_and_lateral(TARGET, tip, TARGET - ENTRY)
    assert np.linalg.norm(entry - ENTRY) == pytest.approx(1.1874, abs=1e-4)
    assert np.linalg.norm(tip - TARGET) == pytest.approx(1.6310, abs=1e-4)
    assert (depth, lateral) == pytest.approx((0.4677, 1.5625), abs=1e-4)
    assert ang.angle_between_deg(TARGET - ENTRY, tip - entry) == pytest.approx(1.2237, abs=1e-4)
    assert np.linalg.norm(tip) == pytest.approx(9.6260, abs=1e-4)
    sagittal, transverse, _ = ang.angles(FRAME, entry, tip, "left")
    assert (transverse, sagittal) == pytest.approx((23.1802, 11.4271), abs=1e-4)


@pytest.mark.parametrize(
    ("offset", "breach", "grade"),
    [(1.0, 0.0, "A"), (3.5, 0.7065, "B"), (5.2, 2.4065, "C"), (7.0, 4.2065, "D"), (9.0, 6.2065, "E")],
)
def test_breach_and_grade(offset: float, breach: float, grade: str) -> None:
    inside = 4.0 - np.array([offset, offset - 0.3, offset - 0.1])
    found = ang.breach_mm(inside, 1.2065)
    assert found == pytest.approx(breach, abs=1e-9)
    assert ang.breach_grade(found) == grade


def test_grade_bands_start_at_their_lower_limit() -> None:
    assert [ang.breach_grade(b) for b in (0.0, 0.01, 2.0, 4.0, 6.0)] == ["A", "B", "C", "D", "E"]


def test_cobb_of_the_sheet() -> None:
    above = [0.0, -math.sin(math.radians(12.0)), math.cos(math.radians(12.0))]
    below = [0.0, math.sin(math.radians(6.4)), math.cos(math.radians(6.4))]
    assert ang.cobb_deg(FRAME, above, below) == pytest.approx(18.4, abs=1e-9)


def test_recovery_of_the_sheet() -> None:
    assert ang.recovery_percent(18.6, 25.4, 29.2) == pytest.approx(64.151, abs=1e-3)
    assert ang.recovery_percent(18.6, 24.8, 29.2) == pytest.approx(58.491, abs=1e-3)
    assert ang.recovery_percent(27.3, 28.0, 29.2) is None


@given(st.floats(-60, 60), st.floats(-60, 60), st.sampled_from(["left", "right"]), st.floats(-180, 180))
def test_direction_from_angles_is_the_inverse(
    sagittal: float, transverse: float, side: str, turn: float
) -> None:
    frame = turned(FRAME, rotation(turn, turn / 3))
    found = ang.direction_angles(frame, ang.direction_from_angles(frame, sagittal, transverse, side), side)
    assert (found.sagittal_deg, found.transverse_deg) == pytest.approx((sagittal, transverse), abs=1e-6)


def test_frame_axes_are_right_handed_and_anterior_points_forward() -> None:
    left, anterior, superior = ang.frame_axes([1.0, 0.2, 0.3], [0.0, 0.1, 1.0])
    assert np.allclose(np.cross(left, superior), anterior)
    assert anterior[1] < -0.9
    assert abs(left @ superior) < 1e-12


def test_no_direction_is_refused_in_words() -> None:
    with pytest.raises(GeometryError, match="no length"):
        ang.angles(FRAME, ENTRY, ENTRY, "left")
    with pytest.raises(GeometryError, match="pedicle"):
        ang.breach_mm([], 1.2)


def test_distance_to_axis() -> None:
    assert ang.point_to_axis_mm([[0, 3, 4], [9, 0, 0]], [0, 0, 0], [2, 0, 0]) == pytest.approx([5.0, 0.0])


def test_a_voxel_of_the_o_arm_has_the_stated_volume():
    volume = Volume(np.zeros((2, 2, 2), dtype=np.int16), np.diag([0.415, 0.415, 0.833, 1.0]))
    assert volume.voxel_ml == pytest.approx(1.434634e-4, rel=1e-6)
