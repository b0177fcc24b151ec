"""Where a needle ends, without knowing its tip's shape.

The cross-section of metal along the axis rises from nothing at the tip to the full shaft over an unknown
length; the scan blurs it. A plain threshold ends up to 2 mm short of the point (geometry reference, section 6),
in the unsafe direction. Here shapes of any length from a small library (`service.geometry.tip_shapes`) are
compared with three curves measured along the axis: how much metal, how much of it near the axis, and how far it
lies beside the axis. The spread of the answers that fit is the tip's uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.geometry.needles import Axis, NeedleSettings
from service.geometry.tip_shapes import TipCurves, library

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TipSettings:
    place_step_mm: float = 0.1
    offset_mm: float = 0.0
    """Added along the axis: bench calibration of one needle product, positive beyond the fitted tip."""
    blur_parts: tuple[float, ...] = (0.65, 0.85)
    """Blur along the axis as parts of the blur across, which blooming widens."""
    level_range: tuple[float, float] = (0.85, 1.4)
    """Dark streaks before the tip deepen the step; beyond this it is no step of this needle."""
    curve_weights: tuple[float, float, float] = (1.0, 1.5, 0.5)
    """Of area, core and moment."""
    cuts: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Where a clipped scan may be cut, relative to solid metal."""
    tube_core: float = 0.75
    """Core over area below this part of a solid needle's is a tube."""
    max_residual: tuple[float, float] = (0.18, 0.35)
    """Worst misfit of a solid needle and of a tube: beyond it the end is not that of any needle."""
    max_around: tuple[float, float] = (0.27, 0.45)
    """Brightest surroundings that may still be bone, per metal; the second of a tube or a clipped scan."""
    floor_mm: float = 0.15
    clipped_floor_mm: float = 0.25


@dataclass(frozen=True, eq=False)
class Tip:
    """`s_mm`: place of the tip on the axis; `sigma_mm`: its one-sigma uncertainty along the axis."""

    s_mm: float
    sigma_mm: float
    shape: str
    length_mm: float
    residual: float
    """Root mean square misfit relative to the shaft's level."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """`curves` (3, S) of the end of the needle relative to its shaft at `s_mm` (S,); `rough_mm` half-way up."""

    s_mm: Array
    curves: Array
    rough_mm: float
    core_of_area: float
    area_of_ceiling: float


def fit_tip(
    axis: Axis, *, clipped: bool, settings: TipSettings | None = None, needle: NeedleSettings | None = None
) -> Tip | None:
    """Tip of the needle from the curves of `axis`; None when they hold no end, or none like a needle's."""
    settings, needle = settings or TipSettings(), needle or NeedleSettings()
    measured = _measured(axis)
    if measured is None:
        return None
    fits = _all_fits(measured, _candidates(axis, measured, clipped, settings, needle), settings)
    best = min(fits, key=lambda f: f[0])
    if np.sqrt(best[0]) > settings.max_residual[best[2].startswith("tube")]:
        return None
    # Neighbouring samples are blurred together: about two independent samples per millimetre of three curves.
    tip = weigh(fits, 1.8 * max(float(np.ptp(measured.s_mm)) - 4.0, 3.0))
    floor = settings.clipped_floor_mm if clipped else settings.floor_mm
    return replace(tip, s_mm=tip.s_mm + settings.offset_mm, sigma_mm=float(np.hypot(tip.sigma_mm, floor)))


def weigh(fits: list[tuple[float, float, str, float]], independent: float) -> Tip:
    """Mean and spread of the places of all `fits` (mean squared misfit, place, shape, length) by how well they fit.

    `independent` is the number of independent samples behind a misfit. Shape, length and residual are the best one's.
    """
    best = min(fits, key=lambda f: f[0])
    likelihood = np.array(
        [_prior(f[2], f[3]) * np.exp(-0.5 * independent * (f[0] / best[0] - 1.0)) for f in fits]
    )
    places = np.array([f[1] for f in fits])
    mean = float(np.average(places, weights=likelihood))
    spread = float(np.sqrt(np.average((places - mean) ** 2, weights=likelihood)))
    return Tip(mean, spread, best[2], best[3], float(np.sqrt(best[0])))


def hidden(axis: Axis, *, clipped: bool, settings: TipSettings | None = None) -> bool:
    """Whether something denser than bone (cement) surrounds the front of the needle, so that its end cannot be told.

    Cement next to a tip is as bright as half of the metal, and a strand of it looks like more needle.
    """
    settings = settings or TipSettings()
    front = np.isfinite(axis.around) & (axis.s_mm > -20.0)
    shaft = axis.s_mm < axis.s_mm[0] + 12.0
    dark = clipped or np.nanmedian(axis.core[shaft]) < 2.0 * np.nanmedian(axis.area[shaft])
    return bool(front.any() and axis.around[front].max() > settings.max_around[bool(dark)])


