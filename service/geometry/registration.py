"""Registration of one planned vertebra to an O-arm scan: search, refine twice, compare with its rivals.

Method and figures to head for: geometry reference, section 5. Transforms read `b_from_a`, LPS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry import pose
from service.geometry.metal import ScanView, reduce
from service.geometry.parallel import in_threads
from service.geometry.registration_fit import (
    FitSettings,
    IntensityFit,
    SurfaceFit,
    blurred,
    fit_intensity,
    fit_surface,
)
from service.geometry.registration_model import VertebraModel
from service.geometry.registration_search import SearchSettings, search
from service.geometry.volume import Volume

Array = NDArray[np.float64]

#: Fewer points of marrow than this are no texture.
MIN_TEXTURE = 300


@dataclass(frozen=True)
class RegistrationSettings:
    search: SearchSettings = field(default_factory=SearchSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    coarse_grid_mm: float = 1.6
    coarse_blur_mm: float = 1.9
    fine_blur_mm: float = 0.6
    level_steps_mm: tuple[float, ...] = (-40.0, -33.0, -26.0, 26.0, 33.0, 40.0)
    """Starts one level up and down from the best pose: spans the pitch of T8 to L5."""
    fine_places: int = 4
    rival_points: int = 4000
    rival_apart_mm: float = 8.0
    """Poses whose vertebra centres differ by more than this are different answers."""
    band_mm: tuple[float, float] = (1.0, 3.5)
    """Band of the texture comparison, as `ModelSettings.marrow_band_mm`."""
    scan_geometry_mm: float = 0.1
    """Scanner geometry and sampling, common to both refinements and therefore not seen by their agreement."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Pose of the planned vertebra in the scan with all that decides whether it may be trusted."""

    scan_from_preop: Array
    preop_from_scan: Array
    intensity: IntensityFit
    surface: SurfaceFit
    agreement_mm: float
    """Largest displacement over the vertebra's surface between the two refinements."""
    agreement_deg: float
    rival_ncc: float
    """Best correlation reached anywhere else in the field (neighbour levels included); 0 when there is none."""
    fingerprint: float | None
    """Correlation of marrow texture deep inside the bone; near 0 for another person's vertebra. None when cement and
    metal leave too little of the marrow to see."""
    expected_tre_mm: float
    """One-sigma estimate of the displacement of a point inside the vertebra."""


def register(
    view: ScanView,
    model: VertebraModel,
    superior: Array,
    settings: RegistrationSettings | None = None,
) -> Registration | None:
    """Find the vertebra of `model` in the scan.

    Parameters
    ----------
    superior : (3,) unit vector to the head in the planning frame, for the starts at the neighbour levels.

    Returns
    -------
    The best pose, judged by nobody yet (`service.geometry.registration_check`), or None when no start at all
    led to a pose with enough of the vertebra inside the field.
    """
    settings = settings or RegistrationSettings()
    coarse = blurred(
        reduce(view.volume, settings.coarse_grid_mm),
        reduce(view.filled, settings.coarse_grid_mm),
        settings.coarse_blur_mm,
    )

    def refine(start: Array) -> IntensityFit | None:
        return fit_intensity(
            coarse,
            model,
            start,
            points=settings.fit.coarse_points,
            step_mm=1.6,
            settings=settings.fit,
        )

    def refine_all(starts: Sequence[Array]) -> list[IntensityFit]:
        return [fit for fit in in_threads(refine, starts) if fit is not None]

    found = refine_all([c.scan_from_preop for c in search(view, model, settings.search)])
    if not found:
        return None
    leader = max(found, key=lambda fit: fit.ncc).scan_from_preop
    found += refine_all(
        [leader @ pose.about(np.eye(3), np.zeros(3), step * superior) for step in settings.level_steps_mm]
    )
    places = _places(found, model, settings)

    def look_closely(place: IntensityFit) -> tuple[Volume, IntensityFit | None]:
        fine = _around(view, model, place.scan_from_preop, settings.fine_blur_mm)
        return fine, fit_intensity(
            fine, model, place.scan_from_preop, points=settings.rival_points, settings=settings.fit
        )

    refined: list[IntensityFit] = []
    best_start: tuple[IntensityFit, Volume] | None = None
    closest = places[: settings.fine_places]
    for place, (fine, fit) in zip(closest, in_threads(look_closely, closest), strict=True):
        if fit is not None:
            refined.append(fit)
            if fit.ncc == max(f.ncc for f in refined):
                best_start = (place, fine)
    if best_start is None:
        return None
    place, fine = best_start
    best = fit_intensity(
        fine, model, max(refined, key=lambda f: f.ncc).scan_from_preop, settings=settings.fit
    )
    # The surface starts from the coarse pose, not from the intensity's answer: they stay two opinions.
    surface = fit_surface(fine, model, place.scan_from_preop, settings.fit)
    if best is None or surface is None:
        return None
    rivals = [fit.ncc for fit in refined if _apart(fit, best, model) > settings.rival_apart_mm]
    alike = fingerprint(view, model, best.scan_from_preop, settings.band_mm)
    return _joined(best, surface, max([0.0, *rivals]), alike, model, settings)


