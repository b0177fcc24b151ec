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


def cover(triangles: Array, width: int, height: int) -> Iterator[tuple[Ints, Ints, Ints, Array]]:
    """Which pixel centres each triangle covers.

    Parameters
    ----------
    triangles : (M, 3, 2) corner positions (column, row) in pixels; the centre of pixel (c, r) is at (c, r).

    Yields
    ------
    (triangle, column, row, weights (N, 3)) in chunks, in triangle order; `weights` are barycentric.
    """
    low = np.ceil(np.clip(triangles.min(axis=1), 0, [width, height])).astype(np.int64)
    high = np.floor(np.clip(triangles.max(axis=1), -1, [width - 1, height - 1])).astype(np.int64)
    span = np.maximum(high - low + 1, 0)
    counts = span[:, 0] * span[:, 1]
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    area = _cross(b - a, c - a)
    counts[np.abs(area) < 1e-12] = 0
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        which = np.repeat(np.arange(first, last), counts[first:last])
        local = np.arange(len(which)) - np.repeat(
            ends[first:last] - counts[first:last] - done, counts[first:last]
        )
        column = low[which, 0] + local % np.maximum(span[which, 0], 1)
        row = low[which, 1] + local // np.maximum(span[which, 0], 1)
        point = np.stack([column, row], axis=1).astype(np.float64)
        w0 = _cross(c[which] - b[which], point - b[which]) / area[which]
        w1 = _cross(a[which] - c[which], point - c[which]) / area[which]
        weights = np.stack([w0, w1, 1.0 - w0 - w1], axis=1)
        inside = (weights >= 0).all(axis=1)
        yield which[inside], column[inside], row[inside], weights[inside]
        first = last


def _cross(u: Array, v: Array) -> Array:
    return np.asarray(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])


def voxelise(mesh: Mesh, origin: Array, step_mm: float, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels (K, J, I) whose centre lies inside the mesh, by counting signed crossings along z.

    Rays are set off the grid by an irrational fraction of a micrometre, so that none runs along an edge.
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