def _measured(axis: Axis) -> _Measured | None:
    good = np.isfinite(axis.area)
    s, area, core, moment = axis.s_mm[good], axis.area[good], axis.core[good], axis.moment[good]
    if s.size < 40:
        return None
    shaft = s < s[0] + 12.0
    full, middle = float(np.median(area[shaft])), float(np.median(core[shaft]))
    if full <= 0 or middle <= 0 or area[-4:].max() > 0.5 * full:
        return None
    rough = float(s[np.flatnonzero(area > 0.5 * full)[-1]])
    beside = (moment - np.median(moment[shaft], axis=0)) / full
    end = (s > rough - 6.0) & (s < rough + 4.0)
    mean = beside[end].mean(axis=0)
    direction = mean / max(float(np.linalg.norm(mean)), 1e-9)
    near = (s > rough - 12.0) & (s < rough + 6.0)
    # The library's bevels lie on the side of negative places: metal is left where the cut is last to come.
    curves = np.stack([area / full, core / middle, -(beside @ direction)])[:, near]
    return _Measured(s[near], curves, rough, middle / full, full / max(axis.ceiling, 1e-9))


def _candidates(
    axis: Axis, measured: _Measured, clipped: bool, settings: TipSettings, needle: NeedleSettings
) -> list[TipCurves]:
    """Rendered shapes with this scan's blur and cut; those of a tube when the middle of the shaft is dark."""
    # Rounded, so that needles of one scan share their renderings.
    across = round(float(np.clip(axis.lateral_sigma_mm, 0.3, 0.9)) / 0.05) * 0.05
    radius, disc = needle.radius_mm, needle.disc_mm

    def rendered(part: float, cut: float, tube: bool) -> tuple[TipCurves, ...]:
        return library(radius, disc, round(across, 2), round(part * across, 3), cut, tube)

    part = settings.blur_parts[-1]
    solid = rendered(part, np.inf, False)[0]
    tube = measured.core_of_area < settings.tube_core * solid.core_of_area
    # A cut shaft fills its disc more the deeper it is cut.
    cut = np.inf
    if clipped:
        filling = [rendered(part, c, tube)[0].area_of_top for c in settings.cuts]
        cut = settings.cuts[int(np.argmin(np.abs(np.array(filling) - measured.area_of_ceiling)))]
    return [curve for part in settings.blur_parts for curve in rendered(part, cut, tube)]


def _prior(shape: str, length: float) -> float:
    """How common a tip is before looking: points of 2 to 5 mm on most vertebroplasty needles (proposal).

    Only the slope of the profile's end tells a blunt end from a point; noise alone must not choose the blunt
    one, which would put the tip short of where it is.
    """
    return 0.5 if shape.endswith("flat") else float(np.exp(-0.5 * ((length - 3.5) / 1.5) ** 2))


def _all_fits(
    measured: _Measured, candidates: list[TipCurves], settings: TipSettings
) -> list[tuple[float, float, str, float]]:
    """(mean squared misfit, place, shape, length) for every candidate and place on a grid."""
    places = np.arange(measured.rough_mm - 1.0, measured.rough_mm + 6.0, settings.place_step_mm)
    behind = places[None, :] - measured.s_mm[:, None]
    fits: list[tuple[float, float, str, float]] = []
    for candidate in candidates:
        misfit = np.zeros(len(places))
        for index, weight in enumerate(settings.curve_weights):
            model = np.interp(behind, candidate.behind_mm, candidate.curves[index])
            target = measured.curves[index]
            if index < 2:
                misfit += weight * _free_level(model, target, settings.level_range)
            else:
                misfit += weight * ((target[:, None] - model) ** 2).mean(axis=0)
        misfit /= sum(settings.curve_weights)
        fits.extend(
            (float(m), float(p), candidate.shape, candidate.length_mm)
            for m, p in zip(misfit, places, strict=True)
        )
    return fits


def _free_level(model: Array, target: Array, level_range: tuple[float, float]) -> Array:
    """(places,) mean squared misfit of `target` (S,) to level * `model` (S, places) + ground."""
    centred = model - model.mean(axis=0)
    wanted = target - target.mean()
    level = (centred * wanted[:, None]).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-9)
    level = np.clip(level, *level_range)
    return np.asarray(((wanted[:, None] - level * centred) ** 2).mean(axis=0))
