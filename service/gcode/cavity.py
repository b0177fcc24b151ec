"""What lies in the cavity: the sparse filler that holds its roof, and nothing else. The gas has to get through.

The filler and supports are in no comparison of volumes with the model, so they are held against the filler's own mesh.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.gcode.checks import FILLER_MESH, MODEL_KINDS
from service.gcode.expected import ExpectedPrint, Finding
from service.gcode.places import Places, places_along
from service.gcode.printed_grid import STEP_MM, Grid, mesh_filling
from service.gcode.reader import FloatArray, Gcode

_Mask = NDArray[np.bool_]
_PIECE_MM = 1.0
_HALF = 125
#: Lines touch the cavity's surface with their edge and lie in it by a rounding: what is nearer than this is no matter.
_NEAR_STEPS = 2
#: Plastic (mm3) in the wrong place that is none; measured 0.01.
_NOTHING_MM3 = 0.5
#: What the shares of a small cavity may be exceeded by.
_LITTLE_MM3, _LITTLE_MM2 = 5.0, 2.5


def check_cavity(gcode: Gcode, expected: ExpectedPrint, filler: FloatArray | None) -> Iterator[Finding]:
    """`filler`: triangles (F, 3, 3) of the cavity's body, print coordinates; None when nothing was to be filled."""
    printed = gcode.is_printed_line
    named = printed & gcode.of_mesh(FILLER_MESH)
    if filler is None:
        if named.any():
            number = int(gcode.line[named][0])
            yield Finding("filler.unasked", f"Line {number} fills a cavity, and none was to be filled.")
        return
    own = named & gcode.of_kind(*MODEL_KINDS)
    grid = Grid.around(filler, expected.layer_mm)
    inside = mesh_filling(filler, grid) > _HALF
    places = places_along(gcode, own, expected, STEP_MM)
    outside = _far_from(inside, places, grid)
    if outside > _NOTHING_MM3:
        yield Finding("filler.outside", f"{outside:.1f} mm3 of the filler lie outside the cavity.")
    others = printed & ~own & _beside(gcode, filler, expected)
    other = _deep_in(inside, places_along(gcode, others, expected, _PIECE_MM), grid)
    if other > _NOTHING_MM3:
        yield Finding("filler.other", f"{other:.1f} mm3 of support or of the part lie inside the cavity.")
    yield from _density(places, inside, grid, expected)


def _beside(gcode: Gcode, filler: FloatArray, expected: ExpectedPrint) -> _Mask:
    """Lines in the box of the cavity: only these can lie in it."""
    points = filler.reshape(-1, 3)
    plate = np.array([*expected.bed_from_print_mm, 0.0])
    low, high = points.min(axis=0) + plate, points.max(axis=0) + plate + [0.0, 0.0, expected.layer_mm]
    beside = np.ones(gcode.line.size, np.bool_)
    for axis in range(3):
        a, b = gcode.start[:, axis], gcode.end[:, axis]
        beside &= (np.maximum(a, b) >= low[axis]) & (np.minimum(a, b) <= high[axis])
    return beside


def _density(places: Places, inside: _Mask, grid: Grid, expected: ExpectedPrint) -> Iterator[Finding]:
    """Lines gather under a roof and are few below: there the gas passes."""
    share = float(places.mm3.sum()) / max(float(inside.sum()) * grid.voxel_mm3, 1e-9)
    if share > expected.filler_share:
        yield Finding(
            "filler.dense",
            f"The filler takes {share:.0%} of the cavity, {expected.filler_share:.0%} are allowed.",
        )
    deep = inside.copy()
    up = round(expected.filler_roof_mm / expected.layer_mm)
    deep[:-up] &= inside[up:]
    deep[-up:] = False
    printed = _by_layer(places, deep, grid)
    section = deep.sum(axis=(1, 2)) * grid.voxel_mm3
    allowed = expected.filler_deep_share * float(section.sum()) + _LITTLE_MM3
    if printed.sum() > allowed:
        yield Finding(
            "filler.deep",
            f"{printed.sum():.0f} mm3 of the filler lie far below the cavity's roof, {allowed:.0f} are allowed.",
        )
    most = expected.filler_layer_share * section + _LITTLE_MM2 * expected.layer_mm
    for layer in np.flatnonzero(printed > most):
        yield Finding(
            "filler.layer",
            f"Layer {layer} fills {printed[layer] / expected.layer_mm:.0f} mm2 of the cavity far below its roof, "
            f"{most[layer] / expected.layer_mm:.0f} are allowed.",
        )


def _far_from(inside: _Mask, places: Places, grid: Grid) -> float:
    """Plastic (mm3) with nothing of `inside` near it in its layer."""
    there, cell = _cells(places, grid)
    mm3 = places.mm3[there]
    away = ~inside.reshape(-1)[cell]
    far = ~_beside_any(inside, cell[away], grid)
    return float(mm3[away][far].sum()) + float(places.mm3[~there].sum())


def _deep_in(inside: _Mask, places: Places, grid: Grid) -> float:
    """Plastic (mm3) with nothing but `inside` near it in its layer."""
    there, cell = _cells(places, grid)
    within = inside.reshape(-1)[cell]
    deep = ~_beside_any(~inside, cell[within], grid)
    return float(places.mm3[there][within][deep].sum())


def _beside_any(mask: _Mask, cell: NDArray[np.int64], grid: Grid) -> _Mask:
    """Whether a voxel of `mask` is near each of these in its layer; few are asked, so the mask itself is not grown."""
    _, rows, columns = grid.shape
    flat = mask.reshape(-1)
    row, column = cell // columns % rows, cell % columns
    first = cell - row * columns - column
    found = np.zeros(cell.size, np.bool_)
    for down in range(-_NEAR_STEPS, _NEAR_STEPS + 1):
        for right in range(-_NEAR_STEPS, _NEAR_STEPS + 1):
            at = np.clip(row + down, 0, rows - 1) * columns + np.clip(column + right, 0, columns - 1)
            found |= flat[first + at]
    return found


def _by_layer(places: Places, where: _Mask, grid: Grid) -> FloatArray:
    there, cell = _cells(places, grid)
    counted = where.reshape(-1)[cell]
    layer = places.layer[there][counted]
    found = np.bincount(layer, places.mm3[there][counted], minlength=grid.shape[0])
    return np.asarray(found, dtype=np.float64)


def _cells(places: Places, grid: Grid) -> tuple[_Mask, NDArray[np.int64]]:
    """Which places lie on the grid, and their voxels in the flat grid."""
    layers, rows, columns = grid.shape
    at = np.rint((places.xy - grid.low) / STEP_MM).astype(np.int64)
    column, row = at[:, 0], at[:, 1]
    there = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (places.layer < layers)
    cell = (places.layer * rows + row) * columns + column
    return there, cell[there]
