"""One scan made, measured and compared with its truth: a row of plain numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.verify import anatomies
from bench.verify.anatomies import Anatomy
from bench.verify.cases import Case, Scene, refused_scene, scene
from service.domain.verification import NeedleReadings, Verdict, decide
from service.geometry import angles, pose
from service.geometry.cement_places import PlaceSettings
from service.geometry.metrics import NeedleFigures, measure
from service.geometry.needles import NeedleSettings
from service.geometry.verification import MeasuredNeedle, Verification, verify
from service.geometry.volume import Volume
from simulators.oarm import Needle, Scan, make_scan
from simulators.oarm.needle import voxel_share

Array = NDArray[np.float64]
RADIUS_MM = NeedleSettings().radius_mm


def accuracy_row(case: Case, work: Path) -> dict[str, Any]:
    anatomy = anatomies.load(case.anatomy, work)
    made = scene(case, anatomy)
    scan = _scan(anatomy.folder, made)
    return {"case": case.index, "anatomy": case.anatomy} | judged(anatomy, made, scan)


def judged(anatomy: Anatomy, made: Scene, scan: Scan) -> dict[str, Any]:
    """The scan measured by the service and compared with its truth."""
    found, seconds = _measured(anatomy, scan)
    row: dict[str, Any] = {
        "clipped": made.clipped,
        "cement": bool(made.cement),
        "tip_shape": made.needles[0].tip_shape,
        "tip_length_mm": round(made.needles[0].tip_length_mm, 2),
        "needles": len(made.needles),
        "measured": found.measured,
        "reason": found.reason_code,
        "cpu_s": seconds,
    }
    if found.registration is not None:
        r = found.registration
        error = pose.displacement_mm(
            r.scan_from_preop, pose.invert(scan.preop_from_scan), _points(anatomy.mask)
        )
        row |= {
            "tre_mm": float(error.mean()),
            "tre_max_mm": float(error.max()),
            "expected_tre_mm": r.expected_tre_mm,
            "ncc": r.intensity.ncc,
            "surface_rms_mm": r.surface.rms_mm,
            "fingerprint": r.fingerprint,
            "agreement_mm": r.agreement_mm,
            "lead": r.intensity.ncc - r.rival_ncc,
            "usable": r.intensity.usable,
        }
    row |= _cement_row(anatomy, made, scan, found)
    if found.measured:
        row["needles_reason"] = found.needles_reason_code
        row["found"] = _needle_rows(anatomy, made, found) if found.needles else []
        row["verdict"] = str(found.decision.verdict)
        row["truth_within"] = _truly_within(anatomy, made)
    return row


def refusal_row(case: Case, work: Path) -> dict[str, Any]:
    anatomy = anatomies.load(case.anatomy, work)
    if case.kind == "other_person":
        # A good scan of somebody else, at that person's own level and with a needle in place.
        names = anatomies.names(case.chosen)
        other = anatomies.load(
            names[(names.index(case.anatomy) + 1 + case.index // 10 % (len(names) - 1)) % len(names)], work
        )
        made, folder = refused_scene(case, other), other.folder
    else:
        made = refused_scene(case, anatomy)
        strange = case.kind in ("wrong_patient", "stranger_cement")
        folder = anatomies.stranger(case.anatomy, work) if strange else anatomy.folder
    scan = _scan(folder, made)
    found, seconds = _measured(anatomy, scan)
    row = {
        "case": case.index,
        "anatomy": case.anatomy,
        "kind": case.kind,
        "measured": found.measured,
        "reason": found.reason_code,
        "cpu_s": seconds,
    }
    if found.registration is not None:
        r = found.registration
        row |= {
            "ncc": r.intensity.ncc,
            "surface_rms_mm": r.surface.rms_mm,
            "fingerprint": r.fingerprint,
            "agreement_mm": r.agreement_mm,
            "lead": r.intensity.ncc - r.rival_ncc,
            "usable": r.intensity.usable,
            "matched": r.surface.matched,
        }
    return row


def _cement_row(anatomy: Anatomy, made: Scene, scan: Scan, found: Verification) -> dict[str, Any]:
    """Cement found and true, ml; the true leaks by the same bars on the true shape and the true surface."""
    report = found.cement
    row: dict[str, Any] = {
        "cement_ml": None if report is None else report.volume_ml,
        "cement_sigma_ml": None if report is None else report.sigma_ml,
        "leaks": None if report is None else [(k.type, k.place, k.volume_ml) for k in report.leaks],
    }
    if not made.cement:
        return row
    row["true_cement_ml"] = sum(c["volume_outside_needles_mm3"] for c in scan.truth["cement"]) / 1000.0
    grid = Volume(scan.grey, scan.preop_from_scan @ scan.scan_from_ijk)
    leaked = inside = 0.0
    for blob in made.cement:
        box, share = voxel_share(blob, scan.grey.shape, grid.lps_from_ijk)
        index = np.argwhere(share > 0) + [s.start for s in box]
        depth = anatomy.surface.sample(grid.to_lps(index[:, ::-1]), outside=50.0)
        amount = share[share > 0] * grid.voxel_ml
        leaked += float(amount[depth > PlaceSettings().leak_mm].sum())
        inside += float(amount[depth <= PlaceSettings().leak_mm].sum())
    return row | {"true_leak_ml": leaked, "true_in_body_ml": inside}


def _scan(folder: Path, made: Scene) -> Scan:
    return make_scan(
        folder, needles=made.needles, cement=made.cement, settings=made.settings, focus=made.focus
    )


def _measured(anatomy: Anatomy, scan: Scan) -> tuple[Verification, float]:
    volume = Volume(scan.grey, scan.scan_from_ijk)
    started = time.process_time()
    found = verify(None, anatomy.mask, anatomy.outer, anatomy.plan, volume, model=anatomy.model)
    return found, round(time.process_time() - started, 2)


def _points(mask: Volume) -> Array:
    """400 points spread over the vertebra, LPS mm."""
    inside = np.argwhere(mask.values > 0)
    chosen = np.random.default_rng(3).choice(len(inside), 400, replace=False)
    return np.asarray(mask.to_lps(inside[chosen][:, ::-1].astype(np.float64)))


def _true_figures(anatomy: Anatomy, needle: Needle, side: str) -> NeedleFigures:
    """The same definitions on the true pose, the true needle and the true surface."""
    return measure(
        anatomy.plan,
        anatomy.surface,
        np.asarray(needle.tip),
        needle.axis,
        side,  # type: ignore[arg-type]
        0.5 * needle.diameter_mm,
    )


def _needle_rows(anatomy: Anatomy, made: Scene, found: Verification) -> list[dict[str, Any]]:
    rows = []
    for needle, side in zip(made.needles, made.sides, strict=True):
        mine = next((n for n in found.needles if n.figures.pedicle == side), None)
        if mine is None:
            rows.append({"missed": True, "side": side})
            continue
        rows.append(_one(anatomy, needle, side, mine))
    if len(found.needles) > len(made.needles):
        rows.append({"missed": True, "side": "invented"})
    return rows


def _one(anatomy: Anatomy, needle: Needle, side: str, mine: MeasuredNeedle) -> dict[str, Any]:
    f, true = mine.figures, _true_figures(anatomy, needle, side)
    error = f.tip - np.asarray(needle.tip)
    along = float(error @ needle.axis)
    row: dict[str, Any] = {
        "missed": False,
        "side": side,
        "tip_mm": float(np.linalg.norm(error)),
        "along_mm": along,
        "across_mm": float(np.linalg.norm(error - along * needle.axis)),
        "axis_deg": angles.angle_between_deg(needle.axis, f.axis),
        "u_tip_mm": mine.tip_uncertainty_mm,
        "shape": mine.tip_shape,
    }
    pairs = (
        ("tip", row["tip_mm"], mine.tip_uncertainty_mm),
        ("to_target", _gap(f.tip_to_target_mm, true.tip_to_target_mm), mine.tip_uncertainty_mm),
        ("lateral", _gap(f.lateral_mm, true.lateral_mm), mine.lateral_uncertainty_mm),
        ("angle", _gap(f.angle_deg, true.angle_deg), mine.angle_uncertainty_deg),
        ("breach", _breach_gap(f, true), mine.breach_uncertainty_mm),
    )
    # The bone's true edge is known of a phantom only.
    known = anatomies.parameters(anatomy.name) is not None
    row["inside"] = {
        name: gap <= bar for name, gap, bar in pairs if gap is not None and (known or name != "breach")
    }
    grades = [None if x.breach is None else x.breach.grade for x in (f, true)]
    margins = [None if x.breach is None else x.breach.margin_mm for x in (f, true)]
    row |= {"grade": grades[0], "margin": margins[0]}
    row |= {"true_grade": grades[1] if known else None, "true_margin": margins[1] if known else None}
    row["true_to_target_mm"] = true.tip_to_target_mm
    return row


def _gap(measured: float | None, true: float | None) -> float | None:
    return None if measured is None or true is None else abs(measured - true)


def _breach_gap(f: NeedleFigures, true: NeedleFigures) -> float | None:
    if f.breach is None or true.breach is None:
        return None
    return abs(f.breach.margin_mm - true.breach.margin_mm)


def _truly_within(anatomy: Anatomy, made: Scene) -> bool:
    """The verdict's own rules on the true values: True when they say accurate."""
    exact = []
    for needle, side in zip(made.needles, made.sides, strict=True):
        true = _true_figures(anatomy, needle, side)
        breach = true.breach
        reading = NeedleReadings(
            pedicle=side,
            planned=True,
            tip_to_target_mm=true.tip_to_target_mm,
            lateral_mm=true.lateral_mm,
            angle_deg=true.angle_deg,
            breach_mm=None if breach is None else -breach.margin_mm,
            breach_direction=None if breach is None else breach.direction,
            tip_uncertainty_mm=0.0,
            lateral_uncertainty_mm=0.0,
            breach_uncertainty_mm=0.0,
            angle_uncertainty_deg=0.0,
        )
        exact.append(replace(reading, breach_mm=None if breach is None else max(-breach.margin_mm, -50.0)))
    return decide(exact).verdict is Verdict.ACCURATE
