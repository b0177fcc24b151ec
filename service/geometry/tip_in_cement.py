"""Where a solid needle ends inside bone cement, when the scan tells steel from cement.

Cement beside a tip is as bright as half of the metal, so the curves of `service.geometry.needle_tip`, which look at the
whole cross-section, say nothing there. Near the axis of a solid needle the grey is that of metal alone, whatever lies
around it, and ahead of the tip it falls to that of cement. Only this fall is fitted, with the same library of shapes.

What lies ahead is not known: cement, then bone, with the dark band of the needle's own streaks in both. Two readings
are therefore made, one with any ground and one in which nothing darker than cement counts. The first ends too far
when the cement ends soon after the tip, the second too short when the tip has come out of it; half of their
difference is part of the uncertainty. A clipped scan, an open needle and cement as bright as the metal give no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry import pose
from service.geometry.cement import CementImage
from service.geometry.needle_tip import Tip, TipSettings, weigh
from service.geometry.needles import Axis, NeedleSettings, along_axis
from service.geometry.tip_shapes import TipCurves, library
from service.geometry.volume import Volume

Array = NDArray[np.float64]
#: Ends the name of a shape fitted this way.
IN_CEMENT = " in cement"


@dataclass(frozen=True)
class InCementSettings:
    """Proposals of this project, chosen on the tuning needles of `bench/verify/tips_in_cement.py`."""

    behind_mm: float = 8.0
    ahead_mm: float = 4.0
    """Cement from this far behind a needle's rough end to this far ahead of it spoils the usual curves."""
    beside_mm: float = 3.4
    """As far from the axis as the cross-sections reach (`NeedleSettings.ring_mm`)."""
    least_mm3: float = 4.0
    least_contrast: float = 0.45
    """Metal above cement, relative to metal above bone: below it steel and cement are not told apart."""
    max_residual: float = 0.06
    """Worst misfit relative to metal above cement: beyond it the fall is not that of a needle's end."""
    max_apart_mm: float = 1.0
    """First and last place where metal gives way to cement: further apart something else is ahead."""
    window_mm: tuple[float, float] = (9.0, 3.0)
    """Behind and ahead of the half-way place."""
    places_mm: tuple[float, float] = (-1.0, 5.0)
    level_range: tuple[float, float] = (0.85, 1.15)
    independent_per_mm: float = 0.6
    """Independent samples of one curve; of three it is 1.8 (`needle_tip`)."""
    floor_mm: float = 0.5
    """At first 0.3, with which 23 of 25 tips of that bench were inside k = 2 out of sample: bevels end short."""


def lies_in_cement(
    axis: Axis, image: CementImage | None, scan_from_preop: Array, settings: InCementSettings | None = None
) -> bool:
    """Whether cement that was found surrounds or touches the front of the needle.

    Dilute cement is no brighter than cortex: only the comparison with the planning CT, of which `image` is made, shows
    that it is new.
    """
    settings = settings or InCementSettings()
    if image is None or not image.solid.any():
        return False
    offset = pose.apply(scan_from_preop, image.points[image.solid]) - axis.origin
    along = offset @ axis.direction
    radial = np.sqrt(np.maximum((offset**2).sum(axis=1) - along**2, 0.0))
    beside = (along > -settings.behind_mm) & (along < settings.ahead_mm) & (radial < settings.beside_mm)
    return bool(np.count_nonzero(beside) * image.voxel_ml * 1000.0 > settings.least_mm3)


def fit_tip_in_cement(
    scan: Volume,
    axis: Axis,
    cement_grey: float,
    settings: InCementSettings | None = None,
    needle: NeedleSettings | None = None,
) -> Tip | None:
    """Tip of a solid needle in cement of this grey (as in `scan`, not clipped); None when it cannot be told."""
    settings, needle = settings or InCementSettings(), needle or NeedleSettings()
    profile = None if _is_tube(axis, needle) else _profile(scan, axis, cement_grey, settings, needle)
    if profile is None:
        return None
    shapes = _shapes(axis, needle)
    low, high = settings.level_range
    free = _reading(profile, shapes, (low, high / profile.contrast), settings, ground=True)
    cut = _reading(profile, shapes, (low, high), settings, ground=False)
    if max(free.residual, cut.residual) > settings.max_residual:
        return None
    parts = (free.sigma_mm, cut.sigma_mm, (free.s_mm - cut.s_mm) / np.sqrt(2.0))
    spread = float(np.sqrt(np.sum(np.square(parts)) / 2.0))
    return Tip(
        0.5 * (free.s_mm + cut.s_mm) + TipSettings().offset_mm,
        float(np.hypot(spread, settings.floor_mm)),
        f"{free.shape}{IN_CEMENT}",
        free.length_mm,
        max(free.residual, cut.residual),
    )


