"""Where the plastic of printed lines lies, as points along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gcode.expected import ExpectedPrint
from service.gcode.reader import FloatArray, Gcode, IntArray


@dataclass(frozen=True)
class Places:
    """Pieces of lines: layer (N), middle (N, 2) in print coordinates, mm, and plastic (N), mm3."""

    layer: IntArray
    xy: FloatArray
    mm3: FloatArray


def places_along(gcode: Gcode, chosen: NDArray[np.bool_], expected: ExpectedPrint, step_mm: float) -> Places:
    """The chosen lines of known layer and place, cut into pieces no longer than `step_mm`."""
    known = chosen & (gcode.layer >= 0) & ~np.isnan(gcode.path_mm)
    rows = np.flatnonzero(known)
    count = np.maximum(1, np.ceil(gcode.path_mm[rows] / step_mm)).astype(np.int64)
    of = np.repeat(np.arange(rows.size), count)
    share = (np.arange(of.size) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[of]
    start = gcode.start[rows, :2] - np.asarray(expected.bed_from_print_mm)
    step = gcode.end[rows, :2] - gcode.start[rows, :2]
    mm3 = gcode.extruded[rows] * expected.filament_mm2 / count
    return Places(gcode.layer[rows][of], start[of] + share[:, None] * step[of], mm3[of])
