"""Two independent refinements of one vertebra's pose in the scan.

*Intensity*: robust Gauss-Newton on grey = a HU + b over points of the vertebra and a thin zone around it.
*Surface*: trimmed point-to-plane iteration; each surface point slides along its normal to where the scan's
profile looks like the planning CT's profile, so no bone threshold is needed in a scan without HU.

The two use different data (bulk texture, outer cortex) and different criteria; their disagreement is the
report's `agreement_mm`. Both work on the same scan, so errors of the scan's own geometry are common to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry import pose
from service.geometry.registration_model import VertebraModel
from service.geometry.volume import Volume

Array = NDArray[np.float64]

#: Tukey's constant for 95 % efficiency at the normal distribution.
TUKEY = 4.685


@dataclass(frozen=True)
class FitSettings:
    iterations: int = 30
    stop_mm: float = 0.003
    coarse_points: int = 2500
    search_mm: tuple[float, ...] = (4.5, 4.5, 3.3, 3.3, 2.4, 2.4, 1.5, 1.5, 1.5, 1.5)
    min_profile_ncc: float = 0.6
    min_usable: float = 0.3
    """Least share of points that must lie in the field and away from metal."""


@dataclass(frozen=True, eq=False)
class IntensityFit:
    scan_from_preop: Array
    ncc: float
    """Weighted correlation of HU and grey over all usable points, -1..1."""
    usable: float
    """Share of the points inside the field and away from metal."""
    gain: float
    offset: float
    covariance: Array
    """(6, 6) of (rotation vector rad, translation mm) about the vertebra's centre, planning frame."""


@dataclass(frozen=True, eq=False)
class SurfaceFit:
    scan_from_preop: Array
    rms_mm: float
    """Root mean square of the remaining shifts along the normals over matched points."""
    matched: float
    """Share of the usable surface points whose profile was found again."""
    usable: float
    residuals_mm: Array
    points: Array


def blurred(volume: Volume, filled: Volume, sigma_mm: float) -> Volume:
    """Gaussian blur of `filled`, with the holes (NaN) of `volume` kept."""
    sigma = [sigma_mm / s for s in volume.spacing_mm[::-1]]
    values = ndimage.gaussian_filter(filled.values, sigma)
    values[np.isnan(volume.values)] = np.nan
    return Volume(values, volume.lps_from_ijk, volume.frame_of_reference_uid)


def fit_intensity(
    scan: Volume,
    model: VertebraModel,
    start: Array,
    *,
    points: int | None = None,
    step_mm: float = 0.8,
    settings: FitSettings | None = None,
) -> IntensityFit | None:
    """Refine `start` (scan_from_preop); None when too little of the vertebra lies in the field.

    `scan` holds NaN where it must not be used. `points` limits how many model points take part.
    """
    settings = settings or FitSettings()
    p, hu = model.points[:points], model.hu[:points]
    transform = start
    for _ in range(settings.iterations):
        system = _normal_equations(scan, model, p, hu, transform, step_mm)
        if system is None or system.usable < settings.min_usable:
            return None
        damped = system.hessian + 1e-6 * np.diag(np.diag(system.hessian))
        twist: Array = np.asarray(np.linalg.solve(damped, system.gradient), dtype=np.float64)
        limit = max(float(np.linalg.norm(twist[3:])) / 4.0, float(np.linalg.norm(twist[:3])) / 0.12, 1.0)
        transform = transform @ pose.nudge(model.centre, twist / limit)
        if np.linalg.norm(twist[3:]) < settings.stop_mm and np.linalg.norm(twist[:3]) < settings.stop_mm / 40:
            break
    system = _normal_equations(scan, model, p, hu, transform, step_mm)
    if system is None or system.usable < settings.min_usable:
        return None
    # Neighbouring points share blur and noise: about one independent sample per cubic 2 mm of the zone.
    inflation = max(1.0, len(p) * system.usable / max(_volume_mm3(model) / 8.0, 1.0))
    covariance = np.linalg.inv(system.hessian) * system.variance * inflation
    return IntensityFit(
        transform, system.ncc, system.usable, system.gain, system.offset, np.asarray(covariance)
    )


def _volume_mm3(model: VertebraModel) -> float:
    extent = np.ptp(model.points, axis=0)
    # A vertebra with its zone fills about a fifth of its box.
    return float(np.prod(extent)) * 0.2


@dataclass(frozen=True, eq=False)
class _System:
    hessian: Array
    gradient: Array
    variance: float
    ncc: float
    usable: float
    gain: float
    offset: float


