"""Gaussian filters of `scipy.ndimage` with both cores at work: the same values, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.parallel import along_axis

Grid = NDArray[np.float32]


def gaussian(values: NDArray[Any], sigma: float | Sequence[float], *, truncate: float = 4.0) -> Grid:
    """`ndimage.gaussian_filter`; `sigma` in voxels, for all axes or for each; (K, J, I) float32."""
    return _filtered(values.astype(np.float32), _each(sigma), (0, 0, 0), truncate)


def gradient_magnitude(values: Grid, sigma: float) -> Grid:
    """`ndimage.gaussian_gradient_magnitude`: per voxel; `sigma` in voxels."""
    source = values.astype(np.float32, copy=False)
    each = _each(sigma)
    square = _filtered(source, each, (1, 0, 0), 4.0)
    square *= square
    # The slopes along the other two axes begin with the same blur along the first.
    blurred = _pass(source, np.empty_like(source), 0, each, 0, 4.0)
    part = _pass(blurred, np.empty_like(source), 1, each, 1, 4.0)
    _pass(part, part, 2, each, 0, 4.0)
    part *= part
    square += part
    _pass(blurred, blurred, 1, each, 0, 4.0)
    _pass(blurred, blurred, 2, each, 1, 4.0)
    blurred *= blurred
    square += blurred
    return np.asarray(np.sqrt(square, out=square))


def _each(sigma: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(s) for s in np.broadcast_to(np.asarray(sigma, dtype=np.float64), 3))


def _filtered(source: Grid, sigma: tuple[float, ...], orders: tuple[int, ...], truncate: float) -> Grid:
    out = np.empty_like(source)
    for axis in range(3):
        source = _pass(source, out, axis, sigma, orders[axis], truncate)
    return out


def _pass(source: Grid, out: Grid, axis: int, sigma: tuple[float, ...], order: int, truncate: float) -> Grid:
    """Along one axis, into `out`, which may be `source` itself: each line is read before it is written."""
    along_axis(
        source,
        out,
        axis,
        lambda part, to, at: ndimage.gaussian_filter1d(
            part, sigma[at], at, order, output=to, truncate=truncate
        ),
    )
    return out
