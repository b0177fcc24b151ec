"""Where the plastic of printed lines lies, as points along them, and that it lies nowhere in a heap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gcode.expected import ExpectedPrint, Finding
from service.gcode.reader import FloatArray, Gcode, IntArray

_SQUARE_MM = 4.0
_PIECE_MM = 2.0


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


def check_heaps(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    """Plastic of every kind over each square of a layer: many lines of a right width on one spot are a blob too."""
    places = places_along(gcode, gcode.is_printed_line, expected, _PIECE_MM)
    if not places.mm3.size:
        return
    square = np.floor(places.xy / _SQUARE_MM).astype(np.int64)
    square -= square.min(axis=0)
    columns, rows = (int(n) + 1 for n in square.max(axis=0))
    plastic = np.bincount((places.layer * rows + square[:, 1]) * columns + square[:, 0], places.mm3)
    filled = plastic / (_SQUARE_MM**2 * expected.layer_mm)
    worst = int(np.argmax(filled))
    if filled[worst] > expected.heap_layers:
        yield Finding(
            "extrusion.heap",
            f"In layer {worst // (rows * columns)} a spot gets {filled[worst]:.1f} times the plastic that has room "
            "there.",
        )
