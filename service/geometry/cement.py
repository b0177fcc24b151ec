"""Bone cement in an O-arm scan: how much, how it lies in the body, and what has left the bone.

The scan's grey values are brought to the planning CT's scale by the registration, and the bone that was there
before is taken off. What is left, divided by the grey of solid cement, is each voxel's share of cement: summed over
the cement and its blurred rim the shares balance, so no threshold sets the volume (geometry reference, section 6: a
fixed one is off by up to 39 %). The needle is left out with the metal's halo; the ring of cement around it is
filled in from its surroundings, and its streaks are taken off (`service.geometry.cement_streaks`). Lengths mm,
frames LPS, volumes ml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry import pose
from service.geometry.cement_streaks import StreakSettings, planes_of_metal, streak_field
from service.geometry.metal import ScanView
from service.geometry.needles import Axis, MetalLine, across
from service.geometry.registration import Registration
from service.geometry.registration_model import VertebraModel
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CementSettings:
    """Proposals of this project, chosen on the tuning anatomies of `bench/verify`."""

    least_hu: float = 700.0
    """Cement exceeds the bone that was there by this much at least, on the planning CT's scale."""
    core_mm: float = 1.0
    """Solid cement lies this deep inside the bright body; its median is the grey of cement."""
    least_core_mm3: float = 15.0
    """Less of it is no cement: dense bone, a streak, the halo of the needle."""
    rim_mm: float = 1.5
    """Width beyond the half-maximum over which the blurred rim is summed."""
    least_depth_mm: float = 2.2
    """Somewhere cement is thicker than any needle: a needle that was not recognised must not pass for cement."""
    reach_mm: float = 15.0
    """How far beyond the bright body strands are followed."""
    around_needle_mm: float = 1.8
    """Width of the ring beside a needle where its blur and blooming forbid reading."""
    belongs_mm: float = 8.0
    """Cement that stays further than this from the planned vertebra is another level's."""
    plateau_share: float = 0.02
    """One sigma of the grey of solid cement, relative."""
    ring_share: float = 0.12
    """One sigma of what is filled in around a needle, relative."""
    streak_share: float = 0.7
    """One sigma of what is set right for streaks, relative: the rim, where half of the volume is, is filled in. A
    quarter at first, which the first run of the set `latest` of `bench/verify` showed to be too little."""
    soft_hu: float = 50.0
    streaks: StreakSettings = field(default_factory=StreakSettings)


@dataclass(frozen=True, eq=False)
class CementImage:
    """Cement as shares 0..1 of voxels: `points` (N, 3) planning frame, `share` (N,), `solid` (N,) more than half.

    `voxel_ml` is the volume of one. `step` (3, 3) are the voxel's edges in the planning frame (columns).
    """

    points: Array
    share: Array
    solid: Mask
    voxel_ml: float
    step: Array
    volume_ml: float
    sigma_ml: float
    needle_excluded: bool
    solid_hu: float
    """Grey of solid cement on the planning CT's scale."""


