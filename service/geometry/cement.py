"""Bone cement in an O-arm scan: how much, how it lies in the body, and what has left the bone.

The scan's grey values are brought to the planning CT's scale by the registration, and the bone that was there
before is taken off. What is left, divided by the grey of solid cement, is each voxel's share of cement: summed over
the cement and its blurred rim the shares balance, so no threshold sets the volume (geometry reference, section 6: a
fixed one is off by up to 39 %). The needle is left out; what its blur adds beside it is taken off, the narrow ring
where that cannot be done is filled in from its surroundings (`service.geometry.cement_needles`), and its streaks are
taken off (`service.geometry.cement_streaks`). A strand is followed as far as it goes. Lengths mm, frames LPS,
volumes ml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry import pose
from service.geometry.cement_grid import Grid, Line, any_of, beside_line, wider
from service.geometry.cement_needles import HaloSettings, Needles, needles_in, seen_end
from service.geometry.cement_streaks import StreakSettings, planes_of_metal, streak_field
from service.geometry.metal import ScanView
from service.geometry.needles import Axis, MetalLine
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
    """How far beyond the bright body strands are looked for at first, and further each time one goes on."""
    most_times: int = 4
    """How often: 15 mm four times reach from the body's middle out of any vertebra."""
    cut_mm: float = 2.5
    """Cement that comes this close to the edge of what was looked at may go on beyond: its rim, and a voxel."""
    around_needle_mm: float = 1.8
    """Width of the ring beside a needle where the grey of solid cement is not looked for."""
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
    halo: HaloSettings = field(default_factory=HaloSettings)


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
    known = _Known(view, model, registration, outer, tuple(axes), tuple(others), needle_radius_mm)
    crop = _crop(view, registration, outer, [*axes, *others], settings)
    image = None
    for _ in range(settings.most_times):
        found = None if crop is None else _in_crop(crop, known, settings)
        if crop is None or found is None:
            break
        image, solid = found
        crop = wider(view.full, crop, solid, settings.cut_mm, settings.reach_mm)
    return image


@dataclass(frozen=True, eq=False)
class _Known:
    """The arguments of `find_cement`."""

    view: ScanView
    model: VertebraModel
    registration: Registration
    outer: Volume
    axes: tuple[Axis, ...]
    others: tuple[MetalLine, ...]
    needle_radius_mm: float


def _in_crop(crop: Volume, known: _Known, settings: CementSettings) -> tuple[CementImage, Mask] | None:
    """The cement in a part of the scan, and where in it there is more cement than not."""
    registration, axes, others, radius_mm = (
        known.registration,
        known.axes,
        known.others,
        known.needle_radius_mm,
    )
    grid = Grid(crop, registration, known.outer)
    hu = (crop.values.astype(np.float32) - np.float32(registration.intensity.offset)) / np.float32(
        registration.intensity.gain
    )
    before = (
        known.model.coarse.sample(grid.preop, outside=settings.soft_hu).astype(np.float32).reshape(hu.shape)
    )
    lines = [Line(axis, grid) for axis in axes]
    reach = radius_mm + settings.around_needle_mm
    far = [Line(line, grid) for line in others]
    beside = any_of([line.radial < reach for line in (*lines, *far)], hu.shape)
    solid_hu = _solid(hu, hu - before, ~beside, grid, settings)
    if solid_hu is None:
        return None
    ends = [seen_end(axis, known.view, solid_hu, registration) for axis in axes]
    needles = needles_in(
        hu - before, solid_hu, lines, [end for end, _ in ends], radius_mm, grid, settings.halo
    )
    hu = hu - needles.halo
    places = _Places(hu - before, solid_hu, needles.ring, grid)
    before = before + _local_offset(hu - before, places, grid, settings)
    planes = planes_of_metal(crop, [*axes, *others], settings.streaks)
    streaks = _streaks(hu - before, solid_hu - before, places, planes, grid, settings)
    contrast = np.maximum(solid_hu - before, np.float32(1.0))
    shares = _Shares((hu - before - streaks) / contrast, (np.abs(streaks) + np.abs(needles.halo)) / contrast)
    unsure_ml = np.pi * radius_mm**2 * float(np.linalg.norm([sigma for _, sigma in ends])) / 1000.0
    return _balanced(shares, needles, unsure_ml, solid_hu, grid, settings)


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
        kept &= beside_line(points, line)[1] > 2.5
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
    grid: Grid,
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

    def __init__(self, excess: NDArray[np.float32], solid_hu: float, ring: Mask, grid: Grid) -> None:
        self.cement = grid.blurred(excess, 0.4) > 0.5 * solid_hu
        self.away = ndimage.distance_transform_edt(~self.cement, grid.spacing_kji)
        self.readable = ~ring

    def bone_beside(self, grid: Grid, nearest_mm: float, width_mm: float) -> Mask:
        """Bone inside the vertebra whose grey no cement blurs into."""
        near = (self.away > nearest_mm) & (self.away <= nearest_mm + width_mm)
        return np.asarray(near & self.readable & (grid.depth < -1.5))


def _local_offset(
    excess: NDArray[np.float32], places: _Places, grid: Grid, settings: CementSettings
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
    grid: Grid,
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


@dataclass(frozen=True, eq=False)
class _Shares:
    """Share of cement (K, J, I) as read, and how much of each was taken off or added for streaks and blooming."""

    read: NDArray[np.float32]
    corrected: NDArray[np.float32]


def _balanced(
    shares: _Shares,
    needles: Needles,
    unsure_ml: float,
    solid_hu: float,
    grid: Grid,
    settings: CementSettings,
) -> tuple[CementImage, Mask] | None:
    """Shares over the cement and its rim, the ring around needles filled in and the needles themselves empty.

    `unsure_ml` is one sigma of what needles displace, for not knowing exactly where they end.
    """
    ring, metal = needles.ring, needles.metal
    known = (~ring).astype(np.float32)
    around = grid.blurred(np.where(ring, np.float32(0.0), shares.read), 1.2) / np.maximum(
        grid.blurred(known, 1.2), 1e-3
    )
    filled = np.where(ring, np.clip(around, 0.0, 1.0), shares.read)
    smooth = grid.blurred(filled.astype(np.float32), 0.4)
    solid = _bodies((smooth > 0.5) & ~metal, needles, grid, settings)
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
    image = CementImage(
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
    return image, solid


def _bodies(mask: Mask, needles: Needles, grid: Grid, settings: CementSettings) -> Mask:
    """Connected pieces that are large enough, belong to this vertebra and are more than a streak beside a needle."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    if not count:
        return mask
    numbers = np.arange(1, count + 1)
    # Of a piece only what lies clear of needles speaks for it.
    sizes = np.bincount(labels[~needles.beside], minlength=count + 1)[1:] * grid.voxel_mm3
    nearest = np.asarray(ndimage.minimum(grid.depth, labels, numbers))
    kept = numbers[(sizes >= 4.0) & (nearest < settings.belongs_mm)]
    return np.isin(labels, kept)
