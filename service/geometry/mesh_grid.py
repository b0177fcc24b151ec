"""Signed distance of closed triangle meshes on a grid."""

from __future__ import annotations

import cc3d
import edt
import igl
import numpy as np
from numpy.typing import NDArray

from service.geometry.evidence import Evidence
from service.geometry.parallel import WORKERS

Array = NDArray[np.float64]

#: Beyond this (mm) nothing asks how far away a surface is.
FAR_MM = 12.0


def inside_grid(index: Array, faces: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which voxels (Z, Y, X) lie inside a closed mesh given in fractional (i, j, k) coordinates.

    Signed crossings along z are summed (winding number), so folds of the mesh over itself do not turn
    inside out, as they would with plain parity.
    """
    # Columns are shifted by an odd fraction so that no vertex or edge lies exactly on one.
    corners = index[faces] + np.array([3.1415e-5, 2.7182e-5, 0.0])
    low = np.ceil(corners[:, :, :2].min(axis=1)).astype(np.int64)
    high = np.floor(corners[:, :, :2].max(axis=1)).astype(np.int64)
    low, high = np.maximum(low, 0), np.minimum(high, [shape[2] - 1, shape[1] - 1])
    size = np.maximum(high - low + 1, 0)
    count = size[:, 0] * size[:, 1]
    face = np.repeat(np.arange(len(faces)), count)
    order = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    x = low[face, 0] + order % np.maximum(size[face, 0], 1)
    y = low[face, 1] + order // np.maximum(size[face, 0], 1)
    a, b, c = (corners[face, n] for n in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    area = np.where(np.abs(area) < 1e-12, np.nan, area)
    u = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    v = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    w = 1.0 - u - v
    hit = (u >= 0) & (v >= 0) & (w >= 0)
    height = (u * a[:, 2] + v * b[:, 2] + w * c[:, 2])[hit]
    first = np.clip(np.ceil(height), 0, shape[0]).astype(np.int64)
    flat = (first * shape[1] + y[hit]) * shape[2] + x[hit]
    crossing = np.bincount(flat, weights=-np.sign(area[hit]), minlength=(shape[0] + 1) * shape[1] * shape[2])
    winding = np.cumsum(crossing.reshape(shape[0] + 1, shape[1], shape[2])[:-1], axis=0)
    return np.asarray(winding > 0.5)


def grid_signed_distance(
    vertices: Array, faces: NDArray[np.int32], evidence: Evidence, *, exact_band_mm: float = 0.0
) -> NDArray[np.float32]:
    """Signed distance (mm, negative inside) of a closed mesh in LPS on the evidence's grid.

    Good to about half a voxel and capped outside at `FAR_MM`; within `exact_band_mm` of the surface exact.
    """
    index = evidence.index_of(vertices)
    reach = FAR_MM / evidence.step_mm
    low = np.maximum(np.floor(index.min(axis=0) - reach), 0).astype(int)
    high = np.minimum(np.ceil(index.max(axis=0) + reach) + 1, evidence.hu.shape[::-1]).astype(int)
    whole = np.full(evidence.hu.shape, FAR_MM, dtype=np.float32)
    if np.any(high <= low):
        return whole
    inside = inside_grid(index - low, faces, tuple(int(n) for n in (high - low)[::-1]))
    distance = np.minimum(signed_edt(inside, (evidence.step_mm,) * 3), FAR_MM)
    if exact_band_mm > 0.0:
        k, j, i = np.nonzero(np.abs(distance) < exact_band_mm)
        points = evidence.origin + evidence.step_mm * (np.column_stack([i, j, k]) + low)
        exact = point_mesh_distance(points, vertices, faces)
        distance[k, j, i] = np.where(inside[k, j, i], -exact, exact)
    whole[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = distance
    return whole


def signed_edt(inside: NDArray[np.bool_], spacing_zyx: tuple[float, ...]) -> NDArray[np.float32]:
    """Signed distance of a voxel mask, mm, negative inside, zero half-way between unlike voxels."""
    if not inside.any():
        return np.full(inside.shape, 1e3, dtype=np.float32)
    # Two labels in one pass: the distance of each voxel to the nearest one of the other.
    label = np.ascontiguousarray(inside).view(np.uint8) + np.uint8(1)
    distance = _edt(label, spacing_zyx)
    distance -= np.float32(0.5 * min(spacing_zyx))
    return np.negative(distance, out=distance, where=inside)


def unsigned_edt(inside: NDArray[np.bool_], spacing_zyx: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance of each voxel inside to the nearest one outside, mm; zero outside."""
    # The same bytes read as numbers take the library's faster way: 2.7 times for the same distances.
    return _edt(np.ascontiguousarray(inside).view(np.uint8), spacing_zyx)


def _edt(labels: NDArray[np.uint8], spacing_zyx: tuple[float, ...]) -> NDArray[np.float32]:
    found = edt.edt(labels, anisotropy=spacing_zyx, black_border=False, parallel=WORKERS)
    return np.asarray(found, dtype=np.float32)


def without_holes(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The solid with every hole filled from which no face-connected way leads to the edge of the grid."""
    air = np.pad(~solid, 1, constant_values=True)
    labels = cc3d.connected_components(air, connectivity=6)
    return np.asarray((labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1])


def point_mesh_distance(points: Array, vertices: Array, faces: NDArray[np.int32]) -> Array:
    """(N,) unsigned distances of points (N, 3) to a triangle mesh."""
    return nearest_on_mesh(points, vertices, faces)[0]


def nearest_on_mesh(
    points: Array, vertices: Array, faces: NDArray[np.int32]
) -> tuple[Array, NDArray[np.int64]]:
    """(N,) unsigned distances of points (N, 3) to a triangle mesh, and (N,) the face each is nearest to."""
    square, face, _ = igl.point_mesh_squared_distance(
        np.ascontiguousarray(points, dtype=np.float64),
        np.ascontiguousarray(vertices, dtype=np.float64),
        np.ascontiguousarray(faces, dtype=np.int64),
    )
    return np.sqrt(square), np.asarray(face, dtype=np.int64)
