"""Is a channel open in the printed lines? Distances from the lines to the channel's axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gcode.reader import FloatArray, Gcode

Point = Sequence[float]
_STATION_MM = 1.0
MOUTH_STEP_MM = 0.3
"""A mouth on a slope is printed in steps of a layer: support that ends at its plane may reach so far behind it, and
comes off with the rest. Further in it stays."""
_WALL_SEARCH_MM = 1.5
_WIDEST_LINE_MM = 1.2


@dataclass(frozen=True)
class Channel:
    """A straight round channel from its mouth `entry` to its blind end `target`, in print coordinates (mm)."""

    entry: Point
    target: Point
    radius_mm: float


@dataclass(frozen=True)
class Openness:
    """What was found along one channel, in mm.

    `free_radius` is the smallest distance from the axis to the edge of a printed line; `nearest_model` and
    `nearest_support` are centre-line distances (inf when there is none near); `blocked_line` is the line
    number of the nearest move; `walled_fraction` is the share of the axis with model material around it.
    """

    free_radius: float
    nearest_model: float
    nearest_support: float
    blocked_line: int
    walled_fraction: float


@dataclass(frozen=True)
class Beads:
    """Printed lines as beads in print coordinates: ends (N, 3) at mid-height, width (N), flags and line numbers.

    `comes_off`: support and brim, which are broken off the finished part where they can be reached.
    """

    start: FloatArray
    end: FloatArray
    width: FloatArray
    comes_off: NDArray[np.bool_]
    line: NDArray[np.int64]


def beads(gcode: Gcode, *, bed_from_print_mm: Point, layer_mm: float, filament_mm2: float) -> Beads:
    """All printed lines of the file. The nozzle rides on top of its line, so beads lie half a layer lower."""
    printed = gcode.is_printed_line & ~np.isnan(gcode.start).any(axis=1)
    shift = np.array([bed_from_print_mm[0], bed_from_print_mm[1], layer_mm / 2.0])
    start, end = gcode.start[printed] - shift, gcode.end[printed] - shift
    length = np.maximum(np.linalg.norm(end - start, axis=1), 1e-3)
    # Very short moves round the extruder's counter coarsely; a line is never wider than the limit of the audit.
    width = np.minimum(gcode.extruded[printed] * filament_mm2 / (length * layer_mm), _WIDEST_LINE_MM)
    comes_off = gcode.of_kind("SUPPORT", "SUPPORT-INTERFACE", "SKIRT")[printed]  # a brim is told as a skirt
    return Beads(start, end, width, comes_off, gcode.line[printed])


def openness(channel: Channel, lines: Beads) -> Openness:
    """Measure one channel. The last radius before the blind end is left out: its floor is meant to be there.

    Support and brim in front of the mouth do not count: they are broken off with the rest of them.
    """
    entry, target = np.asarray(channel.entry, float), np.asarray(channel.target, float)
    length = float(np.linalg.norm(target - entry))
    direction = (target - entry) / max(length, 1e-9)
    stop = entry + direction * max(length - channel.radius_mm, length / 2.0)
    reach = channel.radius_mm + _WALL_SEARCH_MM + 1.0
    near = _touches_box(lines, np.minimum(entry, stop) - reach, np.maximum(entry, stop) + reach).nonzero()[0]
    support = lines.comes_off[near]
    start, end, inside = cut_along(
        lines.start[near] - entry,
        lines.end[near] - entry,
        -direction,
        -np.inf,
        np.where(support, -MOUTH_STEP_MM, np.inf),
    )
    near, support = near[inside], support[inside]
    start, end = start[inside] + entry, end[inside] + entry
    if not start.size:
        return Openness(float("inf"), float("inf"), float("inf"), 0, 0.0)
    distance = segment_distance(start, end, entry, stop)
    wall = ~support & (distance <= channel.radius_mm + _WALL_SEARCH_MM)
    free = distance - lines.width[near] / 2.0
    worst = int(np.argmin(free))
    return Openness(
        free_radius=float(free[worst]),
        nearest_model=_least(distance[~support]),
        nearest_support=_least(distance[support]),
        blocked_line=int(lines.line[near][worst]),
        walled_fraction=_walled(start[wall], end[wall], entry, stop, channel.radius_mm),
    )


def cut_along(
    start: FloatArray, end: FloatArray, axis: FloatArray, low: float, high: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Segments cut to low <= position along the axis <= high (each its own), and which have anything in between."""
    t0, t1 = start @ axis, end @ axis
    rise = np.where(np.abs(t1 - t0) < 1e-9, 1e-9, t1 - t0)
    level = np.abs(t1 - t0) < 1e-9
    first, last = (low - t0) / rise, (high - t0) / rise
    begin = np.where(level, 0.0, np.clip(np.minimum(first, last), 0.0, 1.0))
    stop = np.where(level, 1.0, np.clip(np.maximum(first, last), 0.0, 1.0))
    inside = np.where(level, (t0 >= low) & (t0 <= high), stop > begin)
    step = end - start
    return start + begin[:, None] * step, start + stop[:, None] * step, inside


def _touches_box(lines: Beads, low: FloatArray, high: FloatArray) -> NDArray[np.bool_]:
    below = np.maximum(lines.start, lines.end) < low
    above = np.minimum(lines.start, lines.end) > high
    return np.asarray(~np.any(below | above, axis=1), dtype=np.bool_)


def _least(values: FloatArray) -> float:
    return float(values.min()) if values.size else float("inf")


def _walled(
    start: FloatArray, end: FloatArray, entry: FloatArray, stop: FloatArray, radius_mm: float
) -> float:
    """Share of stations along the axis with a model line no further than radius + 1.5 mm.

    Only lines so near to the axis need to be given.
    A channel looked for in the wrong place would be found wonderfully open; this tells it from a real one.
    """
    count = max(2, round(float(np.linalg.norm(stop - entry)) / _STATION_MM))
    stations = entry + np.linspace(0.0, 1.0, count)[:, None] * (stop - entry)
    limit = radius_mm + _WALL_SEARCH_MM
    hits = [
        bool((segment_distance(start, end, s, s) <= limit).any()) if len(start) else False for s in stations
    ]
    return float(np.mean(hits))


def segment_distance(start: FloatArray, end: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Least distance (N) between segments start-end (N, 3) and the segment a-b (3). Ericson 2005, 5.1.9."""
    d1, d2 = end - start, b - a
    r = start - a
    aa = np.einsum("ij,ij->i", d1, d1)
    ee = float(d2 @ d2)
    f = r @ d2
    c = np.einsum("ij,ij->i", d1, r)
    bb = d1 @ d2
    safe_aa = np.where(aa > 1e-12, aa, 1.0)
    if ee < 1e-12:
        s = np.where(aa > 1e-12, np.clip(-c / safe_aa, 0, 1), 0.0)
        t = np.zeros_like(s)
    else:
        denominator = aa * ee - bb * bb
        parallel = denominator < 1e-12
        s = np.where(parallel, 0.0, np.clip((bb * f - c * ee) / np.where(parallel, 1.0, denominator), 0, 1))
        t = (bb * s + f) / ee
        # where the foot falls off the axis, clamp it and take the best point of the other segment again
        s = np.where(
            t < 0, np.clip(-c / safe_aa, 0, 1), np.where(t > 1, np.clip((bb - c) / safe_aa, 0, 1), s)
        )
        s = np.where(aa > 1e-12, s, 0.0)
        t = np.clip(t, 0.0, 1.0)
    gap = r + s[:, None] * d1 - t[:, None] * d2
    return np.asarray(np.linalg.norm(gap, axis=1), dtype=np.float64)
