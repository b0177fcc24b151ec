"""Where the printed surface will lie and how thick the walls will be, measured along the mesh's own normals.

Print coordinates, mm. Distances are positive where more is printed than the mesh has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gcode.printed_grid import Filling, Grid
from service.gcode.reader import FloatArray, IntArray
from service.geometry.parallel import in_threads

#: A surface further off than this is not looked for: the distance stands at the limit.
REACH_MM = 1.5
_STEP_MM = 0.05
_DEEPEST_MM = 4.5
_GAP_MM = 0.4
_HALF = 0.5
_SAMPLES_AT_ONCE = 1000


@dataclass(frozen=True)
class Samples:
    """Points (N, 3) on the mesh, each for the same area, with outward unit normals (N, 3) and their triangle (N)."""

    points: FloatArray
    normals: FloatArray
    face: IntArray


def sample_mesh(corners: FloatArray, count: int) -> Samples:
    """`count` points spread evenly over the area of the triangles (F, 3, 3); the same every time."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.linalg.norm(cross, axis=1)
    ends = np.cumsum(double)
    face = np.searchsorted(ends, (np.arange(count) + 0.5) * (ends[-1] / count))
    face = np.minimum(face, len(corners) - 1)
    # additive sequence of the plastic number: even in two dimensions (Roberts 2018)
    number = np.arange(1, count + 1)
    u, v = (number * 0.7548776662466927) % 1.0, (number * 0.5698402909980532) % 1.0
    over = u + v > 1.0
    u, v = np.where(over, 1.0 - u, u)[:, None], np.where(over, 1.0 - v, v)[:, None]
    a, b, c = (corners[face, i] for i in range(3))
    return Samples(
        a + u * (b - a) + v * (c - a), cross[face] / np.maximum(double[face], 1e-12)[:, None], face
    )


def surface_offsets(filling: Filling, grid: Grid, samples: Samples) -> FloatArray:
    """Distance (N) from each sample along its normal to the nearest place where filled turns to empty, mm.

    +`REACH_MM` where all is filled (a hole that is closed), -`REACH_MM` where nothing is (a wall that is missing).
    """
    at = np.arange(-REACH_MM, REACH_MM + _STEP_MM / 2, _STEP_MM)
    values = _along(filling, grid, samples, at)
    full = values >= _HALF
    ending = full[:, :-1] & ~full[:, 1:]
    before, after = values[:, :-1], values[:, 1:]
    drop = np.where(ending, before - after, 1.0)
    where = at[:-1] + _STEP_MM * (before - _HALF) / drop
    best = np.argmin(np.where(ending, np.abs(where), np.inf), axis=1)
    found = np.take_along_axis(where, best[:, None], axis=1)[:, 0]
    middle = full[:, at.size // 2]
    return np.where(ending.any(axis=1), found, np.where(middle, REACH_MM, -REACH_MM))


def wall_thickness(filling: Filling, grid: Grid, samples: Samples) -> FloatArray:
    """Filled depth (N) inward from each sample, mm; NaN where it does not end within 4.5 mm, 0 where nothing is.

    Gaps between lines of up to 0.4 mm do not end a wall.
    """
    at = np.arange(0.0, _DEEPEST_MM + _GAP_MM, _STEP_MM)
    full = _along(filling, grid, samples, -at) >= _HALF
    gap = round(_GAP_MM / _STEP_MM)
    # the wall begins where it is first filled, at most a gap below the mesh, and ends where a whole gap is empty
    counted = np.cumsum(np.pad(full, ((0, 0), (1, gap))), axis=1)
    empty: NDArray[np.bool_] = (counted[:, gap:] - counted[:, :-gap] == 0)[
        :, : at.size
    ]  # `gap` steps from each on
    begin = np.argmax(full, axis=1)
    ends = empty & (np.arange(at.size) > begin[:, None])
    end = np.argmax(ends, axis=1)
    thickness = np.where(ends.any(axis=1) & (end <= at.size - gap), (end - begin) * _STEP_MM, np.nan)
    return np.where(full[:, : gap + 1].any(axis=1), thickness, 0.0)


def _along(filling: Filling, grid: Grid, samples: Samples, at: FloatArray) -> NDArray[np.float32]:
    """Filled share (N, len(at)) at the distances `at` from each sample along its normal, mm; on both cores."""

    def some(first: int) -> NDArray[np.float32]:
        rows = slice(first, first + _SAMPLES_AT_ONCE)
        points = samples.points[rows, None, :] + at[None, :, None] * samples.normals[rows, None, :]
        return grid.values_at(filling, points)

    count = len(samples.points)
    return np.concatenate(in_threads(some, range(0, max(count, 1), _SAMPLES_AT_ONCE)))
