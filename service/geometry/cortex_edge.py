"""From the threshold's surface to the bone's edge: how far each vertex has to move along its normal.

A fixed threshold cuts the blurred edge of a dense cortex outside the bone, most where the slices blur it most. The
edge itself is fitted on profiles across the surface (`blurred_sheet`) and smoothed along it. Where a profile shows no
clear edge (contact with other bone, a crack) its neighbours decide, and far from any that does the surface stays.
A CT that does not show the cortex well enough changes nothing.
Frame: vertices in voxels of an isotropic working grid, in the order of its axes; shifts in mm, outwards positive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from service.geometry.blurred_sheet import Blur, SheetFit, SheetSettings, estimate_blur, fit_sheets
from service.geometry.parallel import by_rows
from service.geometry.resampling import sampled_along
from service.geometry.shape_fit import vertex_normals

Array = NDArray[np.float64]
Grid = NDArray[np.float32]
Faces = NDArray[np.int32]


@dataclass(frozen=True)
class CortexSettings:
    """Chosen on the phantoms of `bench/model/phantom.py` that are not marked out of sample."""

    sheet: SheetSettings = field(default_factory=SheetSettings)
    every: int = 2
    """Vertices asked: every n-th; they lie 0.3 mm apart, the smoothing is wider."""
    every_to_measure: int = 24
    """The same when only the bias is to be told."""
    common_profiles: int = 1500
    rounds: int = 8
    """Rounds of averaging with the neighbouring vertices: about 0.8 mm (standard deviation)."""
    stay_weight: float = 0.03
    """Weight of no shift at all, beside at most 1 for each vertex asked."""
    least_wall_mm: float = 1.2
    """What both sides together leave of a thin wall, so that no hole opens in it on the grid of the surface."""
    least_rise_hu: float = 150.0
    """Of the brightest below the surface over the darkest above it, median: less is no cortex."""
    most_blur_mm: float = 0.95
    most_residual: float = 0.06
    """Of the cortex's density: above it the profiles do not look like a cortex."""
    least_seen: float = 0.8
    """Share of the vertices whose profile tells an edge. A 1.5 mm scan with noise shows it on 0.71."""
    most_scatter_mm: float = 0.15
    """Median difference of a vertex's own edge from the smoothed one."""


@dataclass(frozen=True, eq=False)
class CortexEdge:
    """`shift_mm` (N,) for the vertices asked about, None when the CT does not support it, with `why` not.

    `bias_mm`: how far the surface lies outside the edge, on average over the vertices that see one; None when unknown.
    """

    shift_mm: Array | None
    bias_mm: float | None
    blur: Blur | None
    seen_share: float
    why: str = ""


