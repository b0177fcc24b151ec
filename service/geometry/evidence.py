"""What the CT says about bone, resampled so that fitting is fast and independent of the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.errors import GeometryError
from service.geometry.parallel import in_threads, slabs
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Grid = NDArray[np.float32]

#: HU range in which soft tissue around the spine lies; its median is the patient's own soft-tissue level.
SOFT_TISSUE_HU = (0.0, 110.0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """A 1 mm grid parallel to LPS around one vertebra and its neighbours; arrays are (Z, Y, X)."""

    origin: Array
    """(3,) LPS mm of voxel (0, 0, 0)."""
    step_mm: float
    hu: Grid
    inside_scan: NDArray[np.bool_]
    soft_hu: float
    coarse: Grid
    """Bone evidence -0.4..1.2 relative to soft tissue, blurred by 2 mm."""
    fine: Grid
    """The same, blurred by 0.7 mm."""

    @cached_property
    def quick_coarse(self) -> QuickField:
        return QuickField(self.coarse)

    @cached_property
    def quick_fine(self) -> QuickField:
        return QuickField(self.fine, finer=True)

    def volume(self, values: NDArray[Any], frame_of_reference_uid: str = "") -> Volume:
        """Values on this grid as a volume."""
        affine = np.diag([self.step_mm, self.step_mm, self.step_mm, 1.0])
        affine[:3, 3] = self.origin
        return Volume(values, affine, frame_of_reference_uid)

    def index_of(self, points: Array) -> Array:
        """(..., 3) LPS mm -> fractional (i, j, k)."""
        return np.asarray((points - self.origin) / self.step_mm)


def trilinear_along(values: Grid, evidence: Evidence, points: Array, directions: Array, steps: Array) -> Grid:
    """Values at `points` (N, 3) LPS mm moved by each of `steps` (M,) mm along their `directions` (N, 3).

    (N, M), between the voxels by trilinear interpolation; zero beyond the grid. The places are laid out as they are
    read, which spares a copy of them.
    """
    where = np.empty((3, len(points), len(steps)))
    for axis in range(3):
        along = where[2 - axis]
        np.multiply(steps, directions[:, axis, None], out=along)
        along += points[:, axis, None]
        along -= evidence.origin[axis]
        along /= evidence.step_mm
    flat = where.reshape(3, -1)
    found = ndimage.map_coordinates(values, flat, order=1, mode="constant", cval=0.0, output=np.float32)
    return np.asarray(found, dtype=np.float32).reshape(where.shape[1:])


class QuickField:
    """A field read at its nearest sample, the fastest way to ask it at many points; zero beyond its edge.

    `finer` adds the samples half-way between voxels first (trilinear), which leaves an eighth of a voxel as the mean
    error of place on each axis.
    """

    def __init__(self, values: Grid, *, finer: bool = False) -> None:
        self.per_voxel = 2 if finer else 1
        self._values = _with_all_middles(values) if finer else np.pad(values, 1)
        self._flat = self._values.ravel()

    def at(self, index: NDArray[np.float32]) -> Grid:
        """Values (P, N) at (P, 3, N) voxel indices (i, j, k) in samples of this field; overwrites `index`."""
        depth, rows, columns = self._values.shape
        index += np.float32(1.5)
        place = [
            np.clip(index[:, n], 0.0, np.float32(size - 1), out=index[:, n]).astype(np.int32)
            for n, size in enumerate((columns, rows, depth))
        ]
        flat = place[2]
        flat *= rows
        flat += place[1]
        flat *= columns
        flat += place[0]
        return np.asarray(self._flat.take(flat))


def _with_all_middles(values: Grid) -> Grid:
    """(2 n - 1) samples along each axis for its n, within a border of zeros one sample wide."""
    values = _with_middles(_with_middles(values, 0), 1)
    depth, rows, columns = values.shape
    out = np.zeros((depth + 2, rows + 2, 2 * columns + 1), dtype=np.float32)

    def fill(slab: slice) -> None:
        _with_middles(values[slab], 2, out=out[slab.start + 1 : slab.stop + 1, 1:-1, 1:-1])

    # The last axis holds most of the work, and its lines do not depend on each other.
    in_threads(fill, slabs(depth, out.size))
    return out


def _with_middles(values: Grid, axis: int, *, out: Grid | None = None) -> Grid:
    """(2 n - 1) samples along an axis for its n."""
    if out is None:
        shape = list(values.shape)
        shape[axis] = 2 * shape[axis] - 1
        out = np.empty(shape, dtype=np.float32)
    even, odd, low, high = ([slice(None)] * 3 for _ in range(4))
    even[axis], odd[axis] = slice(None, None, 2), slice(1, None, 2)
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    out[tuple(even)] = values
    middle = out[tuple(odd)]
    np.add(values[tuple(low)], values[tuple(high)], out=middle)
    middle *= np.float32(0.5)
    return out


def gather_evidence(ct: Volume, low_lps: Array, high_lps: Array, *, step_mm: float = 1.0) -> Evidence:
    """Resample the LPS box [low, high] of `ct`.

    Outside the scan the evidence is neutral (soft tissue), so that a shape is neither drawn to nor pushed
    from the edge.

    Raises
    ------
    GeometryError
        When the box does not meet the scan or holds no soft tissue at all.
    """
    shape = np.ceil((high_lps - low_lps) / step_mm).astype(int) + 1
    part = ct.crop_to_lps_box((low_lps + high_lps) / 2, (high_lps - low_lps) / 2 + 2 * max(ct.spacing_mm))
    grid = part.resampled(
        low_lps, np.eye(3) * step_mm, (int(shape[2]), int(shape[1]), int(shape[0])), outside=-32768.0
    )
    inside = grid.values > -4096.0
    hu = np.clip(grid.values, -200.0, 1500.0).astype(np.float32)
    soft = hu[inside & (hu > SOFT_TISSUE_HU[0]) & (hu < SOFT_TISSUE_HU[1])]
    if soft.size < 1000:
        raise GeometryError(
            "There is no soft tissue around the point, so this is not the inside of a body.",
            next_step="Check that the point is in LPS mm of this scan and lies in the vertebral body.",
            code="geometry.seed_in_air",
        )
    level = float(np.median(soft))
    hu[~inside] = level
    bone = np.clip((hu - level) / 250.0, -0.4, 1.2)
    coarse, fine = in_threads(lambda sd_mm: ndimage.gaussian_filter(bone, sd_mm / step_mm), (2.0, 0.7))
    return Evidence(
        origin=np.asarray(low_lps, dtype=np.float64),
        step_mm=step_mm,
        hu=hu,
        inside_scan=inside,
        soft_hu=level,
        coarse=coarse,
        fine=fine,
    )
