"""From the distance model to grey values: partial volume, trabecular texture, soft tissue, blur and noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulators.phantom.anatomy import LEVELS, Array, PhantomParameters, VertebraPose
from simulators.phantom.shape import (
    Single,
    Skeleton,
    Vertebra,
    canal_centre_y,
    canal_half_axes,
    local_points,
)

LABELS = {level: 16 + index for index, level in enumerate(LEVELS)}
"""Mask values as in VerSe (T9 = 16 ... L5 = 24)."""
RIB_LABEL = 50

AIR_HU, FAT_HU, MUSCLE_HU = -1000.0, -100.0, 54.0
BLOCK = 24


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid: `shape` (k,j,i) and `lps_from_ijk` (4,4) mm."""

    shape: tuple[int, int, int]
    lps_from_ijk: Array

    @property
    def spacing(self) -> Array:
        """Along i, j, k in mm."""
        return np.asarray(np.linalg.norm(self.lps_from_ijk[:3, :3], axis=0))

    def points(self, k: NDArray[np.intp], j: NDArray[np.intp], i: NDArray[np.intp]) -> Single:
        """LPS points (K*J*I,3) float32 of the box of indices."""
        matrix = self.lps_from_ijk
        parts = [np.multiply.outer(axis, matrix[:3, c]) for axis, c in ((k, 2), (j, 1), (i, 0))]
        box = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :] + matrix[:3, 3]
        return np.ascontiguousarray(box.reshape(-1, 3), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class BoneMap:
    """Per voxel: share of bone, grey value of the bone part times its share, label; volumes per label (mm3)."""

    bone: Single
    grey: Single
    labels: NDArray[np.uint8]
    volume_mm3: dict[int, float]


@dataclass(frozen=True, eq=False)
class Texture:
    """Trabecular pattern of one bone, fixed to the bone: it moves with it and is the same at any voxel size."""

    field: Single

    STEP_MM = 0.7
    NODES = 128

    @classmethod
    def of(cls, seed: int) -> Texture:
        """Unit variance, correlated over about 0.9 mm, repeating every 90 mm."""
        rng = np.random.default_rng([seed, 1000])
        return cls(correlated_noise(rng, (cls.NODES,) * 3, (0.9 / cls.STEP_MM,) * 3))

    def at(self, local: Single, bone: int) -> Single:
        """Values (N,) at model points (N,3); each bone takes its own part of the field."""
        nodes = (local + np.float32(41.3 * bone)).T / np.float32(self.STEP_MM)
        values: Single = ndimage.map_coordinates(self.field, nodes, order=1, mode="grid-wrap")
        return values


def _blocks(grid: Grid) -> Iterator[tuple[slice, slice, slice]]:
    for k in range(0, grid.shape[0], BLOCK):
        for j in range(0, grid.shape[1], BLOCK):
            for i in range(0, grid.shape[2], BLOCK):
                yield slice(k, k + BLOCK), slice(j, j + BLOCK), slice(i, i + BLOCK)


def map_bones(skeleton: Skeleton, grid: Grid, parameters: PhantomParameters) -> BoneMap:
    """Evaluate the model block by block; blocks without bone cost nothing."""
    bone = np.zeros(grid.shape, dtype=np.float32)
    grey = np.zeros_like(bone)
    texture = Texture.of(parameters.seed)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    volume: dict[int, float] = {}
    voxel = np.float32(grid.spacing.mean())
    voxel_mm3 = float(abs(np.linalg.det(grid.lps_from_ijk[:3, :3])))
    for block in _blocks(grid):
        k, j, i = (np.arange(s.start, min(s.stop, n)) for s, n in zip(block, grid.shape, strict=True))
        corners = grid.points(k[[0, -1]], j[[0, -1]], i[[0, -1]]).astype(np.float64)
        centre = corners.mean(axis=0)
        radius = float(np.linalg.norm(corners - centre, axis=1).max())
        if not any(b.near(centre, radius) for b in skeleton.bones):
            continue
        shape = (len(k), len(j), len(i))
        points = grid.points(k, j, i)
        for item, d, scale in skeleton.sample(points, centre, radius):
            share = np.clip(0.5 - d / voxel, 0.0, 1.0)
            if not share.any():
                continue
            inner = np.clip(0.5 - (d + np.float32(parameters.cortex_mm) * scale) / voxel, 0.0, 1.0)
            arch = (scale - 1.0) / 0.35
            spongy = np.float32(parameters.trabecular_mean_hu) + 45.0 * arch
            inside = np.flatnonzero(inner)
            pattern = texture.at(local_points(item.pose, points[inside]), skeleton.bones.index(item))
            spongy[inside] += np.float32(parameters.trabecular_sd_hu) * pattern
            value = (share - inner) * np.float32(parameters.cortex_hu) + inner * spongy
            label = LABELS[item.level] if isinstance(item, Vertebra) else RIB_LABEL
            bone[block] += share.reshape(shape)
            grey[block] += value.reshape(shape)
            labels[block][(d < 0).reshape(shape)] = label
            volume[label] = volume.get(label, 0.0) + float(share.sum()) * voxel_mm3
    np.clip(bone, 0.0, 1.0, out=bone)
    return BoneMap(bone, grey, labels, volume)


def correlated_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma_voxels: tuple[float, ...]
) -> Single:
    """Gaussian random field of mean 0 and standard deviation 1 with the given correlation, float32."""
    field = rng.standard_normal(shape, dtype=np.float32)
    if max(sigma_voxels) > 0:
        field = ndimage.gaussian_filter(field, sigma_voxels, mode="wrap", truncate=3.0)
        field /= field.std()
    return field


