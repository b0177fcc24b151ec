"""What the geometry gate works on and answers with: places of slices, limits, findings, and their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vector = tuple[float, float, float]
Severity = Literal["refuse", "warn"]

NAMED_AT_MOST = 6
"""Slices listed by name in one sentence; the rest are counted."""


@dataclass(frozen=True)
class SlicePlace:
    """Where one slice lies. `position` is the centre of its first pixel, LPS mm; directions are unit vectors.

    `pixel_spacing` is (between rows, between columns) in mm. `hint` names the file or frame for people.
    """

    sop_uid: str
    instance_number: int | None
    position: Vector
    row_dir: Vector
    col_dir: Vector
    rows: int
    cols: int
    pixel_spacing: tuple[float, float]
    thickness: float | None = None
    hint: str = ""


@dataclass(frozen=True)
class GatePolicy:
    """Limits of the gate.

    Spacing tolerance 1 % or 0.01 mm and thickness as information: clinical facts, section 6. The thickness
    warning of 1.25 mm is the planning CT of the source study; 5 mm leaves three slices in a pedicle.
    """

    spacing_tolerance_fraction: float = 0.01
    spacing_tolerance_mm: float = 0.01
    angle_tolerance_deg: float = 0.1
    tilt_notice_deg: float = 0.1
    max_tilt_deg: float = 35.0
    warn_thickness_mm: float = 1.25
    max_thickness_mm: float = 5.0
    min_slices: int = 10
    drift_tolerance_mm: float = 0.1
    """Largest sideways departure of a slice from the straight line through all slices."""


@dataclass(frozen=True)
class Finding:
    code: str
    severity: Severity
    sentence: str


@dataclass(frozen=True, eq=False)
class GateResult:
    """`ordered`: indices into the input, along the normal (row x column); empty when the order has no meaning.

    `lps_from_ijk` (4, 4) of the stack, sheared when the gantry was tilted; None when refused.
    `spacing_mm` is along the normal, `tilt_deg` the angle between normal and stacking direction, signed by the
    column direction.
    """

    ordered: tuple[int, ...]
    spacing_mm: float
    tilt_deg: float
    findings: tuple[Finding, ...]
    lps_from_ijk: Array | None

    @property
    def accepted(self) -> bool:
        return self.lps_from_ijk is not None

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "refuse")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "warn")


def name(place: SlicePlace) -> str:
    """How a person finds this slice again: instance number and table position."""
    number = f"slice {place.instance_number}" if place.instance_number is not None else "slice without number"
    hint = f", {place.hint}" if place.hint and place.instance_number is None else ""
    return f"{number} (z {place.position[2]:.2f} mm{hint})"


def names(places: Sequence[SlicePlace]) -> str:
    listed = ", ".join(name(p) for p in places[:NAMED_AT_MOST])
    more = len(places) - NAMED_AT_MOST
    return f"{listed} and {more} more" if more > 0 else listed


def refuse(code: str, sentence: str) -> Finding:
    return Finding(code, "refuse", sentence)


def refused(findings: Sequence[Finding]) -> GateResult:
    return GateResult((), 0.0, 0.0, tuple(findings), None)
