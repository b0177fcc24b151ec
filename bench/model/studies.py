"""CT studies with reference labels, and the seeds a hurried hand would give. LPS mm throughout.

`in_sample` says what a figure is worth: the shapes that ship were made from LIDC-IDRI-0001, so a figure on that
patient says that the method holds together, not that it will on the next one.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.anatomy import Seeds
from service.geometry.mesh_grid import signed_edt
from service.geometry.volume import Volume
from service.imaging.series import load_series

Array = NDArray[np.float64]

DATA = Path(os.environ.get("SPINEPRINT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SPINE = ("T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1")
SEED_ERROR_MM = (3.0, 5.0)
DRAWS = 3


@dataclass(frozen=True, eq=False)
class Study:
    """A CT with labels. `numbers`: level -> value in `labels`; `levels`: those measured, complete in the scan."""

    name: str
    about: str
    in_sample: bool
    ct: Volume
    labels: Volume
    numbers: dict[str, int]
    levels: tuple[str, ...]

    def reference(self, level: str) -> Volume:
        """The label of one level as a mask, cropped with 12 mm around it."""
        index = np.argwhere(self.labels.values == self.numbers[level])
        pad = np.ceil(12.0 / np.array(self.labels.spacing_mm)).astype(int)
        low, high = index.min(axis=0)[::-1] - pad, index.max(axis=0)[::-1] + 1 + pad
        part = self.labels.crop(tuple(low), tuple(high))
        return Volume((part.values == self.numbers[level]).astype(np.uint8), part.lps_from_ijk)


def studies(work: Path) -> list[Study]:
    """Those found in $SPINEPRINT_DATA; their names and licences stand in each folder's PROVENANCE.md."""
    makers = {"lidc-idri-0001": _lidc, "totalseg-lumbar-example": _lumbar, "tptbox-l3-crop": _crop}
    return [make(DATA / name, work) for name, make in makers.items() if (DATA / name).is_dir()]


def _lidc(folder: Path, work: Path) -> Study:
    with tarfile.open(folder / "dicom.tar.xz") as archive:
        archive.extractall(work / "lidc", filter="data")
    numbers = {level: 37 - n for n, level in enumerate(SPINE[:9])}
    return Study(
        "chest",
        "LIDC-IDRI-0001, 0.70 x 0.70 x 2.5 mm, contrast, scoliosis, dense L1-L3; its shapes ship",
        True,
        load_series(work / "lidc").volume,
        read_volume(folder / "vertebrae_labels.nii.gz"),
        numbers,
        ("T8", "T9", "T10", "T11", "T12", "L1", "L2"),
    )


def _lumbar(folder: Path, work: Path) -> Study:
    return Study(
        "lumbar",
        "TotalSegmentator example, 3 mm isotropic",
        False,
        read_volume(folder / "ct.nii.gz"),
        read_volume(folder / "vertebrae_labels.nii.gz"),
        {level: 33 - n for n, level in enumerate(SPINE[4:])},
        ("L1", "L2", "L3", "L4", "L5"),
    )


def _crop(folder: Path, work: Path) -> Study:
    return Study(
        "crop",
        "TPTBox sample, one lumbar vertebra at 1.5 mm, both neighbours cut",
        False,
        read_volume(folder / "sub-ct_label-22_ct.nii.gz"),
        read_volume(folder / "sub-ct_seg-vert_label-22_msk.nii.gz"),
        {"L2": 21, "L3": 22, "L4": 23},
        ("L3",),
    )


def read_volume(path: Path) -> Volume:
    """NIfTI by SimpleITK, whose axes are LPS already."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(SimpleITK.GetArrayFromImage(image), affine)


def body_centre(mask: Volume) -> Array:
    """Centroid of what lies deeper than 0.6 of the greatest depth: the middle of the body."""
    depth = -signed_edt(np.pad(mask.values != 0, 1), mask.spacing_mm[::-1])
    k, j, i = (np.argwhere(depth > 0.6 * depth.max()) - 1).mean(axis=0)
    return mask.to_lps(np.array([[i, j, k]]))[0]


def drawn_seeds(study: Study, level: str, draw: int) -> Seeds:
    """Reference centres of the target and its neighbours, each 3-5 mm off in a fixed random direction."""
    rng = np.random.default_rng([20261126, SPINE.index(level), draw])
    points = []
    for step in (0, -1, 1):
        away = rng.standard_normal(3)
        away *= rng.uniform(*SEED_ERROR_MM) / np.linalg.norm(away)
        other = SPINE[SPINE.index(level) + step]
        points.append(body_centre(study.reference(other)) + away)
    return Seeds(*points)


@dataclass(frozen=True)
class Likeness:
    """`dice` 0..1; mean symmetric surface distance and the larger one-way 95th percentile, mm."""

    dice: float
    surface_mm: float
    h95_mm: float


def likeness(outer: Volume, reference: Volume) -> Likeness:
    """Signed distance `outer` (mm, negative inside) against a mask, on the mask's grid made finer to 1 mm."""
    times = [max(1, round(s)) for s in reference.spacing_mm]
    k, j, i = np.indices(reference.values.shape)
    points = reference.to_lps(np.column_stack([i.ravel(), j.ravel(), k.ravel()]))
    mine = outer.sample(points, outside=8.0).reshape(reference.values.shape) < 0
    truth = reference.values != 0
    dice = 2 * np.sum(mine & truth) / (mine.sum() + truth.sum())
    fine = [np.repeat(np.repeat(np.repeat(m, times[2], 0), times[1], 1), times[0], 2) for m in (mine, truth)]
    spacing = tuple(s / t for s, t in zip(reference.spacing_mm, times, strict=True))[::-1]
    edges = [m & ~ndimage.binary_erosion(m) for m in fine]
    gaps = [np.abs(signed_edt(fine[1 - n], spacing)[edges[n]]) for n in (0, 1)]
    return Likeness(
        round(float(dice), 4),
        round(float(np.mean(np.concatenate(gaps))), 3),
        round(float(max(np.percentile(g, 95) for g in gaps)), 2),
    )
