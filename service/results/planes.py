"""Where the slices of the source lie, whether they come as many objects or as frames of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

Array = NDArray[np.float64]
_STRAIGHT = 2e-3
"""Sideways share of a step below which slices count as stacked along their normal (0.1 degree)."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice of the source. `position` is the centre of its first pixel, LPS mm; spacing between (rows, columns)."""

    source: Dataset
    position: Array
    along_row: Array
    along_column: Array
    spacing: tuple[float, float]
    rows: int
    columns: int

    def lps_from_pixel(self) -> Array:
        """(4, 4): (column, row, 0, 1) to LPS."""
        matrix = np.eye(4)
        matrix[:3, 0] = self.along_row * self.spacing[1]
        matrix[:3, 1] = self.along_column * self.spacing[0]
        matrix[:3, 2] = np.cross(self.along_row, self.along_column)
        matrix[:3, 3] = self.position
        return matrix


def planes_of(sources: Sequence[Dataset]) -> list[Plane]:
    """Every slice of single-frame and multi-frame objects, in their order."""
    found = []
    for source in sources:
        frames = source.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
        shared = (source.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        for frame in frames:
            found.append(_plane(source, (frame, shared)))
    return found


def _plane(source: Dataset, groups: Sequence[Dataset]) -> Plane:
    def value(sequence: str, keyword: str) -> Array:
        item = next((g[sequence].value[0] for g in groups if g.get(sequence)), source)
        return np.array([float(v) for v in item[keyword].value])

    orientation = value("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = value("PixelMeasuresSequence", "PixelSpacing")
    return Plane(
        source,
        value("PlanePositionSequence", "ImagePositionPatient"),
        orientation[:3],
        orientation[3:],
        (float(spacing[0]), float(spacing[1])),
        int(source.Rows),
        int(source.Columns),
    )


def tilted(planes: Sequence[Plane]) -> bool:
    """Whether the slices are stacked beside their normal, as with a tilted gantry."""
    normal = np.cross(planes[0].along_row, planes[0].along_column)
    positions = np.array([p.position for p in planes])
    positions = positions[np.argsort(positions @ normal)]
    whole = positions[-1] - positions[0]
    along = float(whole @ normal)
    return bool(np.linalg.norm(whole - along * normal) > _STRAIGHT * max(abs(along), 1e-6))
