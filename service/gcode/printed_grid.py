"""The printed solid on a grid: from the lines of a G-code file, and from the mesh for comparison.

Print coordinates, mm: z up, resting on z = 0. A voxel is one layer high and `STEP_MM` wide; its value is the share
of it that is filled, so that a surface can be found between voxel centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gcode.checks import part_lines
from service.gcode.layer_area import layer_outlines
from service.gcode.reader import FloatArray, Gcode
from service.geometry.parallel import in_threads

STEP_MM = 0.2
_MARGIN_MM = 2.0
_ALONG_MM = 0.1
_ACROSS = 6
_FULL = 250
#: Few, so that what is summed up stays in the processor's cache.
_LAYERS_AT_ONCE = 4
Filling = NDArray[np.uint8]


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie. `low` (2): centre of the first voxel in x, y; `shape` (layers, rows, columns)."""

    low: FloatArray
    shape: tuple[int, int, int]
    layer_mm: float

    @classmethod
    def around(cls, corners: FloatArray, layer_mm: float) -> Grid:
        """A grid with a margin round the triangles (F, 3, 3)."""
        points = corners.reshape(-1, 3)
        low, high = points.min(axis=0) - _MARGIN_MM, points.max(axis=0) + _MARGIN_MM
        columns, rows = (int(n) for n in np.ceil((high[:2] - low[:2]) / STEP_MM))
        return cls(low[:2], (int(np.ceil(high[2] / layer_mm)), rows, columns), layer_mm)

    @property
    def voxel_mm3(self) -> float:
        return STEP_MM * STEP_MM * self.layer_mm

    def values_at(self, filling: Filling, points: FloatArray) -> NDArray[np.float32]:
        """Filled share at points (..., 3), linear between voxel centres; outside the grid nothing is filled."""
        flat = points.reshape(-1, 3)
        z = (flat[:, 2] / self.layer_mm - 0.5).astype(np.float32)
        y = ((flat[:, 1] - self.low[1]) / STEP_MM).astype(np.float32)
        x = ((flat[:, 0] - self.low[0]) / STEP_MM).astype(np.float32)
        # below the first layer's middle the first layer counts: the plate is no gap
        z = np.where((z < 0) & (z >= -0.5), np.float32(0), z)
        k, j, i = (np.floor(v).astype(np.int64) for v in (z, y, x))
        fz, fy, fx = z - k, y - j, x - i
        layers, rows, columns = self.shape
        inside = (k >= 0) & (k < layers - 1) & (j >= 0) & (j < rows - 1) & (i >= 0) & (i < columns - 1)
        first = np.where(inside, (k * rows + j) * columns + i, 0)
        cells = filling.reshape(-1)
        total = np.zeros(len(flat), np.float32)
        for dz, wz in ((0, 1 - fz), (1, fz)):
            for dy, wy in ((0, 1 - fy), (1, fy)):
                row = first + (dz * rows + dy) * columns
                total += wz * wy * ((1 - fx) * cells[row] + fx * cells[row + 1])
        return np.asarray(np.where(inside, total / _FULL, 0).reshape(points.shape[:-1]), dtype=np.float32)


def printed_filling(
    gcode: Gcode, grid: Grid, *, bed_from_print_mm: Sequence[float], filament_mm2: float
) -> Filling:
    """What the part's lines fill, uint8 (layers, rows, columns) up to `_FULL`.

    Supports, brim and the cavity's filler are left out. Each line spreads its own plastic evenly over a band as
    wide as that plastic makes it; where lines overlap a voxel is full all the same.
    """
    chosen = part_lines(gcode) & ~np.isnan(gcode.start).any(axis=1)
    shift = np.asarray(bed_from_print_mm, float) + grid.low
    start, end = gcode.start[chosen, :2] - shift, gcode.end[chosen, :2] - shift
    layer = np.rint(gcode.end[chosen, 2] / grid.layer_mm).astype(np.int64) - 1
    area = gcode.extruded[chosen] * filament_mm2 / grid.layer_mm
    result = np.zeros(grid.shape, np.uint8)
    order = np.argsort(layer, kind="stable")
    by_layer = layer[order]

    def fill(first: int) -> None:
        stop = min(first + _LAYERS_AT_ONCE, grid.shape[0])
        some = order[slice(*np.searchsorted(by_layer, [first, stop]))]
        if some.size:
            filled = _spread(
                start[some], end[some], area[some], layer[some] - first, (stop - first, *grid.shape[1:])
            )
            result[first:stop] = np.minimum(filled * _FULL, _FULL)

    in_threads(fill, range(0, grid.shape[0], _LAYERS_AT_ONCE))
    return result


