"""The same model as a user would write it in an afternoon: pydicom, scipy, scikit-image and trimesh.

Seeded watershed of the thresholded bone, closing, hollow by a voxel distance map, channels and vents cut out of
the voxels, marching cubes, simplification-free STL, the checks trimesh offers. It knows the seeds and the needle
paths, and nothing else of this project. Printed: seconds for each stage and what the result is worth.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import trimesh
from scipy import ndimage
from skimage import measure, segmentation

THRESHOLD_HU = 226.0
GRID_MM = 0.4
SHELL_MM, SLEEVE_MM, CHANNEL_MM, VENT_MM = 2.0, 2.0, 2.8, 3.4


def main(argument: dict) -> dict:
    watch = [("start", time.perf_counter())]

    def stage(name: str) -> None:
        watch.append((name, time.perf_counter()))

    hu, affine = read(Path(argument["ct"]))
    stage("reading the CT")
    hu, affine = cropped(hu, affine, np.array(argument["seeds"]))
    mask = isolated(hu, affine, np.array(argument["seeds"]))
    stage("isolating the vertebra")
    part, grid = solid(hu, mask, affine, argument["paths"])
    stage("building the model")
    vertices, faces, _, _ = measure.marching_cubes(part.astype(np.float32), 0.5, spacing=(GRID_MM,) * 3)
    mesh = trimesh.Trimesh(vertices[:, ::-1] + grid, faces[:, ::-1])
    mesh.export(argument["out"])
    stage("surface and STL")
    checks = {
        "watertight": bool(mesh.is_watertight),
        "bodies": int(mesh.body_count),
        "faces": len(mesh.faces),
    }
    inside = -mesh.face_normals[::200]
    origins = mesh.triangles_center[::200] + 1e-3 * inside
    hit = mesh.ray.intersects_location(origins, inside, multiple_hits=False)
    lengths = np.linalg.norm(hit[0] - origins[hit[1]], axis=1)
    checks["wall_median_mm"] = round(float(np.median(lengths)), 2)
    stage("checking the model")
    times = {b[0]: round(b[1] - a[1], 2) for a, b in pairwise(watch)}
    return {"timings_s": times, "checks": checks, "mask": save_mask(mask, affine, argument["mask"])}


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    slices = sorted(
        (pydicom.dcmread(f) for f in folder.iterdir()), key=lambda d: float(d.ImagePositionPatient[2])
    )
    first, second = slices[0], slices[1]
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    affine = np.eye(4)
    affine[0, 0], affine[1, 1] = float(first.PixelSpacing[1]), float(first.PixelSpacing[0])
    affine[2, 2] = float(second.ImagePositionPatient[2]) - float(first.ImagePositionPatient[2])
    affine[:3, 3] = [float(v) for v in first.ImagePositionPatient]
    return hu.astype(np.float32), affine


def cropped(hu: np.ndarray, affine: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = (seeds.min(axis=0) - [55, 42, 30] - affine[:3, 3]) / np.diag(affine)[:3]
    high = (seeds.max(axis=0) + np.array([55, 80, 30]) - affine[:3, 3]) / np.diag(affine)[:3]
    low = np.maximum(low, 0).astype(int)
    high = np.minimum(high, hu.shape[::-1]).astype(int)
    moved = affine.copy()
    moved[:3, 3] += low * np.diag(affine)[:3]
    return hu[low[2] : high[2], low[1] : high[1], low[0] : high[0]], moved


def isolated(hu: np.ndarray, affine: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Watershed of the distance inside the closed bone, from balls of 6 mm at the three seeds."""
    spacing = np.diag(affine)[:3][::-1]
    ball = np.hypot(*np.ogrid[-3:4, -3:4])[None] <= 3
    bone = ndimage.binary_closing(hu > THRESHOLD_HU, ball)
    bone = ndimage.binary_fill_holes(bone)
    depth = ndimage.distance_transform_edt(bone, sampling=spacing)
    markers = np.zeros(hu.shape, dtype=np.int32)
    index = np.indices(hu.shape)
    for number, seed in enumerate(seeds, start=1):
        at = ((seed - affine[:3, 3]) / np.diag(affine)[:3])[::-1]
        away = sum(((index[a] - at[a]) * spacing[a]) ** 2 for a in range(3))
        markers[away < 36.0] = number
    labels = segmentation.watershed(-depth, markers, mask=bone | (markers > 0))
    parts, _ = ndimage.label(labels == 1)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == sizes.argmax())


def solid(hu: np.ndarray, mask: np.ndarray, affine: np.ndarray, paths: list) -> tuple[np.ndarray, np.ndarray]:
    spacing = np.diag(affine)[:3]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    origin = affine[:3, 3] + np.array([s.start for s in box])[::-1] * spacing
    fine = ndimage.zoom(mask[box].astype(np.float32), (spacing / GRID_MM)[::-1], order=1) > 0.5
    pad = 10
    bone = np.pad(fine, pad)
    origin = origin - pad * GRID_MM
    depth = ndimage.distance_transform_edt(bone) * GRID_MM
    part = bone & (depth <= SHELL_MM)
    k, j, i = np.indices(bone.shape)
    points = np.stack([i, j, k], axis=-1) * GRID_MM + origin
    channels = [segment(points, np.array(a), np.array(b)) for a, b in paths]
    for distance in channels:
        part |= bone & (distance <= CHANNEL_MM / 2 + SLEEVE_MM)
    for distance in channels:
        part &= distance > CHANNEL_MM / 2
    middle = np.mean([b for _, b in paths], axis=0)
    for away in (30.0, -30.0):
        part &= segment(points, middle, middle + np.array([0.0, 0.0, away])) > VENT_MM / 2
    labels, _ = ndimage.label(part)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax(), origin


def segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    t = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
    return np.linalg.norm(points - start - t[..., None] * along, axis=-1)


def save_mask(mask: np.ndarray, affine: np.ndarray, path: str) -> str:
    np.savez_compressed(path, mask=mask, affine=affine)
    return path


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