def _normal_equations(
    scan: Volume, model: VertebraModel, p: Array, hu: Array, transform: Array, step_mm: float
) -> _System | None:
    q = pose.apply(transform, p)
    grey = scan.sample(q, outside=np.nan)
    slopes = np.stack(
        [
            scan.sample(q + step_mm * e, outside=np.nan) - scan.sample(q - step_mm * e, outside=np.nan)
            for e in np.eye(3)
        ],
        axis=1,
    ) / (2 * step_mm)
    good = np.isfinite(grey) & np.isfinite(slopes).all(axis=1)
    if np.count_nonzero(good) < 200:
        return None
    grey, h, slopes, local = grey[good], hu[good], slopes[good], p[good] - model.centre
    ncc = float(np.corrcoef(grey, h)[0, 1])
    weight = np.ones(len(grey))
    for _ in range(3):
        gain, offset = _line(h, grey, weight)
        residual = gain * h + offset - grey
        scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-6)
        weight = np.clip(1 - (residual / (TUKEY * scale)) ** 2, 0, None) ** 2
    slope_preop = slopes @ transform[:3, :3]
    jacobian = np.hstack([np.cross(local, slope_preop), slope_preop])
    hessian = (jacobian * weight[:, None]).T @ jacobian
    gradient = (jacobian * weight[:, None]).T @ residual
    variance = float((weight * residual**2).sum() / max(weight.sum() - 8, 1))
    return _System(hessian, gradient, variance, ncc, float(good.mean()), gain, offset)


def _line(x: Array, y: Array, weight: Array) -> tuple[float, float]:
    total = weight.sum()
    mx, my = float((weight * x).sum() / total), float((weight * y).sum() / total)
    gain = float((weight * (x - mx) * (y - my)).sum() / max(float((weight * (x - mx) ** 2).sum()), 1e-9))
    return gain, my - gain * mx


def fit_surface(
    scan: Volume, model: VertebraModel, start: Array, settings: FitSettings | None = None
) -> SurfaceFit | None:
    """Refine `start` (scan_from_preop) by the outer surface alone; None when too little of it is usable."""
    settings = settings or FitSettings()
    transform = start
    for reach in settings.search_mm:
        match = _match_profiles(scan, model, transform, reach, settings)
        if match is None:
            return None
        transform = transform @ pose.nudge(model.centre, _plane_step(model, match))
    match = _match_profiles(scan, model, transform, settings.search_mm[-1] * 2, settings)
    if match is None:
        return None
    shifts = match.shift_mm[match.found]
    return SurfaceFit(
        transform,
        float(np.sqrt(np.mean(shifts**2))),
        float(match.found.mean()),
        len(match.index) / len(model.surface),
        shifts,
        model.surface[match.index[match.found]],
    )


@dataclass(frozen=True, eq=False)
class _Match:
    index: NDArray[np.int64]
    shift_mm: Array
    quality: Array
    found: NDArray[np.bool_]


def _match_profiles(
    scan: Volume, model: VertebraModel, transform: Array, reach_mm: float, settings: FitSettings
) -> _Match | None:
    step = float(model.offsets_mm[1] - model.offsets_mm[0])
    extra = round(reach_mm / step)
    half = len(model.offsets_mm) // 2
    wide = np.arange(-(half + extra), half + extra + 1) * step
    normals = model.normals @ transform[:3, :3].T
    points = pose.apply(transform, model.surface)
    along = points[:, None, :] + wide[None, :, None] * normals[:, None, :]
    values = scan.sample(along.reshape(-1, 3), outside=np.nan).reshape(len(points), -1)
    usable = np.isfinite(values).all(axis=1)
    if usable.mean() < settings.min_usable:
        return None
    windows = sliding_window_view(values[usable], len(model.offsets_mm), axis=1)
    template = model.profiles[usable]
    template = template - template.mean(axis=1, keepdims=True)
    template = template / np.linalg.norm(template, axis=1, keepdims=True)
    covariance = np.einsum("nsp,np->ns", windows, template)
    spread = np.sqrt(np.maximum(windows.var(axis=2), 1e-9) * windows.shape[2])
    # A flat stretch of the scan correlates with anything; half of the typical edge is asked for.
    ncc = covariance / np.maximum(spread, 0.5 * float(np.median(spread.max(axis=1))))
    best = np.argmax(ncc, axis=1)
    rows = np.arange(len(best))
    inner = (best > 0) & (best < ncc.shape[1] - 1)
    left, mid = ncc[rows, np.maximum(best - 1, 0)], ncc[rows, best]
    right = ncc[rows, np.minimum(best + 1, ncc.shape[1] - 1)]
    bend = np.where(left - 2 * mid + right < -1e-9, left - 2 * mid + right, -1.0)
    shift = (best - extra + np.where(inner, 0.5 * (left - right) / bend, 0.0)) * step
    found = inner & (mid > settings.min_profile_ncc)
    return _Match(np.flatnonzero(usable), shift, mid, found)


def _plane_step(model: VertebraModel, match: _Match) -> Array:
    """Robust point-to-plane step (6,): n . (w x (p - c) + t) = shift."""
    chosen = match.index[match.found]
    if len(chosen) < 50:
        return np.zeros(6)
    n, shift = model.normals[chosen], match.shift_mm[match.found]
    jacobian = np.hstack([np.cross(model.surface[chosen] - model.centre, n), n])
    weight = match.quality[match.found]
    twist: Array = np.zeros(6)
    base = weight
    for _ in range(4):
        hessian = (jacobian * weight[:, None]).T @ jacobian
        right = (jacobian * weight[:, None]).T @ shift
        twist = np.asarray(np.linalg.solve(hessian + 1e-9 * np.eye(6), right), dtype=np.float64)
        residual = shift - jacobian @ twist
        scale = max(1.4826 * float(np.median(np.abs(residual))), 0.05)
        weight = base * np.clip(1 - (residual / (TUKEY * scale)) ** 2, 0, None) ** 2
    return np.asarray(twist)
