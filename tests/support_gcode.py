"""One small sliced part shared by the tests of slicing and of the G-code audit.

A hollow box of 2 mm walls with a vent, an oblique blind channel in a sleeve, and a ledge that needs support.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh
from manifold3d import Manifold

from adapters.cura_engine.engine import CuraEngineSlicer
from service.errors import ToolMissingError
from service.ports import Slicer, SliceResult, SliceSettings

ENTRY = (0.0, -8.0, 9.5)
TARGET = (1.5, 4.0, 5.5)
RADIUS = 1.4


@dataclass(frozen=True)
class SlicedPart:
    part: Path
    blocker: Path
    filler: Path
    result: SliceResult

    @property
    def gcode(self) -> Path:
        return self.result.gcode


def rod(start, end, radius: float) -> Manifold:
    start, end = np.asarray(start, float), np.asarray(end, float)
    direction = end - start
    length = float(np.linalg.norm(direction))
    pose = trimesh.geometry.align_vectors([0, 0, 1], direction / length)
    pose[:3, 3] = start
    return Manifold.cylinder(length, radius, radius, 48).transform(pose[:3])


def build(folder: Path) -> tuple[Path, Path, Path]:
    """Write part, blocker and filler STL; returns their paths."""
    along = np.subtract(TARGET, ENTRY) / np.linalg.norm(np.subtract(TARGET, ENTRY))
    outside = np.asarray(ENTRY) - 4.0 * along
    outer = Manifold.cube((20, 16, 13), True).translate((0, 0, 6.5))
    inner = Manifold.cube((16, 12, 9), True).translate((0, 0, 6.5))
    ledge = Manifold.cube((5, 6, 2), True).translate((12, 0, 8))
    sleeve = rod(outside, np.asarray(TARGET) + 2.0 * along, RADIUS + 2.0) ^ outer
    cavity = inner - sleeve
    vent = rod((6, 0, -1), (6, 0, 4), 2.0)
    part = outer + ledge - cavity - rod(outside, TARGET, RADIUS) - vent
    assert len(part.decompose()) == 1
    paths = (folder / "vertebra.stl", folder / "blocker.stl", folder / "cavity.stl")
    for path, solid in zip(paths, (part, rod(outside, TARGET, RADIUS + 0.6), cavity), strict=True):
        mesh = solid.to_mesh()
        trimesh.Trimesh(mesh.vert_properties[:, :3], mesh.tri_verts, process=False).export(path)
    return paths


def slice_part(slicer: Slicer, folder: Path) -> SlicedPart:
    """The part built and sliced in `folder`."""
    part, blocker, filler = build(folder)
    result = slicer.slice(
        part, folder / "print.gcode", SliceSettings(), blocker_stl=blocker, filler_stl=filler
    )
    return SlicedPart(part, blocker, filler, result)


@functools.cache
def sliced_part() -> SlicedPart:
    """The part sliced once per test run; skips with words where no engine is installed."""
    slicer = CuraEngineSlicer()
    try:
        slicer.describe()
    except ToolMissingError as error:
        pytest.skip(f"no slicing engine here: {error.message}")
    folder = Path(tempfile.mkdtemp(prefix="sliced-part-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return slice_part(slicer, folder)
