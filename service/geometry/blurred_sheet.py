"""A cortex as a scanner shows it: a sheet of one density blurred by a Gaussian, fitted to profiles of HU.

At distance x outwards along a normal a CT shows

    outside + (cortex - outside) E((e - x) / s) - (cortex - marrow) E((e - t - x) / s),

E the Gaussian step, e the cortex's outer edge, t its thickness, s the blur (Treece, Gee, Mayhew, Poole 2010, Med
Image Anal 14:276). Density and blur are common to a bone; e and t are fitted to each profile, and its two surroundings
follow as a linear least-squares problem. Unit: mm and HU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from service.geometry.parallel import in_threads

Array = NDArray[np.float64]
Grid = NDArray[np.float32]


def _steps(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.geomspace(low, high, count))


@dataclass(frozen=True)
class SheetSettings:
    """What is tried. Chosen on the phantoms of `bench/model/phantom.py` that are not marked out of sample."""

    step_mm: float = 0.25
    inward_mm: float = 3.0
    outward_mm: float = 1.5
    window_mm: tuple[float, float] = (-0.4, 1.6)
    """Middle and standard deviation of the weight of a profile's samples: farther away lies other bone."""
    shifts_mm: tuple[float, float, float] = (-1.6, 1.0, 0.1)
    """Edges tried, first, last, step; at either end nothing was found."""
    thickness_mm: tuple[float, ...] = field(default_factory=lambda: _steps(0.15, 3.2, 12))
    blur_mm: tuple[float, ...] = field(default_factory=lambda: _steps(0.3, 1.3, 9))
    cortex_hu: tuple[float, ...] = field(default_factory=lambda: _steps(450.0, 1500.0, 9))
    usual_cortex_hu: tuple[float, float, float] = (800.0, 0.35, 0.5)
    """Middle, spread (of the logarithm) and weight of what is expected of a cortex's density: a cortex much thinner
    than the blur tells the product of thickness and density only. A fifth too much moves the edge 0.1 mm inwards."""
    least_profiles: int = 100

    @property
    def offsets_mm(self) -> NDArray[np.float32]:
        """(M,) places of a profile's samples, outwards positive."""
        return np.arange(
            -self.inward_mm, self.outward_mm + 0.5 * self.step_mm, self.step_mm, dtype=np.float32
        )

    @property
    def edges_mm(self) -> Array:
        first, last, step = self.shifts_mm
        return np.arange(first, last + 0.5 * step, step)


@dataclass(frozen=True)
class Blur:
    """What the profiles of one bone have in common; `residual_hu` is what the model leaves of a typical one."""

    cortex_hu: float
    in_plane_mm: float
    between_slices_mm: float
    residual_hu: float

    def along(self, slice_share: Array) -> Array:
        """Blur (N,) mm along directions whose cosine with the slices' normal is `slice_share`."""
        square = slice_share**2
        return np.sqrt(self.in_plane_mm**2 * (1.0 - square) + self.between_slices_mm**2 * square)


@dataclass(frozen=True, eq=False)
class SheetFit:
    """(N,) each: outer edge of the cortex (mm, outwards positive), how sharply the profile tells it (HU² / mm², zero
    at the ends of the range), root mean square that the model leaves (HU)."""

    edge_mm: Array
    sharpness: Array
    residual_hu: Array


class _Sheets:
    """Sheets of one blur, at every edge and thickness tried, less what the two free surroundings explain."""

    def __init__(self, blur_mm: float, edges: Array, thickness: Array, use: SheetSettings) -> None:
        x = use.offsets_mm.astype(np.float64)
        middle, width = use.window_mm
        root = np.exp(-0.25 * ((x - middle) / width) ** 2)
        root /= np.sqrt(np.mean(root**2))
        e, t = (a.ravel()[:, None] for a in np.meshgrid(edges, thickness, indexing="ij"))
        outer, inner = special.ndtr((e - x) / blur_mm), special.ndtr((e - t - x) / blur_mm)
        first = _unit(root * (1.0 - outer))
        second = root * inner
        second = _unit(second - np.sum(first * second, axis=1, keepdims=True) * first)
        sheet = root * (outer - inner)
        for known in (first, second):
            sheet = sheet - np.sum(known * sheet, axis=1, keepdims=True) * known
        self._first, self._second, self._sheet = (
            np.ascontiguousarray(a.T, dtype=np.float32) for a in (first, second, sheet)
        )
        self._norm = np.sum(sheet**2, axis=1).astype(np.float32)
        self._root = root.astype(np.float32)
        self._shape = (len(edges), len(thickness))

    def terms(self, profiles: Grid) -> tuple[Grid, Grid, Grid]:
        """The squares left for a cortex of c HU are `a - 2 c b + c² n`: a, b (N, K) and n (K,)."""
        seen = profiles * self._root
        free = np.asarray((seen @ self._first) ** 2, dtype=np.float32)
        free += (seen @ self._second) ** 2
        np.subtract(np.sum(seen**2, axis=1, keepdims=True), free, out=free)
        return free, np.asarray(seen @ self._sheet, dtype=np.float32), self._norm

    def left(self, profiles: Grid, cortex_hu: float) -> Grid:
        """(N, edges, thicknesses) sum of weighted squares left."""
        a, b, n = self.terms(profiles)
        b *= np.float32(-2.0 * cortex_hu)
        b += a
        b += np.float32(cortex_hu**2) * n
        return b.reshape(len(profiles), *self._shape)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def estimate_blur(profiles: Grid, slice_share: Array, use: SheetSettings) -> Blur | None:
    """Density and blur that explain the profiles (N, M) of a bone best together; None when too few can tell.

    `slice_share` (N,) 0..1: cosine between a profile and the slices' normal, along which the blur is another one.
    """
    groups = [profiles[slice_share < 0.4], profiles[slice_share > 0.85]]
    if min(len(g) for g in groups) < use.least_profiles:
        return None
    edges = use.edges_mm
    thickness = np.geomspace(use.thickness_mm[0], use.thickness_mm[-1], 2 * len(use.thickness_mm))
    left = np.zeros((2, len(use.cortex_hu), len(use.blur_mm)))

    def one(number: int) -> None:
        sheets = _Sheets(use.blur_mm[number], edges, thickness, use)
        for group, part in enumerate(groups):
            a, b, n = sheets.terms(part)
            for row, hu in enumerate(use.cortex_hu):
                least = np.min(a - np.float32(2.0 * hu) * b + np.float32(hu**2) * n, axis=1)
                left[group, row, number] = np.median(np.maximum(least, 0.0)) / profiles.shape[1]

    in_threads(one, range(len(use.blur_mm)))
    middle, spread, weight = use.usual_cortex_hu
    density, blur = np.log(use.cortex_hu), np.log(use.blur_mm)
    cost = np.log(left.min(axis=2) + 1.0).sum(axis=0) + weight * ((density - np.log(middle)) / spread) ** 2
    row = int(np.argmin(cost))
    in_plane, between = (float(np.exp(_lowest(blur, np.log(left[g, row] + 1.0)))) for g in (0, 1))
    residual = float(np.sqrt(left[:, row].min(axis=1).mean()))
    return Blur(float(np.exp(_lowest(density, cost))), in_plane, between, residual)


