"""The rolling ball on voxels: what it reaches, what it does not, what counts as hollow."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.gas_path import ball_centres, blind_pits, hollow_of, unreached

STEP = 0.5


def block(bore_mm):
    """A 30 mm cube (60 voxels) in air with a 16 mm room and a square bore of `bore_mm` to the top; 0 = sealed."""
    solid = np.zeros((80, 80, 80), dtype=bool)
    solid[10:70, 10:70, 10:70] = True
    solid[24:56, 24:56, 24:56] = False
    half = round(bore_mm / STEP / 2)
    if half:
        solid[40:80, 40 - half : 40 + half, 40 - half : 40 + half] = False
    return solid


@pytest.mark.parametrize("bore_mm", [0.0, 2.0, 4.0])
def test_room_is_hollow_whether_open_or_sealed(bore_mm):
    hollow = hollow_of(block(bore_mm), STEP, 2.4)
    assert hollow[40, 40, 40]
    assert hollow[25, 25, 25]
    assert not hollow[2, 2, 2]
    assert hollow.sum() >= 32**3


def test_a_pit_from_outside_is_not_hollow():
    solid = np.zeros((60, 60, 60), dtype=bool)
    solid[10:50, 10:50, 10:50] = True
    solid[30:60, 26:34, 26:34] = False
    assert not hollow_of(solid, STEP, 2.4).any()


def test_narrow_side_arm_belongs_to_the_room():
    solid = block(4.0)
    solid[40:42, 40:42, 56:66] = False
    assert hollow_of(solid, STEP, 2.4)[40, 40, 64]


def test_ball_fits_where_there_is_room_for_its_radius():
    void = np.zeros((40, 40, 40), dtype=bool)
    void[10:30, 10:30, 10:30] = True
    centres = ball_centres(void, STEP, 2.5)
    found = np.argwhere(centres)
    # 20 voxels = 10 mm wide: centres keep 2.5 mm (5 voxels) from every wall.
    assert found.min() == 15
    assert found.max() == 24


def test_reach_is_measured_from_the_centres():
    hollow = np.zeros((20, 20, 60), dtype=bool)
    hollow[8:12, 8:12, 5:55] = True
    reached = np.zeros_like(hollow)
    reached[10, 10, 10:30] = True
    left = unreached(hollow, reached, STEP, 3.0)
    assert len(left) == 1
    # Beyond voxel 29 + 6: voxels 36..54 or so of 16 per layer.
    assert left[0] == pytest.approx(19 * 16 * STEP**3, rel=0.06)
    assert unreached(hollow, np.zeros_like(hollow), STEP, 3.0) == [pytest.approx(50 * 16 * STEP**3)]
    assert unreached(np.zeros_like(hollow), reached, STEP, 3.0) == []


@pytest.mark.parametrize(("mouth_mm", "blind"), [(1.2, True), (3.4, False)])
def test_a_pit_in_the_outside_is_blind_when_the_ball_does_not_pass_its_mouth(
    mouth_mm: float, blind: bool
) -> None:
    """A bulb of 6 mm under a neck of 3 mm, as clefts between processes have; filled it is no hollow any more."""
    step = 0.4
    z, y, x = np.meshgrid(*[np.arange(-12.0, 12.01, step)] * 3, indexing="ij")
    block = np.maximum.reduce([np.abs(x), np.abs(y), np.abs(z)]) - 8.0
    bulb = np.sqrt(x**2 + y**2 + (z - 2.0) ** 2) - 3.0
    neck = np.maximum(np.hypot(x, y) - mouth_mm / 2.0, -z)
    field = np.maximum(block, -np.minimum(bulb, neck)).astype(np.float32)
    pits = blind_pits(field < 0, step, ball_mm=2.5, slack_mm=1.3, least_mm3=4.0)
    assert pits.any() == blind
    if blind:
        assert pits[bulb < -0.5].all() and not pits[block > 0].any()
        field[pits] = -1.0
        assert not blind_pits(field < 0, step, ball_mm=2.5, slack_mm=1.3, least_mm3=4.0).any()
