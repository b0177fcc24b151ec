"""Reading an O-arm scan whose grey values are not HU: what is field, soft tissue, bone and metal.

O-arm grey values are an unknown affine image of attenuation, sometimes clipped, so nothing here uses an
absolute value: soft tissue is the brightest populated mode of the histogram, bone is what lies above it, metal
is what lies far above bone and is later required to have a needle's shape (`service.geometry.needles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.errors import GeometryError
from service.geometry.volume import Volume

Array = NDArray[np.float64]


_BINS = 200


@dataclass(frozen=True)
class MetalSettings:
    working_spacing_mm: float = 0.8
    """Registration and search work on block means of about this spacing."""
    top_mm3: float = 60.0
    """The `top` grey value is exceeded by this volume only; 13 mm of a 13 G needle fill it."""
    share_of_top: float = 0.5
    """Metal threshold between soft tissue (0) and `top` (1): half-maximum, the least biased edge."""
    dense_bone_ml: float = 10.0
    """Dense bone is what only this volume exceeds: more than needles and their blur, less than any spine."""
    min_over_bone: float = 2.2
    """`top` must exceed the dense bone of the scan by this factor (both above soft tissue), else no metal."""
    margin_mm: float = 2.5
    """Tissue this close to metal is not used for registration (blur and streaks)."""
    cement_over_bone: float = 1.6
    """Cement is brighter than the dense bone of the scan by this factor (both above soft tissue)."""
    cement_core_ml: float = 0.04
    """What is left of a blob of cement after one working voxel was taken off all round; thin cortex leaves nothing."""
    cement_margin_mm: float = 1.2
    """Tissue this close to cement is not used for registration (blur)."""


@dataclass(frozen=True)
class GreyScale:
    """Grey values of one scan: `soft` and `dense_bone` levels, `top` (brightest `top_mm3`), `noise` (sd)."""

    soft: float
    noise: float
    dense_bone: float
    top: float
    clipped: bool
    """A noticeable part of the brightest voxels shares exactly one value: the range was cut."""

    @property
    def metal_over_bone(self) -> float:
        return (self.top - self.soft) / max(self.dense_bone - self.soft, 1e-6)


@dataclass(frozen=True, eq=False)
class ScanView:
    """A scan made ready for registration.

    `volume` float32 at about `working_spacing_mm`, NaN outside the reconstructed field and near metal and cement;
    `filled` the same with soft tissue in place of NaN; `metal` and `cement` bool on the same grid. Where metal and
    cement cannot be told apart yet (a clipped scan, no needle), cement counts as metal here: both are left out.
    """

    full: Volume
    volume: Volume
    filled: Volume
    metal: NDArray[np.bool_]
    cement: NDArray[np.bool_]
    grey: GreyScale
    metal_threshold: float
    has_metal: bool


def read_scan(scan: Volume, settings: MetalSettings | None = None) -> ScanView:
    """Reduce a scan, find its field, grey levels and metal.

    Raises
    ------
    GeometryError
        `verify.scan_empty` when the scan holds a single grey value or is far too small.
    """
    settings = settings or MetalSettings()
    reduced = reduce(scan, settings.working_spacing_mm)
    field = _field(scan, reduced)
    values = reduced.values
    inside = values[field]
    if inside.size < 1000 or float(np.ptp(inside)) <= 0:
        raise GeometryError(
            "The O-arm scan holds no image (one grey value only).",
            next_step="Send the reconstructed series again, or scan again.",
            code="verify.scan_empty",
        )
    grey = _grey_scale(scan, reduced, inside, settings)
    threshold = grey.soft + settings.share_of_top * (grey.top - grey.soft)
    has_metal = grey.metal_over_bone >= settings.min_over_bone
    metal = (values > threshold) & field if has_metal else np.zeros(values.shape, dtype=bool)
    near_metal = _grown(metal, reduced, settings.margin_mm)
    cement = _cement(values, field & ~near_metal, grey, settings, reduced)
    blocked = near_metal | _grown(cement, reduced, settings.cement_margin_mm) | ~field
    filled = np.where(blocked, np.float32(grey.soft), values).astype(np.float32)
    usable = np.where(blocked, np.float32(np.nan), values).astype(np.float32)
    return ScanView(
        full=scan,
        volume=Volume(usable, reduced.lps_from_ijk, scan.frame_of_reference_uid),
        filled=Volume(filled, reduced.lps_from_ijk, scan.frame_of_reference_uid),
        metal=metal,
        cement=cement,
        grey=grey,
        metal_threshold=threshold,
        has_metal=has_metal,
    )


def reduce(volume: Volume, spacing_mm: float) -> Volume:
    """Block means by whole factors towards `spacing_mm`, float32; the affine follows the block centres."""
    factors = [max(1, round(spacing_mm / s)) for s in volume.spacing_mm]
    fi, fj, fk = factors
    k, j, i = (n // f * f for n, f in zip(volume.values.shape, (fk, fj, fi), strict=True))
    block = volume.values[:k, :j, :i]
    # Summing strided views is several times faster than a mean over a reshaped 6-D array.
    total = np.zeros((k // fk, j // fj, i // fi), dtype=np.float32)
    for a in range(fk):
        for b in range(fj):
            for c in range(fi):
                total += block[a::fk, b::fj, c::fi]
    total /= fi * fj * fk
    affine = volume.lps_from_ijk.copy()
    affine[:3, 3] = volume.to_lps((np.array([factors], dtype=np.float64) - 1) / 2)[0]
    affine[:3, :3] = volume.lps_from_ijk[:3, :3] * factors
    return Volume(total, affine, volume.frame_of_reference_uid)


def _field(scan: Volume, reduced: Volume) -> NDArray[np.bool_]:
    """Voxels that were reconstructed: not the constant that pads the square around the round field."""
    corners = scan.values[:, [0, 0, -1, -1], [0, -1, 0, -1]].ravel()
    pad = np.median(corners)
    if np.mean(corners == pad) < 0.9:
        return np.ones(reduced.values.shape, dtype=bool)
    low = reduced.values == pad
    # Noise may reach the pad value inside the field; only padding connected to the border counts.
    labels, count = cc3d.connected_components(low, connectivity=6, return_N=True)
    at_border = np.zeros(count + 1, dtype=bool)
    for face in (labels[:, 0], labels[:, -1], labels[:, :, 0]):
        at_border[np.unique(face)] = True
    at_border[0] = False
    outside = at_border[labels]
    # Block means at the rim mix padding and image.
    return np.asarray(~ndimage.binary_dilation(outside, iterations=1), dtype=bool)


def _grey_scale(scan: Volume, reduced: Volume, inside: NDArray[Any], settings: MetalSettings) -> GreyScale:
    soft, noise = _soft_tissue(inside)
    ordered = np.sort(inside[inside > soft])

    def exceeded_by(ml: float) -> float:
        return float(ordered[-min(max(8, int(ml / reduced.voxel_ml)), ordered.size)])

    top, dense = exceeded_by(settings.top_mm3 / 1000), exceeded_by(settings.dense_bone_ml)
    highest = scan.values.max()
    clipped = bool(np.count_nonzero(scan.values == highest) * scan.voxel_ml * 1000 > 5.0)
    return GreyScale(soft, noise, dense, top, clipped)


def _soft_tissue(inside: NDArray[Any]) -> tuple[float, float]:
    """(mode, sd) of soft tissue: the brightest well-populated peak of the histogram."""
    low, high = np.percentile(inside[:: max(1, inside.size // 400_000)], [0.5, 99.0])
    edges = np.linspace(float(low), float(high), _BINS + 1)
    # `np.histogram` takes five times as long for the same counts
    index_of = (inside - np.float32(low)) * np.float32(_BINS / max(float(high - low), 1e-6))
    within = index_of[(index_of >= 0) & (index_of < _BINS)].astype(np.int16)
    smooth = ndimage.gaussian_filter1d(np.bincount(within, minlength=_BINS).astype(np.float64), 3.0)
    tallest = float(smooth.max())
    index = _last_peak(smooth, least=0.2 * tallest, prominence=0.1 * tallest)
    width = float(edges[1] - edges[0])
    falling = np.flatnonzero(smooth[index:] < 0.5 * smooth[index])
    half_width = float(falling[0]) if falling.size else 10.0
    return float(edges[index] + width / 2), max(half_width * width / 1.177, width)


def _last_peak(values: Array, least: float, prominence: float) -> int:
    """Index of the last local maximum of at least this height that stands this much above the lower ground around it.

    Prominence as in topography: how deep one must go down from the peak before climbing a higher one. (SciPy has a
    peak finder, but loading it takes longer than the whole reading of a scan.)
    """
    padded = np.concatenate([[0.0], values, [0.0]])
    for index in range(len(values), 0, -1):
        here = padded[index]
        if here < least or here <= padded[index + 1] or here < padded[index - 1]:
            continue
        saddles = []
        for side in (padded[index - 1 :: -1], padded[index + 1 :]):
            higher = np.flatnonzero(side > here)
            saddles.append(float(side[: higher[0] if higher.size else side.size].min()))
        if here - max(saddles) >= prominence:
            return index - 1
    return int(np.argmax(values))


def _cement(
    values: NDArray[np.float32],
    where: NDArray[np.bool_],
    grey: GreyScale,
    settings: MetalSettings,
    grid: Volume,
) -> NDArray[np.bool_]:
    """Compact bright bodies that are no metal. They hide the bone's texture and are none of the planned surface."""
    over = grey.dense_bone - grey.soft
    bright = (values > grey.soft + settings.cement_over_bone * over) & where
    none = np.zeros(values.shape, dtype=bool)
    eroded = ndimage.binary_erosion(bright)
    labels, count = cc3d.connected_components(eroded, connectivity=6, return_N=True)
    if not count:
        return none
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    cores = np.isin(labels, np.flatnonzero(sizes * grid.voxel_ml >= settings.cement_core_ml))
    if not cores.any():
        return none
    # Half-way up to the cores: cement that lies against an endplate must not flood along the cortex.
    edge = grey.soft + 0.5 * (float(np.median(values[cores])) - grey.soft)
    return np.asarray(ndimage.binary_propagation(cores, mask=(values > edge) & where | cores))


def _grown(mask: NDArray[np.bool_], grid: Volume, margin_mm: float) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    grown = mask
    steps = max(1, round(margin_mm / min(grid.spacing_mm)))
    ball = ndimage.generate_binary_structure(3, 1)
    where = np.argwhere(mask)
    low = np.maximum(where.min(axis=0) - steps - 1, 0)
    high = where.max(axis=0) + steps + 2
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    grown = mask.copy()
    grown[box] = ndimage.binary_dilation(mask[box], ball, iterations=steps)
    return grown
