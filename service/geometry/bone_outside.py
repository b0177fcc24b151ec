"""The outside of the bone as it was isolated from the CT, and where a model differs from it on purpose.

Frame: patient LPS, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan
from service.geometry.fields import segment_distance
from service.geometry.marking import Mark
from service.geometry.mesh import Mesh, largest_body, mesh_of_field
from service.geometry.volume import Array, Volume

_BEFORE_ENTRY_MM = 15.0
_BEFORE_VENT_MM, _BEHIND_VENT_MM = 3.0, 8.0


def bone_mesh(outer: Volume) -> Mesh:
    """The surface of a signed distance (`Isolation.outer`, negative inside): its largest body, LPS mm.

    Raises GeometryError when nothing is inside.
    """
    in_voxels = mesh_of_field(np.asarray(outer.values, dtype=np.float32), np.zeros(3), 1.0)
    placed = Mesh(outer.to_lps(in_voxels.vertices), in_voxels.faces)
    if placed.volume_mm3() < 0:  # axes that point the other way, as a file may hold them, mirror the winding
        placed = Mesh(placed.vertices, np.ascontiguousarray(placed.faces[:, ::-1]))
    return largest_body(placed)


def altered(
    points: NDArray[Any], plan: Plan, marks: Sequence[Mark], margin_mm: float, *, sleeve: bool
) -> NDArray[np.bool_]:
    """Which of (N, 3) LPS points lie near a channel (with its sleeve), a vent or a mark: no bone there in a model."""
    points = np.asarray(points, dtype=np.float64)
    near = np.zeros(len(points), dtype=bool)
    for mark in marks:
        near |= mark.covers(points, margin_mm)
    extra = plan.model.sleeve_wall_mm if sleeve else 0.0
    for path in plan.trajectories:
        entry, target = np.array(path.entry), np.array(path.target)
        axis: Array = (target - entry) / np.linalg.norm(target - entry)
        reach = plan.model.channel_diameter_mm / 2.0 + extra + margin_mm
        near |= segment_distance(points, entry - _BEFORE_ENTRY_MM * axis, target) < reach
    for vent in plan.model.vents:
        position, direction = np.array(vent.position), np.array(vent.direction)
        ends = position + _BEFORE_VENT_MM * direction, position - _BEHIND_VENT_MM * direction
        near |= segment_distance(points, *ends) < vent.diameter_mm / 2.0 + margin_mm
    return near
