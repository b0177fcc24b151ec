"""What is proven about a G-code file before it may be sent: the audit, and the printed part it will make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan, Vec3, plan_from_document
from service.gcode.audit import VentHole, audit_read
from service.gcode.expected import AuditReport, ExpectedPrint, Finding, mesh_corners
from service.gcode.printed_bone import PrintedBone, bone_samples, compare_with_bone
from service.gcode.printed_solid import PrintedPart, predict_print
from service.gcode.reader import Gcode, read_gcode
from service.geometry.bone_outside import altered, bone_mesh
from service.geometry.marking import Mark
from service.geometry.mesh import Mesh
from service.imaging.nifti import read_nifti
from service.ports import SliceSettings
from service.results.error_map import AGAINST_CT, AGAINST_MODEL, error_map

Array = NDArray[np.float64]

#: Around what a model has and the bone has not: half a channel's rim, steps of the layers included.
_BESIDE_MM = 1.0


@dataclass(frozen=True)
class BoneFiles:
    """Where the model step left the CT's surface (signed distance, NIfTI) and its report, which names the marks."""

    outer: Path
    model_report: Path


@dataclass(frozen=True)
class PrintProof:
    """A G-code file that was read, the triangles (F, 3, 3) it was sliced from, and the plan; mm, print coordinates.

    `filler`: triangles of the body of the cavity, when one was filled.
    """

    gcode: Gcode
    corners: Array
    plan: Plan
    matrix: Array
    """print_from_lps (4, 4)."""
    filler: Array | None = None

    @classmethod
    def read(cls, gcode: Path, print_mesh: Path, layout: Path, plan: Path, filler: Path | None) -> PrintProof:
        """Raises InputRefusedError (the file cannot be opened), GeometryError (no binary STL)."""
        return cls(
            read_gcode(gcode),
            mesh_corners(print_mesh),
            plan_from_document(json.loads(plan.read_text("utf-8"))),
            print_from_lps(layout),
            None if filler is None else mesh_corners(filler),
        )

    def audit(self, forbidden_words: Sequence[str] = ()) -> AuditReport:
        """Judge the file independently of the slicer, against mesh, channels, vents and settings.

        `forbidden_words` are the patient's: none may stand in the file, and the report never repeats one.
        """
        model = self.plan.model
        channels = [
            (self._place(t.entry), self._place(t.target), model.channel_diameter_mm / 2.0)
            for t in self.plan.trajectories
        ]
        vents = [
            VentHole(self._place(v.position), self._turn(v.direction), v.diameter_mm / 2.0, model.shell_mm)
            for v in model.vents
        ]
        return audit_read(
            self.gcode,
            expected=_ordered(),
            corners=self.corners,
            filler=self.filler,
            channels=channels,
            vents=vents,
            forbidden_words=forbidden_words,
        )

    def with_prediction(
        self,
        report: AuditReport,
        picture: Path | None = None,
        *,
        bone: BoneFiles | None = None,
        bone_picture: Path | None = None,
    ) -> AuditReport:
        """`report` of a file that passed, with the printed part held against the mesh and the bone in the CT.

        Draws the two error maps. Without `bone` the report says that the CT's surface was not at hand.

        Raises
        ------
        ImagingError, GeometryError : the CT's surface cannot be read, or holds no bone.
        """
        part = predict_print(self.gcode, self.corners, _ordered(), shell_mm=self.plan.model.shell_mm)
        if picture is not None:
            self._draw_part(part, picture)
        against = self._against_bone(part, bone, bone_picture)
        measures = {**part.measures, "bone": against[0]}
        return AuditReport(
            (*report.findings, *part.findings, *against[1]), {**report.measures, "printed": measures}
        )

    def _against_bone(
        self, part: PrintedPart, bone: BoneFiles | None, picture: Path | None
    ) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        marks = None if bone is None else _marks(bone.model_report)
        if bone is None or marks is None:
            why = "surface isolated from the CT" if bone is None else "place of each raised mark"
            return {"reason": f"the {why} is not kept with this model"}, ()
        surface = bone_mesh(read_nifti(bone.outer))
        moved = surface.transformed(self.matrix)
        samples = bone_samples(moved.corners)
        back = np.linalg.inv(self.matrix)
        in_lps = samples.points @ back[:3, :3].T + back[:3, 3]
        left_out = altered(in_lps, self.plan, marks, _BESIDE_MM, sleeve=True)
        found = compare_with_bone(part.filling, part.grid, samples, left_out, _ordered())
        if picture is not None:
            self._draw_bone(moved, found, picture)
        return found.measures, found.findings

    def _draw_part(self, part: PrintedPart, picture: Path) -> None:
        measures = part.measures
        title = (
            f"Predicted print of {self.plan.level} against the model: surface off by "
            f"{measures['surface_p95_mm']:.2f} mm (95th percentile), "
            f"{measures['surface_mean_abs_mm']:.2f} mm on average"
        )
        self._draw(self.corners, part.samples.points, part.offset_mm, title, AGAINST_MODEL, picture)

    def _draw_bone(self, surface: Mesh, found: PrintedBone, picture: Path) -> None:
        measures = found.measures
        if "p95_mm" not in measures:
            return
        title = (
            f"Predicted print of {self.plan.level} against the bone in the CT: surface off by "
            f"{measures['p95_mm']:.2f} mm (95th percentile), {measures['mean_abs_mm']:.2f} mm on average"
        )
        self._draw(surface.corners, found.samples.points, found.offset_mm, title, AGAINST_CT, picture)

    def _draw(
        self, corners: Array, points: Array, offset_mm: Array, title: str, words: str, picture: Path
    ) -> None:
        frame = self.plan.vertebra_frame
        left, anterior, superior = (
            np.asarray(self._turn(a)) for a in (frame.left, frame.anterior, frame.superior)
        )
        error_map(
            corners,
            points,
            offset_mm,
            axes=(left, anterior, superior),
            centre=np.asarray(self._place(self.plan.body_centre)),
            title=title,
            words=words,
        ).save(picture)

    def _place(self, point: Vec3) -> Vec3:
        p = self.matrix[:3, :3] @ np.asarray(point) + self.matrix[:3, 3]
        return float(p[0]), float(p[1]), float(p[2])

    def _turn(self, direction: Vec3) -> Vec3:
        d = self.matrix[:3, :3] @ np.asarray(direction)
        return float(d[0]), float(d[1]), float(d[2])


def _marks(model_report: Path) -> tuple[Mark, ...] | None:
    """What is written on the model; None when its report does not say where (a model from before)."""
    documents = json.loads(model_report.read_text("utf-8")).get("marks", [])
    try:
        return tuple(Mark.from_document(d) for d in documents)
    except KeyError:
        return None


def print_from_lps(layout: Path) -> Array:
    """(4, 4) of a print.json."""
    return np.asarray(json.loads(layout.read_text("utf-8"))["print_from_lps"], dtype=np.float64)


def _ordered() -> ExpectedPrint:
    return ExpectedPrint.from_settings(SliceSettings())
