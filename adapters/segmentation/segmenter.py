"""`service.ports.Segmenter` by an installed network: the CT laid before it as it was trained, its answer read back.

The recipe is TotalSegmentator's and nnU-Net's: axes along the patient, cubic resampling to the network's spacing,
clipped and scaled grey values, sliding window, the class with the highest score. Only the surroundings of the point
asked for are looked at: the box of a vertebra and a quarter of a patch around it, which bounds time and memory
whatever the length of the CT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.segmentation.description import Description, read_description
from adapters.segmentation.network import OnnxNetwork
from adapters.segmentation.windows import scores
from service.geometry.progress import Progress, silent
from service.geometry.volume import Volume
from service.ports import SegmentedVertebrae, SegmenterFacts

Array = NDArray[np.float64]
#: Direction in LPS of the axes a description may name.
_LPS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
#: Of a point in the middle of the body, mm LPS: what belongs to a vertebra of a large adult, and bodies of both
#: neighbours. In front less than behind, where the spinous process is.
BOX_LOW_MM = np.array([-62.0, -42.0, -60.0])
BOX_HIGH_MM = np.array([62.0, 90.0, 60.0])
_CONTEXT = 0.25
_AIR_HU = -1024.0
_HAIR = 1e-6


class InstalledSegmenter:
    """The model in `folder`; read, checked and started when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: tuple[Description, OnnxNetwork] | None = None

    def facts(self) -> SegmenterFacts:
        """Raises ToolMissingError, see `service.ports.Segmenter`."""
        about, network = self._load()
        return SegmenterFacts(
            about.name, about.source, about.sha256, about.description_sha256, about.licence, network.runtime
        )

    def segment(
        self,
        values: NDArray[Any],
        lps_from_ijk: Array,
        level: str,
        near: Array,
        progress: Progress = silent,
    ) -> SegmentedVertebrae:
        """See `service.ports.Segmenter`."""
        progress("starting the model", 0.0)
        about, network = self._load()
        progress("laying the CT before the model", 0.02)
        image, keep, affine = laid_out(Volume(values, lps_from_ijk), about, near)

        def told(done: int, of: int) -> None:
            progress(f"segmenting, part {min(done + 1, of)} of {of}", 0.05 + 0.95 * done / of)

        found = scores(network, image, about.patch, len(about.classes), keep, told)
        return _answer(found, about, level, affine)

    def _load(self) -> tuple[Description, OnnxNetwork]:
        if self._loaded is None:
            about = read_description(self.folder)
            self._loaded = (about, OnnxNetwork(self.folder, about))
        return self._loaded


def laid_out(
    ct: Volume, about: Description, near: Array
) -> tuple[NDArray[np.float32], tuple[slice, slice, slice], Array]:
    """The CT around `near` as the network takes it, (D, H, W); which part of it is the vertebra's box, and where.

    The last is (4, 4): index in array order (d, h, w) of the box to LPS mm.
    """
    axes = np.array([_LPS[a] for a in about.axes], dtype=np.float64).T
    spacing = np.array(about.spacing_mm)
    box = np.sort(np.stack([near + BOX_LOW_MM, near + BOX_HIGH_MM]) @ axes, axis=0)
    scan = _extent(ct, axes)
    box = np.clip(box, scan[0], scan[1])
    # Up to the last step within: a voxel beyond the scan would be air that is not there.
    size = np.floor((box[1] - box[0]) / spacing + _HAIR).astype(int) + 1
    # Around it a quarter of a patch, and whole patches at least, where the scan has it.
    around = np.maximum(_CONTEXT * np.array(about.patch), (np.array(about.patch) - size) / 2)
    room = np.floor(np.stack([box[0] - scan[0], scan[1] - box[0] - (size - 1) * spacing]) / spacing + _HAIR)
    before, after = np.clip(np.ceil(around), 0, np.maximum(room, 0)).astype(int)
    origin = axes @ (box[0] - before * spacing)
    shape = size + before + after
    part = _around(ct, origin, axes * spacing, shape)
    # Volume keeps (k, j, i): its axes are the network's in reverse.
    grid = part.resampled(
        origin, (axes * spacing)[:, ::-1], (shape[0], shape[1], shape[2]), order=3, outside=_AIR_HU
    )
    image = np.clip(grid.values, about.low_hu, about.high_hu)
    image = ((image - about.mean_hu) / about.sd_hu).astype(np.float32)
    keep = tuple(slice(int(b), int(b + n)) for b, n in zip(before, size, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ box[0]
    return image, (keep[0], keep[1], keep[2]), affine


def _extent(ct: Volume, axes: Array) -> Array:
    """(2, 3) lowest and highest coordinate along `axes` of the outermost voxel centres."""
    top = np.array(ct.values.shape[::-1]) - 1
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * top
    along = ct.to_lps(corners) @ axes
    return np.stack([along.min(axis=0), along.max(axis=0)])


def _around(ct: Volume, origin: Array, steps: Array, shape: NDArray[np.int_]) -> Volume:
    """The CT's voxels of the grid and some more, so that a cubic spline there needs no others.

    The outermost are repeated once: by rounding the grid may reach a hair beyond them, which is not air.
    """
    last = origin + steps @ (shape - 1)
    margin = 8.0 * np.array(ct.spacing_mm).max()
    part = ct.crop_to_lps_box((origin + last) / 2, np.abs(last - origin) / 2 + margin)
    affine = part.lps_from_ijk.copy()
    affine[:3, 3] -= affine[:3, :3].sum(axis=1)
    return Volume(np.pad(part.values, 1, mode="edge"), affine)


def _answer(found: NDArray[np.float32], about: Description, level: str, affine: Array) -> SegmentedVertebrae:
    """Labels, and how far `level` is preferred, from the scores (C, D, H, W) of all classes."""
    names = tuple(name for name in about.levels if name)
    number = np.array([names.index(name) + 1 if name else 0 for name in about.levels], np.uint8)
    labels = number[found.argmax(axis=0)]
    wanted = about.levels.index(level)
    own = found[wanted].copy()
    found[wanted] = -np.inf
    preference = own - found.max(axis=0)
    return SegmentedVertebrae(labels, names, preference, affine[:, [2, 1, 0, 3]])
