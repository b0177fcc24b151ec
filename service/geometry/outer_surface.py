"""The outer bone surface of one vertebra as a signed distance, from the CT's own values.

Where the bone reaches the clinical threshold (226 HU) near the mask's boundary, the surface is the threshold's
isosurface at sub-voxel accuracy; elsewhere (weak bone, contact with other bone) it is the smoothed boundary of
the mask, and both are blended over 1-2 mm. The inside is solid.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from service.errors import GeometryError
from service.geometry.mesh_grid import point_mesh_distance, signed_edt
from service.geometry.volume import Volume

Grid = NDArray[np.float32]


@dataclass(frozen=True)
class SurfaceSettings:
    """How the surface is taken. 226 HU is the lower bound of the paper's 226-3071 HU."""

    threshold_hu: float = 226.0
    grid_mm: float = 0.5
    search_inward_mm: float = 3.0
    search_outward_mm: float = 2.0
    margin_mm: float = 6.0
    cap_mm: float = 8.0
    exact_inside_mm: float = 1.2
    exact_outside_mm: float = 1.2
    smoothing_mm: float = 0.35
    smoothing_of_voxel: float = 0.22
    """Least smoothing as a share of the longest voxel edge: a thick-slice scan holds no finer detail."""
    close_mm: float = 1.0
    """Pores and tunnels narrower than twice this are closed (vessel holes, thin cortex)."""


@dataclass(frozen=True, eq=False)
class OuterSurface:
    """`field`: signed distance (mm, negative inside). `share_without_threshold`: share 0..1 of the surface
    that never reaches the threshold or touches other bone, and so follows the mask."""

    field: Volume
    share_without_threshold: float


def outer_field(ct: Volume, mask: Volume, *, settings: SurfaceSettings | None = None) -> Volume:
    """The field of `outer_surface` alone."""
    return outer_surface(ct, mask, settings=settings).field


def outer_surface(ct: Volume, mask: Volume, *, settings: SurfaceSettings | None = None) -> OuterSurface:
    """Outer bone surface of the vertebra in `mask` (non-zero inside, filled; any grid in the CT's frame).

    Raises
    ------
    GeometryError
        When the mask is empty.
    """
    use = settings or SurfaceSettings()
    grid, hu = _working_grid(ct, mask, use)
    soft = _mask_distance(mask, grid, use)
    crossing, weight, share = _threshold_offset(hu, soft, use)
    guide = soft - crossing
    slope = np.maximum(ndimage.gaussian_gradient_magnitude(hu, 0.5 / use.grid_mm) / use.grid_mm, 40.0)
    threshold = np.clip((use.threshold_hu - hu) / slope, -3.0, 3.0)
    # Between the two limits the threshold decides; deeper than 1 mm it is bone whatever the marrow holds, and
    # beyond 0.7 mm it is not, whatever lies there. With weight 0 both limits meet at the mask's boundary.
    surface = np.clip(threshold, guide - 0.7 * weight, guide + 1.0 * weight).astype(np.float32)
    surface = _pores_closed(surface, use)
    blur = max(use.smoothing_mm, use.smoothing_of_voxel * max(ct.spacing_mm))
    surface = ndimage.gaussian_filter(surface, blur / use.grid_mm)
    solid = _one_body(surface)
    return OuterSurface(
        Volume(_metric(surface, solid, grid, use), grid.lps_from_ijk, ct.frame_of_reference_uid), share
    )


def _working_grid(ct: Volume, mask: Volume, use: SurfaceSettings) -> tuple[Volume, Grid]:
    index = np.argwhere(mask.values)
    if not len(index):
        raise GeometryError(
            "The mask of the vertebra is empty.",
            next_step="Give a mask in which the vertebra's voxels are not zero.",
            code="geometry.empty_mask",
        )
    low, high = index.min(axis=0)[::-1] - 0.5, index.max(axis=0)[::-1] + 0.5
    corners = np.array([[low, high][(n >> a) & 1][a] for n in range(8) for a in range(3)]).reshape(8, 3)
    points = mask.to_lps(corners)
    start = np.floor((points.min(axis=0) - use.margin_mm) / use.grid_mm) * use.grid_mm
    stop = points.max(axis=0) + use.margin_mm
    count = np.ceil((stop - start) / use.grid_mm).astype(int) + 1
    shape = (int(count[2]), int(count[1]), int(count[0]))
    part = ct.crop_to_lps_box((start + stop) / 2, (stop - start) / 2 + 4 * max(ct.spacing_mm))
    clipped = Volume(np.clip(part.values, -1024, 3071).astype(np.float32), part.lps_from_ijk)
    step = np.eye(3) * use.grid_mm
    hu = clipped.resampled(start, step, shape, order=3, outside=-1000.0)
    return Volume(np.broadcast_to(np.float32(0), shape), hu.lps_from_ijk), hu.values


def _mask_distance(mask: Volume, grid: Volume, use: SurfaceSettings) -> Grid:
    """Signed distance to the mask's boundary on the working grid, without the stairs of its voxels."""
    index = np.argwhere(mask.values)
    pad = [int(np.ceil(10.0 / s)) for s in mask.spacing_mm[::-1]]
    low = np.maximum(index.min(axis=0) - pad, 0)
    high = np.minimum(index.max(axis=0) + 1 + pad, mask.values.shape)
    part = mask.crop((low[2], low[1], low[0]), (high[2], high[1], high[0]))
    # Outside the mask's own array it is not bone: one layer of nothing keeps the boundary closed there.
    solid = np.pad(part.values != 0, 1)
    affine = part.lps_from_ijk.copy()
    affine[:3, 3] = part.to_lps(np.array([[-1.0, -1.0, -1.0]]))[0]
    spacing = mask.spacing_mm[::-1]
    distance = np.clip(signed_edt(solid, spacing), -6.0, 6.0)
    shape = (grid.values.shape[0], grid.values.shape[1], grid.values.shape[2])
    resampled = Volume(distance, affine).resampled(
        grid.lps_from_ijk[:3, 3], grid.lps_from_ijk[:3, :3], shape, order=1, outside=6.0
    )
    blur = [max(0.6, 0.45 * s) / use.grid_mm for s in spacing]
    return np.asarray(ndimage.gaussian_filter(resampled.values, blur), dtype=np.float32)


