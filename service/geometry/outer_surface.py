"""The outer bone surface of one vertebra as a signed distance, from the CT's own values.

Where the bone reaches the clinical threshold (226 HU) near the mask's boundary, the surface is where the CT's values
cross it, at sub-voxel accuracy; elsewhere (weak bone, contact with other bone) it is the smoothed boundary of the mask,
and both are blended over 1-2 mm. That surface is then moved to the edge of the cortex where the CT shows it
(`cortex_edge`), unless the threshold's own was asked for. The inside is solid.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from service.errors import GeometryError
from service.geometry.anatomy import SurfaceTaken
from service.geometry.bone_edge import Edge, SurfaceSettings, find_edge
from service.geometry.cortex_edge import CortexEdge, find_cortex_edge, limited
from service.geometry.filters import gaussian, gradient_magnitude
from service.geometry.mesh_grid import nearest_on_mesh, point_mesh_distance, signed_edt, unsigned_edt
from service.geometry.volume import Volume

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triangles = tuple[NDArray[np.float64], NDArray[np.int32]]
Box = tuple[slice, slice, slice]

#: Farther than this from the mask's boundary no surface is looked for.
CAP_MM = 6.0
#: Voxels beside a surface, with what the voxel distance may be off, within which it may pass.
_BESIDE = 1.9


@dataclass(frozen=True, eq=False)
class OuterSurface:
    """`field`: signed distance (mm, negative inside). `share_without_threshold`: share 0..1 of the surface
    that never reaches the threshold or touches other bone, and so follows the mask. `edge`: what the CT shows of the
    bone's edge beside the threshold's surface; `taken`: which of the two `field` is."""

    field: Volume
    share_without_threshold: float
    edge: CortexEdge
    taken: SurfaceTaken


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
    box = _box_of(mask)
    grid, hu = _working_grid(ct, mask, box, use)
    how = use.cortex if use.correct_bias else replace(use.cortex, every=use.cortex.every_to_measure)
    # Beside what waits for one core alone; neither needs the other.
    with ThreadPoolExecutor(1) as beside:
        slope = beside.submit(gradient_magnitude, hu, 0.5 / use.grid_mm)
        soft = _mask_distance(mask, box, grid, use)
        edge = find_edge(hu, soft, use)
        surface = _pores_closed(_at_the_threshold(hu, soft, edge, slope.result() / use.grid_mm, use), use)
        blur = max(use.smoothing_mm, use.smoothing_of_voxel * max(ct.spacing_mm))
        surface = gaussian(surface, blur / use.grid_mm)
        solid = _one_body(surface < 0)
        distance = beside.submit(signed_edt, solid, (use.grid_mm,) * 3)
        triangles = _isosurface(surface, solid)
        cortex = find_cortex_edge(hu, *triangles, _slice_normal(ct), use.grid_mm, how)
        taken = SurfaceTaken(
            "threshold", 0.0, cortex.bias_mm, cortex.why or "The threshold's surface was asked for."
        )
        if use.correct_bias and cortex.shift_mm is not None:
            shift_mm = limited(*triangles, cortex.shift_mm, solid, use.grid_mm, use.cortex)
            surface, solid = moved(triangles, shift_mm, solid, distance.result(), use)
            distance = beside.submit(signed_edt, solid, (use.grid_mm,) * 3)
            triangles = _isosurface(surface, solid)
            taken = SurfaceTaken("bone_edge", -float(shift_mm.mean()), 0.0)
        values = _metric(triangles, solid, distance.result(), use)
    field = Volume(values, grid.lps_from_ijk, ct.frame_of_reference_uid)
    return OuterSurface(field, edge.share_without_threshold, cortex, taken)


def _at_the_threshold(hu: Grid, soft: Grid, edge: Edge, slope: Grid, use: SurfaceSettings) -> Grid:
    """Signed distance (mm) to the threshold where the CT crosses it near the mask's boundary, else to that boundary.

    slope : HU per mm; overwritten.
    """
    guide, weight = soft - edge.offset, edge.weight
    threshold = np.float32(use.threshold_hu) - hu
    threshold /= np.maximum(slope, 40.0, out=slope)
    np.clip(threshold, -3.0, 3.0, out=threshold)
    # Between the two limits the threshold decides; deeper than 1 mm it is bone whatever the marrow holds, and
    # beyond 0.7 mm it is not, whatever lies there. With weight 0 both limits meet at the mask's boundary.
    limit = np.multiply(weight, np.float32(0.7), out=slope)
    np.maximum(threshold, np.subtract(guide, limit, out=limit), out=threshold)
    np.minimum(threshold, np.add(guide, weight, out=limit), out=threshold)
    return threshold


def _working_grid(ct: Volume, mask: Volume, box: Box, use: SurfaceSettings) -> tuple[Volume, Grid]:
    low, high = np.array([s.start - 0.5 for s in box[::-1]]), np.array([s.stop - 0.5 for s in box[::-1]])
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


def _box_of(mask: Volume) -> Box:
    """Bounding box (k, j, i) of the mask's voxels."""
    found = ndimage.find_objects((mask.values != 0).view(np.uint8))
    if not found:
        raise GeometryError(
            "The mask of the vertebra is empty.",
            next_step="Give a mask in which the vertebra's voxels are not zero.",
            code="geometry.empty_mask",
        )
    k, j, i = found[0]
    return k, j, i


