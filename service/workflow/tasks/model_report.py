"""What is written down about a model: `report.json` (design, section 4).

The same input gives the same report, but for `timings_s`, which the task adds last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from service import NOTICE, __version__
from service.domain.edits import edits_from_document
from service.domain.series import LOSSY_CT
from service.geometry.anatomy import Isolation
from service.geometry.ct_deviation import CtDeviation
from service.geometry.lost_bone import failure_about, warnings_about
from service.geometry.model_check import ModelCheck
from service.geometry.orientation import Orientation
from service.geometry.solid import Solid, SolidSettings
from service.geometry.trajectories import PlanningResult
from service.imaging.series import LoadedSeries
from service.workflow.tasks.kept_isolation import LIBRARIES
from service.workflow.tasks.points_used import points_unused, points_used, surface_points_met

SCHEMA = "spineprint.model/1"
#: What decides about the model beside what decides about the bone: a report from other versions may differ.
MODEL_LIBRARIES = (*LIBRARIES, "manifold3d")
#: How the bone was isolated, by `Isolation.source`.
METHODS = {"mask": "mask", "segmented": "segmentation_model", "fitted": "fitted_shapes"}
BY_MODEL = (
    "The bone was outlined by the installed segmentation model '{name}' (SHA-256 {sha256:.12}), which nobody measured "
    "here: compare the outline with the slices."
)
NOT_BY_MODEL = "The installed segmentation model was not used, shapes were fitted instead. {reason}"
NO_CODE = (
    "The model bears no code, as none was given: tag the printed part before it leaves the printer room."
)
ONE_MARK = (
    "Only the {side} side of the body has room for the case code: the part bears it once; tag it as well."
)
NO_ROOM_FOR_MARKS = (
    "No side of the body has room for the case code: tag the printed part before it leaves the printer room."
)
THIN_NECKS = (
    "Parts of the model hang together by bone thinner than two lines of the nozzle ({count} place(s)), printed as thin "
    "as it is: look at the model there, and handle the print with care."
)


def model_report(
    argument: Mapping[str, Any],
    ct: LoadedSeries,
    isolation: Isolation,
    planning: PlanningResult,
    solid: Solid,
    check: ModelCheck,
    pose: Orientation,
    *,
    deviation: CtDeviation,
    inputs_sha256: Mapping[str, str | None],
    plan_sha256: str,
) -> dict[str, Any]:
    """The document; everything in it is plain JSON.

    `argument` is the task's (`model_task`); `inputs_sha256` are the hashes of what was given, by the report's names;
    `plan_sha256` is that of plan.json as written.
    """
    marks = isolation.landmarks
    failures = _failures(solid, check)
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "version": __version__,
        "libraries": {name: metadata.version(name) for name in MODEL_LIBRARIES},
        "level": isolation.level,
        "source": isolation.source,
        "inputs": _inputs(argument, ct, isolation) | dict(inputs_sha256),
        "plan_sha256": plan_sha256,
        "isolation": _isolation(isolation) | surface_points_met(argument, isolation),
        "landmarks": {
            "height_mm": {k: round(float(v), 2) for k, v in marks.height_mm.items()},
            "endplates_fitted": {"upper": marks.upper_endplate.fitted, "lower": marks.lower_endplate.fitted},
            "pedicles": [
                {"side": p.side, "width_mm": round(p.width_mm, 2), "height_mm": round(p.height_mm, 2)}
                for p in marks.pedicles
            ],
        },
        "planning": {
            "unmet": list(planning.unmet),
            "alternatives": {k: [asdict(t) for t in ts] for k, ts in planning.alternatives.items()},
        },
        "solid": solid.measures,
        "lost_bone": [asdict(piece) for piece in solid.lost],
        "marks": [mark.to_document() for mark in solid.marks],
        "check": check.to_document() | {"deviation": deviation.to_document()},
        "gas_path": _gas_path(check),
        "orientation": pose.to_document(),
        "size_mm": [round(v, 2) for v in pose.size_mm],
        "warnings": _warnings(argument, ct, isolation, planning, solid),
        "failures": failures,
        "passed": not failures,
    }


def _warnings(
    argument: Mapping[str, Any],
    ct: LoadedSeries,
    isolation: Isolation,
    planning: PlanningResult,
    solid: Solid,
) -> list[dict[str, str]]:
    warnings = [{"code": f.code, "message": f.sentence} for f in ct.findings]
    warnings += _numbered("isolation", isolation.quality.reasons) + _numbered("planning", planning.unmet)
    warnings += _numbered("inputs", points_unused(argument, isolation))
    warnings += _model_warnings(isolation)
    if ct.info.lossy:
        warnings.append({"code": "lossy", "message": LOSSY_CT})
    warnings += _numbered("model.lost_bone", warnings_about(solid.lost, solid.plan))
    necks = int(solid.measures["thin_necks_kept"])
    if necks:
        warnings.append({"code": "model.thin_neck", "message": THIN_NECKS.format(count=necks)})
    return warnings + _mark_warnings(argument, solid)


def _model_warnings(isolation: Isolation) -> list[dict[str, str]]:
    """What the site's own model did, or why it did not."""
    model = isolation.model
    if model is None:
        return []
    words = BY_MODEL if model.outcome == "used" else NOT_BY_MODEL
    return [{"code": "isolation.model", "message": words.format(**asdict(model))}]


