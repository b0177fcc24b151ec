"""Which pixels a triangle covers: against the plain test of every pixel, and no gap where two triangles meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.geometry import raster

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
