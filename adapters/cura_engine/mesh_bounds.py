"""Bounds of an STL file, read without a mesh library: enough to refuse what cannot lie on the plate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import GeometryError

_BINARY_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


@dataclass(frozen=True)
class Bounds:
    """Corners of the box around a mesh in mm."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


def stl_bounds(path: Path) -> Bounds:
    """Box around a binary or ASCII STL. Raises GeometryError when it is neither, empty or not finite."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GeometryError("The model file cannot be read.", next_step="Build the model again.") from error
    count = int.from_bytes(content[80:84], "little") if len(content) >= 84 else 0
    if count > 0 and len(content) == 84 + count * _BINARY_FACET.itemsize:
        points = np.frombuffer(content, _BINARY_FACET, count, 84)["corners"].reshape(-1, 3).astype(np.float64)
    else:
        triples = re.findall(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", content)
        try:
            points = np.array(triples, dtype=np.float64).reshape(-1, 3)
        except ValueError:
            points = np.empty((0, 3))
    if points.size == 0 or not np.isfinite(points).all():
        raise GeometryError("The model file is not a readable STL.", next_step="Build the model again.")
    low, high = points.min(axis=0), points.max(axis=0)
    return Bounds(
        (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))
    )