def find_cement(
    view: ScanView,
    model: VertebraModel,
    registration: Registration,
    outer: Volume,
    axes: Sequence[Axis],
    others: Sequence[MetalLine] = (),
    settings: CementSettings | None = None,
    needle_radius_mm: float = 1.2065,
) -> CementImage | None:
    """The cement of the planned vertebra; None when there is none.

    Parameters
    ----------
    outer : signed distance (mm, negative inside) to the bone's outer surface, planning frame.
    axes : fitted axes of the vertebra's needles, scan frame, each towards its tip. others : metal of other levels.
    """
    settings = settings or CementSettings()
    crop = _crop(view, registration, outer, [*axes, *others], settings)
    if crop is None:
        return None
    grid = _Grid(crop, registration, outer)
    hu = (crop.values.astype(np.float32) - np.float32(registration.intensity.offset)) / np.float32(
        registration.intensity.gain
    )
    before = model.coarse.sample(grid.preop, outside=settings.soft_hu).astype(np.float32).reshape(hu.shape)
    lines = [_Line(axis, grid) for axis in axes]
    reach = needle_radius_mm + settings.around_needle_mm
    far = [_Line(line, grid) for line in others]
    beside = _any([line.radial < reach for line in (*lines, *far)], hu.shape)
    solid_hu = _solid(hu, hu - before, ~beside, grid, settings)
    if solid_hu is None:
        return None
    ends = [_end(axis, view, solid_hu, registration) for axis in axes]
    ring, metal = _of_needles(lines, [end for end, _ in ends], needle_radius_mm, hu.shape, settings)
    places = _Places(hu - before, solid_hu, ring, grid)
    before = before + _local_offset(hu - before, places, grid, settings)
    planes = planes_of_metal(crop, [*axes, *others], settings.streaks)
    streaks = _streaks(hu - before, solid_hu - before, places, planes, grid, settings)
    contrast = np.maximum(solid_hu - before, np.float32(1.0))
    shares = _Shares((hu - before - streaks) / contrast, np.abs(streaks) / contrast)
    unsure_ml = np.pi * needle_radius_mm**2 * float(np.linalg.norm([sigma for _, sigma in ends])) / 1000.0
    return _balanced(shares, ring, metal, unsure_ml, solid_hu, grid, settings)


def _of_needles(
    lines: Sequence[_Line],
    ends_mm: Sequence[float],
    radius_mm: float,
    shape: tuple[int, ...],
    settings: CementSettings,
) -> tuple[Mask, Mask]:
    """(where a needle's blur forbids reading, the needles themselves)."""
    reach, ahead = radius_mm + settings.around_needle_mm, settings.around_needle_mm
    behind = [line.behind(end) for line, end in zip(lines, ends_mm, strict=True)]
    both = list(zip(lines, behind, strict=True))
    ring = _any([(line.radial < reach) & (b > -ahead) for line, b in both], shape)
    return ring, _any([(line.radial < radius_mm) & (b > 0) for line, b in both], shape)


class _Grid:
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


class _Line:
    """Places of a grid's voxels relative to a needle: `radial` and `along` (towards the tip), mm, on the grid."""

    def __init__(self, line: Axis | MetalLine, grid: _Grid) -> None:
        along, radial = _radial(grid.scan, line)
        self.along = along.reshape(grid.crop.values.shape)
        self.radial = radial.reshape(grid.crop.values.shape)

    def behind(self, tip_mm: float) -> Array:
        """Distance behind the needle's end, negative in front of it."""
        return np.asarray(tip_mm - self.along)


def _radial(points: Array, line: Axis | MetalLine) -> tuple[Array, Array]:
    """(along, radial) of points (N, 3) from a line, mm; `along` counts from the end an axis calls its origin."""
    offset = points - (line.origin if isinstance(line, Axis) else line.end)
    along = offset @ line.direction
    return along, np.sqrt(np.maximum((offset**2).sum(axis=1) - along**2, 0.0))


def _any(masks: Sequence[Mask], shape: tuple[int, ...]) -> Mask:
    found = np.zeros(shape, dtype=bool)
    for mask in masks:
        found |= mask
    return found


def _crop(
    view: ScanView,
    registration: Registration,
    outer: Volume,
    lines: Sequence[Axis | MetalLine],
    settings: CementSettings,
) -> Volume | None:
    """The part of the full scan around bright bodies that are no needle and touch the vertebra; None without any."""
    bright = np.argwhere(view.cement | view.metal)
    if not len(bright):
        return None
    points = view.volume.to_lps(bright[:, ::-1])
    kept = np.ones(len(points), dtype=bool)
    for line in lines:
        kept &= _radial(points, line)[1] > 2.5
    depth = outer.sample(pose.apply(registration.preop_from_scan, points), outside=50.0)
    points = points[kept & (depth < settings.belongs_mm)]
    if len(points) * view.volume.voxel_ml * 1000.0 < settings.least_core_mm3:
        return None
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = np.ptp(points, axis=0) / 2 + settings.reach_mm
    return view.full.crop_to_lps_box(middle, half)