@dataclass(frozen=True, eq=False)
class _Profile:
    """`grey` (S,) near the axis at `s_mm` (S,), 0 in cement and 1 in metal; `contrast` of cement's to bone's."""

    s_mm: Array
    grey: Array
    rough_mm: float
    contrast: float


def _profile(
    scan: Volume, axis: Axis, cement_grey: float, settings: InCementSettings, needle: NeedleSettings
) -> _Profile | None:
    """The window around the end of the metal; None when steel and cement are too alike or no single end is seen."""
    s, core, around = along_axis(scan, axis, needle)
    shaft = s < -15.0
    if np.count_nonzero(shaft) < 20:
        return None
    metal, bone = float(np.median(core[shaft])), float(np.median(around[shaft]))
    contrast = (metal - cement_grey) / max(metal - bone, 1e-9)
    if metal <= bone or contrast < settings.least_contrast:
        return None
    rough = _half_way(s, core, 0.5 * (metal + cement_grey), settings.max_apart_mm)
    if rough is None:
        return None
    back, ahead = settings.window_mm
    window = (s > rough - back) & (s < rough + ahead)
    if float(np.ptp(s[window])) < 0.9 * (back + ahead):
        return None
    return _Profile(s[window], (core[window] - cement_grey) / (metal - cement_grey), rough, contrast)


def _is_tube(axis: Axis, needle: NeedleSettings) -> bool:
    """Whether the middle of the shaft is dark: then what lies on the axis is no metal."""
    shaft = np.isfinite(axis.area) & (axis.s_mm < axis.s_mm[0] + 12.0)
    if not shaft.any():
        return True
    full, middle = float(np.median(axis.area[shaft])), float(np.median(axis.core[shaft]))
    solid = _shapes(axis, needle)[0]
    return full <= 0 or middle / full < TipSettings().tube_core * solid.core_of_area


def _shapes(axis: Axis, needle: NeedleSettings) -> list[TipCurves]:
    # Rounded as in `needle_tip`, so that both share their renderings.
    across = round(float(np.clip(axis.lateral_sigma_mm, 0.3, 0.9)) / 0.05) * 0.05
    blurs = [round(part * across, 3) for part in TipSettings().blur_parts]
    return [
        curve
        for along in blurs
        for curve in library(needle.radius_mm, needle.disc_mm, round(across, 2), along, np.inf, False)
    ]


def _half_way(s: Array, core: Array, half: float, max_apart_mm: float) -> float | None:
    """Place where the grey near the axis falls below `half` for good; None when it does so more than once."""
    front = s > -20.0
    above, below = s[front & (core > half)], s[front & (core <= half)]
    if not above.size or not below.size or above[-1] - below[0] > max_apart_mm:
        return None
    return float(above[-1])


def _reading(
    profile: _Profile,
    shapes: list[TipCurves],
    levels: tuple[float, float],
    settings: InCementSettings,
    *,
    ground: bool,
) -> Tip:
    """The tip by one way to read the profile: with any `ground` ahead, or with cement's, darker counting as that."""
    s, grey = profile.s_mm, profile.grey
    low, high = settings.places_mm
    places = np.arange(profile.rough_mm + low, profile.rough_mm + high, TipSettings().place_step_mm)
    wanted = (grey - grey.mean() if ground else np.maximum(grey, 0.0))[:, None]
    fits: list[tuple[float, float, str, float]] = []
    for shape in shapes:
        model = np.interp(places[None, :] - s[:, None], shape.behind_mm, shape.curves[1])
        model = model - model.mean(axis=0) if ground else model
        level = np.clip((model * wanted).sum(axis=0) / np.maximum((model**2).sum(axis=0), 1e-9), *levels)
        misfit = ((wanted - level * model) ** 2).mean(axis=0)
        pairs = zip(misfit, places, strict=True)
        fits += [(float(m), float(p), shape.shape, shape.length_mm) for m, p in pairs]
    return weigh(fits, settings.independent_per_mm * max(float(np.ptp(s)) - 4.0, 3.0))
