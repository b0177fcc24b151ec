"""Triangles to pixels: the common ground of the software renderer and of the voxel view of a finished mesh."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.geometry.mesh import Mesh

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Candidate pixels handled at once; bounds the memory to some hundred MB.
_CHUNK = 2_000_000
#: A pixel centre that lies on an edge but for rounding belongs to both triangles, so that no gap opens between them.
#: Right for pictures, where the nearer one is drawn; whoever counts what is covered counts such a pixel twice and must
#: keep pixel centres off the edges, as `voxelise` does.
_ON_EDGE = 1e-9


def cover(triangles: Array, width: int, height: int) -> Iterator[tuple[Ints, Ints, Ints, Array]]:
    """Which pixel centres each triangle covers.

    Parameters
    ----------
    triangles : (M, 3, 2) corner positions (column, row) in pixels; the centre of pixel (c, r) is at (c, r).

    Yields
    ------
    (triangle, column, row, weights (N, 3)) in chunks, in triangle order; `weights` are barycentric.
    """
    size = np.array([width, height])
    low = np.ceil(np.clip(triangles.min(axis=1), 0, size)).astype(np.int64)
    high = np.floor(np.clip(triangles.max(axis=1), -1, size - 1)).astype(np.int64)
    box = np.maximum(high - low + 1, 0)
    rise, fall, start = _planes(triangles)
    # Row by row, as most of a triangle's box lies beside it.
    lines = np.where(np.isfinite(rise).all(axis=1), box[:, 1], 0)
    ends = np.cumsum(lines * box[:, 0])
    first = 0
    while first < len(lines):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        which, step = _counted(lines[first:last], first)
        row = low[which, 1] + step
        yield _along_rows(which, row, rise[which], start[which] + fall[which] * row[:, None], width)
        first = last


def _planes(triangles: Array) -> tuple[Array, Array, Array]:
    """(M, 2) each: the first two barycentric weights' change with column and with row, and their value at (0, 0)."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    area = _cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, np.nan, area)[:, None]
    along = np.stack([c - b, a - c], axis=1)
    rise, fall = -along[:, :, 1] / area, along[:, :, 0] / area
    # Measured from a corner each, where the weight is zero: large coordinates cost no digits twice.
    start = -(rise * np.stack([b[:, 0], c[:, 0]], axis=1) + fall * np.stack([b[:, 1], c[:, 1]], axis=1))
    return rise, fall, start


def _along_rows(
    which: Ints, row: Ints, rise: Array, start: Array, width: int
) -> tuple[Ints, Ints, Ints, Array]:
    """The pixels of each triangle's rows; `start` (N, 2): the weights at column 0 of the row."""
    slopes = np.column_stack([rise, -rise.sum(axis=1)])
    values = np.column_stack([start, 1.0 - start.sum(axis=1)])
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -values / slopes
    # A little more than asked, as the test below decides.
    from_ = np.where(slopes > 0, crossing, -np.inf).max(axis=1) - 1e-6
    to = np.where(slopes < 0, crossing, np.inf).min(axis=1) + 1e-6
    low = np.ceil(np.clip(from_, 0, width)).astype(np.int64)
    high = np.floor(np.clip(to, -1, width - 1)).astype(np.int64)
    line, step = _counted(np.maximum(high - low + 1, 0), 0)
    column = low[line] + step
    first, second = (start[line, n] + rise[line, n] * column for n in (0, 1))
    weights = np.stack([first, second, 1.0 - first - second], axis=1)
    inside = weights.min(axis=1) >= -_ON_EDGE
    line = line[inside]
    return which[line], column[inside], row[line], weights[inside]


def _counted(counts: Ints, first: int) -> tuple[Ints, Ints]:
    """For `counts` (M,) things of each of M owners, numbered from `first`: the owner of each, and its number there."""
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner + first, number


def _cross(u: Array, v: Array) -> Array:
    return np.asarray(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])


def voxelise(mesh: Mesh, origin: Array, step_mm: float, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels (K, J, I) whose centre lies inside the mesh, by counting signed crossings along z.

    Rays are set off the grid by irrational parts of a micrometre (some 1e-5 mm), so that none runs along an edge: the
    sum of crossings needs each to be counted exactly once, but `cover` gives a pixel on an edge to both triangles.
    That move is all that keeps surfaces that lie on voxel centres right; it must stay well above `_ON_EDGE`.
    """
    nudge = np.array([np.sqrt(2.0), np.sqrt(3.0), 0.0]) * 1e-5
    corners = (mesh.corners - origin - nudge) / step_mm
    crossings = np.zeros(shape, dtype=np.int16)
    flat = crossings.reshape(-1)
    upward = np.sign(_cross(corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]))
    for which, column, row, weights in cover(corners[:, :, :2], shape[2], shape[1]):
        z = np.einsum("ij,ij->i", weights, corners[which, :, 2])
        k = np.clip(np.ceil(z).astype(np.int64), 0, shape[0] - 1)
        index = (k * shape[1] + row) * shape[2] + column
        np.add.at(flat, index, -upward[which].astype(np.int16))
    return np.asarray(np.cumsum(crossings, axis=0, dtype=np.int16) > 0)
