"""The pipeline a user would write with pydicom, scipy, scikit-image and trimesh, timed stage by stage.

python -m bench.model.plain_pipeline CT_FOLDER PLAN.json OUT_FOLDER TARGET ABOVE BELOW (points X,Y,Z in LPS mm)

Threshold, crop round the seeds, watershed from balls in the three bodies, marching cubes, a shell by distance
transform, channels by mesh boolean, STL. It imports nothing of the service. The needle paths are taken from a plan
made elsewhere, since there is nothing in these libraries that plans them; pictures, vents, print pose, report and a
check of wall and channels are not made at all.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import trimesh
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure, segmentation

Array = NDArray[np.float64]

BONE_HU, SHELL_MM, CHANNEL_MM, MARKER_MM = 226, 2.0, 2.8, 6.0
HALF_BOX_MM = np.array([55.0, 65.0, 30.0])


def main() -> int:
    folder, plan, out = (Path(a) for a in sys.argv[1:4])
    seeds = np.array([[float(v) for v in a.split(",")] for a in sys.argv[4:7]])
    out.mkdir(parents=True, exist_ok=True)
    times: dict[str, float] = {}

    def timed(name: str, work: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments)
        times[name] = round(time.perf_counter() - began, 3)
        return result

    hu, origin, spacing = timed("reading the CT", read_ct, folder)
    mask, corner = timed("isolating the vertebra", isolate, hu, origin, spacing, seeds)
    paths = json.loads(plan.read_text("utf-8"))
    part = timed("surfaces, shell and channels", lambda: with_channels(*shell(mask, spacing), corner, paths))
    closed = timed("writing and checking the STL", write, part, out / "model.stl")
    np.savez(out / "mask.npz", mask=mask, corner=corner, spacing=spacing)
    print(json.dumps({"timings_s": times, "watertight": closed, "bodies": int(part.body_count)}))
    return 0


def read_ct(folder: Path) -> tuple[NDArray[np.int16], Array, Array]:
    """(HU (K, J, I), LPS mm of voxel 0, spacing x y z mm) of an untilted axial series."""
    slices = [pydicom.dcmread(f) for f in sorted(folder.iterdir())]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    hu = np.stack([s.pixel_array * s.RescaleSlope + s.RescaleIntercept for s in slices]).astype(np.int16)
    first, last = slices[0], slices[-1]
    step = (float(last.ImagePositionPatient[2]) - float(first.ImagePositionPatient[2])) / (len(slices) - 1)
    row, column = (float(v) for v in first.PixelSpacing)
    return hu, np.array(first.ImagePositionPatient, dtype=np.float64), np.array([column, row, step])


def isolate(
    hu: NDArray[np.int16], origin: Array, spacing: Array, seeds: Array
) -> tuple[NDArray[np.bool_], Array]:
    """Watershed of the thresholded, closed bone from a ball in each body; the mask and the LPS of its corner."""
    centre = seeds[0] + [0.0, 20.0, 0.0]
    low = np.maximum(np.floor((centre - HALF_BOX_MM - origin) / spacing), 0).astype(int)
    high = np.minimum(np.ceil((centre + HALF_BOX_MM - origin) / spacing), hu.shape[::-1]).astype(int)
    part = hu[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    smooth = ndimage.gaussian_filter(part.astype(np.float32), 0.5)
    bone = smooth > BONE_HU
    reach = ndimage.distance_transform_edt(~bone, spacing[::-1])
    closed = ndimage.distance_transform_edt(reach < 1.5, spacing[::-1]) > 1.5
    solid = np.stack([ndimage.binary_fill_holes(s) for s in closed | bone])
    depth = ndimage.distance_transform_edt(solid, spacing[::-1])
    markers = np.zeros(part.shape, dtype=np.int32)
    k, j, i = np.indices(part.shape, sparse=True)
    for number, seed in enumerate(seeds, start=1):
        x, y, z = (seed - origin) / spacing - low
        ball = ((i - x) * spacing[0]) ** 2 + ((j - y) * spacing[1]) ** 2 + ((k - z) * spacing[2]) ** 2
        markers[ball < MARKER_MM**2] = number
    found = segmentation.watershed(-depth, markers, mask=solid | (markers > 0)) == 1
    labels, count = ndimage.label(found)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    body = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
    return np.pad(body, 2), origin + (low - 2) * spacing


def shell(mask: NDArray[np.bool_], spacing: Array) -> tuple[trimesh.Trimesh, trimesh.Trimesh]:
    """Outer surface of the smoothed mask, and the surface at the depth of the shell; mm from the mask's corner."""
    depth = ndimage.distance_transform_edt(mask, spacing[::-1])
    outer = _surface(ndimage.gaussian_filter(mask.astype(np.float32), 0.8), 0.5, spacing)
    return outer, _surface(depth.astype(np.float32), SHELL_MM, spacing)


def _surface(values: NDArray[np.float32], level: float, spacing: Array) -> trimesh.Trimesh:
    vertices, faces, _, _ = measure.marching_cubes(values, level, spacing=tuple(spacing[::-1]))
    mesh = trimesh.Trimesh(vertices[:, ::-1], faces)
    return max(mesh.split(only_watertight=True), key=lambda m: abs(m.volume))


def with_channels(
    outer: trimesh.Trimesh, inner: trimesh.Trimesh, corner: Array, plan: dict[str, Any]
) -> trimesh.Trimesh:
    """Outer less inner, sleeves added, channels drilled; LPS mm."""
    sleeves, drills = [], []
    for path in plan["trajectories"]:
        entry, target = (np.array(path[k]) - corner for k in ("entry", "target"))
        axis = (target - entry) / np.linalg.norm(target - entry)
        drills.append(trimesh.creation.cylinder(CHANNEL_MM / 2, segment=[entry - 10 * axis, target]))
        sleeve = trimesh.creation.cylinder(CHANNEL_MM / 2 + 2.0, segment=[entry, target + 2 * axis])
        sleeves.append(trimesh.boolean.intersection([sleeve, outer]))
    for mesh in (outer, inner):
        mesh.fix_normals()
    hollow = trimesh.boolean.difference([outer, inner])
    part = trimesh.boolean.difference([trimesh.boolean.union([hollow, *sleeves]), *drills])
    part.apply_translation(corner)
    return part


def write(part: trimesh.Trimesh, path: Path) -> bool:
    part.export(path)
    return bool(part.is_watertight)


if __name__ == "__main__":
    sys.exit(main())