def find_cortex_edge(
    hu: Grid, vertices: Array, faces: Faces, slice_normal: Array, grid_mm: float, use: CortexSettings
) -> CortexEdge:
    """Edge of the bone near a closed surface.

    Parameters
    ----------
    hu : the working grid.
    vertices, faces : (N, 3) voxels in the order of `hu`'s axes, (M, 3); outward normals by the right-hand rule.
    slice_normal : (3,) unit vector in the same order.
    """
    normals = vertex_normals(vertices, faces)
    asked = slice(None, None, use.every)
    profiles = _profiles(hu, vertices[asked], normals[asked], grid_mm, use.sheet)
    share = np.abs(normals[asked] @ slice_normal)
    rise_hu = _rise(profiles, use.sheet)
    if rise_hu < use.least_rise_hu:
        why = f"The CT rises by only {rise_hu:.0f} HU from the surroundings to the bone."
        return CortexEdge(None, None, None, 0.0, why)
    few = slice(None, None, max(1, len(profiles) // use.common_profiles))
    blur = estimate_blur(profiles[few], share[few], use.sheet)
    if blur is None:
        return CortexEdge(None, None, None, 0.0, "Too little of the surface could be looked at.")
    coarse = max(blur.in_plane_mm, blur.between_slices_mm)
    if coarse > use.most_blur_mm:
        return CortexEdge(
            None, None, blur, 0.0, f"The CT blurs the cortex by {coarse:.1f} mm or more (standard deviation)."
        )
    fit = fit_sheets(profiles, share, blur, use.sheet)
    weight = _weights(fit)
    seen = float(np.mean(weight > 0.2))
    bias = -float(np.average(fit.edge_mm, weights=weight)) if seen > 0 else None
    shift = _smoothed(fit.edge_mm, weight, faces, len(vertices), use)
    scatter = float(np.median(np.abs(fit.edge_mm - shift[asked])[weight > 0.2])) if seen > 0 else np.inf
    why = _refusal(blur, seen, scatter, use)
    return CortexEdge(None if why else shift, bias, blur, seen, why)


def limited(
    vertices: Array,
    faces: Faces,
    shift_mm: Array,
    solid: NDArray[np.bool_],
    grid_mm: float,
    use: CortexSettings,
) -> Array:
    """Shifts (N,) that leave a thin wall thick enough; `solid` is the inside of the surface on its grid."""
    depth = _thickness(vertices, vertex_normals(vertices, faces), solid, grid_mm)
    return np.maximum(shift_mm, -np.maximum(depth - use.least_wall_mm, 0.0) / 2.0)


def _profiles(hu: Grid, places: Array, normals: Array, grid_mm: float, use: SheetSettings) -> Grid:
    """HU (N, M) along the normals."""
    along = use.offsets_mm / grid_mm
    return by_rows(lambda rows: sampled_along(hu, places[rows], normals[rows], along), len(places))


def _rise(profiles: Grid, use: SheetSettings) -> float:
    x = use.offsets_mm
    bone = profiles[:, (x >= -2.0) & (x <= 0.5)].max(axis=1)
    return float(np.median(bone - profiles[:, x >= 0.0].min(axis=1)))


def _weights(fit: SheetFit) -> Array:
    """0..1: sharp edges of profiles that look like a cortex as far as those of this bone do."""
    usual, sharp = np.median(fit.residual_hu), np.median(fit.sharpness)
    like = np.clip((3.0 * usual - fit.residual_hu) / (1.5 * max(usual, 1.0)), 0.0, 1.0)
    return np.asarray(np.clip(fit.sharpness / max(sharp, 1e-6), 0.0, 1.0) * like)


def _smoothed(edge_mm: Array, weight: Array, faces: Faces, count: int, use: CortexSettings) -> Array:
    """(N,) weighted mean of the edges near each vertex, falling to no shift where none is known."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    # Each edge belongs to two faces that run along it in opposite directions: all neighbours, each once.
    ones = np.ones(len(start), dtype=np.float32)
    beside = sparse.csr_matrix((ones, (start, end)), shape=(count, count)) + sparse.identity(
        count, np.float32
    )
    beside = sparse.diags(1.0 / np.asarray(beside.sum(axis=1)).ravel().astype(np.float32)) @ beside
    both = np.zeros((count, 2), dtype=np.float32)
    both[:: use.every] = np.column_stack([edge_mm * weight, weight]) * use.every
    for _ in range(use.rounds):
        both = beside @ both
    return np.asarray(both[:, 0] / (both[:, 1] + use.stay_weight), dtype=np.float64)


def _refusal(blur: Blur, seen: float, scatter_mm: float, use: CortexSettings) -> str:
    share = blur.residual_hu / blur.cortex_hu
    if share > use.most_residual:
        return (
            f"The CT across the surface differs from that of a cortex by {100 * share:.0f} % of its density."
        )
    if seen < use.least_seen:
        return f"Only {100 * seen:.0f} % of the surface shows an edge."
    if scatter_mm > use.most_scatter_mm:
        return f"The edges found scatter by {scatter_mm:.2f} mm."
    return ""


def _thickness(vertices: Array, normals: Array, solid: NDArray[np.bool_], grid_mm: float) -> Array:
    """(N,) mm of bone straight below each vertex, as far as 4 mm, in steps of half a voxel."""
    inside = np.ones(len(vertices), dtype=bool)
    depth = np.zeros(len(vertices))
    top = np.array(solid.shape) - 1
    for step in np.arange(1.0, 4.0 / grid_mm + 0.25, 0.5):
        k, j, i = np.clip(np.rint(vertices - step * normals).astype(np.intp), 0, top).T
        inside &= solid[k, j, i]
        depth[inside] = step * grid_mm
    return depth
