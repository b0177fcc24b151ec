"""What registration needs from the planning CT: intensity points and surface profiles of one vertebra.

Frame: planning LPS, mm. Everything is taken from a thin zone around the isolated vertebra, so that levels
which moved on their own between supine CT and prone scan have no say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from service.errors import GeometryError
from service.geometry.filters import gaussian
from service.geometry.mesh_grid import unsigned_edt
from service.geometry.volume import Volume

Array = NDArray[np.float64]

#: HU range that carries bone and its surroundings; beyond it lie air, metal and contrast.
HU_RANGE = (-200.0, 1500.0)


@dataclass(frozen=True)
class ModelSettings:
    zone_mm: float = 2.5
    """Width of the soft-tissue zone around the vertebra that takes part in the intensity comparison."""
    coarse_zone_mm: float = 8.0
    """The same for the coarse search, where the surroundings help."""
    intensity_points: int = 12_000
    surface_points: int = 4_000
    profile_half_mm: float = 2.5
    profile_step_mm: float = 0.3
    marrow_depth_mm: float = 3.0
    """Marrow texture is compared only this deep, away from the cortex that all vertebrae share."""
    marrow_band_mm: tuple[float, float] = (1.0, 3.5)
    """Texture is what a blur of the first width keeps and one of the second removes."""
    min_edge_hu: float = 120.0
    """A surface point without this step of HU along its normal (disc contact, partial volume) says nothing."""
    smoothing_mm: float = 0.5
    """Blur of the planning CT before comparison, near the point spread of the O-arm."""


@dataclass(frozen=True, eq=False)
class VertebraModel:
    """One vertebra of the planning CT.

    `points` (N, 3) with `hu` (N,) sample the vertebra and `zone_mm` around it; `surface` (M, 3) with outward
    unit `normals` (M, 3) and HU `profiles` (M, P) along them at `offsets_mm` (P,). `coarse` is a smoothed HU
    crop, `coarse_weight` its weight 0..1 on the same grid. `marrow` (Q, 3) with `texture` (Q,) is the band-passed
    HU deep inside: the pattern that tells one person's vertebra from another's of the same shape.
    """

    centre: Array
    points: Array
    hu: Array
    surface: Array
    normals: Array
    profiles: Array
    offsets_mm: Array
    coarse: Volume
    coarse_weight: Volume
    marrow: Array
    texture: Array
    radius_mm: float


def build_model(ct: Volume, mask: Volume, settings: ModelSettings | None = None) -> VertebraModel:
    """Prepare the planning side.

    Parameters
    ----------
    ct : planning CT, HU. mask : uint8, 1 inside the filled vertebra, any grid in the same frame.

    Raises
    ------
    GeometryError
        `verify.mask` when the mask is empty or not inside the CT.
    """
    settings = settings or ModelSettings()
    inside = np.argwhere(mask.values > 0)
    if len(inside) < 500:
        raise GeometryError(
            "The vertebra's mask is empty or a few voxels only, so there is nothing to register.",
            next_step="Isolate the vertebra again and approve its mask.",
            code="verify.mask",
        )
    voxels = mask.to_lps(inside[:, ::-1])
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    box = (low + high) / 2
    half = (high - low) / 2 + settings.coarse_zone_mm + 6.0
    crop = ct.crop_to_lps_box(box, half)
    sigma = [settings.smoothing_mm / s for s in crop.spacing_mm[::-1]]
    smooth = Volume(
        gaussian(np.clip(crop.values.astype(np.float32), *HU_RANGE), sigma),
        crop.lps_from_ijk,
        ct.frame_of_reference_uid,
    )
    depth = _depth(mask, smooth)
    points, hu = _intensity_points(smooth, depth, settings)
    surface, normals = _surface(depth, settings)
    offsets, profiles, keep = _profiles(smooth, surface, normals, settings)
    coarse, weight = _coarse(smooth, depth, settings)
    marrow, texture = _texture(smooth, depth, settings)
    return VertebraModel(
        centre=np.asarray(voxels.mean(axis=0)),
        points=points,
        hu=hu,
        surface=surface[keep],
        normals=normals[keep],
        profiles=profiles[keep],
        offsets_mm=offsets,
        coarse=coarse,
        coarse_weight=weight,
        marrow=marrow,
        texture=texture,
        radius_mm=float(np.linalg.norm(high - low) / 2),
    )


def _depth(mask: Volume, grid: Volume) -> Volume:
    """Signed distance (mm, negative inside) to the mask's surface on the grid of `grid`."""
    spacing = grid.spacing_mm
    if np.allclose(mask.lps_from_ijk[:3, :3], grid.lps_from_ijk[:3, :3]):
        corner = np.round(mask.to_ijk(grid.to_lps(np.zeros((1, 3))))[0]).astype(int)
        inside = np.zeros(grid.values.shape, dtype=bool)
        target, source = [], []
        for axis in range(3):
            size, offset = mask.values.shape[axis], int(corner[2 - axis])
            start, stop = max(0, -offset), min(grid.values.shape[axis], size - offset)
            target.append(slice(start, max(start, stop)))
            source.append(slice(start + offset, max(start, stop) + offset))
        inside[tuple(target)] = mask.values[tuple(source)] > 0
    else:
        k, j, i = np.indices(grid.values.shape).reshape(3, -1)
        inside = mask.sample(grid.to_lps(np.stack([i, j, k], axis=1)), outside=0.0).reshape(
            grid.values.shape
        ) > (0.5)
    sampling = spacing[::-1]
    signed = unsigned_edt(~inside, sampling) - unsigned_edt(inside, sampling)
    # The two transforms meet half a voxel off the boundary on both sides; a light blur joins them.
    signed = gaussian(signed, [0.6 / s for s in sampling])
    return Volume(signed, grid.lps_from_ijk)


