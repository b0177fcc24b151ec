"""Grey values of one scan: tissue and cement resampled, metal with its streaks and blooming, blur, noise, field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulators.oarm.motion import combined
from simulators.oarm.needle import Cement, Needle, voxel_share
from simulators.oarm.settings import ScanSettings
from simulators.oarm.source import Source, surrounded
from simulators.oarm.streaks import streak_slices

Array = NDArray[np.float64]
Single = NDArray[np.float32]


def make_image(
    source: Source,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    settings: ScanSettings,
    preop_from_ijk: Array,
) -> tuple[NDArray[np.int16], list[tuple[float, float]]]:
    """Stored grey values (k,j,i) and of each cement blob its `cement_volumes`."""
    rng = np.random.default_rng([settings.seed, 29])
    volumes = [cement_volumes(blob, needles, settings, preop_from_ijk) for blob in cement]

    def still(moved: Array) -> Single:
        return _still_image(source, needles, cement, settings, moved)

    if settings.motion is None:
        hu = still(preop_from_ijk)
    else:
        # mm along the scan's LPS axes from voxel (0, 0, 0); see `scan_grid` for the signs.
        scale = np.diag([-settings.pixel_mm, -settings.pixel_mm, settings.increment_mm, 1.0])
        middle = 0.5 * (np.array([settings.columns, settings.columns, settings.slices]) - 1.0)
        poses = settings.motion.poses(np.diag(scale)[:3] * middle)
        preop_from_mm = preop_from_ijk @ np.linalg.inv(scale)
        hu = combined((still(preop_from_mm @ np.linalg.inv(move) @ scale) for move in poses), len(poses))
    for box, values in _streaks(hu, needles, settings, preop_from_ijk, rng):
        hu[box] += values
    return _to_grey(hu, settings, rng), volumes


def cement_volumes(
    blob: Cement, needles: Sequence[Needle], settings: ScanSettings, preop_from_ijk: Array
) -> tuple[float, float]:
    """Volume of a blob inside the square field, mm3: the whole, and without what the needles displace.

    The second is what a scan can show.
    """
    shape = (settings.slices, settings.columns, settings.columns)
    box, share = voxel_share(blob, shape, preop_from_ijk)
    free = np.ones(share.shape, dtype=np.float32)
    for needle in needles:
        place, metal = voxel_share(needle, shape, preop_from_ijk)
        both = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, place, strict=True)
        )
        if share.size and metal.size and all(s.start < s.stop for s in both):
            mine, its = (
                tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(both, whole, strict=True))
                for whole in (box, place)
            )
            free[mine] *= 1.0 - metal[its]
    voxel_mm3 = settings.pixel_mm**2 * settings.increment_mm
    whole_mm3, seen_mm3 = float(share.sum()) * voxel_mm3, float((share * free).sum()) * voxel_mm3
    return round(whole_mm3, 2), round(seen_mm3, 2)


def _still_image(
    source: Source,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    settings: ScanSettings,
    preop_from_ijk: Array,
) -> Single:
    """What a scan of a patient at rest would show without streaks and noise, HU (k,j,i)."""
    shape = (settings.slices, settings.columns, settings.columns)
    hu = _resampled(source, shape, preop_from_ijk)
    for blob in cement:
        box, share = voxel_share(blob, shape, preop_from_ijk)
        hu[box] += share * (settings.cement_hu - hu[box])
    halo = _insert_metal(hu, needles, settings, preop_from_ijk)
    sigma = settings.blur_fwhm_mm / 2.3548
    spacing = (settings.increment_mm, settings.pixel_mm, settings.pixel_mm)
    ndimage.gaussian_filter(hu, [sigma / s for s in spacing], output=hu, truncate=3.0)
    for box, values in halo:
        hu[box] += values
    return hu


def _resampled(source: Source, shape: tuple[int, int, int], preop_from_ijk: Array) -> Single:
    padded, matrix = surrounded(source)
    index = np.linalg.inv(matrix) @ preop_from_ijk
    swap = np.eye(4)[[2, 1, 0, 3]]
    index = swap @ index @ swap
    hu: Single = ndimage.affine_transform(
        padded, index[:3, :3], index[:3, 3], output_shape=shape, order=1, mode="nearest", output=np.float32
    )
    return hu


_Patch = tuple[tuple[slice, slice, slice], Single]


def _insert_metal(
    hu: Single, needles: Sequence[Needle], settings: ScanSettings, preop_from_ijk: Array
) -> list[_Patch]:
    """Put the needles in with partial volume; returns their blooming, to be added after the blur."""
    shape = (hu.shape[0], hu.shape[1], hu.shape[2])
    halo: list[_Patch] = []
    for needle in needles:
        box, share = voxel_share(needle, shape, preop_from_ijk)
        if not share.size:
            continue
        hu[box] += share * (settings.metal_hu - hu[box])
        glow = ndimage.gaussian_filter(share, [0.9 / settings.increment_mm, *[0.9 / settings.pixel_mm] * 2])
        halo.append((box, glow * np.float32(settings.blooming * settings.metal_hu)))
    return halo


def _streaks(
    hu: Single,
    needles: Sequence[Needle],
    settings: ScanSettings,
    preop_from_ijk: Array,
    rng: np.random.Generator,
) -> list[_Patch]:
    """Streak image of the slices that hold metal, as one patch."""
    if not needles or settings.streaks == 0:
        return []
    clouds = _metal_clouds(needles, settings, preop_from_ijk, hu.shape[0])
    used = [k for k, cloud in enumerate(clouds) if len(cloud)]
    if not used:
        return []
    first, last = used[0], used[-1] + 1
    width = settings.columns * settings.pixel_mm
    image = streak_slices(hu[first:last, ::2, ::2], clouds[first:last], width, rng)
    full = ndimage.zoom(image, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
    np.clip(full, -900.0, 1200.0, out=full)
    return [((slice(first, last), slice(None), slice(None)), full * np.float32(settings.streaks))]


def _metal_clouds(
    needles: Sequence[Needle], settings: ScanSettings, preop_from_ijk: Array, slices: int
) -> list[Array]:
    """Points of metal per slice: x and y in mm from the middle of the field, area in mm2 each stands for."""
    step = 0.25
    parts = []
    for needle in needles:
        axis = needle.axis
        side = np.linalg.svd(axis[None])[2][1:]
        reach = np.arange(-0.5 * needle.diameter_mm, 0.5 * needle.diameter_mm + step, step)
        u, v, t = np.meshgrid(reach, reach, np.arange(0.0, needle.length_mm, step), indexing="ij")
        local = np.stack([u.ravel(), v.ravel(), -t.ravel()], axis=1)
        points = np.asarray(needle.tip) + local @ np.vstack([side, axis])
        parts.append(points[needle.distance(points) < 0])
    points = np.vstack(parts)
    inverse = np.linalg.inv(preop_from_ijk)
    ijk = points @ inverse[:3, :3].T + inverse[:3, 3]
    middle = 0.5 * (settings.columns - 1)
    flat = (ijk[:, :2] - middle) * settings.pixel_mm
    seen = np.hypot(flat[:, 0], flat[:, 1]) < 0.5 * settings.columns * settings.pixel_mm
    level = np.rint(ijk[:, 2]).astype(int)
    area = np.full((len(points), 1), step**3 / settings.increment_mm)
    rows = np.hstack([flat, area])
    return [rows[seen & (level == k)] for k in range(slices)]


def _to_grey(hu: Single, settings: ScanSettings, rng: np.random.Generator) -> NDArray[np.int16]:
    """Scale, cupping, noise and the round field of view; the memory of `hu` is used up."""
    half = 0.5 * (settings.columns - 1)
    axis = (np.arange(settings.columns) - half) * settings.pixel_mm
    radius = np.hypot(axis[None, :], axis[:, None]) / (0.5 * settings.field_mm)
    # scatter makes the middle darker; truncation makes the rim brighter
    cup = settings.cupping * (radius**2 - 0.5) + 3.0 * settings.cupping * np.exp((radius - 1.0) / 0.04)
    outside = radius > 1.0
    top = settings.grey_maximum if settings.grey_maximum is not None else 32767.0
    stored = np.empty(hu.shape, dtype=np.int16)
    grain = (0.5, 0.9, 0.9)
    for start in range(0, len(hu), 32):
        slab = hu[start : start + 32]
        noise = ndimage.gaussian_filter(rng.standard_normal(slab.shape, dtype=np.float32), grain, mode="wrap")
        noise *= np.float32(settings.noise_sd) / max(float(noise.std()), 1e-6)
        grey = np.float32(settings.grey_scale) * slab + np.float32(settings.grey_offset)
        grey += cup.astype(np.float32) + noise
        grey[:, outside] = -1000.0
        stored[start : start + 32] = np.clip(np.rint(grey), -1000.0, top)
    return stored
