"""Needles and cement as exact shapes, and their share of each voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Single = NDArray[np.float32]
TipShape = Literal["cone", "bevel", "diamond", "trocar", "ogive", "cannula"]
TIP_SHAPES: tuple[TipShape, ...] = get_args(TipShape)

NEEDLE_13G_MM = 2.413


@dataclass(frozen=True)
class Needle:
    """A straight needle. `entry` and `tip` are LPS mm of the planning CT; the shaft runs on behind the entry.

    The tip is the point of the axis level with the foremost metal; for a bevel the metal itself is there at the
    rim of the shaft, `diameter_mm / 2` beside the axis. `trocar` is a three-sided pyramid, `diamond` a four-sided
    one, `ogive` a rounded point, `cannula` a bevelled tube without its stylet. `bore_mm` is the width of the tube's
    bore: None takes three quarters of the diameter for a cannula and none for the others.
    """

    entry: tuple[float, float, float]
    tip: tuple[float, float, float]
    diameter_mm: float = NEEDLE_13G_MM
    tip_shape: TipShape = "cone"
    tip_length_mm: float = 3.0
    length_mm: float = 125.0
    bore_mm: float | None = None

    def __post_init__(self) -> None:
        if np.linalg.norm(np.subtract(self.tip, self.entry)) < 1.0:
            raise ValueError("entry and tip of a needle must lie at least 1 mm apart")
        if self.tip_shape not in TIP_SHAPES:
            raise ValueError(f"unknown tip shape {self.tip_shape}")
        if not 0.0 <= self.bore < self.diameter_mm:
            raise ValueError("the bore must be narrower than the needle")

    @property
    def axis(self) -> Array:
        """Unit vector from entry to tip."""
        way = np.subtract(self.tip, self.entry)
        return np.asarray(way / np.linalg.norm(way), dtype=np.float64)

    @property
    def bore(self) -> float:
        """Diameter of the bore, mm; 0 for a solid needle."""
        if self.bore_mm is not None:
            return self.bore_mm
        return 0.75 * self.diameter_mm if self.tip_shape == "cannula" else 0.0

    def distance(self, points: Array) -> Array:
        """Signed distance (N,) mm, negative in metal, of points (N,3) in the frame of `tip`; close near the surface."""
        axis, radius = self.axis, 0.5 * self.diameter_mm
        across = _perpendicular(axis)
        q = np.asarray(points, dtype=np.float64) - np.asarray(self.tip)
        behind = -(q @ axis)
        u, v = q @ across, q @ np.cross(axis, across)
        radial = np.hypot(u, v)
        shaft = np.maximum(radial - radius, np.maximum(behind - self.length_mm, -behind))
        metal = np.maximum(shaft, self._point(u, v, radial, behind))
        return np.asarray(metal if self.bore == 0 else np.maximum(metal, 0.5 * self.bore - radial))

    def _point(self, u: Array, v: Array, radial: Array, behind: Array) -> Array:
        """Distance (N,) to the faces of the point, unlimited behind them; `u`, `v` across and `behind` the tip, mm."""
        radius = 0.5 * self.diameter_mm
        slope = radius / self.tip_length_mm
        if self.tip_shape == "cone":
            return np.asarray((radial - slope * behind) / np.hypot(1.0, slope))
        if self.tip_shape == "diamond":
            square = np.maximum(np.abs(u), np.abs(v)) * np.sqrt(2.0)
            return np.asarray((square - slope * behind) / np.hypot(1.0, slope))
        if self.tip_shape == "trocar":
            turns = 2.0 * np.pi * np.arange(3) / 3.0
            faces = np.cos(turns)[:, None] * u + np.sin(turns)[:, None] * v
            return np.asarray((faces.max(axis=0) - slope * behind) / np.hypot(1.0, slope))
        if self.tip_shape == "ogive":
            part = np.clip(behind / self.tip_length_mm, 0.0, 1.0)
            return np.asarray(radial - radius * np.sqrt(1.0 - (1.0 - part) ** 2))
        return np.asarray((u + radius - 2.0 * slope * behind) / np.hypot(1.0, 2.0 * slope))

    def box(self) -> Array:
        """Corners (2,3) of an upright box around the needle."""
        tip = np.asarray(self.tip)
        ends = np.stack([tip, tip - self.axis * self.length_mm])
        return np.stack([ends.min(axis=0) - self.diameter_mm, ends.max(axis=0) + self.diameter_mm])


@dataclass(frozen=True)
class Cement:
    """A lobed blob of bone cement around `centre` (LPS mm of the planning CT).

    With `leak_to` (LPS mm) a strand of `leak_radius_mm` runs from the centre to that point and ends in a drop twice
    as thick: cement on its way into the canal, a disc or a vein.
    """

    centre: tuple[float, float, float]
    radius_mm: float = 7.0
    lobes: int = 5
    seed: int = 1
    leak_to: tuple[float, float, float] | None = None
    leak_radius_mm: float = 1.0

    def spheres(self) -> tuple[Array, Array]:
        """Centres (n,3) and radii (n,) of the spheres whose union is the blob."""
        rng = np.random.default_rng(self.seed)
        way = rng.standard_normal((self.lobes, 3))
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        centres = np.vstack([np.zeros(3), way * self.radius_mm * 0.75]) + np.asarray(self.centre)
        radii = np.concatenate([[0.85], rng.uniform(0.35, 0.6, self.lobes)]) * self.radius_mm
        if self.leak_to is None:
            return centres, radii
        way_out = np.subtract(self.leak_to, self.centre)
        steps = max(2, int(np.ceil(2.0 * np.linalg.norm(way_out) / self.leak_radius_mm)))
        strand = np.asarray(self.centre) + np.linspace(0.0, 1.0, steps)[:, None] * way_out
        thick = np.full(steps, self.leak_radius_mm)
        thick[-1] *= 2.0
        return np.vstack([centres, strand]), np.concatenate([radii, thick])

    def distance(self, points: Array) -> Array:
        """Signed distance (N,) mm of points (N,3) to the blob."""
        nearest = np.full(len(points), np.inf)
        for centre, radius in zip(*self.spheres(), strict=True):
            nearest = np.minimum(nearest, np.linalg.norm(points - centre, axis=1) - radius)
        return np.asarray(nearest)

    def box(self) -> Array:
        """Corners (2,3) of an upright box around the blob."""
        centres, radii = self.spheres()
        return np.stack([(centres - radii[:, None]).min(axis=0), (centres + radii[:, None]).max(axis=0)])


def _perpendicular(axis: Array) -> Array:
    helper = np.eye(3)[int(np.argmin(np.abs(axis)))]
    across = helper - axis * float(helper @ axis)
    return np.asarray(across / np.linalg.norm(across))


def voxel_share(
    shape: Needle | Cement, grid_shape: tuple[int, int, int], preop_from_ijk: Array, fine: int = 4
) -> tuple[tuple[slice, slice, slice], Single]:
    """Box of the grid (slices over k,j,i) and the share 0..1 of each of its voxels inside `shape`.

    Voxels cut by the surface are divided `fine`³ times. The box is empty when the shape lies outside the grid.
    """
    low, high = shape.box()
    corners = np.array(
        [[x, y, z, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    ijk = (corners @ np.linalg.inv(preop_from_ijk).T)[:, :3]
    first = np.maximum(np.floor(ijk.min(axis=0)).astype(int) - 1, 0)
    last = np.minimum(np.ceil(ijk.max(axis=0)).astype(int) + 2, np.array(grid_shape[::-1]))
    box = (slice(first[2], last[2]), slice(first[1], last[1]), slice(first[0], last[0]))
    size = tuple(max(0, s.stop - s.start) for s in box)
    share = np.zeros(size, dtype=np.float32)
    half_voxel = 0.5 * float(np.linalg.norm(preop_from_ijk[:3, :3] @ np.ones(3)))
    steps = (np.arange(fine) + 0.5) / fine - 0.5
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = offsets @ preop_from_ijk[:3, :3].T
    for k in range(size[0]):
        j, i = np.meshgrid(np.arange(first[1], last[1]), np.arange(first[0], last[0]), indexing="ij")
        index = np.stack([i.ravel(), j.ravel(), np.full(i.size, first[2] + k)], axis=1)
        points = index @ preop_from_ijk[:3, :3].T + preop_from_ijk[:3, 3]
        d = shape.distance(points)
        plane = (d < 0).astype(np.float32)
        cut = np.abs(d) < half_voxel * 1.3
        if cut.any():
            inside = shape.distance((points[cut, None, :] + offsets).reshape(-1, 3)) < 0
            plane[cut] = inside.reshape(-1, len(offsets)).mean(axis=1)
        share[k] = plane.reshape(size[1:])
    return box, share
