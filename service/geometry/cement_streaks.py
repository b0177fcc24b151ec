"""What streaks of metal add to the grey of cement and of the bone around it.

A needle that lies nearly in the plane in which the gantry turns starves and hardens all rays that run along it: a
dark band lies in line with it, also ahead of its tip, and that is where the cement is. Read as a share of cement it
was 4 to 6 % of a small volume. The grey is known deep inside cement (that of solid cement) and away from it (that
of the bone before); the difference there is the streak, and between, over the blurred rim, it is filled in.

Only slices that hold metal are corrected: elsewhere uneven grey is uneven cement and counts as such. The slices are
those of the scan, perpendicular to the gantry's axis as an O-arm reconstructs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.needles import Axis, MetalLine
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class StreakSettings:
    """Proposals of this project."""

    deep_mm: float = 1.0
    """Cement this far inside its half-maximum is solid: two sigmas of the widest blur expected."""
    shaft_mm: float = 120.0
    """Metal is looked for this far behind a needle's end: about the length of one."""
    beyond_mm: float = 1.5
    """Slices this far beyond the metal still show its streaks: blur and the cone of the beam."""
    in_plane_mm: float = 1.5
    """Sd of the average within a slice; bands beside a needle are 3 to 6 mm wide."""
    across_mm: float = 0.5
    """Sd of the average across slices: neighbouring ones cut a needle elsewhere."""
    reach_mm: float = 4.0
    """Width of the band of bone beside the cement's rim from which the streak is known."""
    limit: float = 0.5
    """A streak changes the grey by this part of cement's contrast at most; more is a hole or other metal."""
    least_known: float = 0.03
    """Where less than this share of the neighbourhood is known the streak is taken to fade to none."""


def planes_of_metal(
    crop: Volume, lines: Sequence[Axis | MetalLine], settings: StreakSettings | None = None
) -> Mask:
    """(K,) which slices of the crop hold a needle's metal or lie close beside such a slice."""
    settings = settings or StreakSettings()
    found = np.zeros(crop.values.shape[0], dtype=bool)
    step = crop.spacing_mm[2]
    k = np.arange(len(found))
    for line in lines:
        ends = np.stack(_ends(line, settings.shaft_mm))
        low, high = np.sort(crop.to_ijk(ends)[:, 2])
        reach = settings.beyond_mm / step
        found |= (k >= low - reach) & (k <= high + reach)
    return found


def _ends(line: Axis | MetalLine, shaft_mm: float) -> tuple[Array, Array]:
    if isinstance(line, Axis):
        return line.origin, line.origin - shaft_mm * line.direction
    return line.start, line.end


def streak_field(
    excess: Single,
    contrast: Single,
    cement: Mask,
    bone: Mask,
    planes: Mask,
    spacing_kji: tuple[float, ...],
    settings: StreakSettings | None = None,
) -> Single:
    """(K, J, I) grey that streaks add, 0 in slices without metal.

    Parameters
    ----------
    excess : grey above that of the bone before. contrast : grey of solid cement above that of the bone before.
    cement, bone : where there surely is solid cement, and where there surely is none.
    planes : (K,) of `planes_of_metal`.
    """
    settings = settings or StreakSettings()
    here = planes[:, None, None]
    known = (cement | bone) & here
    bound = np.float32(settings.limit) * contrast
    extra = np.clip(np.where(cement, excess - contrast, excess), -bound, bound)
    sigma = [settings.across_mm, settings.in_plane_mm, settings.in_plane_mm]
    sigma = [width / step for width, step in zip(sigma, spacing_kji, strict=True)]
    total = ndimage.gaussian_filter(np.where(known, extra, 0.0).astype(np.float32), sigma, truncate=3.0)
    share = ndimage.gaussian_filter(known.astype(np.float32), sigma, truncate=3.0)
    return np.where(here, total / (share + np.float32(settings.least_known)), np.float32(0.0))