@dataclass(frozen=True, eq=False)
class Centreline:
    """Body and canal centre of the spine as functions of z (LPS mm)."""

    z: Array
    body: Array
    canal: Array

    @classmethod
    def of(cls, poses: dict[str, VertebraPose]) -> Centreline:
        ordered = sorted(poses.values(), key=lambda pose: float(pose.origin[2]))
        body = np.array([pose.origin for pose in ordered])
        canal = np.array([pose.to_lps(np.array([0.0, canal_centre_y(pose), 0.0])) for pose in ordered])
        return cls(body[:, 2], body[:, :2], canal[:, :2])

    def offsets(self, p: Single, which: Array) -> tuple[Single, Single]:
        """x and y of points (N,3) relative to the body or canal line."""
        x = p[:, 0] - np.interp(p[:, 2], self.z, which[:, 0]).astype(np.float32)
        y = p[:, 1] - np.interp(p[:, 2], self.z, which[:, 1]).astype(np.float32)
        return x, y


def _oval(x: Single, y: Single, at: tuple[float, float], radii: tuple[float, float], edge: float) -> Single:
    """1 inside an ellipse, 0 outside, with an edge about `edge` mm wide."""
    gauge = np.sqrt(((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2)
    result: Single = np.clip(0.5 + (1.0 - gauge) * np.float32(min(radii) / edge), 0.0, 1.0)
    return result


def _paint(grey: Single, share: Single, value: Single | float) -> Single:
    result: Single = grey * (1.0 - share) + share * value
    return result


def soft_tissue(
    poses: dict[str, VertebraPose], p: Single, streaks: Single, edge: float, disc_hu: float
) -> Single:
    """Grey value (N,) of everything but bone at LPS points (N,3).

    `streaks` (N,) is a random field of unit variance that varies organs and fatty septa, `edge` the width of the
    transitions in mm.
    """
    line = Centreline.of(poses)
    x, y = line.offsets(p, line.body)
    grey = np.where(streaks > 0.9, np.float32(-85.0), np.float32(42.0) + 4.0 * streaks)
    grey = np.where(
        (y > -35.0 + 3.0 * streaks) & (np.abs(x) < 75.0 + 3.0 * streaks),
        np.float32(FAT_HU) + 6.0 * streaks,
        grey,
    )
    fleshy = np.float32(MUSCLE_HU) - np.where(streaks > 1.5, 45.0, 0.0) + 3.0 * streaks
    for side in (1, -1):
        grey = _paint(grey, _oval(x, y, (side * 33.0, 3.0), (14.0, 19.0), edge), fleshy)
        grey = _paint(grey, _oval(x, y, (side * 24.0, 50.0), (22.5, 21.0), edge), fleshy)
        grey = _paint(grey, _oval(x, y, (side * 58.0, 38.0), (17.0, 13.0), edge), fleshy)
        grey = _paint(grey, _oval(x, y, (side * 92.0, 0.0), (34.0, 44.0), edge), 48.0 + 4.0 * streaks)
    grey = _paint(grey, _oval(x, y, (9.0, -29.0), (10.5, 10.5), edge), 42.0)
    grey = _paint(grey, _oval(x, y, (-15.0, -27.0), (11.0, 8.5), edge), 38.0)
    for pose in poses.values():
        grey = _paint(grey, _disc(pose, p, edge), np.float32(disc_hu) + 5.0 * streaks)
    cx, cy = line.offsets(p, line.canal)
    a, b = canal_half_axes(next(iter(poses.values())))
    for radii, value in (((a + 0.6, b + 0.6), -70.0), ((a - 1.4, b - 1.2), 14.0), ((5.2, 3.6), 40.0)):
        grey = _paint(grey, _oval(cx, cy, (0.0, 0.0), radii, edge), value)
    depth = _skin_depth(x, y)
    grey = _paint(grey, np.clip(0.5 + (13.0 - depth) / edge, 0.0, 1.0), FAT_HU)
    grey = _paint(grey, np.clip(0.5 + (1.8 - depth) / edge, 0.0, 1.0), 30.0)
    return _paint(grey, np.clip(0.5 - depth / edge, 0.0, 1.0), AIR_HU)


def _skin_depth(x: Single, y: Single) -> Single:
    """Depth under the skin, mm: an oval trunk with a shallow furrow over the spine."""
    radius = np.sqrt((x / 165.0) ** 2 + ((y + 22.0) / 108.0) ** 2)
    furrow = 4.0 * np.exp(-((x / 14.0) ** 2)) * (y > 0)
    result: Single = (1.0 - radius) * 108.0 - furrow
    return result


def _disc(pose: VertebraPose, p: Single, edge: float) -> Single:
    """Share of intervertebral disc below one vertebra; the bone painted over it later bounds it."""
    size = pose.size
    thick = 0.5 * size.disc_below_mm + 3.5
    q = (p - pose.origin.astype(np.float32)) @ pose.axes.astype(np.float32)
    z = q[:, 2] + np.float32(pose.half_height_mm + 0.5 * size.disc_below_mm)
    flat = _oval(q[:, 0], q[:, 1], (0.0, -0.5), (0.51 * size.width_mm, 0.51 * size.depth_mm), edge)
    result: Single = flat * np.clip(0.5 + (thick - np.abs(z)) / edge, 0.0, 1.0)
    return result


def render_soft_tissue(
    poses: dict[str, VertebraPose],
    grid: Grid,
    rng: np.random.Generator,
    disc_hu: float,
    coarse_mm: float = 1.1,
) -> Single:
    """Soft tissue on a grid of about `coarse_mm`, brought to the full grid by linear interpolation."""
    steps = [max(1, round(coarse_mm / s)) for s in grid.spacing[::-1]]
    index = [np.arange(-(-(n - 1) // s) + 1) * s for n, s in zip(grid.shape, steps, strict=True)]
    shape = tuple(len(axis) for axis in index)
    sigma = tuple(4.0 / (s * float(h)) for s, h in zip(steps, grid.spacing[::-1], strict=True))
    streaks = correlated_noise(rng, shape, sigma)
    coarse = np.empty(shape, dtype=np.float32)
    for k, slab in enumerate(streaks):
        points = grid.points(index[0][k : k + 1], index[1], index[2])
        coarse[k] = soft_tissue(poses, points, slab.ravel(), 1.4, disc_hu).reshape(shape[1:])
    for axis, (n, step) in enumerate(zip(grid.shape, steps, strict=True)):
        coarse = _refined(coarse, axis, n, step)
    return coarse


def _refined(values: Single, axis: int, count: int, step: int) -> Single:
    """Linear interpolation along one axis at every 1/step of a node."""
    if step == 1:
        return np.take(values, np.arange(count), axis=axis)
    at = np.arange(count)
    low = np.minimum(at // step, values.shape[axis] - 2)
    shape = [1, 1, 1]
    shape[axis] = count
    weight = ((at - low * step) / step).astype(np.float32).reshape(shape)
    first, second = np.take(values, low, axis=axis), np.take(values, low + 1, axis=axis)
    result: Single = first + (second - first) * weight
    return result


def slab_weights(thickness_mm: float, increment_mm: float) -> Array:
    """Weights of neighbouring samples for a slice that averages over `thickness_mm`."""
    half = 0.5 * thickness_mm / increment_mm
    count = int(np.ceil(half - 0.5))
    at = np.arange(-count, count + 1)
    weights = np.clip(np.minimum(at + 0.5, half) - np.maximum(at - 0.5, -half), 0.0, None)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def render(
    skeleton: Skeleton, grid: Grid, parameters: PhantomParameters
) -> tuple[NDArray[np.int16], BoneMap]:
    """CT numbers (k,j,i) int16 on `grid` and the map of bone they were made from."""
    rng = np.random.default_rng(parameters.seed)
    spacing = grid.spacing[::-1]
    bones = map_bones(skeleton, grid, parameters)
    grey = render_soft_tissue(skeleton.poses, grid, rng, parameters.disc_hu)
    grey *= 1.0 - bones.bone
    grey += bones.grey
    sigma = tuple(float(parameters.psf_sigma_mm / s) for s in spacing)
    grey = ndimage.gaussian_filter(grey, sigma, truncate=3.0, mode="nearest")
    weights = slab_weights(parameters.thickness_mm, float(grid.spacing[2]))
    if len(weights) > 1:
        grey = ndimage.correlate1d(grey, weights, axis=0, mode="nearest")
    if parameters.noise_sd_hu > 0:
        grey += np.float32(parameters.noise_sd_hu) * correlated_noise(rng, grid.shape, (0.6, 0.6, 0.6))
    return np.clip(np.rint(grey), -1024, 3071).astype(np.int16), bones


def planning_grid(poses: dict[str, VertebraPose], parameters: PhantomParameters) -> Grid:
    """An axial grid around the target that cuts the first and last vertebra."""
    levels = parameters.levels
    target = poses[levels[2]]
    above, below = poses[levels[1]], poses[levels[3]]
    top = above.origin[2] + above.half_height_mm + parameters.margin_mm
    bottom = below.origin[2] - below.half_height_mm - below.size.disc_below_mm - parameters.margin_mm
    slices = int(np.ceil((top - bottom) / parameters.increment_mm)) + 1
    width = parameters.columns * parameters.pixel_mm
    height = parameters.rows * parameters.pixel_mm
    matrix = np.diag([parameters.pixel_mm, parameters.pixel_mm, parameters.increment_mm, 1.0])
    centre_y = target.origin[1] + min(23.0, 0.5 * (height - 90.0))
    matrix[:3, 3] = (
        round(float(target.origin[0]) - 0.5 * width, 3),
        round(float(centre_y) - 0.5 * height, 3),
        round(float(bottom), 3),
    )
    return Grid((slices, parameters.rows, parameters.columns), matrix)
