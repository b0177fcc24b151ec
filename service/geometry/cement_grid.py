"""The part of a scan that holds cement: its voxels' places in the planning frame and beside needles. Lengths mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry import pose
from service.geometry.needles import Axis, MetalLine
from service.geometry.registration import Registration
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Grid:
    """A crop of the scan with its voxels' places in the planning frame and their depth in the bone."""

    def __init__(self, crop: Volume, registration: Registration, outer: Volume) -> None:
        self.crop = crop
        self.spacing_kji = crop.spacing_mm[::-1]
        self.voxel_mm3 = crop.voxel_ml * 1000.0
        k, j, i = np.indices(crop.values.shape).reshape(3, -1)
        self.scan = crop.to_lps(np.stack([i, j, k], axis=1))
        self.preop = pose.apply(registration.preop_from_scan, self.scan)
        self.step = registration.preop_from_scan[:3, :3] @ crop.lps_from_ijk[:3, :3]
        self.depth = outer.sample(self.preop, outside=50.0).reshape(crop.values.shape)

    def eroded(self, mask: Mask, by_mm: float) -> Mask:
        return np.asarray(ndimage.distance_transform_edt(mask, self.spacing_kji) > by_mm)

    def box_around(self, mask: Mask, by_mm: float) -> tuple[slice, slice, slice]:
        """The part of the grid that holds what is set in `mask`, not empty, with a margin."""
        where = np.argwhere(mask)
        margin = np.ceil(by_mm / np.array(self.spacing_kji)).astype(int)
        low, high = np.maximum(where.min(axis=0) - margin, 0), where.max(axis=0) + margin + 1
        k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return k, j, i

    def grown(self, mask: Mask, by_mm: float) -> Mask:
        return np.asarray(ndimage.distance_transform_edt(~mask, self.spacing_kji) <= by_mm)

    def blurred(self, values: NDArray[np.float32], sigma_mm: float) -> NDArray[np.float32]:
        return np.asarray(ndimage.gaussian_filter(values, [sigma_mm / s for s in self.spacing_kji]))


class Line:
    """Places of a grid's voxels relative to a needle: `radial` and `along` (towards the tip), mm, on the grid."""

    def __init__(self, line: Axis | MetalLine, grid: Grid) -> None:
        along, radial = beside_line(grid.scan, line)
        self.along = along.reshape(grid.crop.values.shape)
        self.radial = radial.reshape(grid.crop.values.shape)

    def behind(self, tip_mm: float) -> Array:
        """Distance behind the needle's end, negative in front of it."""
        return np.asarray(tip_mm - self.along)


def beside_line(points: Array, line: Axis | MetalLine) -> tuple[Array, Array]:
    """(along, radial) of points (N, 3) from a line, mm; `along` counts from the end an axis calls its origin."""
    offset = points - (line.origin if isinstance(line, Axis) else line.end)
    along = offset @ line.direction
    return along, np.sqrt(np.maximum((offset**2).sum(axis=1) - along**2, 0.0))


def any_of(masks: Sequence[Mask], shape: tuple[int, ...]) -> Mask:
    found = np.zeros(shape, dtype=bool)
    for mask in masks:
        found |= mask
    return found


def wider(scan: Volume, crop: Volume, cement: Mask, edge_mm: float, by_mm: float) -> Volume | None:
    """The crop of the scan made larger by `by_mm` on each side that cement comes closer to than `edge_mm`.

    None when it goes nowhere near a side, or the scan ends there.
    """
    step, size = np.array(crop.spacing_mm), np.array(crop.values.shape[::-1])
    low = np.rint(scan.to_ijk(crop.to_lps(np.zeros((1, 3))))[0]).astype(int)
    where = np.argwhere(cement)[:, ::-1]
    if not len(where):
        return None
    more = np.ceil(by_mm / step).astype(int)
    before = np.where(where.min(axis=0) * step < edge_mm, more, 0)
    behind = np.where((size - 1 - where.max(axis=0)) * step < edge_mm, more, 0)
    new_low = np.maximum(low - before, 0)
    new_high = np.minimum(low + size + behind, scan.values.shape[::-1])
    if (new_low == low).all() and (new_high == low + size).all():
        return None
    return scan.crop((new_low[0], new_low[1], new_low[2]), (new_high[0], new_high[1], new_high[2]))
