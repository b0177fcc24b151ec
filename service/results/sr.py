"""The verification report as a Comprehensive 3D SR, template TID 1500 (PS3.16).

A viewer that does not know our private methods still shows name (Distance, Angle ...), value and unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    CoordinatesForMeasurement3D,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues3D,
    Measurement,
    MeasurementProperties,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from service import NOTICE, __version__
from service.domain.plan import Plan
from service.errors import InputRefusedError
from service.results import codes
from service.results.context import MANUFACTURER, MODEL_NAME, Origin, SourceContext, finish
from service.results.values import mapping, number

SCHEMA = "spineprint.verification/1"
KIND = "report-sr"


def build_sr(
    report: Mapping[str, object],
    plan: Plan,
    context: SourceContext,
    origin: Origin,
    *,
    scan_context: SourceContext | None = None,
) -> Dataset:
    """Structured report of one verification.

    Parameters
    ----------
    report : the `spineprint.verification/1` document (design, section 4); coordinates LPS mm of the planning CT.
    context : the planning CT; the report is filed in its study and in its frame of reference.
    scan_context : the O-arm scan, listed as evidence.

    Raises
    ------
    InputRefusedError
        When the document has another schema, or the level has no code.
    """
    check_schema(report)
    groups = [_needle_group(n, report, plan, context, origin) for n in _items(report.get("needles"))]
    groups.insert(0, _overall_group(report, plan, origin))
    content = MeasurementReport(
        observation_context=_observer(origin),
        procedure_reported=_concept(codes.PROCEDURE),
        imaging_measurements=groups,
        title=_concept(codes.REPORT_TITLE),
    )
    for text in _sentences(report):
        content[0].ContentSequence.append(text)
    evidence = context.evidence() + (scan_context.evidence() if scan_context else [])
    document = Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=origin.uid(KIND, "series"),
        series_number=9000,
        sop_instance_uid=origin.uid(KIND),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,  # PRELIMINARY: a clinician reviews and decides
    )
    context.write_to(document)
    document.SeriesDescription = f"Needle verification {plan.level}"
    codes.declare_private_scheme(document)
    finish(document, origin)
    return document


def _observer(origin: Origin) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=origin.uid(KIND, "device"),
        name="spineprint verification",
        manufacturer_name=MANUFACTURER,
        model_name=f"{MODEL_NAME} {__version__}",
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=standard.DCM.Device, observer_identifying_attributes=device
        )
    )


def _sentences(report: Mapping[str, object]) -> list[TextContentItem]:
    conclusion = " ".join(str(report.get(k) or "") for k in ("reason", "advice")).strip()
    pairs = [(codes.CONCLUSION, conclusion)] if conclusion else []
    pairs += [(codes.COMMENT, text) for text in (*warnings_of(report), NOTICE)]
    return [
        TextContentItem(name=_concept(c), value=text, relationship_type=RelationshipTypeValues.CONTAINS)
        for c, text in pairs
    ]


def _overall_group(
    report: Mapping[str, object], plan: Plan, origin: Origin
) -> MeasurementsAndQualitativeEvaluations:
    measurements = _named(mapping(report.get("registration")), codes.REGISTRATION_MEASUREMENTS)
    heights = mapping(report.get("vertebral_height_mm"))
    measurements += _named(
        heights, {k: (codes.HEIGHT, codes.MM, m) for k, m in codes.HEIGHT_MEASUREMENTS.items()}
    )
    cement = mapping(report.get("cement"))
    measurements += _named(cement, {"volume_ml": (codes.VOLUME, codes.CM3, codes.CEMENT_VOLUME)})
    measurements += _named(
        mapping(cement.get("fill_percent")),
        {k: (codes.FILLED, codes.PERCENT, m) for k, m in codes.FILL_MEASUREMENTS.items()},
    )
    measurements += _restoration(mapping(report.get("restoration")))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=origin.uid(KIND, "vertebra"), identifier=plan.level),
        finding_type=_concept(codes.VERTEBRA),
        finding_category=_concept(codes.ANATOMICAL_STRUCTURE),
        finding_sites=[FindingSite(_concept(codes.vertebra(plan.level)))],
        algorithm_id=_algorithm(),
        measurements=measurements or None,
        qualitative_evaluations=[
            QualitativeEvaluation(_concept(codes.VERDICT), _concept(codes.VERDICTS[verdict_of(report)]))
        ],
    )


def _restoration(part: Mapping[str, object]) -> list[Measurement]:
    """Heights after the cement with their uncertainty, shares regained, Cobb angle before and after."""
    after, spread = mapping(part.get("after_mm")), mapping(part.get("uncertainty_mm"))
    found = [
        _measurement(codes.HEIGHT, value, codes.MM, method, number(spread.get(place)))
        for place, method in codes.HEIGHT_AFTER_MEASUREMENTS.items()
        if (value := number(after.get(place))) is not None
    ]
    found += _named(
        mapping(part.get("recovery_percent")),
        {k: (codes.RECOVERED, codes.PERCENT, m) for k, m in codes.RECOVERY_MEASUREMENTS.items()},
    )
    return found + _named(
        mapping(part.get("cobb_deg")),
        {k: (codes.ANGLE, codes.DEGREE, m) for k, m in codes.COBB_MEASUREMENTS.items()},
    )


def _needle_group(
    needle: Mapping[str, object],
    report: Mapping[str, object],
    plan: Plan,
    context: SourceContext,
    origin: Origin,
) -> MeasurementsAndQualitativeEvaluations:
    side = str(needle.get("pedicle"))
    coordinates = _tip_and_target(needle, plan, context)
    measurements = []
    for key, (name, unit, method) in codes.NEEDLE_MEASUREMENTS.items():
        value = number(needle.get(key))
        if value is not None:
            lines = coordinates if key == "tip_to_target_mm" else None
            spread = spread_of(needle, _SPREADS.get(key, ""))
            measurements.append(_measurement(name, value, unit, method, spread, lines))
    breach = mapping(needle.get("breach"))
    breach_mm = number(breach.get("mm"))
    if breach_mm is not None:
        measurements.append(
            _measurement(
                codes.DISTANCE, breach_mm, codes.MM, codes.BREACH_DISTANCE, spread_of(needle, "breach_mm")
            )
        )
    grade = codes.BREACH_GRADES.get(str(breach.get("grade")))
    site = FindingSite(
        _concept(codes.vertebra(plan.level)),
        laterality=_concept({"left": codes.LEFT, "right": codes.RIGHT}[side])
        if side in ("left", "right")
        else None,
        topographical_modifier=_concept(codes.PEDICLE),
    )
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=origin.uid(KIND, f"needle-{side}"), identifier=f"{plan.level} {side} needle"
        ),
        finding_type=_concept(codes.NEEDLE),
        finding_category=_concept(codes.PHYSICAL_OBJECT),
        finding_sites=[site],
        algorithm_id=_algorithm(),
        measurements=measurements or None,
        qualitative_evaluations=[QualitativeEvaluation(_concept(codes.BREACH_GRADE), _concept(grade))]
        if grade
        else None,
    )


def _tip_and_target(
    needle: Mapping[str, object], plan: Plan, context: SourceContext
) -> list[CoordinatesForMeasurement3D] | None:
    """POLYLINE from the actual tip to the planned target, LPS mm of the planning CT."""
    tip = needle.get("tip")
    side = needle.get("pedicle")
    planned = next((t for t in plan.trajectories if t.pedicle == side), None)
    if (
        planned is None
        or not isinstance(tip, Sequence)
        or len(tip) != 3
        or not context.frame_of_reference_uid
    ):
        return None
    return [
        CoordinatesForMeasurement3D(
            graphic_type=GraphicTypeValues3D.POLYLINE,
            graphic_data=np.array([[float(v) for v in tip], planned.target], dtype=np.float64),
            frame_of_reference_uid=context.frame_of_reference_uid,
        )
    ]


def _named(values: Mapping[str, object], table: Mapping[str, tuple[Code, Code, Code]]) -> list[Measurement]:
    return [
        _measurement(name, value, unit, method)
        for key, (name, unit, method) in table.items()
        if (value := number(values.get(key))) is not None
    ]


def _measurement(
    name: Code,
    value: float,
    unit: Code,
    method: Code,
    uncertainty: float | None = None,
    coordinates: list[CoordinatesForMeasurement3D] | None = None,
) -> Measurement:
    properties = None
    if uncertainty is not None:
        properties = MeasurementProperties(
            upper_measurement_uncertainty=round(uncertainty, 3),
            lower_measurement_uncertainty=round(uncertainty, 3),
        )
    return Measurement(
        name=_concept(name),
        value=round(value, 3),
        unit=_concept(unit),
        method=_concept(method),
        properties=properties,
        referenced_coordinates=coordinates,
    )


#: report key of a needle -> key of its uncertainty; deviations of the single angles have none of their own.
_SPREADS = {
    "tip_to_target_mm": "tip_mm",
    "tip_to_body_centre_mm": "tip_mm",
    "depth_mm": "tip_mm",
    "lateral_mm": "lateral_mm",
    "entry_deviation_mm": "entry_mm",
    "angle_deg": "angle_deg",
}


def spread_of(needle: Mapping[str, object], part: str) -> float | None:
    """Half interval (k = 2) of one value: its own, else for lengths the general `uncertainty_mm`."""
    own = number(mapping(needle.get("uncertainty")).get(part))
    return number(needle.get("uncertainty_mm")) if own is None and part.endswith("_mm") else own


def check_schema(report: Mapping[str, object]) -> None:
    """Raises InputRefusedError unless this is a verification document of the schema we know."""
    if report.get("schema") != SCHEMA:
        raise InputRefusedError(
            f"Expected a {SCHEMA} document, found {report.get('schema')!r}.",
            next_step="Run the verification again with this version.",
            code="results.schema",
        )


def warnings_of(report: Mapping[str, object]) -> list[str]:
    """What the report says beside its result, such as that its images were compressed with loss."""
    return [str(w["message"]) for w in _items(report.get("warnings")) if w.get("message")]


def verdict_of(report: Mapping[str, object]) -> str:
    """accurate | reposition | review | not_measurable; anything unknown is a review, never an acceptance."""
    if report.get("status") != "measured":
        return "not_measurable"
    verdict = str(report.get("verdict"))
    return verdict if verdict in ("accurate", "reposition") else "review"


def _algorithm() -> AlgorithmIdentification:
    return AlgorithmIdentification(name="spineprint verification", version=__version__)


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(value=code.value, scheme_designator=code.scheme_designator, meaning=code.meaning)


def _items(value: object) -> list[Mapping[str, object]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list | tuple) else []
