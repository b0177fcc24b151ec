"""The geometry gate: may these slices be read as one volume, and in which order?

Pure arithmetic on what the headers say about each slice. Order and spacing come from the positions along the
slice normal, never from instance numbers, file names or the slice thickness (PS3.3 C.7.6.2.1.1). Every finding
is a sentence that names the slices concerned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry.series_place import (
    NAMED_AT_MOST,
    Array,
    Finding,
    GatePolicy,
    GateResult,
    Severity,
    SlicePlace,
    Vector,
    name,
    names,
    refuse,
    refused,
)

__all__ = [
    "DEFAULT_POLICY",
    "Finding",
    "GatePolicy",
    "GateResult",
    "Severity",
    "SlicePlace",
    "Vector",
    "check_series",
]

DEFAULT_POLICY = GatePolicy()


def check_series(places: Sequence[SlicePlace], policy: GatePolicy = DEFAULT_POLICY) -> GateResult:
    """Judge the slices of one series and put them in order.

    Copies of the same instance at the same place are dropped with a warning; everything that would make the
    volume untrue is refused. Never raises for bad input: the findings say it.
    """
    findings: list[Finding] = []
    if not places:
        return refused([refuse("series.empty", "There is no slice with a position in this series.")])
    kept = _without_copies(places, findings)
    findings.extend(_uniform_form(places, kept, policy))
    if any(f.severity == "refuse" for f in findings):
        return refused(findings)

    geometry = _Stack.of(places, kept)
    findings.extend(_spacing_findings(places, geometry, policy))
    findings.extend(_thickness_findings(places, geometry, policy))
    if len(geometry.order) < policy.min_slices:
        findings.append(
            refuse(
                "series.too_few",
                f"The series has {len(geometry.order)} slice(s) that can be stacked; "
                f"at least {policy.min_slices} are needed.",
            )
        )
    findings.extend(_tilt_findings(geometry, policy))
    bad = any(f.severity == "refuse" for f in findings)
    return GateResult(
        ordered=geometry.order,
        spacing_mm=geometry.spacing_mm,
        tilt_deg=geometry.tilt_deg,
        findings=tuple(findings),
        lps_from_ijk=None if bad else geometry.affine(places),
    )


# --- one uniform set of slices ----------------------------------------------------------------------------


def _without_copies(places: Sequence[SlicePlace], findings: list[Finding]) -> list[int]:
    """Indices without repeated files of one instance; one instance at two places is refused."""
    first: dict[str, int] = {}
    kept: list[int] = []
    copies: list[int] = []
    for index, place in enumerate(places):
        known = first.setdefault(place.sop_uid, index) if place.sop_uid else index
        if known == index:
            kept.append(index)
        elif np.allclose(places[known].position, place.position, atol=1e-3):
            copies.append(index)
        else:
            kept.append(index)
            findings.append(
                refuse(
                    "series.uid_reused",
                    f"Two different slices carry the same instance UID: {name(places[known])} and {name(place)}.",
                )
            )
    if copies:
        findings.append(
            Finding(
                "series.copies",
                "warn",
                f"{len(copies)} file(s) hold an instance a second time and were left out: "
                f"{names([places[i] for i in copies])}.",
            )
        )
    return kept


def _uniform_form(places: Sequence[SlicePlace], kept: Sequence[int], policy: GatePolicy) -> list[Finding]:
    """Orientation, matrix size and pixel spacing must be those of all slices."""
    findings = []
    bad = [places[i] for i in kept if not _directions_sound(places[i])]
    if bad:
        findings.append(
            refuse(
                "series.orientation_invalid",
                f"The image orientation is not two perpendicular unit vectors, or the pixel spacing is not "
                f"positive, in {names(bad)}.",
            )
        )
        return findings
    frames = np.array([[*places[i].row_dir, *places[i].col_dir] for i in kept])
    main = frames[_most_common_row(frames, policy.angle_tolerance_deg)]
    angles = _direction_angles_deg(frames, main)
    odd = [places[kept[n]] for n in np.flatnonzero(angles > policy.angle_tolerance_deg).tolist()]
    if odd:
        findings.append(
            refuse(
                "series.mixed_orientation",
                f"{len(odd)} of {len(kept)} slices lie in another orientation than the rest "
                f"(up to {angles.max():.1f}° apart): {names(odd)}.",
            )
        )
    sizes = Counter((places[i].rows, places[i].cols) for i in kept)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = [places[i] for i in kept if (places[i].rows, places[i].cols) != usual]
        findings.append(
            refuse(
                "series.mixed_size",
                f"{len(odd)} slice(s) are not {usual[0]} x {usual[1]} pixels like the rest: {names(odd)}.",
            )
        )
    pixels = np.array([places[i].pixel_spacing for i in kept])
    usual_pixel = np.median(pixels, axis=0)
    # the header carries pixel spacing with at least four digits; 0.1 % over 512 pixels is half a pixel
    off = np.flatnonzero(np.any(np.abs(pixels - usual_pixel) > 1e-3 * usual_pixel, axis=1))
    if off.size:
        findings.append(
            refuse(
                "series.mixed_pixel_spacing",
                f"{off.size} slice(s) do not have the pixel spacing of the rest "
                f"({usual_pixel[0]:.4f} x {usual_pixel[1]:.4f} mm): {names([places[kept[n]] for n in off.tolist()])}.",
            )
        )
    return findings


def _directions_sound(place: SlicePlace) -> bool:
    row, col = np.array(place.row_dir), np.array(place.col_dir)
    numbers = np.array([*row, *col, *place.position, *place.pixel_spacing])
    return bool(
        np.all(np.isfinite(numbers))
        and abs(np.linalg.norm(row) - 1) < 1e-3
        and abs(np.linalg.norm(col) - 1) < 1e-3
        and abs(row @ col) < 1e-3
        and min(place.pixel_spacing) > 0
    )


def _direction_angles_deg(frames: Array, main: Array) -> Array:
    """(N, 6) row and column directions -> (N,) larger of the two angles to `main`, degrees."""
    apart = []
    for part in (slice(0, 3), slice(3, 6)):
        # chord length is exact for small angles, where the arc cosine loses half its digits
        chord = np.linalg.norm(frames[:, part] - main[part], axis=1)
        apart.append(np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1))))
    return np.asarray(np.maximum(*apart))


def _most_common_row(frames: Array, tolerance_deg: float) -> int:
    grid = np.round(frames / np.radians(tolerance_deg) / 10)
    _, first, counts = np.unique(grid, axis=0, return_index=True, return_counts=True)
    return int(first[counts.argmax()])


# --- order and spacing ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Stack:
    order: tuple[int, ...]
    along: Array
    """(N,) sorted positions along the normal, mm."""
    points: Array
    """(N, 3) sorted positions."""
    normal: Array
    step: Array
    """(3,) LPS mm from a slice to the next, least squares over the stack."""
    spacing_mm: float
    tilt_deg: float

    @staticmethod
    def of(places: Sequence[SlicePlace], kept: Sequence[int]) -> _Stack:
        row = np.mean([places[i].row_dir for i in kept], axis=0)
        col = np.mean([places[i].col_dir for i in kept], axis=0)
        normal = np.cross(row, col)
        normal /= np.linalg.norm(normal)
        points = np.array([places[i].position for i in kept], dtype=np.float64)
        sequence = np.argsort(points @ normal, kind="stable")
        points = points[sequence]
        along = points @ normal
        steps = np.diff(along)
        real = steps[steps > 1e-3]
        spacing = float(np.median(real)) if real.size else float(places[kept[0]].thickness or 1.0)
        # summed step by step: with rounded positions the median is off, and would drift over the stack
        lattice = np.concatenate([[0.0], np.cumsum(np.round(steps / spacing))])
        step = normal * spacing
        if lattice[-1] > 0:
            centred = lattice - lattice.mean()
            step = (centred @ (points - points.mean(axis=0))) / (centred @ centred)
            spacing = float(step @ normal)
        sideways = step - (step @ normal) * normal
        tilt = float(np.degrees(np.arctan2(np.linalg.norm(sideways), step @ normal)))
        return _Stack(
            order=tuple(int(kept[n]) for n in sequence),
            along=along,
            points=points,
            normal=normal,
            step=step,
            spacing_mm=spacing,
            tilt_deg=tilt if sideways @ col >= 0 else -tilt,
        )

    def affine(self, places: Sequence[SlicePlace]) -> Array:
        first = places[self.order[0]]
        lps_from_ijk = np.eye(4)
        lps_from_ijk[:3, 0] = np.array(first.row_dir) * first.pixel_spacing[1]
        lps_from_ijk[:3, 1] = np.array(first.col_dir) * first.pixel_spacing[0]
        lps_from_ijk[:3, 2] = self.step
        # the origin of the fitted line, so that rounding in single headers cancels out
        middle = (len(self.order) - 1) / 2
        lps_from_ijk[:3, 3] = self.points.mean(axis=0) - self.step * middle
        return lps_from_ijk


def _spacing_findings(places: Sequence[SlicePlace], stack: _Stack, policy: GatePolicy) -> list[Finding]:
    steps = np.diff(stack.along)
    if not steps.size:
        return []
    by_order = [places[i] for i in stack.order]
    twins = np.flatnonzero(steps <= 1e-3)
    if twins.size:
        pairs = names([by_order[n + 1] for n in twins])
        return [
            refuse(
                "series.duplicate_position",
                f"{twins.size} slice(s) lie where another slice already lies "
                f"(two reconstructions or phases in one series?): {pairs}.",
            )
        ]
    usual = float(np.median(steps))
    tolerance = _tolerance_mm(stack.along, usual, policy)
    multiples = np.round(steps / usual)
    whole = np.abs(steps - multiples * usual) <= tolerance * np.maximum(multiples, 1)
    gaps = np.flatnonzero((multiples >= 2) & whole)
    uneven = np.flatnonzero(~whole)
    findings = []
    if gaps.size and gaps.size <= max(1, 0.2 * steps.size):
        findings.append(_gap_finding(by_order, steps, multiples, gaps, usual))
    elif gaps.size:
        uneven = np.union1d(uneven, gaps)
    if uneven.size:
        worst = int(uneven[np.abs(steps[uneven] - usual).argmax()])
        findings.append(
            refuse(
                "series.variable_spacing",
                f"The spacing is not uniform: {uneven.size} of {steps.size} steps differ from {usual:.3f} mm; "
                f"the worst is {steps[worst]:.3f} mm between {name(by_order[worst])} and "
                f"{name(by_order[worst + 1])}.",
            )
        )
    return findings or _lattice_findings(by_order, stack, tolerance, policy)


def _tolerance_mm(along: Array, usual: float, policy: GatePolicy) -> float:
    """Allowed departure of one step. Devices that write positions with one or two decimals get their rounding."""
    tolerance = max(policy.spacing_tolerance_mm, policy.spacing_tolerance_fraction * usual)
    for grain in (0.1, 0.01):
        if np.all(np.abs(along / grain - np.round(along / grain)) < 1e-4):
            # each end of a step is rounded by up to half a grain
            return max(tolerance, min(grain, 0.25 * usual) + 1e-6)
    return tolerance


def _gap_finding(
    by_order: Sequence[SlicePlace], steps: Array, multiples: Array, gaps: NDArray[np.intp], usual: float
) -> Finding:
    parts = [
        f"{int(multiples[n]) - 1} missing between {name(by_order[n])} and {name(by_order[n + 1])} "
        f"({steps[n]:.2f} mm instead of {usual:.2f} mm)"
        for n in gaps[:NAMED_AT_MOST]
    ]
    more = f"; and {gaps.size - NAMED_AT_MOST} more gaps" if gaps.size > NAMED_AT_MOST else ""
    missing = int(multiples[gaps].sum() - gaps.size)
    return refuse("series.gap", f"{missing} slice(s) are missing: {'; '.join(parts)}{more}.")


def _lattice_findings(
    by_order: Sequence[SlicePlace], stack: _Stack, tolerance: float, policy: GatePolicy
) -> list[Finding]:
    """Even steps may still creep or wander sideways: every slice must lie on the one straight line."""
    index = np.arange(len(by_order)) - (len(by_order) - 1) / 2
    apart = stack.points - (stack.points.mean(axis=0) + index[:, None] * stack.step)
    along = np.abs(apart @ stack.normal)
    sideways = np.linalg.norm(apart - np.outer(apart @ stack.normal, stack.normal), axis=1)
    findings = []
    if along.max() > max(tolerance, 2 * policy.spacing_tolerance_fraction * stack.spacing_mm):
        worst = int(along.argmax())
        findings.append(
            refuse(
                "series.variable_spacing",
                f"The spacing changes along the series: {name(by_order[worst])} lies {along[worst]:.3f} mm off "
                f"an even spacing of {stack.spacing_mm:.3f} mm.",
            )
        )
    if sideways.max() > policy.drift_tolerance_mm:
        worst = int(sideways.argmax())
        findings.append(
            refuse(
                "series.shifted_slices",
                f"The slices do not lie on one straight line: {name(by_order[worst])} is shifted sideways by "
                f"{sideways[worst]:.2f} mm.",
            )
        )
    return findings


def _thickness_findings(places: Sequence[SlicePlace], stack: _Stack, policy: GatePolicy) -> list[Finding]:
    known = [t for i in stack.order if (t := places[i].thickness) is not None and t > 0]
    findings = []
    coarse = max([*known, stack.spacing_mm if len(stack.order) > 1 else 0.0])
    if coarse > policy.max_thickness_mm:
        findings.append(
            refuse(
                "series.too_thick",
                f"Slices of {max(known, default=0.0):.2f} mm every {stack.spacing_mm:.2f} mm are coarser than the "
                f"{policy.max_thickness_mm:g} mm this service can use.",
            )
        )
    elif coarse > policy.warn_thickness_mm:
        findings.append(
            Finding(
                "series.thick",
                "warn",
                f"Slices of {max(known, default=0.0):.2f} mm every {stack.spacing_mm:.2f} mm: planning is made for "
                f"{policy.warn_thickness_mm:g} mm or thinner, pedicles and endplates will be less exact.",
            )
        )
    if known and len(stack.order) > 1 and stack.spacing_mm > 1.02 * max(known) + 0.01:
        findings.append(
            Finding(
                "series.unscanned",
                "warn",
                f"Slices {max(known):.2f} mm thick lie {stack.spacing_mm:.2f} mm apart: what lies between was not "
                "imaged.",
            )
        )
    return findings


def _tilt_findings(stack: _Stack, policy: GatePolicy) -> list[Finding]:
    size = abs(stack.tilt_deg)
    if size > policy.max_tilt_deg:
        return [
            refuse(
                "series.tilt_too_large",
                f"The slices are stacked {size:.1f}° off their normal; at most {policy.max_tilt_deg:g}° is read.",
            )
        ]
    if size > policy.tilt_notice_deg:
        return [
            Finding(
                "series.tilt",
                "warn",
                f"The gantry was tilted by {size:.1f}°: the slices were moved in their planes onto a straight grid.",
            )
        ]
    return []