def _solid(
    hu: NDArray[np.float32],
    excess: NDArray[np.float32],
    readable: Mask,
    grid: _Grid,
    settings: CementSettings,
) -> float | None:
    """Grey of solid cement on the planning CT's scale; None when there is no cement at this vertebra."""
    near = readable & (grid.depth < settings.belongs_mm)
    bright = (grid.blurred(excess, 0.5) > settings.least_hu) & near
    core = grid.eroded(bright, settings.core_mm)
    if np.count_nonzero(core) * grid.voxel_mm3 < settings.least_core_mm3:
        return None
    # Again with half of what was found: the first threshold may have been far below half of the cement.
    half = 0.5 * float(np.median(excess[core]))
    body = grid.blurred(excess, 0.5) > half
    core = grid.eroded(body & near, settings.core_mm)
    if np.count_nonzero(core) * grid.voxel_mm3 < settings.least_core_mm3:
        return None
    # With what lies beside a needle: cement around one is thick only together with it.
    if not (grid.eroded(body, settings.least_depth_mm) & (grid.depth < settings.belongs_mm)).any():
        return None
    return float(np.median(hu[core]))


class _Places:
    """Where there is cement by its half-maximum and how far each voxel lies from it, mm; `readable` off the ring."""

    def __init__(self, excess: NDArray[np.float32], solid_hu: float, ring: Mask, grid: _Grid) -> None:
        self.cement = grid.blurred(excess, 0.4) > 0.5 * solid_hu
        self.away = ndimage.distance_transform_edt(~self.cement, grid.spacing_kji)
        self.readable = ~ring

    def bone_beside(self, grid: _Grid, nearest_mm: float, width_mm: float) -> Mask:
        """Bone inside the vertebra whose grey no cement blurs into."""
        near = (self.away > nearest_mm) & (self.away <= nearest_mm + width_mm)
        return np.asarray(near & self.readable & (grid.depth < -1.5))


def _local_offset(
    excess: NDArray[np.float32], places: _Places, grid: _Grid, settings: CementSettings
) -> np.float32:
    """How much brighter the marrow beside the cement is than expected: cupping and shadows of dense things.

    The blurred rim is several times the cement's own volume, so 20 HU of it would be two percent.
    """
    shell = places.bone_beside(grid, settings.rim_mm, 2.5)
    if np.count_nonzero(shell) * grid.voxel_mm3 < 30.0:
        return np.float32(0.0)
    return np.float32(np.median(excess[shell]))


def _streaks(
    excess: NDArray[np.float32],
    contrast: NDArray[np.float32],
    places: _Places,
    planes: Mask,
    grid: _Grid,
    settings: CementSettings,
) -> NDArray[np.float32]:
    """Grey that streaks of the needles add around the cement; 0 where no metal lies in the slice."""
    found = np.zeros(excess.shape, dtype=np.float32)
    cement = places.cement & planes[:, None, None]
    if not cement.any():
        return found
    box = grid.box_around(cement, settings.rim_mm + settings.streaks.reach_mm)
    deep = grid.eroded(places.cement[box], settings.streaks.deep_mm) & places.readable[box]
    bone = places.bone_beside(grid, settings.rim_mm, settings.streaks.reach_mm)[box]
    found[box] = streak_field(
        excess[box], contrast[box], deep, bone, planes[box[0]], grid.spacing_kji, settings.streaks
    )
    return found