def _mask_distance(mask: Volume, box: Box, grid: Volume, use: SurfaceSettings) -> Grid:
    """Signed distance to the mask's boundary on the working grid, without the stairs of its voxels."""
    # Room for all distances within the cap; beyond it there are no others.
    pad = [int(np.ceil(CAP_MM / s)) + 1 for s in mask.spacing_mm[::-1]]
    low = [max(s.start - p, 0) for s, p in zip(box, pad, strict=True)]
    high = [min(s.stop + p, n) for s, p, n in zip(box, pad, mask.values.shape, strict=True)]
    part = mask.crop((low[2], low[1], low[0]), (high[2], high[1], high[0]))
    # Outside the mask's own array it is not bone: one layer of nothing keeps the boundary closed there.
    solid = np.pad(part.values != 0, 1)
    affine = part.lps_from_ijk.copy()
    affine[:3, 3] = part.to_lps(np.array([[-1.0, -1.0, -1.0]]))[0]
    spacing = mask.spacing_mm[::-1]
    distance = np.clip(signed_edt(solid, spacing), -CAP_MM, CAP_MM)
    shape = (grid.values.shape[0], grid.values.shape[1], grid.values.shape[2])
    resampled = Volume(distance, affine).resampled(
        grid.lps_from_ijk[:3, 3], grid.lps_from_ijk[:3, :3], shape, order=1, outside=CAP_MM
    )
    blur = [max(0.6, 0.45 * s) / use.grid_mm for s in spacing]
    return gaussian(resampled.values, blur)


def _pores_closed(surface: Grid, use: SurfaceSettings) -> Grid:
    """Morphological closing of the solid by a ball, as a signed distance so that no voxel stairs appear."""
    spacing = (use.grid_mm,) * 3
    # Half a voxel less, as the surface runs half-way between unlike voxels.
    grown = unsigned_edt(surface >= 0, spacing) - np.float32(0.5 * use.grid_mm) < use.close_mm
    closed = signed_edt(grown, spacing)
    closed += use.close_mm
    closed += 0.5 * use.grid_mm
    np.maximum(closed, -1.0, out=closed)
    return np.minimum(surface, closed, out=closed)


def _slice_normal(ct: Volume) -> NDArray[np.float64]:
    """(3,) unit normal of the CT's slices in the order (z, y, x) of the working grid, which is parallel to LPS."""
    normal = np.cross(ct.lps_from_ijk[:3, 0], ct.lps_from_ijk[:3, 1])
    return np.asarray(normal[::-1] / np.linalg.norm(normal))


