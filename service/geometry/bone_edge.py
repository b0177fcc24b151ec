"""Where the CT falls below the clinical threshold along the normals of a mask's boundary."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.cortex_edge import CortexSettings

Array = NDArray[np.float64]
Grid = NDArray[np.float32]

STEP_MM = 0.25


@dataclass(frozen=True)
class SurfaceSettings:
    """How the surface is taken. 226 HU is the lower bound of the paper's 226-3071 HU."""

    threshold_hu: float = 226.0
    grid_mm: float = 0.5
    search_inward_mm: float = 3.0
    search_outward_mm: float = 2.0
    margin_mm: float = 6.0
    cap_mm: float = 8.0
    exact_inside_mm: float = 3.0
    exact_outside_mm: float = 1.5
    smoothing_mm: float = 0.35
    smoothing_of_voxel: float = 0.22
    """Least smoothing as a share of the longest voxel edge: a thick-slice scan holds no finer detail."""
    correct_bias: bool = True
    """Move the threshold's surface to the bone's edge where the CT shows the cortex well enough (`cortex_edge`): a
    fixed threshold lies in the blur outside the bone and makes the model fatter than the bone."""
    cortex: CortexSettings = field(default_factory=CortexSettings)
    close_mm: float = 1.0
    """Pores and tunnels narrower than twice this are closed (vessel holes, thin cortex)."""


@dataclass(frozen=True, eq=False)
class Edge:
    """On the working grid: `offset` of the edge from the mask's boundary (mm, outwards positive, times `weight`),
    `weight` 0..1 how far to trust it."""

    offset: Grid
    weight: Grid
    share_without_threshold: float


def find_edge(hu: Grid, soft: Grid, use: SurfaceSettings) -> Edge:
    """Walk along the normals of the boundary `soft == 0` (signed distance, mm): outwards while it is bone, else
    inwards until it is. Contact with other bone shows as no fall below the threshold, and stays undefined."""
    near = np.abs(soft) < 0.75
    profile, inward = _profiles(hu, soft, near, use)
    found = _crossing(profile, np.full(len(profile), use.threshold_hu), inward)
    known = np.isfinite(found)
    on_surface = np.abs(soft[near]) < 0.3
    share = float(1.0 - known[on_surface].mean()) if on_surface.any() else 1.0
    spread = _Spread(near, known, use)
    offset = spread.carried(np.where(known, found, 0.0), 0.0)
    return Edge(offset * spread.weight, spread.weight, share)


def _profiles(
    hu: Grid, soft: Grid, near: NDArray[np.bool_], use: SurfaceSettings
) -> tuple[NDArray[np.float64], int]:
    """HU along the outward normal of each boundary voxel (N, M), every `STEP_MM`, and the index of the boundary."""
    places = np.argwhere(near)
    gradient = np.stack([np.gradient(soft, axis=a)[near] for a in range(3)], axis=1)
    normal = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
    inward, outward = round(use.search_inward_mm / STEP_MM), round(use.search_outward_mm / STEP_MM)
    offsets = STEP_MM * np.arange(-inward, outward + 1)
    base = places - soft[near][:, None] * normal / use.grid_mm
    where = base[:, None, :] + offsets[None, :, None] * normal[:, None, :] / use.grid_mm
    values = ndimage.map_coordinates(hu, where.reshape(-1, 3).T, order=1, mode="nearest")
    return values.reshape(len(places), len(offsets)).astype(np.float64), inward


def _crossing(profile: Array, level: Array, inward: int) -> Array:
    """Offset (N,) mm at which each profile falls below its level; NaN where it does not."""
    above = profile - level[:, None]
    found = np.full(len(profile), np.nan)
    bone_here = above[:, inward] >= 0
    for k in range(inward):  # from deep to the boundary, so that the outermost rise wins
        a, b = above[:, k], above[:, k + 1]
        rise = ~bone_here & (a >= 0) & (b < 0)
        found = np.where(rise, STEP_MM * (k - inward + a / np.maximum(a - b, 1e-6)), found)
    for k in range(profile.shape[1] - 2, inward - 1, -1):
        a, b = above[:, k], above[:, k + 1]
        fall = bone_here & (a >= 0) & (b < 0)
        found = np.where(fall, STEP_MM * (k - inward + a / np.maximum(a - b, 1e-6)), found)
    return found


class _Spread:
    """Carries values from the boundary band to the space around it, smoothed along the surface."""

    def __init__(self, near: NDArray[np.bool_], known: NDArray[np.bool_], use: SurfaceSettings) -> None:
        self._near, self._sigma = near, 1.0 / use.grid_mm
        band = np.zeros(near.shape, dtype=np.float32)
        trust = band.copy()
        band[near], trust[near] = 1.0, known
        total = ndimage.gaussian_filter(band, self._sigma)
        self._trust = ndimage.gaussian_filter(trust, self._sigma)
        # Ramp: fully trusted from three quarters known, not at all below one quarter (blend of about 1-2 mm).
        weight = np.clip((self._trust / np.maximum(total, 1e-6) - 0.25) / 0.5, 0.0, 1.0).astype(np.float32)
        far = total < 1e-5
        self._nearest = (
            tuple(ndimage.distance_transform_edt(far, return_distances=False, return_indices=True))
            if far.any()
            else None
        )
        self.weight = self._reaching(weight)

    def carried(self, values: Array, otherwise: float) -> Grid:
        """Mean of the known values (zero where unknown) near each point; `otherwise` where none is near."""
        field = np.zeros(self._near.shape, dtype=np.float32)
        field[self._near] = values
        field = ndimage.gaussian_filter(field, self._sigma)
        mean = np.where(self._trust > 1e-6, field / np.maximum(self._trust, 1e-6), np.float32(otherwise))
        return self._reaching(mean.astype(np.float32))

    def _reaching(self, values: Grid) -> Grid:
        return values if self._nearest is None else np.asarray(values[self._nearest])
