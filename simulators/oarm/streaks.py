"""Metal streaks from the physics that makes them: beam hardening and photon starvation in projections.

For each slice with metal the polychromatic projection of tissue plus metal is compared with the linear one; the
difference, with the noise of starved rays, is reconstructed by filtered back-projection (Kak and Slaney, ch. 3)
and added to the image. Parallel beams in the slice plane stand for the cone beam: plausible, not exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# attenuation per mm at 40, 60, 80 and 100 keV (NIST tables, rounded) and the detected share of a 120 kV beam
WATER = np.array([0.0268, 0.0206, 0.0184, 0.0171])
STEEL = np.array([2.80, 0.94, 0.47, 0.29])
SHARE = np.array([0.20, 0.40, 0.25, 0.15])
WATER_60_KEV = 0.0206
PHOTONS = 2.0e5
TRUNK_MM = (160.0, 108.0)
"""Half axes of the patient's trunk, most of which lies outside the field of view but in the beam."""


def streak_slices(
    tissue_hu: Single,
    metal_points: list[Array],
    width_mm: float,
    rng: np.random.Generator,
    angles: int = 180,
) -> Single:
    """Streak image (n,m,m) in HU for `n` slices.

    `tissue_hu` (n,m,m) covers the square field of `width_mm` without metal; `metal_points[n]` (p,3) holds for each
    slice x, y in mm from its middle (x along columns, y along rows) and the metal area in mm2 each point stands for.
    """
    count, size = tissue_hu.shape[0], tissue_hu.shape[1]
    theta = np.pi * np.arange(angles) / angles
    bins = 2 * size
    step = width_mm * 1.42 / bins
    metal = _metal_paths(metal_points, theta, bins, step)
    tissue = _tissue_paths(tissue_hu, theta, bins, step, width_mm)
    extra = _nonlinear_part(tissue, metal, rng)
    filtered = _ramp(extra, step)
    return _back_project(filtered, theta, size, width_mm, step).reshape(count, size, size)


def _metal_paths(points: list[Array], theta: Array, bins: int, step: float) -> Array:
    """Path length in metal (n, angle, bin) mm."""
    paths = np.zeros((len(points), len(theta), bins))
    for n, cloud in enumerate(points):
        if not len(cloud):
            continue
        for a, angle in enumerate(theta):
            s = (cloud[:, 0] * np.cos(angle) + cloud[:, 1] * np.sin(angle)) / step + 0.5 * bins
            paths[n, a] = np.bincount(
                np.clip(s.astype(int), 0, bins - 1), weights=cloud[:, 2] / step, minlength=bins
            )
    # the focal spot and the detector blur a projection by about half a millimetre
    return np.asarray(ndimage.gaussian_filter1d(paths, 0.25 / step, axis=2))


def _tissue_paths(tissue_hu: Single, theta: Array, bins: int, step: float, width_mm: float) -> Array:
    """Water-equivalent path (n, angle, bin) mm from a coarse image and a trunk around it."""
    coarse = tissue_hu[:, ::2, ::2]
    density = np.clip(1.0 + coarse / 1000.0, 0.0, 2.5).astype(np.float32)
    size = density.shape[1]
    pixel = width_mm / size
    some = np.arange(0, len(theta), 3)
    s = (np.arange(bins) - 0.5 * bins + 0.5) * step
    radius = 0.5 * width_mm
    in_field = 2.0 * np.sqrt(np.clip(radius**2 - s**2, 0.0, None))
    rows = []
    for angle in theta[some]:
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[1.0, 0, 0], [0, cos, sin], [0, -sin, cos]])
        centre = np.array([0.0, 0.5 * (size - 1), 0.5 * (size - 1)])
        turned = ndimage.affine_transform(density, turn, centre - turn @ centre, order=1)
        profile = turned.sum(axis=1) * pixel
        at = s / pixel + 0.5 * (size - 1)
        sampled = np.stack([np.interp(at, np.arange(size), row, left=0, right=0) for row in profile])
        a, b = TRUNK_MM
        reach = (a * cos) ** 2 + (b * sin) ** 2
        trunk = 2.0 * a * b * np.sqrt(np.clip(reach - s**2, 0.0, None)) / reach
        rows.append(sampled + np.clip(trunk - in_field, 0.0, None))
    coarse_paths = np.stack(rows, axis=1)
    return np.asarray(np.repeat(coarse_paths, 3, axis=1)[:, : len(theta)])


def _projection(tissue: Array, metal: Array) -> Array:
    """Polychromatic line integral, natural logarithm."""
    total = np.zeros(np.broadcast_shapes(tissue.shape, metal.shape))
    for share, water, steel in zip(SHARE, WATER, STEEL, strict=True):
        total += share * np.exp(-(water * tissue + steel * metal))
    return np.asarray(-np.log(total))


def _nonlinear_part(tissue: Array, metal: Array, rng: np.random.Generator) -> Array:
    """What the metal adds to each projection beyond its best linear share, with the noise of starved rays."""
    hit = metal > 1e-3
    with_metal = _projection(tissue, metal)
    rise = np.where(hit, with_metal - _projection(tissue, np.zeros(1)), 0.0)
    energy = (metal**2).sum(axis=(1, 2), keepdims=True)
    linear = (rise * metal).sum(axis=(1, 2), keepdims=True) / np.maximum(energy, 1e-9)
    noise = rng.standard_normal(metal.shape) * np.sqrt(np.exp(np.minimum(with_metal, 12.0)) / PHOTONS)
    result: Array = np.where(hit, rise - linear * metal + noise, 0.0)
    return result


def _ramp(paths: Array, step: float) -> Single:
    """Ramp filter with a Hann window along the last axis."""
    length = 2 * paths.shape[-1]
    frequency = np.fft.rfftfreq(length, d=step)
    window = np.abs(frequency) * 0.5 * (1.0 + np.cos(np.pi * frequency / frequency.max()))
    spectrum = np.fft.rfft(paths, n=length, axis=-1) * window
    return np.asarray(np.fft.irfft(spectrum, n=length, axis=-1)[..., : paths.shape[-1]], dtype=np.float32)


def _back_project(filtered: Single, theta: Array, size: int, width_mm: float, step: float) -> Single:
    """Sum over angles, in HU; slices ride along as the fast axis so that one gather serves all of them."""
    rows = np.ascontiguousarray(filtered.transpose(1, 2, 0))
    pixel = width_mm / size
    axis = (np.arange(size) - 0.5 * (size - 1)) * pixel
    x, y = np.tile(axis, size), np.repeat(axis, size)
    image = np.zeros((size * size, filtered.shape[0]), dtype=np.float32)
    for angle, row in zip(theta, rows, strict=True):
        s = (x * np.cos(angle) + y * np.sin(angle)) / step + 0.5 * rows.shape[1] - 0.5
        low = np.clip(s.astype(int), 0, rows.shape[1] - 2)
        weight = (s - low).astype(np.float32)[:, None]
        image += row[low] * (1.0 - weight) + row[low + 1] * weight
    scale = np.pi / len(theta) / WATER_60_KEV * 1000.0
    return np.ascontiguousarray((image * np.float32(scale)).T)
