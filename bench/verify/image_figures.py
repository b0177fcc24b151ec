"""What a scan's image is like where its truth is known: noise, cupping, blur and streaks, in HU of its own scene.

A scan is set beside the ideal image of the scene, which the fast simulator makes without noise, streaks, cupping,
blooming and blur. Grey is first brought to HU by the straight line that fits best far from metal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from bench.verify.cases import Scene
from simulators.oarm import Needle, Scan, make_scan

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_SHARP_MM = 0.05
_SLICES = 40
_FWHM_TRIED_MM = (0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)


@dataclass(frozen=True, eq=False)
class IdealScene:
    """On `part` of the scan's slices (k,j,i): ideal HU, mm from the needle's metal, share of the field's radius."""

    part: slice
    ideal: Array
    away_mm: Array
    radius: Array
    spacing: tuple[float, float, float]


def image_figures(scan: Scan, scene: IdealScene, made: Scene) -> dict[str, Any]:
    """Figures of one scan (see `physics._IMAGES`); None where a clipped scan, or a tube, cannot say."""
    soft = _soft(scene)
    field = scene.radius < 0.9
    calm = field & (scene.away_mm > 25.0)
    hu = _in_hu(scan.grey[scene.part].astype(np.float32), scene, calm)
    wrong = hu - scene.ideal
    grain = wrong - _smooth(wrong, 3.0, scene)
    slow = _smooth(wrong, 1.0, scene)
    low = field & (scene.ideal < 400.0)
    middle, rim = (
        soft & part & (scene.away_mm > 15.0) for part in (scene.radius < 0.35, scene.radius > 0.75)
    )
    figures: dict[str, Any] = {
        "noise": float(grain[soft & calm].std()),
        "cupping": float(wrong[middle & field].mean() - wrong[rim & field].mean()),
        "fwhm_bone_mm": _bone_blur(hu, scene, calm),
        "streak_5": _range(slow[low & (np.abs(scene.away_mm - 5.0) < 1.0)]),
        "streak_10": _range(slow[low & (np.abs(scene.away_mm - 10.0) < 1.0)]),
        "streak_25": _range(slow[low & calm]),
        "shade_5": float(wrong[low & (np.abs(scene.away_mm - 5.0) < 1.0)].mean()),
    }
    needle = None if made.clipped or made.needles[0].bore else _shaft(scan, made.needles[0], hu, scene)
    figures |= {"fwhm_needle_mm": needle and needle[0], "needle": needle and needle[1]}
    return figures