def _end(axis: Axis, view: ScanView, solid_hu: float, registration: Registration) -> tuple[float, float]:
    """(place along the axis where the needle ends, its one-sigma in mm), seen against cement.

    From the shaft forwards, the first millimetre whose grey is more like cement than like the shaft: a solid needle
    is brighter than cement, the bore of an open one darker. Where the two are too alike it is the bright line's end.
    """
    fit = registration.intensity
    cement = fit.gain * solid_hu + fit.offset
    u, v = across(axis.direction)
    turn = np.linspace(0.0, 2.0 * np.pi, 6, endpoint=False)
    beside = 0.5 * (np.cos(turn)[:, None] * u + np.sin(turn)[:, None] * v)
    s = np.arange(-40.0, 10.0, 0.25)
    points = axis.origin + s[:, None, None] * axis.direction + beside[None]
    grey = view.full.sample(points.reshape(-1, 3), outside=np.nan).reshape(len(s), -1).mean(axis=1)
    shaft = grey[(s < -20.0) & np.isfinite(grey)]
    if shaft.size < 20:
        return 0.0, 3.0
    metal = float(np.median(shaft))
    if abs(metal - cement) < 0.15 * abs(cement - view.grey.soft):
        return 0.0, 3.0
    other = np.abs(grey - cement) < np.abs(grey - metal)
    ahead = np.flatnonzero(other & (s >= -20.0))
    runs = [n for n in ahead if other[n : n + 4].all()]
    return (float(s[runs[0]]), 1.0) if runs else (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class _Shares:
    """Share of cement (K, J, I) as read, and how much of each was taken off or added for streaks."""

    read: NDArray[np.float32]
    corrected: NDArray[np.float32]


def _balanced(
    shares: _Shares,
    ring: Mask,
    metal: Mask,
    unsure_ml: float,
    solid_hu: float,
    grid: _Grid,
    settings: CementSettings,
) -> CementImage | None:
    """Shares over the cement and its rim, the ring around needles filled in and the needles themselves empty.

    `unsure_ml` is one sigma of what needles displace, for not knowing exactly where they end.
    """
    known = (~ring).astype(np.float32)
    around = grid.blurred(np.where(ring, np.float32(0.0), shares.read), 1.2) / np.maximum(
        grid.blurred(known, 1.2), 1e-3
    )
    filled = np.where(ring, np.clip(around, 0.0, 1.0), shares.read)
    smooth = grid.blurred(filled.astype(np.float32), 0.4)
    solid = _bodies((smooth > 0.5) & ~metal, grid, settings)
    if not solid.any():
        return None
    region = grid.grown(solid, settings.rim_mm) & ~metal
    total = float(filled[region].sum()) * grid.crop.voxel_ml
    in_ring = float(np.abs(filled[region & ring]).sum()) * grid.crop.voxel_ml
    excluded = bool((metal & grid.grown(solid, settings.rim_mm)).any())
    corrected = float(shares.corrected[region & ~ring].sum()) * grid.crop.voxel_ml
    parts = [
        settings.plateau_share * total,
        settings.ring_share * in_ring,
        settings.streak_share * corrected,
        unsure_ml if excluded else 0.0,
    ]
    sigma = float(np.linalg.norm(parts))
    chosen = region.ravel()
    return CementImage(
        points=grid.preop[chosen],
        share=filled.ravel()[chosen].astype(np.float64),
        solid=(filled.ravel()[chosen] > 0.5) & solid.ravel()[chosen],
        voxel_ml=grid.crop.voxel_ml,
        step=grid.step,
        volume_ml=total,
        sigma_ml=sigma,
        needle_excluded=excluded,
        solid_hu=solid_hu,
    )


def _bodies(mask: Mask, grid: _Grid, settings: CementSettings) -> Mask:
    """Connected pieces that are large enough and belong to this vertebra."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    if not count:
        return mask
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:] * grid.voxel_mm3
    nearest = np.asarray(ndimage.minimum(grid.depth, labels, numbers))
    kept = numbers[(sizes >= 4.0) & (nearest < settings.belongs_mm)]
    return np.isin(labels, kept)
