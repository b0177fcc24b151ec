"""What a printed file must be, and the form of the audit's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError
from service.gcode.profile import MEAN_WIDTH_OF_ENGINE, MOTION_OF_ENGINE, MotionProfile
from service.ports import SliceSettings

#: Share of the print speed by `;TYPE:` in UltiMaker's AA 0.4 / PLA / 0.2 mm profile, evaluated at
#: 50 mm/s: infill 50, inner wall 40, outer wall and support 36, skin 29, first layer and brim 15.
_SPEED_SHARES: Mapping[str, float] = {
    "FILL": 1.0,
    "WALL-INNER": 0.80,
    "WALL-OUTER": 0.72,
    "SKIN": 0.58,
    "SUPPORT": 0.72,
    "SUPPORT-INTERFACE": 0.58,
    "SKIRT": 0.30,
}


@dataclass(frozen=True)
class ExpectedPrint:
    """The file that was ordered. Lengths in mm, temperatures in degrees C, speeds in mm/s.

    Defaults: paper (0.2 mm, 210, 60, 50 mm/s) and Ultimaker 3 with AA 0.4 (reference/slicing.md and
    reference/ultimaker3_api.md, 6.2). Tolerances were measured on CuraEngine 4.13 files of closed shells.
    """

    layer_mm: float = 0.2
    nozzle_c: float = 210.0
    bed_c: float = 60.0
    print_speed_mm_s: float = 50.0
    material_guid: str = "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9"
    flavour: str = "Griffin"
    machines: tuple[str, ...] = ("Ultimaker 3", "Ultimaker 3 Extended")
    nozzle_name: str = "AA 0.4"
    nozzle_mm: float = 0.4
    filament_mm: float = 2.85
    volume_mm: tuple[float, float, float] = (215.0, 215.0, 200.0)
    bed_from_print_mm: tuple[float, float] = (116.5, 107.5)
    """Where x = y = 0 of the STL lies on the plate."""
    speed_shares: Mapping[str, float] = field(default_factory=lambda: dict(_SPEED_SHARES))
    motion: MotionProfile = field(default_factory=MotionProfile)
    mean_width_mm: tuple[float, float] = MEAN_WIDTH_OF_ENGINE["4"]
    """Both of Cura 4.13; see `of_engine`."""
    layer_tolerance_mm: float = 0.001
    temperature_tolerance_c: float = 0.01
    speed_tolerance_mm_s: float = 0.6
    """Cura rounds each feature's speed up to whole mm/s."""
    volume_ratio: tuple[float, float] = (0.92, 1.08)
    """Plastic of the part over volume of its mesh; solid parts measured 1.02 to 1.03."""
    layer_area_share: float = 0.06
    layer_area_mm2: float = 2.5
    """How far one layer's plastic may be from the model's cross-section: this share of it and so much more.
    `layer_off_most` in the audit's measures tells how much of the share a file has used."""
    heap_layers: float = 2.0
    """Plastic over 4 by 4 mm of a layer, in layers. Vertebrae measured up to 1.4; filler under a flat roof 1.6."""
    filler_share: float = 0.3
    """Plastic of the filler over volume of its mesh. Vertebrae measured 0.07 to 0.09; a box under a flat roof 0.20."""
    filler_roof_mm: float = 4.0
    """Where the cavity reaches further up than this, its filler is the few trunks of what branches out below a roof."""
    filler_deep_share: float = 0.06
    """Plastic over volume there. Measured up to 0.02."""
    filler_layer_share: float = 0.25
    """The same in one layer. Measured up to 0.16; in a layer right under a roof lines lie on each other."""
    channel_share: float = 0.75
    """Least free radius over the channel's radius: an oblique channel is stepped by the layers."""
    needle_radius_mm: float = 1.205
    """13 G needle of 2.41 mm; below it a note tells that the channel wants reaming."""

    vent_share: float = 0.88
    """Least free radius over a vent's radius: 3.0 mm must remain of 3.4 mm (facts sheet, `vents`). Measured 0.96."""
    surface_p95_mm: float = 0.2
    """Printed surface to the mesh, 95th percentile: one voxel of the comparison. Whole vertebrae measured 0.04."""
    surface_off_share: float = 0.01
    """Share of the surface printed more than 0.5 mm off. Measured 0.0005: tips thinner than a line."""
    layer_off_share: float = 0.3
    """The same within one layer."""
    bone_p95_mm: float = 0.5
    """Printed surface to the bone in the CT, 95th percentile: the model may be 0.3 mm off it (self-check), the print
    0.2 mm off the model."""
    wall_near_shell_mm: float = 0.3
    """Walls are judged where the mesh is this near to the shell's thickness."""
    thin_wall_mm: float = 1.6
    wall_thin_share: float = 0.01
    """Share of those walls that may be printed thinner than `thin_wall_mm` (four lines of 0.4 mm)."""

    @property
    def filament_mm2(self) -> float:
        return math.pi * (self.filament_mm / 2.0) ** 2

    @classmethod
    def from_settings(cls, settings: SliceSettings) -> ExpectedPrint:
        """What a file sliced with `settings` must be."""
        return cls(
            layer_mm=settings.layer_mm,
            nozzle_c=settings.nozzle_c,
            bed_c=settings.bed_c,
            print_speed_mm_s=settings.print_speed_mm_s,
            material_guid=settings.material_guid,
        )

    def of_engine(self, version: str) -> ExpectedPrint:
        """The same with motion and line widths of the engine that says it wrote the file, by its version.

        A file that claims another engine than its own is held against the wrong motion and refused. An engine that is
        not known is a fault of the header.
        """
        engine = version.partition(".")[0]
        return replace(
            self,
            motion=MOTION_OF_ENGINE.get(engine, self.motion),
            mean_width_mm=MEAN_WIDTH_OF_ENGINE.get(engine, self.mean_width_mm),
        )