def ideal_scene(scan: Scan, folder: Path, made: Scene) -> IdealScene:
    """The scene of a scan without anything a machine does; the slices about the middle of the needle in the bone."""
    quiet = replace(
        made.settings, noise_sd=0.0, streaks=0.0, cupping=0.0, blooming=0.0, blur_fwhm_mm=_SHARP_MM,
        grey_scale=1.0, grey_offset=0.0, grey_maximum=None, motion=None,
    )  # fmt: skip
    ideal = make_scan(folder, needles=made.needles, cement=made.cement, settings=quiet, focus=made.focus).grey
    preop_from_ijk = scan.preop_from_scan @ scan.scan_from_ijk
    aim = np.asarray(made.needles[0].tip) - 10.0 * made.needles[0].axis
    level = int(np.rint((np.linalg.inv(preop_from_ijk) @ [*aim, 1.0])[2]))
    first = int(np.clip(level - _SLICES // 2, 0, max(0, len(ideal) - _SLICES)))
    part = slice(first, first + _SLICES)
    ideal = ideal[part].astype(np.float32)
    k, j, i = np.indices(ideal.shape, dtype=np.float32).reshape(3, -1)
    k += first
    points = np.stack([i, j, k], axis=1) @ preop_from_ijk[:3, :3].T.astype(np.float32)
    points += preop_from_ijk[:3, 3].astype(np.float32)
    away = np.min([n.distance(points) for n in made.needles], axis=0).reshape(ideal.shape)
    half = 0.5 * (ideal.shape[1] - 1)
    axis = (np.arange(ideal.shape[1]) - half) * made.settings.pixel_mm
    radius = np.hypot(axis[None, :], axis[:, None]) / (0.5 * made.settings.field_mm)
    s = made.settings
    return IdealScene(
        part, ideal, away, np.broadcast_to(radius, ideal.shape), (s.increment_mm, s.pixel_mm, s.pixel_mm)
    )


def _soft(scene: IdealScene) -> Mask:
    """Soft tissue with nothing else within about 2 mm."""
    plain = (scene.ideal > -20.0) & (scene.ideal < 110.0)
    return np.asarray(ndimage.uniform_filter(plain.astype(np.float32), (5, 7, 7)) > 0.99)


def _smooth(values: Array, sigma_mm: float, scene: IdealScene) -> Array:
    return np.asarray(ndimage.gaussian_filter(values, [sigma_mm / s for s in scene.spacing], truncate=3.0))


def _in_hu(grey: Array, scene: IdealScene, calm: Mask) -> Array:
    """Grey on the scale of the ideal image: the line through smooth values of both, metal and cement left out."""
    part = calm & (scene.ideal > -200.0) & (scene.ideal < 900.0)
    a, b = (_smooth(v, 1.5, scene)[part] for v in (scene.ideal, grey))
    gain, offset = np.polyfit(a, b, 1)
    return np.asarray((grey - offset) / gain)


def _range(values: Array) -> float:
    low, high = np.percentile(values, [5.0, 95.0])
    return float(0.5 * (high - low))


def _bone_blur(hu: Array, scene: IdealScene, calm: Mask) -> float:
    """FWHM of the Gaussian that makes the sharp image fit best at the edges of bone far from metal, mm."""
    edge = calm & (ndimage.gaussian_gradient_magnitude(np.clip(scene.ideal, -200.0, 900.0), 1.0) > 80.0)
    edge[:4], edge[-4:] = False, False
    misfit = []
    for fwhm in _FWHM_TRIED_MM:
        model = _smooth(scene.ideal, fwhm / 2.3548, scene)[edge]
        line = np.polyfit(model, hu[edge], 1)
        misfit.append(float(((hu[edge] - np.polyval(line, model)) ** 2).mean()))
    best = min(max(int(np.argmin(misfit)), 1), len(misfit) - 2)
    curve = np.polyfit(_FWHM_TRIED_MM[best - 1 : best + 2], misfit[best - 1 : best + 2], 2)
    return float(np.clip(-0.5 * curve[1] / curve[0], _FWHM_TRIED_MM[0], _FWHM_TRIED_MM[-1]))


def _shaft(scan: Scan, needle: Needle, hu: Array, scene: IdealScene) -> tuple[float, float] | None:
    """Blur of the shaft's edge (FWHM, mm) and the grey it would have without: a disc and a Gaussian fitted together."""
    ijk_from_preop = np.linalg.inv(scan.preop_from_scan @ scan.scan_from_ijk)
    u, v = np.linalg.svd(needle.axis[None])[2][1:]
    steps = np.arange(-4.0, 4.01, 0.2)
    a, b = np.meshgrid(steps, steps, indexing="ij")
    planes = []
    for behind in np.arange(10.0, 30.0, 0.5):
        points = np.asarray(needle.tip) - behind * needle.axis + a[..., None] * u + b[..., None] * v
        ijk = points @ ijk_from_preop[:3, :3].T + ijk_from_preop[:3, 3] - [0.0, 0.0, scene.part.start]
        if not 1.0 < ijk[..., 2].min() < ijk[..., 2].max() < len(hu) - 2.0:
            continue
        planes.append(ndimage.map_coordinates(hu, ijk[..., ::-1].reshape(-1, 3).T, order=1).reshape(a.shape))
    if len(planes) < 5:
        return None
    seen = np.mean(planes, axis=0)
    disc = np.clip(0.5 + (0.5 * needle.diameter_mm - np.hypot(a, b)) / 0.2, 0.0, 1.0)

    def gap(p: Array) -> Array:
        blurred = ndimage.gaussian_filter(disc, p[0] / 0.2)
        return np.asarray((p[1] * blurred + p[2] - seen).ravel() / 1000.0)

    found = optimize.least_squares(
        gap, [0.4, float(seen.max()), 0.0], bounds=([0.1, 0.0, -3e3], [2.0, 1e5, 3e3])
    )
    return 2.3548 * float(found.x[0]), float(found.x[1] + found.x[2])