def _intensity_points(smooth: Volume, depth: Volume, settings: ModelSettings) -> tuple[Array, Array]:
    where = np.argwhere(depth.values < settings.zone_mm)
    rng = np.random.default_rng(20)
    if len(where) > settings.intensity_points:
        where = where[rng.choice(len(where), settings.intensity_points, replace=False)]
    # Off-grid points avoid the interpolation artefacts of comparing grids with related spacings.
    ijk = where[:, ::-1] + rng.uniform(-0.5, 0.5, where.shape)
    top = np.array(smooth.values.shape[::-1]) - 1
    points = smooth.to_lps(np.clip(ijk, 0, top))
    return points, smooth.sample(points)


def _texture(smooth: Volume, depth: Volume, settings: ModelSettings) -> tuple[Array, Array]:
    where = np.argwhere(depth.values < -settings.marrow_depth_mm)
    if len(where) > settings.intensity_points:
        chosen = np.random.default_rng(22).choice(len(where), settings.intensity_points, replace=False)
        where = where[chosen]
    if not len(where):
        return np.zeros((0, 3)), np.zeros(0)
    # Only what the widest filter sees from these points.
    spacing = np.array(smooth.spacing_mm[::-1])
    reach = np.ceil(5.0 * max(settings.marrow_band_mm) / spacing).astype(int)
    low = np.maximum(where.min(axis=0) - reach, 0)
    seen = smooth.values[tuple(slice(a, b) for a, b in zip(low, where.max(axis=0) + reach + 1, strict=True))]
    at = tuple((where - low).T)
    fine, wide = (gaussian(seen, list(width / spacing))[at] for width in settings.marrow_band_mm)
    return smooth.to_lps(where[:, ::-1]), (fine - wide).astype(np.float64)


def _surface(depth: Volume, settings: ModelSettings) -> tuple[Array, Array]:
    """Evenly drawn points (M, 3) of the outer surface with outward unit normals (M, 3)."""
    vertices, faces, _, _ = measure.marching_cubes(depth.values, 0.0, step_size=1)
    corners = depth.to_lps(vertices[:, ::-1])[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    rng = np.random.default_rng(21)
    picked = rng.choice(len(faces), settings.surface_points, p=areas / areas.sum())
    points = corners[picked].mean(axis=1)
    step = 0.8
    gradient = np.stack(
        [
            depth.sample(points + step * e, outside=np.nan) - depth.sample(points - step * e, outside=np.nan)
            for e in np.eye(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(gradient, axis=1)
    good = np.isfinite(length) & (length > 0.5 * 2 * step)
    return points[good], gradient[good] / length[good, None]


def _profiles(
    smooth: Volume, surface: Array, normals: Array, settings: ModelSettings
) -> tuple[Array, Array, NDArray[np.bool_]]:
    count = round(settings.profile_half_mm / settings.profile_step_mm)
    offsets = np.arange(-count, count + 1, dtype=np.float64) * settings.profile_step_mm
    along = surface[:, None, :] + offsets[None, :, None] * normals[:, None, :]
    profiles = smooth.sample(along.reshape(-1, 3), outside=np.nan).reshape(len(surface), -1)
    with np.errstate(invalid="ignore"):
        keep = np.isfinite(profiles).all(axis=1) & (np.ptp(profiles, axis=1) > settings.min_edge_hu)
    return offsets, profiles, np.asarray(keep)


def _coarse(smooth: Volume, depth: Volume, settings: ModelSettings) -> tuple[Volume, Volume]:
    sigma = [1.6 / s for s in smooth.spacing_mm[::-1]]
    steps = [max(1, int(1.6 / s)) for s in smooth.spacing_mm[::-1]]
    pick = tuple(slice(None, None, s) for s in steps)
    affine = smooth.lps_from_ijk.copy()
    affine[:3, :3] = affine[:3, :3] * steps[::-1]
    blurred = smooth.values
    for axis in range(3):  # each axis thinned out before the next one is filtered
        blurred = ndimage.gaussian_filter1d(blurred, sigma[axis], axis)
        blurred = np.ascontiguousarray(blurred[(slice(None),) * axis + (pick[axis],)])
    weight = np.clip((settings.coarse_zone_mm - depth.values[pick]) / 3.0, 0, 1).astype(np.float32)
    return Volume(blurred, affine), Volume(weight, affine)
