"""The part as the G-code will print it, held against the mesh: error map, walls, missing and extra plastic.

Bead model: each line fills a band one layer high that holds exactly the plastic pushed for it (SliceSettings'
layer, filament of 2.85 mm). Sagging, warping, shrinkage and the steps of the layers are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gcode.expected import ExpectedPrint, Finding
from service.gcode.printed_grid import (
    Filling,
    Grid,
    differences_mm3,
    filled_mm3,
    mesh_filling,
    printed_filling,
)
from service.gcode.printed_surface import Samples, sample_mesh, surface_offsets, wall_thickness
from service.gcode.reader import FloatArray, Gcode

_SAMPLES = 30_000
_WALL_SAMPLES = 15_000
_OFF_MM = 0.5
_LEAST_IN_A_LAYER = 30


@dataclass(frozen=True)
class PrintedPart:
    """What was predicted. `offset_mm` (N): printed surface from the mesh at `samples`, positive outward, mm."""

    samples: Samples
    offset_mm: FloatArray
    measures: dict[str, Any]
    findings: tuple[Finding, ...]
    filling: Filling
    """What the lines fill, on `grid`."""
    grid: Grid


def predict_print(
    gcode: Gcode, corners: FloatArray, expected: ExpectedPrint, *, shell_mm: float
) -> PrintedPart:
    """Compare the printed lines with the mesh's triangles `corners` (F, 3, 3), print coordinates, mm.

    `shell_mm` is the wall the model was built with: walls are judged where the mesh has that thickness.
    """
    grid = Grid.around(corners, expected.layer_mm)
    printed = printed_filling(
        gcode, grid, bed_from_print_mm=expected.bed_from_print_mm, filament_mm2=expected.filament_mm2
    )
    wanted = mesh_filling(corners, grid)
    samples = sample_mesh(corners, _SAMPLES)
    offset = surface_offsets(printed, grid, samples)
    every = slice(None, None, _SAMPLES // _WALL_SAMPLES)
    some = Samples(samples.points[every], samples.normals[every], samples.face[every])
    modelled = wall_thickness(wanted, grid, some)
    walls = np.abs(modelled - shell_mm) <= expected.wall_near_shell_mm
    thickness = wall_thickness(
        printed, grid, Samples(some.points[walls], some.normals[walls], some.face[walls])
    )
    # a wall that has grown together with something behind it is no thin wall
    thickness = np.where(np.isnan(thickness), shell_mm + expected.wall_near_shell_mm, thickness)
    layer, share = _worst_layer(samples, offset, expected.layer_mm)
    missing, extra = differences_mm3(printed, wanted, grid)
    measures = {
        **_surface_measures(offset),
        "worst_layer": layer,
        "worst_layer_off_share": round(share, 4),
        **_wall_measures(thickness, expected),
        "printed_mm3": round(filled_mm3(printed, grid), 1),
        "missing_mm3": round(missing, 1),
        "extra_mm3": round(extra, 1),
    }
    return PrintedPart(samples, offset, measures, tuple(_judge(measures, expected)), printed, grid)


def _surface_measures(offset: FloatArray) -> dict[str, Any]:
    size = np.abs(offset)
    return {
        "surface_mean_mm": round(float(offset.mean()), 4),
        "surface_mean_abs_mm": round(float(size.mean()), 4),
        "surface_p95_mm": round(float(np.percentile(size, 95)), 4),
        "surface_p99_mm": round(float(np.percentile(size, 99)), 4),
        "surface_off_share": round(float((size > _OFF_MM).mean()), 5),
        "surface_samples": int(offset.size),
    }


def _wall_measures(thickness: FloatArray, expected: ExpectedPrint) -> dict[str, Any]:
    known = thickness.size > 0
    return {
        "wall_mean_mm": round(float(thickness.mean()), 3) if known else None,
        "wall_p1_mm": round(float(np.percentile(thickness, 1)), 3) if known else None,
        "wall_thin_share": round(float((thickness < expected.thin_wall_mm).mean()), 4) if known else None,
        "wall_samples": int(thickness.size),
    }


def _worst_layer(samples: Samples, offset: FloatArray, layer_mm: float) -> tuple[int | None, float]:
    """The layer with the largest share of its surface off: what is wrong in one layer is little of the whole."""
    layer = np.floor(samples.points[:, 2] / layer_mm).astype(np.int64).clip(0)
    upright: NDArray[np.bool_] = np.abs(samples.normals[:, 2]) < 0.9
    count = np.bincount(layer[upright])
    off = np.bincount(layer[upright & (np.abs(offset) > _OFF_MM)], minlength=count.size)
    share = np.where(count >= _LEAST_IN_A_LAYER, off / np.maximum(count, 1), 0.0)
    if not share.size or not share.max() > 0.0:
        return None, 0.0
    worst = int(np.argmax(share))
    return worst, float(share[worst])


#: Measure, its limit in `ExpectedPrint`, code, and what is wrong when it is above.
_TABLE = (
    ("surface_p95_mm", "surface_p95_mm", "printed.surface",
     "The printed surface lies {0:.2f} mm (95th percentile) from the model; {1:g} mm are allowed."),
    ("surface_off_share", "surface_off_share", "printed.surface_off",
     "{0:.1%} of the model's surface are printed more than 0.5 mm off; {1:.1%} are allowed."),
    ("worst_layer_off_share", "layer_off_share", "printed.layer",
     "In one layer {0:.0%} of the surface are printed more than 0.5 mm off; {1:.0%} are allowed."),
    ("wall_thin_share", "wall_thin_share", "printed.wall",
     "{0:.1%} of the walls will be printed thinner than allowed; {1:.1%} are allowed."),
)  # fmt: skip


def _judge(measures: dict[str, Any], expected: ExpectedPrint) -> Iterator[Finding]:
    for measure, limit, code, words in _TABLE:
        value, most = measures[measure], float(getattr(expected, limit))
        if isinstance(value, float) and value > most:
            yield Finding(code, words.format(value, most))
