"""Which pixels a triangle covers: against the plain test of every pixel, and no gap where two triangles meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.geometry import raster
from service.geometry.mesh import Mesh

WIDTH, HEIGHT = 37, 23
SQUARE = np.array([[3.0, 4.0], [19.0, 4.0], [19.0, 15.0], [3.0, 15.0]])


def covered(triangles: np.ndarray) -> tuple[np.ndarray, ...]:
    """(triangle, column, row, weights) of all chunks."""
    parts = list(raster.cover(triangles, WIDTH, HEIGHT))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def plainly(triangle: np.ndarray) -> set[tuple[int, int]]:
    """Every pixel whose centre is not outside any edge."""
    found = set()
    turn = np.sign(_cross(triangle[1] - triangle[0], triangle[2] - triangle[0]))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            sides = [
                turn * _cross(triangle[(n + 1) % 3] - triangle[n], np.array([column, row]) - triangle[n])
                for n in range(3)
            ]
            if turn and min(sides) >= 0:
                found.add((column, row))
    return found


def _cross(u: np.ndarray, v: np.ndarray) -> float:
    return float(u[0] * v[1] - u[1] * v[0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 4.0, 30.0]))
def test_the_pixels_of_any_triangle_are_those_of_the_plain_test(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    triangle = rng.uniform(-5, 40, (1, 2)) + rng.normal(0, size, (3, 2))
    which, column, row, weights = covered(triangle[None])
    assert set(zip(column.tolist(), row.tolist(), strict=True)) == plainly(triangle)
    assert not which.any() and len(set(zip(column, row, strict=True))) == len(column)
    places = weights @ triangle
    assert np.allclose(places, np.column_stack([column, row]), atol=1e-6)


def test_two_triangles_leave_no_gap_at_the_edge_they_share() -> None:
    halves = np.stack([SQUARE[[0, 1, 2]], SQUARE[[0, 2, 3]]])
    for shift in (0.0, 0.1, 1e-13):
        _, column, row, _ = covered(halves + shift)
        inside = {(c, r) for c in range(WIDTH) for r in range(HEIGHT) if 3.5 < c < 18.5 and 4.5 < r < 14.5}
        assert inside <= set(zip(column.tolist(), row.tolist(), strict=True))


def test_triangles_come_in_their_order_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    triangles = rng.uniform(0, 30, (60, 1, 2)) + rng.normal(0, 5, (60, 3, 2))
    whole = covered(triangles)
    monkeypatch.setattr(raster, "_CHUNK", 50)
    assert len(list(raster.cover(triangles, WIDTH, HEIGHT))) > 10
    for one, other in zip(covered(triangles), whole, strict=True):
        assert np.array_equal(one, other)
    assert (np.diff(whole[0]) >= 0).all()


def test_a_triangle_without_area_covers_nothing() -> None:
    line = np.array([[[2.0, 2.0], [10.0, 10.0], [6.0, 6.0]], [[4.0, 4.0]] * 3])
    assert len(covered(line)[0]) == 0


@pytest.mark.parametrize("step", [0.4, 0.5, 1.0])
def test_a_box_whose_faces_lie_on_voxel_centres_is_voxelised_exactly(step: float) -> None:
    """Every edge and diagonal runs through voxel centres, where `cover` alone would count a crossing twice."""
    low, high, shape = (4, 3, 2), (11, 9, 8), (14, 13, 16)  # x, y, z in voxels; (K, J, I)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    vertices = np.where(corners, high, low) * step
    faces = [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ]  # fmt: skip
    mesh = Mesh(vertices, np.array(faces))
    assert mesh.volume_mm3() == pytest.approx(7 * 6 * 6 * step**3)
    found = raster.voxelise(mesh, np.zeros(3), step, shape)
    # Of the faces themselves one of each pair is inside, so that touching boxes share no voxel and leave none out.
    assert found.sum() == 7 * 6 * 6
    k, j, i = np.nonzero(found)
    assert (i.max() - i.min() + 1, j.max() - j.min() + 1, k.max() - k.min() + 1) == (7, 6, 6)
    assert found[3:8, 4:9, 5:11].all()


def test_without_the_move_such_a_box_would_be_counted_wrong() -> None:
    """What the move protects from: a pixel on the diagonal of a face belongs to both of its triangles."""
    halves = np.array([[[0.0, 0.0], [8.0, 0.0], [8.0, 8.0]], [[0.0, 0.0], [8.0, 8.0], [0.0, 8.0]]])
    _, column, row, _ = covered(halves)
    _, times = np.unique(row * WIDTH + column, return_counts=True)
    assert times.max() == 2
