"""The JSON form of a verification (`spineprint.verification/1`). Every key is always present; null says why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.geometry.cement_places import CementReport
from service.geometry.heights import PLACES, BodyHeights
from service.geometry.metrics import Breach
from service.geometry.registration import Registration
from service.geometry.restoration import Restoration
from service.geometry.tip_in_cement import IN_CEMENT

if TYPE_CHECKING:
    from service.geometry.verification import MeasuredNeedle, Verification

SCHEMA = "spineprint.verification/1"

#: Share of the body's volume above which a fill is not believed (facts sheet, section 5).
WARN_BODY_PERCENT = 50.0
#: What a scan cannot tell about cement, said beside what it can.
NOT_MEASURED = (
    "Leaks of less than 5 mm3, or thinner than about 1 mm and apart from the rest, may be missed.",
    "The type of a leak follows from its place; the vessel or defect itself is not seen.",
    "Cement inside a needle is not counted, nor what the syringe delivered.",
)


def to_document(result: Verification) -> dict[str, object]:
    """JSON-able report; lengths rounded to 0.001 mm, angles to 0.001 degree."""
    advice = result.decision.advice if result.measured else result.reason
    return {
        "schema": SCHEMA,
        "status": "measured" if result.measured else "not_measurable",
        "reason": result.reason or None,
        "reason_code": result.reason_code or None,
        "registration": _registration(result.registration, trusted=result.reason_code in _AFTER_GATES),
        "needles": [needle_document(n) for n in result.needles],
        "needles_reason": result.needles_reason or None,
        "needles_reason_code": result.needles_reason_code or None,
        "cement": cement_document(result.cement),
        "vertebral_height_mm": _heights(result.heights),
        "restoration": restoration_document(result.restoration),
        "verdict": str(result.decision.verdict),
        "advice": advice,
        "findings": list(result.decision.findings),
        "warnings": [*leak_warnings(result.cement), *_in_cement_warnings(result.needles)],
        "grey_values_clipped": result.clipped,
        "timings_s": {**result.timings_s, "total": round(sum(result.timings_s.values()), 3)},
    }


#: Reasons given after the registration passed its gates ('' is a measured scan): the pose may be shown.
_AFTER_GATES = ("", "no_needle", "needle_elsewhere", "needle_unclear", "tip_hidden")


def _registration(r: Registration | None, *, trusted: bool) -> dict[str, object]:
    """A pose that failed its gates is not passed on; the figures that speak against it are."""
    if r is None:
        keys = ("preop_from_scan", "surface_rms_mm", "agreement_mm", "expected_tre_mm", "agreement_deg")
        return dict.fromkeys(
            (*keys, "correlation", "best_rival_correlation", "texture_correlation", "matched", "usable")
        )
    return {
        "preop_from_scan": [[float(v) for v in row] for row in r.preop_from_scan] if trusted else None,
        "surface_rms_mm": _round(r.surface.rms_mm),
        "agreement_mm": _round(r.agreement_mm),
        "agreement_deg": _round(r.agreement_deg),
        "expected_tre_mm": _round(r.expected_tre_mm) if trusted else None,
        "correlation": _round(r.intensity.ncc),
        "best_rival_correlation": _round(r.rival_ncc),
        "texture_correlation": _round(r.fingerprint),
        "matched": _round(r.surface.matched),
        "usable": _round(r.intensity.usable),
    }


def needle_document(needle: MeasuredNeedle) -> dict[str, object]:
    """One needle of the report; see `to_document`."""
    f = needle.figures
    return {
        "pedicle": f.pedicle,
        "planned": f.planned,
        "tip": _vector(f.tip),
        "axis": _vector(f.axis, 6),
        "entry": None if f.entry is None else _vector(f.entry),
        "tip_to_target_mm": _round(f.tip_to_target_mm),
        "tip_to_body_centre_mm": _round(f.tip_to_body_centre_mm),
        "lateral_mm": _round(f.lateral_mm),
        "depth_mm": _round(f.depth_mm),
        "entry_deviation_mm": _round(f.entry_deviation_mm),
        "sagittal_deg": _round(f.sagittal_deg),
        "transverse_deg": _round(f.transverse_deg),
        "sagittal_deviation_deg": _round(f.sagittal_deviation_deg),
        "transverse_deviation_deg": _round(f.transverse_deviation_deg),
        "angle_deg": _round(f.angle_deg),
        "breach": _breach(f.breach),
        "uncertainty_mm": _round(needle.tip_uncertainty_mm),
        "uncertainty": {
            "tip_mm": _round(needle.tip_uncertainty_mm),
            "lateral_mm": _round(needle.lateral_uncertainty_mm),
            "breach_mm": _round(needle.breach_uncertainty_mm),
            "angle_deg": _round(needle.angle_uncertainty_deg),
            "coverage_k": 2,
        },
        "tip_shape_fitted": needle.tip_shape,
    }


def leak_warnings(cement: CementReport | None) -> list[dict[str, str]]:
    """Cement that left the bone is said aloud, whatever the verdict on a needle."""
    return [
        {
            "code": "cement_leak",
            "message": f"Cement outside the bone: {leak.place}, {leak.volume_ml:.2f} ml (type {leak.type}).",
        }
        for leak in (cement.leaks if cement is not None else ())
    ]


def _in_cement_warnings(needles: Sequence[MeasuredNeedle]) -> list[dict[str, str]]:
    return [
        {
            "code": "tip_in_cement",
            "message": (
                f"The tip of the {needle.figures.pedicle} needle lies in cement: it is told from the fall of the grey "
                "along the needle's axis alone, with the larger uncertainty stated."
            ),
        }
        for needle in needles
        if needle.tip_shape.endswith(IN_CEMENT)
    ]


def cement_document(cement: CementReport | None) -> dict[str, object] | None:
    """Volumes in ml; None when the scan shows no cement at the planned vertebra."""
    if cement is None:
        return None
    warnings = []
    body = cement.fill_percent["volume_body"]
    if body is not None and body > WARN_BODY_PERCENT:
        warnings.append(
            f"Cement fills {body:.0f} % of the body's volume, more than is plausible: check the images."
        )
    return {
        "volume_ml": _round(cement.volume_ml),
        "uncertainty_ml": _round(2.0 * cement.sigma_ml),
        "coverage_k": 2,
        "in_body_ml": _round(cement.in_body_ml),
        "body_ml": _round(cement.body_ml),
        "fill_percent": {name: _round(value, 1) for name, value in cement.fill_percent.items()},
        "distribution": {
            "left_percent": _round(cement.side_percent["left"], 1),
            "right_percent": _round(cement.side_percent["right"], 1),
            "anterior_percent": _round(cement.third_percent["anterior"], 1),
            "middle_percent": _round(cement.third_percent["middle"], 1),
            "posterior_percent": _round(cement.third_percent["posterior"], 1),
            "endplate_contact": cement.endplate_contact,
        },
        "leaks": [
            {
                "type": leak.type,
                "place": leak.place,
                "volume_ml": _round(leak.volume_ml),
                "position": _vector(np.asarray(leak.position)),
            }
            for leak in cement.leaks
        ],
        "needle_excluded": cement.needle_excluded,
        "not_measured": list(NOT_MEASURED),
        "warnings": warnings,
    }


def _breach(breach: Breach | None) -> dict[str, object]:
    if breach is None:
        return {"grade": None, "mm": None, "direction": None, "nearest": None, "margin_mm": None}
    return {
        "grade": breach.grade,
        "mm": _round(breach.mm),
        "direction": breach.direction if breach.mm > 0 else None,
        "nearest": breach.direction,
        "margin_mm": _round(breach.margin_mm),
    }


def _heights(heights: BodyHeights | None) -> dict[str, object]:
    found = heights is not None
    return {
        "anterior": _round(heights.anterior) if heights is not None else None,
        "middle": _round(heights.middle) if heights is not None else None,
        "posterior": _round(heights.posterior) if heights is not None else None,
        "image": "planning_ct",
        "reason": None if found else "The body could not be followed in the planning mask.",
    }


#: Said beside every height after cement: what else may have changed it.
_POSTURE = "Supine planning CT against prone scan: posture alone changes heights and the angle."


def restoration_document(found: Restoration | None) -> dict[str, object] | None:
    """Heights before and after the cement (mm), recovery (%) and Cobb angle (degrees); None without a cement scan."""
    if found is None:
        return None
    return {
        "before_mm": dict(zip(PLACES, map(_round, found.before.as_tuple()), strict=True)),
        "after_mm": dict(zip(PLACES, map(_round, found.after_mm), strict=True)),
        "uncertainty_mm": dict(zip(PLACES, map(_twice, found.sigma_mm), strict=True)),
        "normal_mm": dict(zip(PLACES, map(_round, found.normal_mm), strict=True)),
        "recovery_percent": dict(zip(PLACES, (_round(v, 1) for v in found.recovery_percent), strict=True)),
        "cobb_deg": None
        if found.cobb is None
        else {
            "before": _round(found.cobb.before_deg, 2),
            "after": _round(found.cobb.after_deg, 2),
            "correction": _round(found.cobb.before_deg - found.cobb.after_deg, 2),
            "uncertainty": _round(2.0 * found.cobb.sigma_deg, 2),
        },
        "coverage_k": 2,
        "reasons": [*found.reasons, _POSTURE],
    }


def _twice(sigma: float | None) -> float | None:
    return None if sigma is None else _round(2.0 * sigma)


def _round(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(float(value), digits) + 0.0


def _vector(values: NDArray[np.float64], digits: int = 4) -> list[float]:
    return [round(float(v), digits) + 0.0 for v in values]