def _lowest(x: Array, y: Array) -> float:
    """Where the parabola through the lowest sample and its neighbours is lowest; an end stays an end."""
    k = int(np.argmin(y))
    if k in (0, len(x) - 1):
        return float(x[k])
    a, b, _ = np.polyfit(x[k - 1 : k + 2] - x[k], y[k - 1 : k + 2], 2)
    step = -0.5 * b / a if a > 0 else 0.0
    return float(x[k] + np.clip(step, x[k - 1] - x[k], x[k + 1] - x[k]))


def fit_sheets(profiles: Grid, slice_share: Array, blur: Blur, use: SheetSettings) -> SheetFit:
    """Edge of the cortex on each of the profiles (N, M)."""
    edges, sigma = use.edges_mm, blur.along(slice_share)
    low, high = sorted((blur.in_plane_mm, blur.between_slices_mm))
    levels = np.linspace(low, high, 5)
    nearest = np.argmin(np.abs(sigma[:, None] - levels), axis=1)
    out = np.zeros((3, len(profiles)))
    for level in np.unique(nearest):
        sheets = _Sheets(float(levels[level]), edges, np.array(use.thickness_mm), use)
        rows = np.flatnonzero(nearest == level)

        def part(chosen: NDArray[np.intp], sheets: _Sheets = sheets) -> None:
            out[:, chosen] = _placed(sheets.left(profiles[chosen], blur.cortex_hu), edges)

        in_threads(part, [rows[n : n + 2000] for n in range(0, len(rows), 2000)])
    out[2] = np.sqrt(np.maximum(out[2], 0.0) / profiles.shape[1])
    return SheetFit(*out)


def _placed(left: Grid, edges: Array) -> Array:
    """(3, N): edge, sharpness, squares left; `left` (N, edges, thicknesses)."""
    along = _least_of_last_axis(left).astype(np.float64)
    best = np.argmin(along, axis=1)
    inner = np.clip(best, 1, len(edges) - 2)[:, None]
    low, middle, high = (np.take_along_axis(along, inner + k, axis=1)[:, 0] for k in (-1, 0, 1))
    bend = low - 2.0 * middle + high
    step = np.clip(0.5 * (low - high) / np.maximum(bend, 1e-6), -0.5, 0.5)
    spacing = edges[1] - edges[0]
    found = (best > 0) & (best < len(edges) - 1) & (bend > 0)
    sharpness = np.where(found, bend / spacing**2, 0.0)
    return np.stack(
        [
            edges[inner[:, 0]] + spacing * step,
            sharpness,
            np.take_along_axis(along, best[:, None], axis=1)[:, 0],
        ]
    )


def _least_of_last_axis(values: Grid) -> Grid:
    """Least of the parabola through the lowest sample and its neighbours, at the ends the sample itself."""
    best = np.argmin(values, axis=2)
    inner = np.clip(best, 1, values.shape[2] - 2)[:, :, None]
    low, middle, high = (np.take_along_axis(values, inner + k, axis=2)[:, :, 0] for k in (-1, 0, 1))
    bend, slope = np.maximum(low - 2.0 * middle + high, 1e-6), 0.5 * (low - high)
    step = np.clip(slope / bend, -1.0, 1.0)
    return np.asarray(middle - slope * step + 0.5 * bend * step**2, dtype=np.float32)
