"""Bone that a model leaves out is never left out in silence, and a thick part behind a thin neck is kept."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.lost_bone import LostPiece, failure_about, lost_pieces, necks, place_of, warnings_about
from service.geometry.selfcheck import check_model
from service.geometry.solid import SolidSettings, build_solid
from tests.unit import solid_shapes as shapes

#: The left transverse process from here outward: 1 mL of bone.
CUT_X, GAP_MM = 23.0, 2.4
COARSE = SolidSettings(grid_mm=0.5)


def with_slot(neck_mm):
    """The vertebra with a slot through the root of its left transverse process, bridged by a rod if any."""
    affine, x, y, z = shapes.grid([44, 48, 24], 0.4, (0, 18, 0))
    bone = shapes.vertebra(step=0.4)
    field = np.maximum(bone.values, GAP_MM / 2.0 - np.abs(x - CUT_X))
    if neck_mm:
        rod = shapes.capsule(x, y, z, (CUT_X - 3, 35.5, 2.4), (CUT_X + 3, 35.5, 2.4), neck_mm / 2.0)
        field = np.minimum(field, rod)
    return bone, shapes.volume(field, affine)


@pytest.fixture(scope="module")
def apart():
    whole, slotted = with_slot(0.0)
    return slotted, build_solid(slotted, shapes.vertebra_plan(whole), settings=COARSE)


def test_a_thick_process_behind_a_thin_neck_is_kept():
    whole, slotted = with_slot(0.8)
    solid = build_solid(slotted, shapes.vertebra_plan(whole), settings=COARSE)
    assert solid.outer_vertices[:, 0].max() > 40.0
    assert solid.lost == ()
    assert solid.measures["thin_necks_kept"] == 1
    check = check_model(solid.vertices, solid.faces, solid.plan, outer=slotted)
    assert check.failures == ()
    assert check.missing_ml < 0.02


def test_a_process_that_stands_apart_is_told_with_its_place_and_size(apart):
    bone, solid = apart
    (piece,) = solid.lost
    dropped = (bone.values < 0) & (shapes.grid([44, 48, 24], 0.4, (0, 18, 0))[1] > CUT_X)
    assert piece.volume_ml == pytest.approx(float(dropped.sum()) * 0.4**3 / 1000.0, rel=0.03)
    assert solid.measures["dropped_ml"] == pytest.approx(piece.volume_ml, abs=0.02)
    (sentence,) = warnings_about(solid.lost, solid.plan)
    assert f"{piece.volume_ml:.2f} mL" in sentence
    assert "32 mm left, 36 mm behind" in sentence
    assert "Paint a bridge" in sentence
    assert "were left out" in failure_about(solid.lost, 0.5)


def test_the_self_check_misses_the_process_by_itself(apart):
    bone, solid = apart
    check = check_model(solid.vertices, solid.faces, solid.plan, outer=bone)
    assert check.missing_ml == pytest.approx(solid.lost[0].volume_ml, rel=0.1)
    assert check.surface_p99_mm < 0.3
    assert any("missing from the model" in failure for failure in check.failures)


def test_a_whole_bone_loses_and_misses_nothing():
    bone = shapes.vertebra(step=0.6)
    solid = build_solid(bone, shapes.vertebra_plan(bone), settings=COARSE)
    assert solid.lost == ()
    assert solid.measures["thin_necks_kept"] == 0
    assert check_model(solid.vertices, solid.faces, solid.plan, outer=bone).missing_ml < 0.02


def test_only_what_joins_two_large_bodies_is_a_neck():
    kept = np.zeros((12, 12, 30), dtype=bool)
    thin = np.zeros_like(kept)
    kept[2:10, 2:10, 2:10] = kept[2:10, 2:10, 14:22] = True
    kept[5, 5, 26] = True
    thin[5, 5, 10:14] = True  # between the two
    thin[5, 5, 22:26] = True  # to a crumb
    thin[5, 1, 4] = True  # a spike
    assert np.argwhere(necks(kept, thin, 100)).tolist() == [[5, 5, x] for x in range(10, 14)]
    assert not necks(kept, thin, 10_000).any()


def test_pieces_are_sorted_and_crumbs_left_out():
    lost = np.zeros((10, 10, 20), dtype=bool)
    lost[1:3, 1:3, 1:3] = True
    lost[2:8, 2:8, 10:16] = True
    lost[0, 0, 19] = True
    found = lost_pieces(lost, np.array([100.0, 0.0, -50.0]), 1.0, 0.005)
    assert [p.volume_ml for p in found] == pytest.approx([0.216, 0.008])
    assert found[0].centre == pytest.approx((112.5, 4.5, -45.5))
    assert failure_about(found, 0.5) is None


def test_a_place_in_words():
    plan = shapes.simple_plan()
    assert place_of((-3.2, -20.0, 0.1), plan) == "3 mm right, 20 mm in front (from the middle of the body)"
    assert "0.70 mL of bone, 9 mm above" in warnings_about([LostPiece(0.7, (0.0, 0.0, 9.0))], plan)[0]