def _spread(
    start: FloatArray,
    end: FloatArray,
    area: FloatArray,
    layer: NDArray[np.int64],
    shape: tuple[int, int, int],
) -> FloatArray:
    """Filled share per voxel of some layers; ends in mm from the grid's corner, `area` in mm2 of each line."""
    along = end - start
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    pieces = np.maximum(np.ceil(length / _ALONG_MM), 1).astype(np.int64)
    which = np.repeat(np.arange(len(start)), pieces)
    number = np.arange(which.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (number + 0.5) / pieces[which]
    middle = (start / STEP_MM + 0.5)[which] + share[:, None] * (along / STEP_MM)[which]
    sideways = np.column_stack((-along[:, 1], along[:, 0])) * (area / length**2 / STEP_MM)[:, None]
    sideways = sideways[which]
    weight = (area / pieces / (_ACROSS * STEP_MM * STEP_MM))[which]
    base = layer[which] * (shape[1] * shape[2])
    filled = np.zeros(shape[0] * shape[1] * shape[2])
    for step in range(_ACROSS):
        at = middle + sideways * ((step + 0.5) / _ACROSS - 0.5)
        column, row = at[:, 0].astype(np.int64), at[:, 1].astype(np.int64)
        inside = (at[:, 0] >= 0) & (at[:, 1] >= 0) & (column < shape[2]) & (row < shape[1])
        cell = base + row * shape[2] + column
        filled += np.bincount(cell[inside], weight[inside], minlength=filled.size)
    return filled.reshape(shape)


def mesh_filling(corners: FloatArray, grid: Grid) -> Filling:
    """What a closed mesh (F, 3, 3) fills in the middle of each layer, in the form of `printed_filling`."""
    plane, p, q = layer_outlines(corners, grid.layer_mm)
    x0, y0 = (p[:, 0] - grid.low[0]) / STEP_MM, (p[:, 1] - grid.low[1]) / STEP_MM
    x1, y1 = (q[:, 0] - grid.low[0]) / STEP_MM, (q[:, 1] - grid.low[1]) / STEP_MM
    # half-open, so that a row through a corner is met exactly once
    first = np.ceil(np.minimum(y0, y1)).astype(np.int64)
    count = np.ceil(np.maximum(y0, y1)).astype(np.int64) - first
    which = np.repeat(np.arange(plane.size), count)
    row = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count) + first[which]
    share = (row - y0[which]) / (y1 - y0)[which]
    x = x0[which] + share * (x1 - x0)[which] + 0.5
    column = np.floor(x).astype(np.int64)
    part = x - column
    # the body is on the left of a walk from p to q: walking down, it begins to the right of the line
    sign = np.where(y1 < y0, 1.0, -1.0)[which]
    layers, rows, columns = grid.shape
    result = np.zeros(grid.shape, np.uint8)
    order = np.argsort(plane[which], kind="stable")
    by_layer = plane[which][order]

    def fill(begin: int) -> None:
        stop = min(begin + _LAYERS_AT_ONCE, layers)
        some = order[slice(*np.searchsorted(by_layer, [begin, stop]))]
        cell = ((plane[which[some]] - begin) * rows + row[some]) * columns + column[some]
        size = (stop - begin) * rows * columns
        steps = np.bincount(cell, sign[some] * (1.0 - part[some]), minlength=size)
        steps += np.bincount(cell + 1, sign[some] * part[some], minlength=size + 1)[:size]
        filled = np.cumsum(steps.reshape(stop - begin, rows, columns), axis=2)
        result[begin:stop] = np.rint(np.clip(filled, 0.0, 1.0) * _FULL)

    in_threads(fill, range(0, layers, _LAYERS_AT_ONCE))
    return result


def filled_mm3(filling: Filling, grid: Grid) -> float:
    """Volume of what is filled."""
    return float(filling.sum(dtype=np.int64)) / _FULL * grid.voxel_mm3


def differences_mm3(printed: Filling, wanted: Filling, grid: Grid) -> tuple[float, float]:
    """Volume that is wanted and not printed, and that is printed and not wanted."""
    off = printed.astype(np.int16) - wanted
    missing, extra = -int(np.minimum(off, 0).sum(dtype=np.int64)), int(np.maximum(off, 0).sum(dtype=np.int64))
    return missing / _FULL * grid.voxel_mm3, extra / _FULL * grid.voxel_mm3
