"""The needle's figures against shapes whose answers are known by hand, and against the facts sheet's vectors."""

from __future__ import annotations

import numpy as np
import pytest

from service.domain.plan import Plan, Trajectory, VertebraFrame
from service.geometry.heights import body_heights
from service.geometry.metrics import first_crossing, measure, outer_from_mask, pedicle_breach, side_of
from service.geometry.volume import Volume
from tests.unit import spine_scene as scene

FRAME = VertebraFrame((0, 0, 0), (1, 0, 0), (0, -1, 0), (0, 0, 1))
PLANNED = Trajectory("left", (18, 28, 6), (2, -8, -2), 12.5288, 23.9625, 3.0)


def box_spine(p):
    """A body 40 x 30 x 26 mm and a tube of radius 4 mm on each side as pedicle; signed distance, mm."""
    body = np.max(np.abs(p) - [20, 15, 13], axis=1)
    tubes = [scene.capsule(p, (x, 10, 4), (x, 40, 4), 4.0) for x in (14, -14)]
    return np.minimum.reduce([body, *tubes])


@pytest.fixture(scope="module")
def outer():
    affine, points = scene.grid((70, 130, 100), (0.5, 0.5, 0.5), (0, 12, 0))
    return Volume(box_spine(points).reshape(70, 130, 100).astype(np.float32), affine)


def plan(*trajectories):
    return Plan("L1", "1.2.3", FRAME, (0.0, 0.0, 0.0), trajectories)


def test_facts_sheet_vector_of_an_actual_needle_against_its_plan(outer):
    tip, entry = np.array([2.9, -9.1, -1.2]), np.array([19, 28.5, 6.4])
    axis = (tip - entry) / np.linalg.norm(tip - entry)
    f = measure(plan(PLANNED), outer, tip, axis, "left", 1.2065)
    assert f.tip_to_target_mm == pytest.approx(1.6310, abs=1e-4)
    assert f.depth_mm == pytest.approx(0.4677, abs=1e-4)
    assert f.lateral_mm == pytest.approx(1.5625, abs=1e-4)
    assert f.angle_deg == pytest.approx(1.2237, abs=1e-4)
    assert f.tip_to_body_centre_mm == pytest.approx(9.6260, abs=1e-4)
    assert f.transverse_deg == pytest.approx(23.1802, abs=1e-4)
    assert f.sagittal_deg == pytest.approx(11.4271, abs=1e-4)
    assert f.transverse_deviation_deg == pytest.approx(23.1802 - 23.9625, abs=2e-4)
    assert f.sagittal_deviation_deg == pytest.approx(11.4271 - 12.5288, abs=2e-4)


@pytest.mark.parametrize(
    ("offset", "mm", "grade"),
    [(1.0, 0.0, "A"), (3.5, 0.7065, "B"), (5.2, 2.4065, "C"), (7.0, 4.2065, "D"), (9.0, 6.2065, "E")],
)
@pytest.mark.parametrize(("side", "out"), [("left", 1), ("right", -1)])
def test_breach_of_a_round_pedicle(outer, offset, mm, grade, side, out):
    axis = np.array([0.0, -1.0, 0.0])
    x = out * (14 + offset)
    breach = pedicle_breach(
        outer, plan(), np.array([x, 44.0, 4.0]), np.array([x, 0.0, 4.0]), axis, 1.2065, side
    )
    assert breach is not None
    assert breach.mm == pytest.approx(mm, abs=0.02)
    assert breach.grade == grade
    assert breach.margin_mm == pytest.approx(4.0 - offset - 1.2065, abs=0.05)
    assert breach.direction == "lateral"


def test_the_bones_edge_inside_the_surface_costs_margin(outer):
    around = (
        np.array([15.0, 44.0, 4.0]),
        np.array([15.0, 0.0, 4.0]),
        np.array([0.0, -1.0, 0.0]),
        1.2065,
        "left",
    )
    plain = pedicle_breach(outer, plan(), *around)
    inner = pedicle_breach(outer, plan(), *around, bone_edge_mm=0.18)
    assert inner.margin_mm == pytest.approx(plain.margin_mm - 0.18)


@pytest.mark.parametrize(
    ("shift", "direction"),
    [((-5, 0, 0), "medial"), ((5, 0, 0), "lateral"), ((0, 0, 5), "superior"), ((0, 0, -5), "inferior")],
)
def test_direction_of_a_breach(outer, shift, direction):
    place = np.array([14.0, 0.0, 4.0]) + shift
    start = place + np.array([0, 44, 0])
    breach = pedicle_breach(outer, plan(), start, place, np.array([0.0, -1, 0]), 1.2, "left")
    assert breach is not None
    assert breach.direction == direction


def test_entry_is_the_first_crossing(outer):
    entry = first_crossing(outer, np.array([14.0, -5.0, 4.0]), np.array([0.0, -1.0, 0.0]))
    assert entry is not None
    assert np.allclose(entry, [14, 44, 4], atol=0.02)
    assert first_crossing(outer, np.array([60.0, 0, 0]), np.array([0.0, -1.0, 0.0])) is None


def test_a_needle_without_a_planned_path_has_no_deviations(outer):
    f = measure(plan(PLANNED), outer, np.array([-14.0, -5, 4]), np.array([0.0, -1, 0]), "right", 1.2)
    assert not f.planned
    assert f.tip_to_target_mm is None
    assert f.angle_deg is None
    assert f.breach is not None
    assert f.tip_to_body_centre_mm == pytest.approx(np.sqrt(14**2 + 25 + 16))


def test_side_is_where_the_needle_passes_the_pedicle_not_where_its_tip_is():
    axis = np.array([-0.5, -0.85, 0.0]) / np.hypot(0.5, 0.85)
    assert side_of(plan(), np.array([-2.0, -8.0, 0.0]), axis) == "left"
    assert side_of(plan(), np.array([2.0, -8.0, 0.0]), axis * [-1, 1, 1]) == "right"


def test_surface_from_a_mask_is_close_to_the_true_surface():
    affine, points = scene.grid((64, 170, 130), (0.7, 0.7, 1.0), (0, 12, 0))
    mask = Volume((box_spine(points) < 0).reshape(64, 170, 130).astype(np.uint8), affine)
    found = outer_from_mask(mask)
    rng = np.random.default_rng(3)
    p = rng.uniform([-22, -17, -12], [22, 42, 12], (4000, 3))
    truth = box_spine(p)
    near = np.abs(truth) < 3
    error = found.sample(p[near]) - truth[near]
    assert abs(np.median(error)) < 0.15
    assert np.percentile(np.abs(error), 95) < 0.6


def test_heights_of_a_wedge():
    affine, points = scene.grid((70, 130, 100), (0.5, 0.5, 0.5), (0, 12, 0))
    # Height 26 mm at the back (y = 15) falling to 16 mm at the front (y = -15).
    half = 13.0 - 5.0 * (15.0 - points[:, 1]) / 30.0
    wedge = np.max(
        np.stack([np.abs(points[:, 0]) - 20, np.abs(points[:, 1]) - 15, np.abs(points[:, 2]) - half]), axis=0
    )
    outer = Volume(wedge.reshape(70, 130, 100).astype(np.float32), affine)
    h = body_heights(outer, plan())
    assert h is not None
    assert h.anterior == pytest.approx(17.0, abs=0.4)
    assert h.middle == pytest.approx(21.0, abs=0.4)
    assert h.posterior == pytest.approx(25.0, abs=0.4)
    empty = Volume(np.full((70, 130, 100), 5.0, np.float32), affine)
    assert body_heights(empty, plan()) is None