def _mark_warnings(argument: Mapping[str, Any], solid: Solid) -> list[dict[str, str]]:
    """A part that cannot be told from another by itself needs a tag; nobody would look for what is not there."""
    if not argument.get("case_code"):
        return [{"code": "model.no_code", "message": NO_CODE}]
    if not solid.marks:
        return [{"code": "model.unmarked", "message": NO_ROOM_FOR_MARKS}]
    if len(solid.marks) == 1:
        return [{"code": "model.one_mark", "message": ONE_MARK.format(side=solid.marks[0].side)}]
    return []


def _failures(solid: Solid, check: ModelCheck) -> list[str]:
    """Those of the self-check; bone that the builder knows it left out counts even where the check misses less."""
    left_out = failure_about(solid.lost, SolidSettings().lost_limit_ml)
    return [*check.failures, *([left_out] if left_out else [])]


def _inputs(argument: Mapping[str, Any], ct: LoadedSeries, isolation: Isolation) -> dict[str, Any]:
    return {
        "series_uid": ct.info.series_uid,
        "slices": int(ct.volume.values.shape[0]),
        "lossy": ct.info.lossy,
        "spacing_mm": [round(v, 4) for v in ct.volume.spacing_mm],
        "mask_label": argument.get("mask_label"),
        "seeds": points_used(argument, isolation),
        "edits": [e.to_document() for e in edits_from_document(argument.get("edits"))],
        "settings": dict(argument.get("settings") or {}),
    }


def _isolation(isolation: Isolation) -> dict[str, Any]:
    return {
        "method": METHODS[isolation.source],
        "model": asdict(isolation.model) if isolation.model else None,
        "confidence": round(isolation.quality.confidence, 3),
        "reasons": list(isolation.quality.reasons),
        "measures": {k: round(float(v), 4) for k, v in isolation.quality.measures.items()},
        "volume_ml": round(float((isolation.mask.values > 0).sum()) * isolation.mask.voxel_ml, 3),
        "surface": asdict(isolation.surface),
    }


def _gas_path(check: ModelCheck) -> dict[str, Any]:
    vents = [v for v in check.vents if v.reaches_hollow]
    return {
        "closed_voids": check.closed_voids,
        "openings_per_cavity": _openings_per_cavity(check),
        "narrowest_opening_mm": min((v.diameter_mm for v in vents), default=None),
        "channels_mm": [None if c.diameter_mm is None else round(c.diameter_mm, 3) for c in check.channels],
        # No way through the part is longer than a walk along its three sides.
        "longest_path_mm": round(float(sum(check.extents_mm)), 1),
    }


def _openings_per_cavity(check: ModelCheck) -> int:
    """Openings of the cavity with the fewest; a part without any hollow has nothing to open."""
    reached = [v.cavity for v in check.vents if v.reaches_hollow]
    if check.cavities == 0:
        return 2
    return (
        min((reached.count(c) for c in set(reached)), default=0) if len(set(reached)) >= check.cavities else 0
    )


def _numbered(area: str, sentences: Sequence[str]) -> list[dict[str, str]]:
    return [{"code": f"{area}.{n}", "message": s} for n, s in enumerate(sentences, 1)]
