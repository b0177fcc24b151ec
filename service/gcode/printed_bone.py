"""The part as it will print, held against the surface of the bone in the CT: what the whole chain loses.

The comparison with the model's mesh (`printed_solid`) says whether the slicer did its work; this one also holds what
the model left of the bone, and would see a model of another size or in another place. Print coordinates, mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gcode.expected import ExpectedPrint, Finding
from service.gcode.printed_grid import Filling, Grid
from service.gcode.printed_surface import Samples, sample_mesh, surface_offsets
from service.gcode.reader import FloatArray

_SAMPLES = 30_000
_OFF_MM = 0.5
_LEAST_SAMPLES = 1000


@dataclass(frozen=True)
class PrintedBone:
    """`offset_mm` (N): printed surface from the bone's at `samples`, positive outward, mm; NaN where it is left out."""

    samples: Samples
    offset_mm: FloatArray
    measures: dict[str, Any]
    findings: tuple[Finding, ...]


def bone_samples(corners: FloatArray) -> Samples:
    """Points spread evenly over the bone's triangles (F, 3, 3)."""
    return sample_mesh(corners, _SAMPLES)


def compare_with_bone(
    printed: Filling, grid: Grid, samples: Samples, left_out: NDArray[np.bool_], expected: ExpectedPrint
) -> PrintedBone:
    """Distance of the printed surface from the bone's at `samples`, without those that are `left_out` (N).

    Left out is where a model differs from the bone on purpose: channels, vents, marks.
    """
    offset = np.where(left_out, np.nan, surface_offsets(printed, grid, samples))
    judged = offset[~left_out]
    share = {"left_out_share": round(float(left_out.mean()), 4), "samples": int(judged.size)}
    if judged.size < _LEAST_SAMPLES:
        return PrintedBone(
            samples, offset, {**share, "reason": "too little of the bone's outside is left"}, ()
        )
    size = np.abs(judged)
    measures = {
        "mean_mm": round(float(judged.mean()), 4),
        "mean_abs_mm": round(float(size.mean()), 4),
        "p95_mm": round(float(np.percentile(size, 95)), 4),
        "p99_mm": round(float(np.percentile(size, 99)), 4),
        "off_share": round(float((size > _OFF_MM).mean()), 5),
        **share,
    }
    return PrintedBone(samples, offset, measures, _judge(measures, expected))


def _judge(measures: dict[str, Any], expected: ExpectedPrint) -> tuple[Finding, ...]:
    if measures["p95_mm"] <= expected.bone_p95_mm:
        return ()
    words = (
        f"The printed surface lies {measures['p95_mm']:.2f} mm (95th percentile) from the bone in the CT; "
        f"{expected.bone_p95_mm:g} mm are allowed."
    )
    return (Finding("printed.bone", words),)
