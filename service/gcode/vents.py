"""Is a vent open in the printed lines? A hole through the wall, measured over the wall's depth only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.gcode.channel import MOUTH_STEP_MM, Beads, Point, cut_along
from service.gcode.expected import ExpectedPrint, Finding
from service.gcode.mouth import Rim, flat_rim
from service.gcode.reader import FloatArray

_OUTSIDE_MM = 1.0
_BEHIND_WALL_MM = 1.0
_WALL_SEARCH_MM = 1.5
_STATION_MM = 0.25
_WALLED_LEAST = 0.5


@dataclass(frozen=True)
class VentHole:
    """A straight round hole: `mouth` on the outer surface, `outward` a unit vector, print coordinates, mm.

    `depth_mm` is how far the wall reaches inward from the mouth.
    """

    mouth: Point
    outward: Point
    radius_mm: float
    depth_mm: float


@dataclass(frozen=True)
class VentOpenness:
    """`free_radius` (mm): from the axis to the edge of the nearest line, inf when none is near; `line`: its number.

    Looked at are lines from 1 mm outside to 1 mm behind the wall; support and brim, which come off, from a layer's
    step behind the rim of the mouth. `walled_fraction`: share of the wall's depth with the part round the hole.
    """

    free_radius: float
    line: int
    walled_fraction: float


def vent_openness(vent: VentHole, lines: Beads, rim: Rim | None = None) -> VentOpenness:
    """Measure one vent. Every line in it counts: of the part, supports, brim and the cavity's filler.

    `rim` is where it opens (`rim_of`); without it the mouth is square to the axis.
    """
    outward = np.asarray(vent.outward, float)
    rim = rim or flat_rim(outward)
    mouth = np.asarray(vent.mouth, float) + rim.height_mm * outward
    low, high = -(vent.depth_mm + _BEHIND_WALL_MM), _OUTSIDE_MM
    reach = vent.radius_mm + _WALL_SEARCH_MM + 1.0 + max(high, -low)
    near = (
        np.abs((lines.start + lines.end) / 2.0 - mouth).max(axis=1) < reach + _longest_half(lines)
    ).nonzero()[0]
    start, end, deep = cut_along(
        lines.start[near] - mouth, lines.end[near] - mouth, outward, low, np.full(len(near), high)
    )
    behind_rim = np.where(lines.comes_off[near], -MOUTH_STEP_MM, np.inf)
    start, end, inside = cut_along(start, end, rim.normal, -np.inf, behind_rim)
    inside &= deep
    if not inside.any():
        return VentOpenness(float("inf"), 0, 0.0)
    near, start, end = near[inside], start[inside], end[inside]
    distance = _from_axis(start, end, outward)
    free = distance - lines.width[near] / 2.0
    worst = int(np.argmin(free))
    wall = (distance <= vent.radius_mm + _WALL_SEARCH_MM) & ~lines.comes_off[near]
    return VentOpenness(
        float(free[worst]),
        int(lines.line[near[worst]]),
        _walled(start[wall] @ outward, end[wall] @ outward, vent),
    )


def _longest_half(lines: Beads) -> float:
    return float(np.abs(lines.end - lines.start).max(initial=0.0)) / 2.0


def _from_axis(start: FloatArray, end: FloatArray, axis: FloatArray) -> FloatArray:
    """Least distance of each segment from the line through the origin along `axis`."""
    a, b = (p - (p @ axis)[:, None] * axis for p in (start, end))
    step = b - a
    square = np.einsum("ij,ij->i", step, step)
    share = np.clip(-np.einsum("ij,ij->i", a, step) / np.maximum(square, 1e-12), 0.0, 1.0)
    return np.asarray(np.linalg.norm(a + share[:, None] * step, axis=1), dtype=np.float64)


def _walled(t0: FloatArray, t1: FloatArray, vent: VentHole) -> float:
    """A vent looked for where no part is would be found wonderfully open; this tells it from a real one."""
    stations = np.arange(-vent.depth_mm + _STATION_MM, -_STATION_MM / 2, _STATION_MM)
    if not stations.size or not t0.size:
        return 0.0
    low, high = np.minimum(t0, t1) - _STATION_MM, np.maximum(t0, t1) + _STATION_MM
    return float(np.mean([bool(((low <= s) & (s <= high)).any()) for s in stations]))


def judge_vents(
    vents: Sequence[VentHole], measured: Sequence[VentOpenness], expected: ExpectedPrint
) -> Iterator[Finding]:
    for number, (vent, result) in enumerate(zip(vents, measured, strict=True), start=1):
        least = expected.vent_share * vent.radius_mm
        if result.free_radius < least:
            yield Finding(
                "vent.blocked",
                f"Vent {number} has a free radius of {result.free_radius:.2f} mm at line {result.line}; at least "
                f"{least:.2f} mm is needed for gas.",
            )
        if result.walled_fraction < _WALLED_LEAST:
            yield Finding(
                "vent.absent", f"Vent {number} has no model around it: it is not where it was planned."
            )
