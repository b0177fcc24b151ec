"""What is proven about a G-code file before it may be sent: the audit, and the printed part it will make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan, Vec3, plan_from_document
from service.gcode.audit import VentHole, audit_read
from service.gcode.expected import AuditReport, ExpectedPrint, mesh_corners
from service.gcode.printed_solid import PrintedPart, predict_print
from service.gcode.reader import Gcode, read_gcode
from service.ports import SliceSettings
from service.results.error_map import error_map

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PrintProof:
    """A G-code file that was read, the triangles (F, 3, 3) it was sliced from, and the plan; mm, print coordinates."""

    gcode: Gcode
    corners: Array
    plan: Plan
    matrix: Array
    """print_from_lps (4, 4)."""

    @classmethod
    def read(cls, gcode: Path, print_mesh: Path, layout: Path, plan: Path) -> PrintProof:
        """Raises InputRefusedError (the file cannot be opened), GeometryError (no binary STL)."""
        return cls(
            read_gcode(gcode),
            mesh_corners(print_mesh),
            plan_from_document(json.loads(plan.read_text("utf-8"))),
            print_from_lps(layout),
        )

    def audit(self) -> AuditReport:
        """Judge the file independently of the slicer, against mesh, channels, vents and settings."""
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
            self.gcode, expected=_ordered(), corners=self.corners, channels=channels, vents=vents
        )

    def with_prediction(self, report: AuditReport, picture: Path | None = None) -> AuditReport:
        """`report` of a file that passed, with the printed part held against the mesh; draws the error map."""
        part = predict_print(self.gcode, self.corners, _ordered(), shell_mm=self.plan.model.shell_mm)
        if picture is not None:
            self._draw(part, picture)
        return AuditReport(
            (*report.findings, *part.findings), {**report.measures, "printed": dict(part.measures)}
        )

    def _draw(self, part: PrintedPart, picture: Path) -> None:
        frame, measures = self.plan.vertebra_frame, part.measures
        left, anterior, superior = (
            np.asarray(self._turn(a)) for a in (frame.left, frame.anterior, frame.superior)
        )
        title = (
            f"Predicted print of {self.plan.level}: surface off by {measures['surface_p95_mm']:.2f} mm "
            f"(95th percentile), {measures['surface_mean_abs_mm']:.2f} mm on average"
        )
        error_map(
            self.corners,
            part.samples.points,
            part.offset_mm,
            axes=(left, anterior, superior),
            centre=np.asarray(self._place(self.plan.body_centre)),
            title=title,
        ).save(picture)

    def _place(self, point: Vec3) -> Vec3:
        p = self.matrix[:3, :3] @ np.asarray(point) + self.matrix[:3, 3]
        return float(p[0]), float(p[1]), float(p[2])

    def _turn(self, direction: Vec3) -> Vec3:
        d = self.matrix[:3, :3] @ np.asarray(direction)
        return float(d[0]), float(d[1]), float(d[2])


def print_from_lps(layout: Path) -> Array:
    """(4, 4) of a print.json."""
    return np.asarray(json.loads(layout.read_text("utf-8"))["print_from_lps"], dtype=np.float64)


def _ordered() -> ExpectedPrint:
    return ExpectedPrint.from_settings(SliceSettings())
