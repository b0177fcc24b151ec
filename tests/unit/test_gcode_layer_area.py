"""Cross-sections by layer against solids whose areas are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from service.gcode.layer_area import layer_areas

LAYER_MM = 0.2


def corners(*meshes: trimesh.Trimesh) -> np.ndarray:
    return np.concatenate([np.asarray(mesh.triangles, float) for mesh in meshes])


def resting(mesh: trimesh.Trimesh, at=(0.0, 0.0)) -> trimesh.Trimesh:
    mesh.apply_translation([*at, -mesh.bounds[0][2]])
    return mesh


def test_a_box_anywhere_on_the_plate():
    areas = layer_areas(corners(resting(trimesh.creation.box((7, 5, 3)), at=(30, -40))), LAYER_MM)
    assert areas == pytest.approx(np.full(15, 35.0))


def test_a_cavity_is_a_hole():
    inner = trimesh.creation.box((4, 2, 1))
    inner.invert()
    inner.apply_translation((0, 0, 1.5))
    areas = layer_areas(corners(resting(trimesh.creation.box((7, 5, 3))), inner), LAYER_MM)
    inside = np.arange(15) * LAYER_MM + 0.1
    assert areas == pytest.approx(np.where((inside > 1) & (inside < 2), 27.0, 35.0))


def test_a_sphere_layer_by_layer():
    areas = layer_areas(corners(resting(trimesh.creation.icosphere(5, radius=10.0))), LAYER_MM)
    # the facets lie a little inside the sphere
    height = (np.arange(100) + 0.5) * LAYER_MM - 10.0
    assert areas == pytest.approx(np.pi * (100.0 - height**2), rel=2e-3, abs=0.2)


def test_planes_through_corners_are_met_once():
    """Corners in the very middle of layers: the outline must neither break nor count twice."""
    cone = trimesh.creation.cone(radius=4.0, height=2.1, sections=90)
    fine = resting(cone.subdivide().subdivide())
    fine.vertices[:, 2] = np.round(fine.vertices[:, 2] / 0.1) * 0.1
    areas = layer_areas(corners(fine), LAYER_MM)
    assert (areas >= 0).all()
    assert areas.sum() * LAYER_MM == pytest.approx(fine.volume, rel=0.02)


def test_nothing_is_no_layer():
    assert layer_areas(np.empty((0, 3, 3)), LAYER_MM).size == 0
