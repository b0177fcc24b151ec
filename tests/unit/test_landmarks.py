"""Frame and landmarks of an analytic vertebra, straight, tilted and wedged."""

from __future__ import annotations

import igl
import numpy as np
import pytest

from service.errors import GeometryError
from service.geometry.landmarks import find_landmarks
from service.geometry.templates import templates_for
from service.geometry.volume import Volume
from tests.unit.vertebra_model import ModelVertebra, tilted_axes


def degrees_between(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b), -1.0, 1.0))))


def test_what_lies_far_from_the_bone_is_not_asked() -> None:
    field = ModelVertebra(axes=tilted_axes(14, -8, 6)).field()
    wide = np.pad(field.values, 24, constant_values=float(field.values.max()))
    affine = field.lps_from_ijk.copy()
    affine[:3, 3] = field.to_lps(np.array([[-24.0, -24.0, -24.0]]))[0]
    near, far = find_landmarks(field, "L1"), find_landmarks(Volume(wide, affine), "L1")
    np.testing.assert_allclose(far.body_centre, near.body_centre, atol=1e-6)
    for one, other in zip(far.pedicles, near.pedicles, strict=True):
        np.testing.assert_allclose(one.centre, other.centre, atol=1e-6)


def test_a_crop_around_voxels_keeps_their_place_and_a_margin() -> None:
    there = np.zeros((10, 20, 30), dtype=bool)
    there[1:4, 10, 12:15] = True
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    affine[:3, 3] = (3.0, -4.0, 5.0)
    crop = Volume(there, affine).crop_around(there, 2.0)
    # 4 voxels of 0.5 mm to both sides, 2 of 1 mm, and 1 of 2 mm as far as there are any
    assert crop.values.shape == (5, 5, 11)
    np.testing.assert_allclose(crop.lps_from_ijk[:3, 3], (3.0 + 8 * 0.5, -4.0 + 8 * 1.0, 5.0 + 0 * 2.0))
    assert crop.values.sum() == there.sum()


@pytest.mark.parametrize("turn", [(0, 0, 0), (14, -8, 6), (-12, 9, -7)])
def test_frame_and_landmarks_follow_the_vertebra(turn: tuple[float, float, float]) -> None:
    axes = tilted_axes(*turn)
    model = ModelVertebra(axes=axes)
    found = find_landmarks(model.field(), "L1")
    assert degrees_between(found.frame.left, axes[:, 0]) < 1.5
    assert degrees_between(found.frame.anterior, -axes[:, 1]) < 1.5
    assert degrees_between(found.frame.superior, axes[:, 2]) < 1.0
    assert np.linalg.norm(found.body_centre - np.array(model.centre)) < 1.5
    local = (found.canal_centre - np.array(model.centre)) @ axes
    assert abs(local[0]) < 1.0
    assert 18.0 < local[1] < 36.0
    assert {p.side for p in found.pedicles} == {"left", "right"}
    for pedicle in found.pedicles:
        at = (pedicle.centre - np.array(model.centre)) @ axes
        sign = 1.0 if pedicle.side == "left" else -1.0
        assert at[0] == pytest.approx(sign * model.pedicle_x, abs=1.0)
        assert at[2] == pytest.approx(5.0, abs=1.2)
        assert pedicle.width_mm == pytest.approx(2 * model.pedicle_radius, abs=0.8)
        assert degrees_between(pedicle.axis, -axes[:, 1]) < 12.0
    for plate, side in ((found.upper_endplate, 1.0), (found.lower_endplate, -1.0)):
        assert plate.fitted
        assert degrees_between(plate.normal, axes[:, 2]) < 1.0
        assert ((plate.centre - np.array(model.centre)) @ axes)[2] == pytest.approx(side * 13.0, abs=0.4)
    assert found.height_mm["middle"] == pytest.approx(26.0, abs=0.5)


def test_wedge_shows_in_heights_and_plates_and_the_frame_stays_sensible() -> None:
    model = ModelVertebra(wedge=0.35)
    found = find_landmarks(model.field(), "L1")
    assert found.height_mm["anterior"] < 0.8 * found.height_mm["posterior"]
    tilt = np.degrees(np.arctan(0.35 * model.height / (2 * model.half_depth)))
    assert degrees_between(found.upper_endplate.normal, found.lower_endplate.normal) == pytest.approx(
        tilt, abs=2
    )
    # The mean of the two normals lies half-way (facts sheet, section 3).
    assert degrees_between(found.frame.superior, (0, 0, 1)) == pytest.approx(tilt / 2, abs=1.5)
    assert degrees_between(found.frame.left, (1, 0, 0)) < 1.0


def fifth_with_a_parted_arch() -> Volume:
    """The shipped L5 with a wide gap through its arch on the right: the upper process stands alone."""
    template = templates_for("L5", count=1)[0]
    half = np.array([50.0, 66.0, 34.0])
    z, y, x = np.meshgrid(*(np.arange(-h, h + 1.0) for h in half[::-1]), indexing="ij")
    values = igl.signed_distance(
        np.column_stack([x.ravel(), y.ravel(), z.ravel()]),
        template.vertices,
        template.faces.astype(np.int64),
        sign_type=igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER,
    )[0].reshape(x.shape)
    values[(x < -4.0) & (y > 22.0) & (np.abs(z - 7.0) < 6.0)] = 2.0
    affine = np.eye(4)
    affine[:3, 3] = -half
    return Volume(values.astype(np.float32), affine)


def test_a_process_that_stands_alone_behind_the_pedicle_is_not_taken_for_it() -> None:
    left, right = find_landmarks(fifth_with_a_parted_arch(), "L5").pedicles
    assert (left.side, right.side) == ("left", "right")
    assert right.centre * [-1, 1, 1] == pytest.approx(left.centre, abs=1.5)
    assert right.width_mm == pytest.approx(left.width_mm, abs=1.5)


def test_frame_is_right_handed() -> None:
    frame = find_landmarks(ModelVertebra().field(), "L2").frame
    assert np.allclose(np.cross(frame.left, frame.superior), frame.anterior, atol=1e-9)


def test_bone_without_a_canal_is_refused_in_words() -> None:
    k, j, i = np.indices((60, 60, 60))
    ball = np.sqrt((i - 30.0) ** 2 + (j - 30.0) ** 2 + (k - 30.0) ** 2) - 20.0
    with pytest.raises(GeometryError, match="canal"):
        find_landmarks(Volume(ball.astype(np.float32), np.eye(4)), "L1")
    with pytest.raises(GeometryError, match="empty"):
        find_landmarks(Volume(np.full((9, 9, 9), 4.0, dtype=np.float32), np.eye(4)), "L1")
