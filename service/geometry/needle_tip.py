"""Where a needle ends, without knowing its tip's shape.

The cross-section of metal along the axis rises from nothing at the tip to the full shaft over an unknown
length; the scan blurs it. A plain threshold ends up to 2 mm short of the point (geometry reference, section 6),
in the unsafe direction. Here several rise shapes (flat, bevel, cone and diamond) of any length, blurred as the
scan blurs, are compared with the measured profile; the spread of the answers that fit is the tip's uncertainty.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.needles import Axis

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TipSettings:
    longest_tip_mm: float = 7.0
    length_step_mm: float = 0.5
    place_step_mm: float = 0.05
    offset_mm: float = 0.0
    """Added along the axis: bench calibration of one needle product, positive beyond the fitted tip."""
    blur_parts: tuple[float, ...] = (0.7, 0.85, 1.0)
    level_range: tuple[float, float] = (0.8, 1.7)
    floor_mm: float = 0.15
    clipped_floor_mm: float = 0.4


@dataclass(frozen=True, eq=False)
class Tip:
    """`s_mm`: place of the tip on the axis; `sigma_mm`: its one-sigma uncertainty along the axis."""

    s_mm: float
    sigma_mm: float
    shape: str
    length_mm: float
    residual: float
    """Root mean square misfit relative to the shaft's level."""


def fit_tip(axis: Axis, *, clipped: bool, settings: TipSettings | None = None) -> Tip | None:
    """Tip of the needle from the section profile of `axis`; None when the profile holds no end."""
    settings = settings or TipSettings()
    good = np.isfinite(axis.area)
    s, area = axis.s_mm[good], axis.area[good]
    if s.size < 40:
        return None
    shaft = float(np.median(area[s < s[0] + 12.0]))
    if shaft <= 0 or area[-4:].max() > 0.5 * shaft:
        return None
    rough = float(s[np.flatnonzero(area > 0.5 * shaft)[-1]])
    near = (s > rough - 12.0) & (s < rough + 6.0)
    s, area = s[near], area[near] / shaft
    fits = _all_fits(s, area, rough, axis.lateral_sigma_mm, settings)
    best = min(fits, key=lambda f: f[0])
    # Neighbouring samples are blurred together: about one independent sample per millimetre.
    independent = max((s[-1] - s[0]) / 1.0 - 4.0, 3.0)
    likelihood = np.array(
        [_prior(f[2], f[3]) * np.exp(-0.5 * independent * (f[0] / best[0] - 1.0)) for f in fits]
    )
    places = np.array([f[1] for f in fits])
    mean = float(np.average(places, weights=likelihood))
    spread = float(np.sqrt(np.average((places - mean) ** 2, weights=likelihood)))
    floor = settings.clipped_floor_mm if clipped else settings.floor_mm
    return Tip(
        mean + settings.offset_mm,
        float(np.hypot(spread, floor)),
        best[2],
        best[3],
        float(np.sqrt(best[0])),
    )


def _prior(shape: str, length: float) -> float:
    """How common a tip is before looking: points of 2 to 5 mm on most vertebroplasty needles (proposal).

    Only the slope of the profile's end tells a blunt end from a point; noise alone must not choose the blunt
    one, which would put the tip short of where it is.
    """
    return 0.5 if shape == "flat" else float(np.exp(-0.5 * ((length - 3.3) / 1.3) ** 2))


def _all_fits(
    s: Array, area: Array, rough: float, sigma_mm: float, settings: TipSettings
) -> list[tuple[float, float, str, float]]:
    """(mean squared misfit, place, shape, length) for every shape, length and place on a grid."""
    places = np.arange(rough - 1.0, rough + 6.0, settings.place_step_mm)
    fine = np.arange(-settings.longest_tip_mm - 14.0, 14.0, 0.05)
    fits: list[tuple[float, float, str, float]] = []
    # Blooming widens the shaft but hardly moves its end, so the blur along the axis may be smaller than across.
    for (shape, length), part in itertools.product(_shapes(settings), settings.blur_parts):
        rise = _rise(shape, fine, length)
        profile = ndimage.gaussian_filter1d(rise, part * sigma_mm / 0.05, mode="nearest")
        # One column a place: model(s) = level * profile(place - s) + ground
        model = np.interp(places[None, :] - s[:, None], fine, profile)
        centred = model - model.mean(axis=0)
        target = area - area.mean()
        level = (centred * target[:, None]).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-9)
        # Dark streaks before the tip deepen the step by up to half; beyond that it is no step of this needle.
        level = np.clip(level, *settings.level_range)
        misfit = ((target[:, None] - level * centred) ** 2).mean(axis=0)
        fits.extend((float(m), float(p), shape, length) for m, p in zip(misfit, places, strict=True))
    return fits


def _shapes(settings: TipSettings) -> list[tuple[str, float]]:
    lengths = np.arange(1.0, settings.longest_tip_mm + 1e-6, settings.length_step_mm)
    return [("flat", 0.0)] + [(name, float(v)) for name in ("bevel", "cone") for v in lengths]


def _rise(shape: str, back: Array, length: float) -> Array:
    """Share of the full cross-section at distance `back` behind the tip."""
    if shape == "flat":
        return np.asarray((back > 0).astype(np.float64))
    x = np.clip(back / length, 0.0, 1.0)
    if shape == "cone":
        return np.asarray(x**2)
    # Area of a circular segment cut by a plane that crosses the whole shaft over `length`.
    half = 1.0 - 2.0 * x
    return np.asarray((np.arccos(half) - half * np.sqrt(np.clip(1 - half**2, 0, None))) / np.pi)
