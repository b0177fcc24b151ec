"""What a scan shows of needle points of many shapes: a small library of rendered, blurred and clipped tips.

Each shape is drawn on a fine grid, blurred as the scan blurs, cut where the scan cuts its grey values, and reduced
to the three curves that are measured along a real needle's axis:

- `area`: mean grey of the cross-section's disc. It tells how much metal there is, not where.
- `core`: mean grey weighted towards the axis. A slender point shows in it where the area is still lost in noise.
- `moment`: how far the metal lies beside the axis, times how much. A bevel has it, a symmetric point has none.

All curves are relative to the shaft; `moment` is in shaft areas times mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]

STEP_MM = 0.3
#: The grid reaches this far ahead of the tip and behind it, and beside the axis.
AHEAD_MM, BEHIND_MM, BESIDE_MM = 5.1, 16.2, 3.6
#: Width (sd, mm) of the weight of `core`.
CORE_MM = 0.5
#: Bore of an open cannula relative to its outside, about that of thin-walled 11 to 13 G (proposal).
BORE = 0.72


@dataclass(frozen=True, eq=False)
class TipCurves:
    """`curves` (3, S): area, core, moment at `behind_mm` (S,) behind the tip (negative ahead of it)."""

    shape: str
    length_mm: float
    behind_mm: Array
    curves: Array
    core_of_area: float
    """Core over area of the shaft: much lower in a tube than in a solid needle."""
    area_of_top: float
    """Area over the highest grey of the shaft."""


def weights(a: Array, b: Array, disc_mm: float) -> tuple[Array, Array]:
    """(area, core) weights (P,) of samples at `a`, `b` mm beside the axis; each sums to 1."""
    inside = np.hypot(a, b) <= disc_mm
    core = np.exp(-0.5 * (a**2 + b**2) / CORE_MM**2) * inside
    return inside / inside.sum(), core / core.sum()


@lru_cache(maxsize=8)
def library(
    radius_mm: float, disc_mm: float, across_mm: float, along_mm: float, cut: float, tube: bool
) -> tuple[TipCurves, ...]:
    """All shapes and lengths for one blur (sd across and along the axis, mm).

    `cut` is the highest grey value relative to that of solid metal (above the surroundings), infinite when the
    range is whole. `tube` takes the shapes of a cannula without its stylet.
    """
    names = ("tube_flat", "tube_bevel") if tube else ("flat", "cone", "ogive", "bevel")
    found = []
    for name in names:
        lengths = (0.0,) if name.endswith("flat") else tuple(np.arange(1.0, 7.01, 0.5))
        for length in lengths:
            found.append(_curves(name, float(length), radius_mm, disc_mm, across_mm, along_mm, cut))
    return tuple(found)


def _curves(
    name: str, length: float, radius: float, disc_mm: float, across_mm: float, along_mm: float, cut: float
) -> TipCurves:
    line = np.arange(-BESIDE_MM, BESIDE_MM + STEP_MM / 2, STEP_MM)
    behind = np.arange(-AHEAD_MM, BEHIND_MM + STEP_MM / 2, STEP_MM)
    t, a, b = np.meshgrid(behind, line, line, indexing="ij")
    metal = np.clip(0.5 - _distance(name, length, radius, a, b, t) / STEP_MM, 0.0, 1.0).astype(np.float32)
    sigma = [along_mm / STEP_MM, across_mm / STEP_MM, across_mm / STEP_MM]
    image = np.minimum(ndimage.gaussian_filter(metal, sigma, mode="nearest"), cut).reshape(len(behind), -1)
    area_of, core_of = weights(a[0].ravel(), b[0].ravel(), disc_mm)
    area, core = image @ area_of, image @ core_of
    moment = image @ (area_of * a[0].ravel())
    shaft = behind > 9.0
    full, middle = float(area[shaft].mean()), float(core[shaft].mean())
    curves = np.stack([area / full, core / middle, moment / full])
    top = float(image[shaft].max())
    return TipCurves(name, length, behind, curves, middle / full, full / top)


def _distance(name: str, length: float, radius: float, a: Array, b: Array, behind: Array) -> Array:
    """About the signed distance (mm, negative in metal) of a point of this name; the tip is at `behind` = 0."""
    radial = np.hypot(a, b)
    shaft = np.maximum(radial - radius, -behind)
    if name.endswith("bevel"):
        slope = 2.0 * radius / length
        shaft = np.maximum(shaft, (a + radius - slope * behind) / np.hypot(1.0, slope))
    elif name == "cone":
        slope = radius / length
        shaft = np.maximum(shaft, (radial - slope * behind) / np.hypot(1.0, slope))
    elif name == "ogive":
        part = np.clip(behind / length, 0.0, 1.0)
        shaft = np.maximum(shaft, radial - radius * np.sqrt(part * (2.0 - part)))
    if name.startswith("tube"):
        shaft = np.maximum(shaft, BORE * radius - radial)
    return np.asarray(shaft)
