"""A scalar array on another regular grid, as `scipy.ndimage.affine_transform` makes it, with both cores at work.

A grid that is only shifted and stretched is reached axis by axis: a cubic spline then takes four samples a value and
axis instead of 64 in space, and each axis is cut to its new length before the next one is worked on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.parallel import along_axis, in_threads, slabs

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Grid = NDArray[np.float32]

#: Samples of a source brought along its first axis at a time, by each thread.
SAMPLES_AT_ONCE = 500_000


def affine_resampled(
    values: NDArray[Any],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape: tuple[int, int, int],
    *,
    order: int,
    outside: float,
) -> Grid:
    """`scipy.ndimage.affine_transform` with `mode="constant"`; (K, J, I) float32.

    Parameters
    ----------
    matrix : (3, 3) index from index, or its diagonal (3,), which is much faster.
    """
    if order in (1, 3) and matrix.ndim == 1 and min(values.shape) > 1:
        return _by_axis(values, matrix, offset, shape, order, outside)
    # here, because the daemon imports this module for its types and resamples nothing itself
    from scipy import ndimage

    if order > 1:
        values = spline_coefficients(values, order)
    out = np.empty(shape, dtype=np.float32)

    def fill(slab: slice) -> None:
        start = matrix[:, 0] if matrix.ndim == 2 else np.array([matrix[0], 0.0, 0.0])
        ndimage.affine_transform(
            values,
            matrix,
            offset=offset + slab.start * start,
            output_shape=out[slab].shape,
            output=out[slab],
            order=order,
            mode="constant",
            cval=outside,
            prefilter=False,
        )

    in_threads(fill, slabs(shape[0], out.size))
    return out


def sampled_along(
    values: Grid, places: NDArray[np.floating], directions: NDArray[np.floating], steps: NDArray[np.floating]
) -> Grid:
    """Values (N, M) at `places` (N, 3) moved by each of `steps` (M,) along their `directions` (N, 3).

    All in samples (k, j, i); trilinear, the border goes on beyond the edge. The places are laid out as they are read,
    which spares a copy of them.
    """
    # here, because the daemon imports this module for its types and resamples nothing itself
    from scipy import ndimage

    where = np.empty((3, len(places), len(steps)))
    for axis in range(3):
        np.multiply(steps, directions[:, axis, None], out=where[axis])
        where[axis] += places[:, axis, None]
    found = ndimage.map_coordinates(values, where.reshape(3, -1), order=1, mode="nearest", output=np.float32)
    return np.asarray(found).reshape(where.shape[1:])


def spline_coefficients(values: NDArray[Any], order: int, mode: str = "constant") -> NDArray[np.float64]:
    """What `scipy.ndimage` would make of `values` before it asks them at places between samples.

    For `mode` "nearest" it first repeats the border twelve times; that is left to the caller.
    """
    from scipy import ndimage

    out: NDArray[np.float64] = values.astype(np.float64)
    for axis in range(3):
        along_axis(
            out,
            out,
            axis,
            lambda part, to, at: ndimage.spline_filter1d(part, order, at, output=to, mode=mode),
        )
    return out


def _thin(length: int, samples: int) -> list[slice]:
    """`range(length)` cut so that what is made of a piece stays in the cache, and its memory is used again."""
    each = max(1, length * SAMPLES_AT_ONCE // max(samples, 1))
    return [slice(n, min(n + each, length)) for n in range(0, length, each)]


def _by_axis(
    values: NDArray[Any],
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape: tuple[int, int, int],
    order: int,
    outside: float,
) -> Grid:
    from scipy import ndimage

    def prefiltered(part: NDArray[Any]) -> Grid:
        if order == 1:
            return np.ascontiguousarray(part, dtype=np.float32)
        return np.asarray(ndimage.spline_filter1d(part, order, 0, output=np.float32, mode="constant"))

    taps_of = _linear_taps if order == 1 else _cubic_taps
    taps = [taps_of(*each) for each in zip(values.shape, shape, scale, offset, strict=True)]
    source, out = values, np.empty((shape[0], *values.shape[1:]), dtype=np.float32)

    def along_first(slab: slice) -> None:
        part = prefiltered(source[:, slab])
        out[:, slab] = (taps[0] @ part.reshape(len(part), -1)).reshape(shape[0], *part.shape[1:])

    in_threads(along_first, _thin(out.shape[1], source.size))
    between, result = out, np.empty(shape, dtype=np.float32)

    def along_others(slab: slice) -> None:
        for k in range(slab.start, slab.stop):
            plane = taps[1] @ prefiltered(between[k])
            result[k] = (taps[2] @ prefiltered(np.ascontiguousarray(plane.T))).T

    in_threads(along_others, slabs(shape[0], between.size))
    for axis, length in enumerate(values.shape):
        at = offset[axis] + scale[axis] * np.arange(shape[axis])
        beyond = (at < 0) | (at > length - 1)
        result[(slice(None),) * axis + (beyond,)] = outside
    return result


def _linear_taps(length: int, new_length: int, scale: float, offset: float) -> csr_matrix:
    """(new, old) weights of linear interpolation at `offset + scale * n`."""
    before, t = _before(length, new_length, scale, offset)
    return _rows_of(np.column_stack([1 - t, t]), before[:, None] + np.arange(2), length)


def _cubic_taps(length: int, new_length: int, scale: float, offset: float) -> csr_matrix:
    """(new, old) weights of the cubic B-spline at `offset + scale * n`, samples mirrored at both ends."""
    before, t = _before(length, new_length, scale, offset)
    weights = np.column_stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3]) / 6
    columns = np.abs(before[:, None] + np.arange(-1, 3))
    return _rows_of(weights, np.where(columns >= length, 2 * (length - 1) - columns, columns), length)


def _before(
    length: int, new_length: int, scale: float, offset: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The sample before each place, and how far behind it the place lies; places beyond an end lie on it."""
    at = np.clip(offset + scale * np.arange(new_length), 0.0, length - 1.0)
    before = np.minimum(np.floor(at).astype(np.intp), length - 2)
    return before, at - before


def _rows_of(weights: NDArray[np.float64], columns: NDArray[np.intp], length: int) -> csr_matrix:
    """One row for each row of `weights` (M, T), which belong to `columns` (M, T)."""
    from scipy import sparse

    rows = np.repeat(np.arange(len(weights)), weights.shape[1])
    entries = (weights.astype(np.float32).ravel(), (rows, columns.ravel()))
    return sparse.csr_matrix(entries, shape=(len(weights), length))
