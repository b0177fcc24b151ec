"""Where the CT falls below the clinical threshold along the normals of a mask's boundary."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.geometry.cortex_edge import CortexSettings
from service.geometry.filters import gaussian
from service.geometry.parallel import by_rows
from service.geometry.resampling import sampled_along

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
    places = np.argwhere(near)

    found = by_rows(lambda rows: _offsets(hu, soft, places[rows], use), len(places))
    known = np.isfinite(found)
    on_surface = np.abs(soft[near]) < 0.3
    share = float(1.0 - known[on_surface].mean()) if on_surface.any() else 1.0
    spread = _Spread(near, known, use)
    offset = spread.carried(np.where(known, found, 0.0))
    return Edge(offset * spread.weight, spread.weight, share)


def _offsets(hu: Grid, soft: Grid, places: NDArray[np.intp], use: SurfaceSettings) -> Array:
    """Offset (N,) mm of the edge along the outward normal of each boundary voxel (N, 3); NaN where there is none."""
    gradient = _gradient_at(soft, places)
    normal = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
    base = places - soft[tuple(places.T)][:, None] * normal / use.grid_mm

    def above(rows: NDArray[np.bool_], steps: NDArray[np.int_]) -> Array:
        """HU over the threshold (N, M) so many steps outwards of the boundary."""
        along = (STEP_MM / use.grid_mm) * steps
        return sampled_along(hu, base[rows], normal[rows], along).astype(np.float64) - use.threshold_hu

    everywhere = np.ones(len(places), dtype=bool)
    bone = above(everywhere, np.zeros(1, dtype=int))[:, 0] >= 0
    found = np.full(len(places), np.nan)
    outwards = above(bone, np.arange(round(use.search_outward_mm / STEP_MM) + 1))
    found[bone] = STEP_MM * _first_fall(outwards)
    inwards = above(~bone, -np.arange(round(use.search_inward_mm / STEP_MM) + 1))
    found[~bone] = -STEP_MM * _first_fall(-inwards)
    return found


def _first_fall(profile: Array) -> Array:
    """Where (N,), in steps, each profile (N, M) first falls through zero; NaN where it does not."""
    falls = (profile[:, :-1] >= 0) & (profile[:, 1:] < 0)
    k, row = np.argmax(falls, axis=1), np.arange(len(profile))
    before, after = profile[row, k], profile[row, k + 1]
    return np.where(falls[row, k], k + before / np.maximum(before - after, 1e-6), np.nan)


def _gradient_at(values: Grid, places: NDArray[np.intp]) -> Grid:
    """`np.gradient` per voxel at the voxels (N, 3) alone, (N, 3)."""
    out = np.empty(places.shape, dtype=values.dtype)
    for axis, size in enumerate(values.shape):
        after, before = places.copy(), places.copy()
        np.minimum(after[:, axis] + 1, size - 1, out=after[:, axis])
        np.maximum(before[:, axis] - 1, 0, out=before[:, axis])
        width = np.maximum(after[:, axis] - before[:, axis], 1).astype(values.dtype)
        out[:, axis] = (values[tuple(after.T)] - values[tuple(before.T)]) / width
    return out


class _Spread:
    """Carries values from the boundary band to the space around it, smoothed along the surface.

    Beyond 4 mm from the band weight and values are zero: no surface is sought there.
    """

    def __init__(self, near: NDArray[np.bool_], known: NDArray[np.bool_], use: SurfaceSettings) -> None:
        self._near, self._sigma = near, 1.0 / use.grid_mm
        total = self._spread(np.ones(len(known)))
        self._trust = self._spread(known.astype(np.float64))
        # Ramp: fully trusted from three quarters known, not at all below one quarter (blend of about 1-2 mm).
        self.weight: Grid = np.clip((self._trust / np.maximum(total, 1e-6) - 0.25) / 0.5, 0.0, 1.0).astype(
            np.float32
        )

    def carried(self, values: Array) -> Grid:
        """Mean of the known values (zero where unknown) near each point."""
        field = self._spread(values)
        return np.asarray(
            np.where(self._trust > 1e-6, field / np.maximum(self._trust, 1e-6), np.float32(0.0))
        )

    def _spread(self, values: Array) -> Grid:
        field = np.zeros(self._near.shape, dtype=np.float32)
        field[self._near] = values
        return gaussian(field, self._sigma)