def _around(view: ScanView, model: VertebraModel, scan_from_preop: Array, blur_mm: float) -> Volume:
    """The part of the scan that holds the vertebra at this pose, with room to move, lightly blurred."""
    points = pose.apply(scan_from_preop, model.surface)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = np.ptp(points, axis=0) / 2 + 12.0
    return blurred(
        view.volume.crop_to_lps_box(middle, half), view.filled.crop_to_lps_box(middle, half), blur_mm
    )


def fingerprint(
    view: ScanView, model: VertebraModel, scan_from_preop: Array, band_mm: tuple[float, float]
) -> float | None:
    """Correlation of band-passed grey with the planning CT's marrow texture, -1..1; None when there is too little."""
    points = pose.apply(scan_from_preop, model.marrow)
    if len(points) < MIN_TEXTURE:
        return None
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = np.ptp(points, axis=0) / 2 + 3 * band_mm[1]
    crop = view.volume.crop_to_lps_box(middle, half)
    fine, wide = (_known_blur(crop, width, points) for width in band_mm)
    band = fine - wide
    good = np.isfinite(band)
    if np.count_nonzero(good) < MIN_TEXTURE:
        return None
    a, b = (_clipped(v[good]) for v in (band, model.texture))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _known_blur(volume: Volume, sigma_mm: float, points: Array) -> Array:
    """Mean (N,) under a Gaussian of what is known (not NaN) around each point; NaN in a hole or mostly beside one.

    A hole filled with any constant would leave an edge that is no texture of the bone: metal and cement leave holes.
    """
    known = np.isfinite(volume.values)
    sigma = [sigma_mm / s for s in volume.spacing_mm[::-1]]
    share = ndimage.gaussian_filter(known.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(known, volume.values, np.float32(0.0)), sigma)
    mean = np.where(known & (share > 0.5), total / np.maximum(share, 1e-6), np.nan).astype(np.float32)
    return Volume(mean, volume.lps_from_ijk).sample(points, outside=np.nan)


def _clipped(values: Array) -> Array:
    """Values cut at three robust deviations, so that a streak or a bone island has no more say than texture."""
    middle = float(np.median(values))
    reach = 3 * 1.4826 * float(np.median(np.abs(values - middle)))
    return np.asarray(np.clip(values, middle - reach, middle + reach))


def _apart(first: IntensityFit, second: IntensityFit, model: VertebraModel) -> float:
    shift = pose.displacement_mm(first.scan_from_preop, second.scan_from_preop, model.centre[None])
    return float(shift[0])


def _places(
    found: list[IntensityFit], model: VertebraModel, settings: RegistrationSettings
) -> list[IntensityFit]:
    """One fit for each distinct place, best correlation first."""
    places: list[IntensityFit] = []
    for fit in sorted(found, key=lambda f: -f.ncc):
        if all(_apart(fit, other, model) > settings.rival_apart_mm / 2 for other in places):
            places.append(fit)
    return places


def _joined(
    intensity: IntensityFit,
    surface: SurfaceFit,
    rival_ncc: float,
    alike: float | None,
    model: VertebraModel,
    settings: RegistrationSettings,
) -> Registration:
    apart = pose.displacement_mm(intensity.scan_from_preop, surface.scan_from_preop, model.surface)
    statistical = float(np.sqrt(np.trace(intensity.covariance[3:, 3:])))
    typical = float(np.sqrt(np.mean(apart**2)))
    expected = float(np.sqrt(settings.scan_geometry_mm**2 + statistical**2 + typical**2))
    return Registration(
        scan_from_preop=intensity.scan_from_preop,
        preop_from_scan=pose.invert(intensity.scan_from_preop),
        intensity=intensity,
        surface=surface,
        agreement_mm=float(apart.max()),
        agreement_deg=pose.angle_deg(intensity.scan_from_preop, surface.scan_from_preop),
        rival_ncc=rival_ncc,
        fingerprint=alike,
        expected_tre_mm=expected,
    )
