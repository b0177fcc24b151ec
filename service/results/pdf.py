"""Reports on paper: the verification report (verdict first) and the plan sheet for approval.

Same input gives the same bytes (reportlab's invariant mode), so that a retry publishes the same object.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, KeepTogether, Paragraph, Spacer, Table, TableStyle
from reportlab.platypus import Image as PdfImage

from service import __version__
from service.domain.plan import Plan, Trajectory
from service.domain.verification import Judgement, Tolerances, judge
from service.results.cement_facts import cement_facts
from service.results.pdf_page import (
    BOLD,
    GREY,
    WIDTH,
    VerdictBox,
    facts_table,
    heading,
    render,
    ruled_table,
    safe,
    text_style,
    title_line,
)
from service.results.restoration_facts import restoration_facts
from service.results.sr import SCHEMA, check_schema, spread_of, verdict_of, warnings_of
from service.results.values import number


@dataclass(frozen=True)
class CaseSummary:
    """Identification printed on a report. Carries patient data: for the patient's folder, never for a log.

    `facts` are further lines (label, value), e.g. hashes, approval, scan time, versions.
    """

    case_code: str
    patient_name: str
    patient_id: str
    birth_date: str = ""
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """`png` (or JPEG) bytes with the sentence printed under it."""

    png: bytes
    caption: str


def build_pdf_report(
    report: Mapping[str, object],
    plan: Plan,
    case: CaseSummary,
    pictures: Sequence[Picture] = (),
    *,
    tolerances: Tolerances | None = None,
) -> bytes:
    """Verification report as PDF (A4).

    Parameters
    ----------
    report : the `spineprint.verification/1` document (design, section 4).

    Raises
    ------
    InputRefusedError
        When the document has another schema.
    """
    check_schema(report)
    limits = tolerances or Tolerances()
    needles = [n for n in _list(report.get("needles")) if isinstance(n, Mapping)]
    story: list[Flowable] = [
        title_line(f"Needle verification, {plan.level}"),
        _identity(case),
        Spacer(1, 2 * mm),
        VerdictBox(verdict_of(report), " ".join(str(report.get(k) or "") for k in ("reason", "advice"))),
        *[Paragraph(safe(f"Caution: {text}"), text_style(9.5, BOLD)) for text in warnings_of(report)],
        Spacer(1, 1 * mm),
    ]
    for needle in needles:
        story.append(_needle_block(needle, plan, limits))
    story += _scan_block(report)
    story += _pictures(pictures)
    facts = (("Report schema", SCHEMA), ("Software", f"spineprint {__version__}"), *case.facts)
    story.append(KeepTogether([heading("Evidence"), facts_table(facts)]))
    return render(story, f"Needle verification {plan.level}", _running(case))


def build_plan_pdf(plan: Plan, case: CaseSummary, pictures: Sequence[Picture] = ()) -> bytes:
    """Plan sheet for approval as PDF (A4): trajectories, model, pictures, and lines for the signature."""
    rows = [["Needle", "Entry (LPS mm)", "Target (LPS mm)", "Sagittal", "Transverse", "Clearance"]]
    rows += [
        [
            t.pedicle,
            _point(t.entry),
            _point(t.target),
            f"{t.sagittal_deg:.1f}°",
            f"{t.transverse_deg:.1f}°",
            f"{t.clearance_mm:.1f} mm",
        ]
        for t in plan.trajectories
    ]
    model = plan.model
    vents = ", ".join(f"{v.diameter_mm:.1f} mm" for v in model.vents) or "none"
    story: list[Flowable] = [
        title_line(f"Plan for approval, {plan.level}"),
        _identity(case),
        heading("Needle paths"),
        ruled_table(rows, [18, 38, 38, 24, 28, 28]),
        heading("Model"),
        facts_table(
            (
                ("Shell", f"{model.shell_mm:.1f} mm"),
                ("Channel", f"{model.channel_diameter_mm:.1f} mm"),
                ("Sleeve wall", f"{model.sleeve_wall_mm:.1f} mm"),
                ("Vents", vents),
            )
        ),
        *_pictures(pictures),
        KeepTogether(
            [
                heading("Evidence"),
                facts_table((("Software", f"spineprint {__version__}"), *case.facts)),
                heading("Approval"),
                facts_table((("Name", "." * 60), ("Date, signature", "." * 60))),
            ]
        ),
    ]
    return render(story, f"Plan {plan.level}", _running(case))


# --- blocks ----------------------------------------------------------------------------------------------


#: label, report key, key of its uncertainty, whether the sign is shown
_LENGTHS = (
    ("Tip to planned target", "tip_to_target_mm", "tip_mm", False),
    ("  across the path (lateral)", "lateral_mm", "lateral_mm", False),
    ("  along the path (+ too deep)", "depth_mm", "tip_mm", True),
    ("Tip to body centre", "tip_to_body_centre_mm", "tip_mm", False),
    ("Entry to planned entry", "entry_deviation_mm", "entry_mm", False),
)
_WORDS = {Judgement.WITHIN: "within", Judgement.UNSURE: "UNSURE", Judgement.BEYOND: "BEYOND"}


def _needle_block(needle: Mapping[str, object], plan: Plan, limits: Tolerances) -> Flowable:
    side = str(needle.get("pedicle", "?"))
    planned = plan.trajectory("left" if side == "left" else "right") if side in ("left", "right") else None
    bounds = {"tip_to_target_mm": limits.tip_mm, "lateral_mm": limits.lateral_mm}
    rows = [["", "Measured", "Uncertainty", "Tolerance", "Result"]]
    rows += [
        _row(label, number(needle.get(key)), " mm", spread_of(needle, part), bounds.get(key), signed=signed)
        for label, key, part, signed in _LENGTHS
    ]
    angle = number(needle.get("angle_deg"))
    rows.append(_row("Angle to planned path", angle, "°", spread_of(needle, "angle_deg"), limits.angle_deg))
    rows += [_angle_row(name, needle, planned) for name in ("sagittal", "transverse")]
    rows.append(_breach_row(needle, limits))
    table = ruled_table(rows, [52, 46, 26, 26, 24], marks=4)
    return KeepTogether([heading(f"{side.capitalize()} needle"), table])


def _breach_row(needle: Mapping[str, object], limits: Tolerances) -> list[str]:
    """Shown is the breach; judged is the signed margin where the report has it, as the verdict does."""
    raw = needle.get("breach")
    breach: Mapping[str, object] = raw if isinstance(raw, Mapping) else {}
    shown, margin = number(breach.get("mm")), number(breach.get("margin_mm"))
    direction = breach.get("direction") if shown else None
    limit = limits.medial_breach_mm if direction == "medial" else limits.breach_mm
    judged = -margin if margin is not None else None
    spread = spread_of(needle, "breach_mm")
    row = _row("Breach of the pedicle", shown, " mm", spread, limit, judged=judged)
    if shown is not None:
        row[1] += f"  grade {breach.get('grade') or 'unknown'}" + (f", {direction}" if direction else "")
    return row


def _row(
    label: str,
    value: float | None,
    unit: str,
    spread: float | None,
    limit: float | None,
    *,
    signed: bool = False,
    judged: float | None = None,
) -> list[str]:
    """One line; the result is that of the verdict's own rule (`service.domain.verification.judge`)."""
    bound = "" if limit is None else f"max {limit:.1f}{unit}"
    if value is None:
        return [label, "not measured", "", bound, ""]
    number = f"{value:+.1f}{unit}" if signed else f"{value:.1f}{unit}"
    said = "not stated" if spread is None else f"± {spread:.1f}{unit}"
    if limit is None:
        return [label, number, said, "", ""]
    # Without a stated uncertainty nothing can be called within.
    result = judge(value if judged is None else judged, math.inf if spread is None else spread, limit)
    return [label, number, said, bound, _WORDS[result]]