def _threshold_offset(hu: Grid, soft: Grid, use: SurfaceSettings) -> tuple[Grid, Grid, float]:
    """Where the threshold is crossed relative to the mask's boundary, how far to trust it, share without.

    For points near the boundary the line along its normal is walked: outwards while it is bone, else
    inwards until it is. Contact with other bone shows as no fall below the threshold, and stays undefined.
    """
    near = np.abs(soft) < 0.6
    places = np.argwhere(near)
    gradient = np.stack([np.gradient(soft, axis=a)[near] for a in range(3)], axis=1)
    normal = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
    step = 0.5
    outward, inward = round(use.search_outward_mm / step), round(use.search_inward_mm / step)
    offsets = step * np.arange(-inward, outward + 1)
    base = places - soft[near][:, None] * normal / use.grid_mm
    where = base[:, None, :] + offsets[None, :, None] * normal[:, None, :] / use.grid_mm
    profile = ndimage.map_coordinates(hu, where.reshape(-1, 3).T, order=1, mode="nearest").reshape(
        len(places), len(offsets)
    )
    above = profile - use.threshold_hu
    found = np.full(len(places), np.nan)
    for k in range(inward):  # from deep to the boundary, so that the outermost rise wins
        a, b = above[:, k], above[:, k + 1]
        rise = (a >= 0) & (b < 0)
        found = np.where(rise, offsets[k] + step * a / np.maximum(a - b, 1e-6), found)
    bone_here = above[:, inward] >= 0
    found[bone_here] = np.nan
    for k in range(len(offsets) - 2, inward - 1, -1):
        a, b = above[:, k], above[:, k + 1]
        fall = bone_here & (a >= 0) & (b < 0)
        found = np.where(fall, offsets[k] + step * a / np.maximum(a - b, 1e-6), found)
    known = np.isfinite(found)
    on_surface = np.abs(soft[near]) < 0.3
    share = float(1.0 - known[on_surface].mean()) if on_surface.any() else 1.0
    return (*_spread(near, np.where(known, found, 0.0), known, use), share)


def _spread(
    near: NDArray[np.bool_], offset: Grid, known: NDArray[np.bool_], use: SurfaceSettings
) -> tuple[Grid, Grid]:
    """Carry values from the boundary band to the space around it, smoothed along the surface."""
    band = np.zeros(near.shape, dtype=np.float32)
    trust, value = band.copy(), band.copy()
    band[near] = 1.0
    trust[near] = known
    value[near] = offset
    sigma = 1.0 / use.grid_mm
    total = ndimage.gaussian_filter(band, sigma)
    share = ndimage.gaussian_filter(trust, sigma) / np.maximum(total, 1e-6)
    mean = ndimage.gaussian_filter(value, sigma) / np.maximum(ndimage.gaussian_filter(trust, sigma), 1e-6)
    # Ramp: fully trusted from three quarters known, not at all below one quarter (blend of about 1-2 mm).
    weight = np.clip((share - 0.25) / 0.5, 0.0, 1.0).astype(np.float32)
    far = total < 1e-5
    if far.any():
        nearest = ndimage.distance_transform_edt(far, return_distances=False, return_indices=True)
        weight, mean = weight[tuple(nearest)], mean[tuple(nearest)]
    return np.asarray(mean * weight, dtype=np.float32), weight


def _pores_closed(surface: Grid, use: SurfaceSettings) -> Grid:
    """Morphological closing of the solid by a ball, as a signed distance so that no voxel stairs appear."""
    spacing = (use.grid_mm,) * 3
    grown = signed_edt(surface < 0, spacing) - use.close_mm
    closed = signed_edt(grown < 0, spacing) + use.close_mm
    return np.asarray(np.minimum(surface, np.maximum(closed + 0.5 * use.grid_mm, -1.0)), dtype=np.float32)


def _one_body(surface: Grid) -> NDArray[np.bool_]:
    body = cc3d.largest_k(surface < 0, k=1, connectivity=6) > 0
    # Face-connected air that does not reach the edge of the box is a void, and is bone.
    air = cc3d.connected_components(~body, connectivity=6)
    return np.asarray(air != air[0, 0, 0])


def _metric(surface: Grid, solid: NDArray[np.bool_], grid: Volume, use: SurfaceSettings) -> Grid:
    """True distances: exact to the isosurface in a band, voxel distances beyond, capped."""
    clean = np.where(solid, np.minimum(surface, -1e-3), np.maximum(surface, 1e-3)).astype(np.float32)
    vertices, faces, _, _ = measure.marching_cubes(clean, 0.0)
    distance = signed_edt(solid, (use.grid_mm,) * 3)
    band = (distance > -use.exact_inside_mm) & (distance < use.exact_outside_mm)
    index = np.argwhere(band)
    exact = point_mesh_distance(
        np.asarray(index * use.grid_mm, dtype=np.float64),
        np.asarray(vertices * use.grid_mm, dtype=np.float64),
        faces.astype(np.int32),
    )
    distance[band] = np.where(solid[band], -exact, exact)
    return np.clip(distance, -use.cap_mm, use.cap_mm).astype(np.float32)