@dataclass(frozen=True)
class Finding:
    """One fact against the file. `severity` is 'fault' (never send it) or 'note'. No text of the file's comments."""

    code: str
    message: str
    severity: str = "fault"


@dataclass(frozen=True)
class AuditReport:
    """The audit's answer; `measures` are what was read from the file, whether it passed or not."""

    findings: tuple[Finding, ...]
    measures: Mapping[str, object]

    @property
    def passed(self) -> bool:
        return not any(finding.severity == "fault" for finding in self.findings)

    def to_document(self) -> dict[str, object]:
        """JSON form (`spineprint.gcode-audit/1`)."""
        return {
            "schema": "spineprint.gcode-audit/1",
            "passed": self.passed,
            "findings": [
                {"code": f.code, "severity": f.severity, "message": f.message} for f in self.findings
            ],
            "measures": dict(self.measures),
        }


@dataclass(frozen=True)
class PartSize:
    """Volume (mm3) and corners (mm, print coordinates) of the mesh the file was made from."""

    volume_mm3: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]


Mesh = tuple[Sequence[Sequence[float]] | NDArray[np.float64], Sequence[Sequence[int]] | NDArray[np.int64]]


def mesh_corners(mesh: Mesh | Path) -> NDArray[np.float64]:
    """Triangles (F, 3, 3) of a mesh given as (vertices, faces) or as a binary STL file.

    Raises GeometryError when the file is no binary STL.
    """
    if isinstance(mesh, Path):
        return _stl_corners(mesh)
    corners: NDArray[np.float64] = np.asarray(mesh[0], float)[np.asarray(mesh[1], int)]
    return corners


def part_size(corners: NDArray[np.float64]) -> PartSize:
    """Size of a closed mesh given by its triangles (F, 3, 3), mm. Raises GeometryError when it encloses nothing."""
    if not len(corners):
        raise GeometryError("The model is empty.", next_step="Build the model again.")
    # Signed tetrahedra to a point inside the box: exact for a closed mesh, cavities counted as holes.
    middle = (corners.reshape(-1, 3).min(axis=0) + corners.reshape(-1, 3).max(axis=0)) / 2.0
    a, b, c = (corners[:, i] - middle for i in range(3))
    volume = float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)
    if not volume > 0.0:
        raise GeometryError("The model encloses no volume.", next_step="Build the model again.")
    low, high = corners.reshape(-1, 3).min(axis=0), corners.reshape(-1, 3).max(axis=0)
    return PartSize(
        volume,
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
    )


def _stl_corners(path: Path) -> NDArray[np.float64]:
    facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    content = path.read_bytes()
    count = int.from_bytes(content[80:84], "little") if len(content) >= 84 else -1
    if count <= 0 or len(content) != 84 + count * facet.itemsize:
        raise GeometryError("The model file is not a binary STL.", next_step="Build the model again.")
    return np.frombuffer(content, facet, count, 84)["corners"].astype(np.float64)