def _angle_row(name: str, needle: Mapping[str, object], planned: Trajectory | None) -> list[str]:
    actual, deviation = number(needle.get(f"{name}_deg")), number(needle.get(f"{name}_deviation_deg"))
    plan = None
    if planned is not None:
        plan = planned.sagittal_deg if name == "sagittal" else planned.transverse_deg
    said = "not measured" if actual is None else f"{actual:.1f}°"
    said += "" if plan is None else f" (plan {plan:.1f}°)"
    return [
        f"{name.capitalize()} angle",
        said,
        "",
        "",
        "" if deviation is None else f"{deviation:+.1f}° off plan",
    ]


def _scan_block(report: Mapping[str, object]) -> list[Flowable]:
    facts: list[tuple[str, str]] = []
    registration = report.get("registration")
    if isinstance(registration, Mapping):
        facts += [
            (label, f"{value:.2f} mm")
            for label, key in (
                ("Registration residual (RMS)", "surface_rms_mm"),
                ("Registration agreement", "agreement_mm"),
                ("Expected target error (TRE)", "expected_tre_mm"),
            )
            if (value := number(registration.get(key))) is not None
        ]
    heights = report.get("vertebral_height_mm")
    if isinstance(heights, Mapping):
        known = [f"{k} {v:.1f}" for k in heights if (v := number(heights[k])) is not None]
        if known:
            facts.append(("Body height, mm", ", ".join(known)))
    if report.get("needles_reason"):
        facts.append(("Needle", f"not judged: {report['needles_reason']}"))
    cement = report.get("cement")
    if isinstance(cement, Mapping):
        facts += cement_facts(cement)
    restored = report.get("restoration")
    if isinstance(restored, Mapping):
        facts += restoration_facts(restored)
    return [KeepTogether([heading("Scan"), facts_table(facts)])] if facts else []


def _pictures(pictures: Sequence[Picture]) -> list[Flowable]:
    blocks: list[Flowable] = []
    for picture in pictures:
        with Image.open(io.BytesIO(picture.png)) as image:
            width, height = image.size
        scale = min(WIDTH / width, 88 * mm / height)
        head = [heading("Pictures")] if not blocks else [Spacer(1, 3 * mm)]
        blocks.append(
            KeepTogether(
                [
                    *head,
                    PdfImage(io.BytesIO(picture.png), width * scale, height * scale),
                    Paragraph(safe(picture.caption), text_style(8.5, colour=GREY)),
                ]
            )
        )
    return blocks


def _identity(case: CaseSummary) -> Table:
    cells = [("Patient", _name(case)), ("Patient ID", case.patient_id or "unknown")]
    cells += [("Born", case.birth_date)] if case.birth_date else []
    cells.append(("Case", case.case_code))
    row = [
        [Paragraph(safe(k), text_style(8, colour=GREY)), Paragraph(safe(v), text_style(10.5, BOLD))]
        for k, v in cells
    ]
    table = Table([row], colWidths=[WIDTH / len(row)] * len(row), hAlign="LEFT")
    table.setStyle(TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP")]))
    return table


def _name(case: CaseSummary) -> str:
    """Readable name: PN components are parted by ^, its writings by =; the first is the alphabetic one."""
    alphabetic = case.patient_name.split("=")[0]
    return ", ".join(p.strip() for p in alphabetic.split("^") if p.strip()) or "unknown"


def _running(case: CaseSummary) -> str:
    return f"{_name(case)} · {case.patient_id or 'unknown'} · case {case.case_code}"


def _point(point: tuple[float, float, float]) -> str:
    return ", ".join(f"{v:.1f}" for v in point)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
