"""A scalar image in patient space.

Frame: patient LPS, mm. Index order: `values[k, j, i]` (slice, row, column); the affine maps the index vector
(i, j, k) of a voxel *centre* to LPS: `lps = lps_from_ijk @ (i, j, k, 1)` (DICOM PS3.3 C.7.6.2.1.1).
A sheared affine (gantry tilt) is legal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError
from service.geometry.resampling import affine_resampled

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Volume:
    """`values` (K, J, I), any real dtype; `lps_from_ijk` (4, 4) float64; `frame_of_reference_uid` may be ''."""

    values: NDArray[Any]
    lps_from_ijk: Array
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.lps_from_ijk.shape != (4, 4):
            raise GeometryError("A volume needs a 3-D array and a 4x4 affine.", code="geometry.volume")
        if abs(np.linalg.det(self.lps_from_ijk[:3, :3])) < 1e-9:
            raise GeometryError(
                "The volume's affine has no extent in some direction.", code="geometry.volume"
            )

    @cached_property
    def ijk_from_lps(self) -> Array:
        return np.asarray(np.linalg.inv(self.lps_from_ijk), dtype=np.float64)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (i, j, k)."""
        norms = np.linalg.norm(self.lps_from_ijk[:3, :3], axis=0)
        return float(norms[0]), float(norms[1]), float(norms[2])

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.lps_from_ijk[:3, :3])) / 1000.0)

    def to_lps(self, ijk: NDArray[Any]) -> Array:
        """(N, 3) index coordinates (i, j, k) -> (N, 3) LPS mm."""
        return np.asarray(ijk, dtype=np.float64) @ self.lps_from_ijk[:3, :3].T + self.lps_from_ijk[:3, 3]

    def to_ijk(self, lps: NDArray[Any]) -> Array:
        """(N, 3) LPS mm -> (N, 3) fractional index coordinates (i, j, k)."""
        return np.asarray(lps, dtype=np.float64) @ self.ijk_from_lps[:3, :3].T + self.ijk_from_lps[:3, 3]

    def contains(self, lps: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the (N, 3) LPS points lie between the outermost voxel centres."""
        ijk = self.to_ijk(np.atleast_2d(lps))
        top = np.array(self.values.shape[::-1]) - 1
        return np.asarray(np.all((ijk >= 0) & (ijk <= top), axis=1))

    def sample(self, lps: NDArray[Any], *, order: int = 1, outside: float = -1000.0) -> Array:
        """Interpolated values at (N, 3) LPS points, (N,) float64; `outside` beyond the voxel centres."""
        # here, because the daemon imports this module for its types and resamples nothing itself
        from scipy import ndimage

        ijk = self.to_ijk(lps)
        return np.asarray(
            ndimage.map_coordinates(
                self.values, ijk[:, ::-1].T, order=order, mode="constant", cval=outside, output=np.float64
            )
        )

    def crop(self, low_ijk: tuple[int, int, int], high_ijk: tuple[int, int, int]) -> Volume:
        """Sub-volume of index range [low, high) per axis (i, j, k), clipped to the image."""
        size = self.values.shape[::-1]
        low = [max(0, int(v)) for v in low_ijk]
        high = [min(int(s), int(v)) for s, v in zip(size, high_ijk, strict=True)]
        if any(h <= lo for lo, h in zip(low, high, strict=True)):
            raise GeometryError(
                "The region asked for lies outside the scan.",
                next_step="Check that the points are LPS mm of this very scan.",
                code="geometry.outside",
            )
        affine = self.lps_from_ijk.copy()
        affine[:3, 3] = self.to_lps(np.array([low]))[0]
        view = self.values[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        return Volume(view, affine, self.frame_of_reference_uid)

    def crop_to_lps_box(self, centre: NDArray[Any], half_mm: NDArray[Any]) -> Volume:
        """Smallest index-aligned crop that covers the LPS box centre ± half_mm (clipped to the image)."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
        ijk = self.to_ijk(np.asarray(centre) + signs * np.asarray(half_mm))
        low = np.floor(ijk.min(axis=0)).astype(int)
        high = np.ceil(ijk.max(axis=0)).astype(int) + 1
        return self.crop((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def crop_around(self, there: NDArray[np.bool_], margin_mm: float) -> Volume:
        """Smallest crop that holds all voxels (K, J, I) that are `there` and, clipped to the image, a margin."""
        low, high = [], []
        for axis, (size, step) in enumerate(zip(there.shape, self.spacing_mm[::-1], strict=True)):
            known = np.flatnonzero(there.any(axis=tuple(a for a in range(3) if a != axis)))
            margin = int(np.ceil(margin_mm / step))
            low.append(max(int(known[0]) - margin, 0))
            high.append(min(int(known[-1]) + 1 + margin, size))
        return self.crop((low[2], low[1], low[0]), (high[2], high[1], high[0]))

    def resampled(
        self,
        origin: NDArray[Any],
        axes: NDArray[Any],
        shape_kji: tuple[int, int, int],
        *,
        order: int = 1,
        outside: float = -1000.0,
    ) -> Volume:
        """Resample to a new grid.

        Parameters
        ----------
        origin : (3,) LPS mm of voxel (0, 0, 0).
        axes : (3, 3) columns are the LPS steps in mm along i, j, k.
        shape_kji : size of the new array.
        """
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = origin
        index_from_index = self.ijk_from_lps @ affine
        matrix = index_from_index[:3, :3][::-1, ::-1]
        offset = index_from_index[:3, 3][::-1]
        values = affine_resampled(
            self.values, scaling_of(matrix), offset, shape_kji, order=order, outside=outside
        )
        return Volume(values, affine, self.frame_of_reference_uid)

    def straightened(self) -> Volume:
        """The same image on an orthogonal grid: each slice stays in its plane and is moved within it.

        A tilted gantry steps along the table while its slices lean, so the third axis of the grid is not their
        normal. Values are interpolated linearly along rows and columns only, never between slices; what no slice
        covers gets the lowest value there is.
        """
        step = self.lps_from_ijk[:3, 2]
        sizes = np.linalg.norm(self.lps_from_ijk[:3, :2], axis=0)
        along = self.lps_from_ijk[:3, :2] / sizes
        normal = np.cross(along[:, 0], along[:, 1])
        normal *= np.sign(normal @ step) / np.linalg.norm(normal)
        depth, rows, columns = self.values.shape
        # (K, 2) how far each slice is moved along i and j, in pixels
        moves = np.arange(depth)[:, None] * (along.T @ step / sizes)
        low = np.floor(moves.min(axis=0)).astype(int)
        spread = np.ceil(moves.max(axis=0)).astype(int) - low
        shape = (depth, rows + int(spread[1]), columns + int(spread[0]))
        values = np.full(shape, self.values.min(), dtype=self.values.dtype)
        for k in range(depth):
            (i0, j0), part = np.divmod(moves[k] - low, 1.0)
            moved = _moved(_moved(self.values[k], part[1], 0), part[0], 1)
            if values.dtype.kind in "iu":
                moved = np.rint(moved)
            height, width = min(moved.shape[0], shape[1] - int(j0)), min(moved.shape[1], shape[2] - int(i0))
            values[k, int(j0) : int(j0) + height, int(i0) : int(i0) + width] = moved[:height, :width]
        affine = np.eye(4)
        affine[:3, :2] = self.lps_from_ijk[:3, :2]
        affine[:3, 2] = normal * (step @ normal)
        affine[:3, 3] = self.lps_from_ijk[:3, 3] + self.lps_from_ijk[:3, :2] @ low
        return Volume(values, affine, self.frame_of_reference_uid)


def scaling_of(matrix: Array) -> Array:
    """The diagonal of a matrix without turn or shear, else the matrix: scipy resamples along the axes much faster."""
    diagonal = np.diag(matrix)
    return diagonal if np.allclose(matrix, np.diag(diagonal), rtol=0.0, atol=1e-12) else matrix


def _moved(plane: NDArray[Any], part: float, axis: int) -> NDArray[Any]:
    """Moved by a part of a pixel towards higher indices, one pixel longer; the border is repeated."""
    if part < 1e-6:
        return plane
    wide = np.pad(plane.astype(np.float64), [(1, 1) if n == axis else (0, 0) for n in (0, 1)], mode="edge")
    before = np.take(wide, range(wide.shape[axis] - 1), axis)
    after = np.take(wide, range(1, wide.shape[axis]), axis)
    return np.asarray(part * before + (1 - part) * after)
