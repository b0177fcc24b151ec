"""What is scanned: the pixels of a planning CT, or the phantom rendered anew with its vertebrae moved."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from scipy import ndimage
from scipy.spatial.transform import Rotation

from simulators.phantom.anatomy import PhantomParameters, VertebraPose, spine_poses
from simulators.phantom.render import Grid, render
from simulators.phantom.shape import Skeleton

Array = NDArray[np.float64]
Single = NDArray[np.float32]

SOFT_HU = 50.0


@dataclass(frozen=True, eq=False)
class Source:
    """`hu` (k,j,i) float32 in the planning CT's frame, `preop_from_ijk` (4,4) mm and one header of the series."""

    hu: Single
    preop_from_ijk: Array
    header: Dataset
    moved: dict[str, list[list[float]]]
    """Own motion of vertebrae (4x4, LPS mm of the planning CT) when there is any."""


def read_series(folder: Path) -> Source:
    """Read the largest CT series below `folder`; slices are sorted along the normal.

    Raises ValueError when there is none with at least two slices.
    """
    groups: dict[str, list[Dataset]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            item = dcmread(path)
        except InvalidDicomError:
            continue
        if item.get("Modality") == "CT" and "ImagePositionPatient" in item:
            groups.setdefault(str(item.SeriesInstanceUID), []).append(item)
    items = max(groups.values(), key=len, default=[])
    if len(items) < 2:
        raise ValueError("no CT series with at least two slices in the folder")
    row, column = np.reshape(np.asarray(items[0].ImageOrientationPatient, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    items.sort(key=lambda item: float(np.asarray(item.ImagePositionPatient, dtype=np.float64) @ normal))
    first, last = (np.asarray(items[n].ImagePositionPatient, dtype=np.float64) for n in (0, -1))
    matrix = np.eye(4)
    spacing = [float(v) for v in items[0].PixelSpacing]
    matrix[:3, 0], matrix[:3, 1] = row * spacing[1], column * spacing[0]
    matrix[:3, 2] = (last - first) / (len(items) - 1)
    matrix[:3, 3] = first
    volume = np.stack(
        [
            item.pixel_array.astype(np.float32) * float(item.get("RescaleSlope", 1))
            + float(item.get("RescaleIntercept", 0))
            for item in items
        ]
    )
    return Source(volume, matrix, items[0], {})


def find_truth(folder: Path) -> dict[str, Any] | None:
    """The phantom's truth.json in the folder or beside it, if the series is one of the phantom."""
    for place in (folder, folder.parent):
        path = place / "truth.json"
        if path.is_file():
            truth = json.loads(path.read_text(encoding="utf-8"))
            if truth.get("schema") == "spineprint.phantom/1":
                return dict(truth)
    return None


def phantom_source(
    truth: dict[str, Any],
    folder: Path,
    motion_mm: float,
    motion_deg: float,
    pixel_mm: float,
    seed: int,
    wedge_after: float | None = None,
) -> Source:
    """Render the phantom without noise and slab, its neighbours moved at random about their own centres.

    With `wedge_after` the target has this wedge instead of its own: its lower endplate and its arch stay in place,
    the upper endplate is lifted in front, as a body whose height was restored.
    """
    names = {item.name for item in fields(PhantomParameters)}
    values = {key: value for key, value in truth["parameters"].items() if key in names}
    values["centre_lps_mm"] = tuple(values["centre_lps_mm"])
    parameters = PhantomParameters(**values)
    poses, moved = move_neighbours(spine_poses(parameters), parameters, motion_mm, motion_deg, seed)
    if wedge_after is not None:
        poses[parameters.level] = replace(poses[parameters.level], wedge=wedge_after)
    sharp = replace(parameters, thickness_mm=1e-3, psf_sigma_mm=0.15, noise_sd_hu=0.0)
    header = next(iter(_headers(folder)), None)
    if header is None:
        raise ValueError("no CT series in the folder")
    centres = np.array([pose.origin for pose in poses.values()])
    low = np.array([centres[:, 0].min() - 72.0, centres[:, 1].min() - 60.0, centres[:, 2].min() - 16.0])
    high = np.array([centres[:, 0].max() + 72.0, centres[:, 1].max() + 100.0, centres[:, 2].max() + 16.0])
    matrix = np.diag([pixel_mm, pixel_mm, pixel_mm, 1.0])
    matrix[:3, 3] = low
    count = np.ceil((high - low) / pixel_mm).astype(int)
    grid = Grid((int(count[2]), int(count[1]), int(count[0])), matrix)
    hu, _ = render(Skeleton(poses, parameters.facet_gap_mm), grid, sharp)
    return Source(hu.astype(np.float32), matrix, header, moved)


def _headers(folder: Path) -> list[Dataset]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            item = dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if item.get("Modality") == "CT":
            return [item]
    return []


def move_neighbours(
    poses: dict[str, VertebraPose],
    parameters: PhantomParameters,
    motion_mm: float,
    motion_deg: float,
    seed: int,
) -> tuple[dict[str, VertebraPose], dict[str, list[list[float]]]]:
    """Turn and shift every vertebra but the target; the motion grows with the distance from it."""
    rng = np.random.default_rng([seed, 71])
    moved, record = dict(poses), {}
    for index, level in enumerate(parameters.levels):
        if level == parameters.level or motion_mm == 0 == motion_deg:
            continue
        far = abs(index - 2)
        pose = poses[level]
        shift = _unit(rng) * motion_mm * far
        # facets guide the spine: it bends far more than it slides up and down
        shift[2] *= 0.3
        turn = Rotation.from_rotvec(np.deg2rad(motion_deg * far) * _unit(rng)).as_matrix()
        motion = np.eye(4)
        motion[:3, :3] = turn
        motion[:3, 3] = pose.origin + shift - turn @ pose.origin
        moved[level] = replace(pose, origin=pose.origin + shift, axes=turn @ pose.axes)
        record[level] = [[round(float(v), 9) for v in row] for row in motion]
    return moved, record


def _unit(rng: np.random.Generator) -> Array:
    way = rng.standard_normal(3)
    return np.asarray(way / np.linalg.norm(way))


def surrounded(source: Source) -> tuple[Single, Array]:
    """The volume with one more layer of soft tissue on each face, so that bone is not smeared out of it."""
    padded = np.pad(source.hu, 1, mode="edge")
    for axis in range(3):
        for end in (0, -1):
            face: list[slice | int] = [slice(None)] * 3
            face[axis] = end
            layer = np.minimum(padded[tuple(face)], SOFT_HU)
            padded[tuple(face)] = ndimage.gaussian_filter(layer, 3.0)
    matrix = source.preop_from_ijk.copy()
    matrix[:3, 3] -= matrix[:3, :3] @ np.ones(3)
    return padded, matrix
