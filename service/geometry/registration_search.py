"""Finding the vertebra in the scan with no user: normalised correlation over a grid of rotations by FFT.

The scan's frame of reference has nothing to do with the planning CT's and the patient lies prone, so every
place of the field is tried, with rotations up to `reach_deg` about the recorded orientation and about the same
turned by half a turn (a scan labelled supine although the patient lay prone).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from service.geometry import pose
from service.geometry.metal import ScanView, reduce
from service.geometry.parallel import in_threads
from service.geometry.registration_model import VertebraModel
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SearchSettings:
    grid_mm: float = 4.0
    reach_deg: float = 36.0
    step_deg: float = 15.0
    peaks_per_rotation: int = 3
    candidates: int = 12
    apart_mm: float = 7.0
    apart_deg: float = 25.0


@dataclass(frozen=True, eq=False)
class Candidate:
    scan_from_preop: Array
    score: float


def search(view: ScanView, model: VertebraModel, settings: SearchSettings | None = None) -> list[Candidate]:
    """Best coarse poses, best first, distinct from each other by `apart_mm` or `apart_deg`."""
    settings = settings or SearchSettings()
    blurred = ndimage.gaussian_filter(view.filled.values, 1.0)
    scan = reduce(Volume(blurred, view.filled.lps_from_ijk), settings.grid_mm)
    # Dense implants and residual streaks must not outvote bone.
    values = np.clip(scan.values, None, view.grey.dense_bone) - np.float32(view.grey.soft)
    shape = tuple(fft.next_fast_len(n + 4, real=True) for n in values.shape)
    image = np.zeros(shape, dtype=np.float32)
    image[: values.shape[0], : values.shape[1], : values.shape[2]] = values
    spectrum = fft.rfftn(image)
    spectrum_squared = fft.rfftn(image * image)
    rotations = _rotations(settings.reach_deg, settings.step_deg)
    found: list[Candidate] = []
    for turn in (Rotation.identity(), Rotation.from_euler("z", 180, degrees=True)):
        matrices = [np.asarray((rotation * turn).as_matrix()) for rotation in rotations]
        _, weight, _ = _template(model, scan, matrices[0])
        spread = _local_spread(spectrum, spectrum_squared, weight, shape)

        def peaks(matrix: Array, spread: Array = spread) -> list[Candidate]:
            template, _, corner = _template(model, scan, matrix)
            score = _correlate(spectrum, template, shape) / spread
            return _peaks(score, values.shape, template.shape, corner, scan, model, matrix, settings)

        found.extend(candidate for few in in_threads(peaks, matrices) for candidate in few)
    return _distinct(found, model, settings)


def _rotations(reach_deg: float, step_deg: float) -> list[Rotation]:
    """Rotation vectors on a cubic lattice inside a ball: an even cover of small rotations."""
    count = int(reach_deg // step_deg)
    axis = np.arange(-count, count + 1) * step_deg
    lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    kept = lattice[np.linalg.norm(lattice, axis=1) <= reach_deg + 1e-6]
    order = np.argsort(np.linalg.norm(kept, axis=1), kind="stable")
    return [Rotation.from_rotvec(np.radians(v)) for v in kept[order]]


def _template(
    model: VertebraModel, scan: Volume, rotation: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The rotated vertebra on the scan's coarse grid: zero-mean unit template, weight, index of its middle."""
    step = scan.lps_from_ijk[:3, :3]
    half = np.ceil((model.radius_mm + 4.0) / np.array(scan.spacing_mm)).astype(int)
    # The field is shorter than the longest processes in z; cutting the template there loses little.
    half = np.minimum(half, (np.array(scan.values.shape[::-1]) - 1) // 2)
    axes = [np.arange(-h, h + 1) for h in half]
    k, j, i = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    offsets = np.stack([i, j, k], axis=-1).reshape(-1, 3) @ step.T
    at = model.coarse.to_ijk(offsets @ rotation + model.centre)[:, ::-1].T
    # one conversion for both: they lie on the same grid
    hu, weight = (_sampled(volume.values, at) for volume in (model.coarse, model.coarse_weight))
    mean = float((hu * weight).sum() / max(weight.sum(), 1e-6))
    template = weight * (hu - mean)
    template /= max(float(np.sqrt((weight * (hu - mean) ** 2).sum())), 1e-6)
    return template.reshape(k.shape), weight.reshape(k.shape), half


def _sampled(values: NDArray[Any], at_kji: Array) -> NDArray[np.float32]:
    found = ndimage.map_coordinates(values, at_kji, order=1, mode="constant", cval=0.0, output=np.float64)
    return np.asarray(found, dtype=np.float32)


def _correlate(spectrum: NDArray[np.complex64], kernel: NDArray[np.float32], shape: tuple[int, ...]) -> Array:
    return np.asarray(fft.irfftn(spectrum * np.conj(fft.rfftn(kernel, s=shape)), s=shape))


def _local_spread(
    spectrum: NDArray[np.complex64],
    squared: NDArray[np.complex64],
    weight: NDArray[np.float32],
    shape: tuple[int, ...],
) -> Array:
    """Weighted sd of the scan under the template at each place, floored where the scan is empty."""
    total = float(weight.sum())
    mean = _correlate(spectrum, weight, shape)
    variance = np.maximum(_correlate(squared, weight, shape) - mean * mean / total, 0.0)
    spread = np.sqrt(variance)
    return np.asarray(np.maximum(spread, 0.25 * np.percentile(spread, 95) + 1e-6))


def _peaks(
    score: Array,
    scan_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    half_ijk: NDArray[np.int64],
    scan: Volume,
    model: VertebraModel,
    rotation: Array,
    settings: SearchSettings,
) -> list[Candidate]:
    # Correlation index = position of the template's first voxel; cyclic, so wrap it to the template's middle.
    middle = np.roll(score, tuple(int(h) for h in half_ijk[::-1]), axis=(0, 1, 2))
    middle = middle[: scan_shape[0], : scan_shape[1], : scan_shape[2]].copy()
    candidates = []
    reach = [max(1, round(settings.apart_mm / s)) for s in scan.spacing_mm[::-1]]
    for _ in range(settings.peaks_per_rotation):
        index = np.unravel_index(int(np.argmax(middle)), middle.shape)
        value = float(middle[index])
        if value <= 0:
            break
        place = scan.to_lps(np.array([index[::-1]], dtype=np.float64))[0]
        candidates.append(Candidate(pose.about(rotation, model.centre, place), value))
        box = tuple(slice(max(0, int(n) - r), int(n) + r + 1) for n, r in zip(index, reach, strict=True))
        middle[box] = 0.0
    return candidates


def _distinct(found: list[Candidate], model: VertebraModel, settings: SearchSettings) -> list[Candidate]:
    chosen: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: -c.score):
        if len(chosen) >= settings.candidates:
            break
        if all(
            pose.displacement_mm(candidate.scan_from_preop, c.scan_from_preop, model.centre[None])[0]
            > settings.apart_mm
            or pose.angle_deg(candidate.scan_from_preop, c.scan_from_preop) > settings.apart_deg
            for c in chosen
        ):
            chosen.append(candidate)
    return chosen
