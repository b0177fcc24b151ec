"""Cross-sections of a closed mesh, layer by layer: what each printed layer has to fill."""

from __future__ import annotations

import numpy as np

from service.gcode.reader import FloatArray, IntArray


def layer_areas(corners: FloatArray, layer_mm: float) -> FloatArray:
    """Area (mm2) of the body in the middle of each layer, from z = 0 to its top; cavities count as holes.

    `corners` (F, 3, 3) are the triangles of a closed mesh with outward winding, in mm. The areas follow from the
    outlines by Gauss.
    """
    count = _layer_count(corners, layer_mm)
    plane, p, q = layer_outlines(corners, layer_mm)
    pieces = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]) / 2.0
    return np.asarray(np.bincount(plane, pieces, minlength=count), dtype=np.float64)


def layer_outlines(corners: FloatArray, layer_mm: float) -> tuple[IntArray, FloatArray, FloatArray]:
    """The outline of the body in the middle of each layer: layer (N), and pieces from p (N, 2) to q (N, 2), mm.

    Every triangle that crosses a plane gives one piece, with the body on the left of a walk from p to q.
    """
    z = corners[:, :, 2]
    order = np.argsort(z, axis=1)
    low, middle, high = (np.take_along_axis(corners, order[:, i, None, None], axis=1)[:, 0] for i in range(3))
    count = _layer_count(corners, layer_mm)
    # plane k is at (k + 1/2) layers; half-open, so that a plane through a corner is met exactly once
    first = np.ceil(low[:, 2] / layer_mm - 0.5).astype(np.int64).clip(0, count)
    stop = np.ceil(high[:, 2] / layer_mm - 0.5).astype(np.int64).clip(0, count)
    times = stop - first
    which = np.repeat(np.arange(len(corners)), times)
    plane = np.arange(which.size) - np.repeat(np.cumsum(times) - times, times) + first[which]
    height = (plane + 0.5) * layer_mm
    a, b, c = low[which], middle[which], high[which]
    below = height < b[:, 2]
    p = _at(a, c, height)
    q = np.where(below[:, None], _at(a, b, height), _at(b, c, height))
    # the body is on the left of a walk along z x n, with n the outward normal
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[which, :2]
    walk = (q[:, 1] - p[:, 1]) * normal[:, 0] - (q[:, 0] - p[:, 0]) * normal[:, 1]
    back = (walk < 0)[:, None]
    return plane, np.where(back, q, p), np.where(back, p, q)


def _layer_count(corners: FloatArray, layer_mm: float) -> int:
    return max(0, int(np.ceil(float(corners[:, :, 2].max()) / layer_mm - 1e-6))) if len(corners) else 0


def _at(start: FloatArray, end: FloatArray, height: FloatArray) -> FloatArray:
    """Points (N, 2) of the edges start-end at the given heights; level edges give their start."""
    rise = end[:, 2] - start[:, 2]
    share = np.where(rise > 0, (height - start[:, 2]) / np.where(rise > 0, rise, 1.0), 0.0)
    point: FloatArray = start[:, :2] + share[:, None] * (end[:, :2] - start[:, :2])
    return point