def _one_body(inside: Mask) -> Mask:
    body = cc3d.largest_k(inside, k=1, connectivity=6) > 0
    # Face-connected air that does not reach the edge of the box is a void, and is bone.
    air = cc3d.connected_components(~body, connectivity=6)
    return np.asarray(air != air[0, 0, 0])


def _isosurface(surface: Grid, solid: Mask) -> Triangles:
    """Vertices (N, 3) in voxels (z, y, x) and faces of the zero of `surface`, its crumbs and voids left out."""
    clean = np.maximum(surface, np.float32(1e-3))
    np.minimum(surface, np.float32(-1e-3), out=clean, where=solid)
    vertices, faces, _, _ = measure.marching_cubes(clean, 0.0)
    return vertices.astype(np.float64), faces.astype(np.int32)


def moved(
    triangles: Triangles, shift_mm: NDArray[np.float64], solid: Mask, distance: Grid, use: SurfaceSettings
) -> tuple[Grid, Mask]:
    """The surface at the distance from itself that each place is to be moved by: such a surface cannot fold.

    (Vertices moved along their normals cross each other in grooves.)

    Parameters
    ----------
    distance : signed voxel distance of `solid`, mm; overwritten and handed out as the field of the new surface.
    """
    vertices, faces = triangles
    low, high = _shifts_near(triangles, shift_mm, distance.shape, use)
    # Where the new surface may pass, and one voxel to both sides with what the voxel distance may be off.
    around_mm = np.float32(_BESIDE * use.grid_mm)
    band = (distance > low - around_mm) & (distance < high + around_mm)
    distance -= np.where(distance < low, low, high)
    places = np.asarray(np.argwhere(band) * use.grid_mm, dtype=np.float64)
    exact, face = nearest_on_mesh(places, vertices * use.grid_mm, faces)
    by_face = shift_mm[faces].mean(axis=1)
    distance[band] = np.where(solid[band], -exact, exact) - by_face[face]
    return distance, _one_body(distance < 0)


def _shifts_near(
    triangles: Triangles, shift_mm: NDArray[np.float64], shape: tuple[int, ...], use: SurfaceSettings
) -> tuple[Grid, Grid]:
    """(K, J, I) each: bounds, mm, of how far the surface near a voxel is moved; never narrower than the truth.

    Near is as far as any of the surface may come to lie from where it was. Where none is that near, the bounds are
    those of the whole surface.
    """
    low, high = np.float32(shift_mm.min()), np.float32(shift_mm.max())
    reach = int(np.ceil(max(-low, high) / use.grid_mm + _BESIDE)) + 1
    block = tuple((triangles[0] // reach).astype(np.intp).T)
    blocks = tuple(-(-n // reach) for n in shape)
    least, most = np.full(blocks, np.inf, np.float32), np.full(blocks, -np.inf, np.float32)
    np.minimum.at(least, block, shift_mm.astype(np.float32))
    np.maximum.at(most, block, shift_mm.astype(np.float32))
    # With those of the blocks beside it, each block knows all that lies within one block of any of its voxels.
    least, most = ndimage.minimum_filter(least, 3), ndimage.maximum_filter(most, 3)
    bare = least > most
    least[bare], most[bare] = low, high
    places = [np.arange(n) // reach for n in shape]
    return least[np.ix_(*places)], most[np.ix_(*places)]


def _metric(triangles: Triangles, solid: Mask, distance: Grid, use: SurfaceSettings) -> Grid:
    """True distances: exact to the triangles in a band, voxel distances (`distance`, overwritten) beyond, capped."""
    vertices, faces = triangles
    band = (distance > -use.exact_inside_mm) & (distance < use.exact_outside_mm)
    places = np.asarray(np.argwhere(band) * use.grid_mm, dtype=np.float64)
    exact = point_mesh_distance(places, vertices * use.grid_mm, faces)
    distance[band] = np.where(solid[band], -exact, exact)
    return np.clip(distance, -use.cap_mm, use.cap_mm).astype(np.float32)
