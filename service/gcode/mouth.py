"""Where a hole opens on the part: the plane through its rim, measured on the mesh the file was made from.

A hole may leave a sloping surface. What lies in front of that slope is outside of the part, even where it is deeper
along the hole's axis than the mouth itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.gcode.reader import FloatArray
from service.geometry.mesh import Mesh, SurfaceIndex

_BESIDE_MM = 0.3
"""So far outside the hole's wall the surface is felt: beyond the edge and its small faces."""
_RAYS = 24
_FROM_MM = 6.0
_STEEPEST = 1.0
"""A rim is taken to rise or fall by at most this times its radius: further off is another surface (45 degrees)."""
_LEAST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Rim:
    """The plane of a mouth: it meets the axis `height_mm` outward of the mouth; `normal` (3,) is a unit vector."""

    height_mm: float
    normal: FloatArray


def flat_rim(outward: FloatArray) -> Rim:
    """A mouth square to its axis."""
    return Rim(0.0, outward)


def rim_of(mouth: FloatArray, outward: FloatArray, radius_mm: float, corners: FloatArray) -> Rim:
    """Feel the surface round a mouth by rays along the axis and lay a plane through what they meet.

    Parameters
    ----------
    mouth, outward : (3,) a point on the axis near the surface, and the way out (unit vector).
    corners : triangles (F, 3, 3) of the part in the same coordinates, mm.

    A mouth with no surface round more than half of it (at an edge of the part) is taken as square.
    """
    across = np.cross(outward, np.eye(3)[int(np.argmin(np.abs(outward)))])
    u = across / np.linalg.norm(across)
    v = np.cross(outward, u)
    ring = radius_mm + _BESIDE_MM
    reach = np.hypot(ring, _FROM_MM) + _BESIDE_MM
    low, high = corners.min(axis=1) - mouth, corners.max(axis=1) - mouth
    near = corners[((low < reach) & (high > -reach)).all(axis=1)]
    if not len(near):
        return flat_rim(outward)
    angles = np.linspace(0.0, 2.0 * np.pi, _RAYS, endpoint=False)
    x, y = ring * np.cos(angles), ring * np.sin(angles)
    origins = mouth + x[:, None] * u + y[:, None] * v + _FROM_MM * outward
    faces = np.arange(3 * len(near), dtype=np.int64).reshape(-1, 3)
    _, far = SurfaceIndex(Mesh(near.reshape(-1, 3), faces)).first_hit(origins, np.tile(-outward, (_RAYS, 1)))
    height = _FROM_MM - far
    met = np.abs(height) <= _STEEPEST * ring
    if met.sum() < _LEAST_SHARE * _RAYS:
        return flat_rim(outward)
    design = np.column_stack([np.ones(met.sum()), x[met], y[met]])
    (level, along_u, along_v), *_ = np.linalg.lstsq(design, height[met], rcond=None)
    normal = outward - along_u * u - along_v * v
    return Rim(float(level), np.asarray(normal / np.linalg.norm(normal)))
