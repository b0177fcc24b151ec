"""The bone's outside from a signed distance, and where a model differs from it on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from service.domain.plan import ModelSettings, Plan, Trajectory, Vent, VertebraFrame
from service.errors import GeometryError
from service.geometry.bone_outside import altered, bone_mesh
from service.geometry.volume import Volume

PATH = Trajectory("left", (20.0, 40.0, 5.0), (5.0, 0.0, 0.0), 5.0, 20.0, 2.0)
FRAME = VertebraFrame((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
VENT = Vent((500.0, 0.0, 0.0), (1.0, 0.0, 0.0), 3.4)
MODEL = ModelSettings(channel_diameter_mm=2.8, sleeve_wall_mm=2.0, vents=(VENT,))
PLAN = Plan("L1", "1.2.3", FRAME, (0.0, 0.0, 0.0), (PATH,), MODEL)


def ball(centre: tuple[float, float, float], radius_mm: float, affine: np.ndarray) -> Volume:
    k, j, i = np.indices((40, 42, 44))
    empty = Volume(np.zeros((40, 42, 44), np.float32), affine)
    points = empty.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    distance = np.linalg.norm(points - np.array(centre), axis=1) - radius_mm
    return Volume(distance.reshape(40, 42, 44).astype(np.float32), affine)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, 1), (1, 1, -1)], ids=str)
def test_the_surface_is_closed_looks_outward_and_lies_in_the_patient(signs: tuple[int, int, int]) -> None:
    affine = np.diag([0.5 * s for s in signs] + [1.0])
    affine[:3, 3] = (30.0, -10.0, 4.0)
    x, y, z = (0.5 * s * 20 for s in signs)
    centre = (30.0 + x, -10.0 + y, 4.0 + z)
    mesh = bone_mesh(ball(centre, 6.0, affine))
    assert mesh.volume_mm3() == pytest.approx(4.0 / 3.0 * np.pi * 6.0**3, rel=0.01)
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), centre, atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - centre, axis=1), 6.0, atol=0.05)


def test_crumbs_beside_the_bone_are_no_surface_of_it() -> None:
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    bone, crumb = ball((7.0, 10.0, 10.0), 5.0, affine), ball((18.0, 10.0, 10.0), 1.5, affine)
    both = Volume(np.minimum(bone.values, crumb.values), affine)
    assert bone_mesh(both).vertices[:, 0].max() < 12.5


def test_an_empty_volume_is_refused() -> None:
    with pytest.raises(GeometryError):
        bone_mesh(Volume(np.ones((8, 8, 8), np.float32), np.eye(4)))


def test_channels_sleeves_and_vents_are_set_apart() -> None:
    axis = np.subtract(PATH.target, PATH.entry)
    beside = np.cross(axis, [0.0, 0.0, 1.0])
    beside /= np.linalg.norm(beside)
    points = np.array(PATH.entry) + np.array([[0.0], [2.3], [2.5], [4.3], [4.5]]) * beside
    assert altered(points, PLAN, (), 1.0, sleeve=False).tolist() == [True, True, False, False, False]
    assert altered(points, PLAN, (), 1.0, sleeve=True).tolist() == [True, True, True, True, False]
    vent = np.array([[500.0, 2.6, 0.0], [500.0, 2.8, 0.0], [503.0, 0.0, 0.0], [520.0, 0.0, 0.0]])
    assert altered(vent, PLAN, (), 1.0, sleeve=False).tolist() == [True, False, True, False]
