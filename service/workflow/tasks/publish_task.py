"""Results as DICOM objects, ready for the PACS."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
from PIL import Image

from service import __version__
from service.domain.plan import Plan, plan_from_document
from service.domain.series import LOSSY_CT, LOSSY_SCAN
from service.geometry.progress import Progress
from service.imaging.dataset import read_file
from service.imaging.nifti import read_nifti
from service.results.context import Origin, SourceContext
from service.results.encapsulated import encapsulate_pdf, encapsulate_stl
from service.results.pdf import CaseSummary, Picture, build_pdf_report
from service.results.secondary_capture import secondary_capture
from service.results.seg import build_seg
from service.results.sr import build_sr


def publish_task(argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: what (`scan` | `scan_pictures` | `plan`), case, ct_files, artifacts, out ...

    Result: objects [{file, kind, sop_uid}].
    """
    progress("making the results", 0.0)
    headers = _headers(argument["ct_files"])
    context = SourceContext.from_headers(headers)
    plan = plan_from_document(json.loads(Path(argument["artifacts"]["plan"]["path"]).read_text("utf-8")))
    out = Path(argument["out"])
    if argument["what"] == "scan_pictures":
        return {"objects": _scan_captures(argument, context, plan, out)}
    if argument["what"] == "scan":
        return {"objects": _scan_results(argument, context, plan, out)}
    return {"objects": _plan_results(argument, context, headers, plan, out)}


def _scan_results(
    argument: Mapping[str, Any], context: SourceContext, plan: Plan, out: Path
) -> list[dict[str, Any]]:
    origin = _scan_origin(argument)
    scan_context = SourceContext.from_headers(_headers(argument["scan_files"]))
    report = _with_lossy(json.loads(argument["report"]), context, scan_context)
    pdf = build_pdf_report(report, plan, _summary(argument, context), _pictures(argument))
    (out / "report.pdf").write_bytes(pdf)
    objects = [
        ("report_sr", build_sr(report, plan, context, origin, scan_context=scan_context)),
        ("report_pdf_dicom", encapsulate_pdf(pdf, context, origin, title="Needle accuracy report")),
    ]
    return [_save(kind, dataset, out) for kind, dataset in objects] + [
        {"file": "report.pdf", "kind": "report_pdf", "sop_uid": None}
    ]


def _scan_captures(
    argument: Mapping[str, Any], context: SourceContext, plan: Plan, out: Path
) -> list[dict[str, Any]]:
    """One Secondary Capture for each picture of the scan, all in one series."""
    origin = _scan_origin(argument)
    saved = []
    for number, picture in enumerate(argument["pictures"], 1):
        with Image.open(picture["path"]) as image:
            dataset = secondary_capture(
                image, context, origin, level=plan.level, kind=f"picture-{picture['name']}",
                description="Needle check, pictures", series="pictures", number=number, comment=picture["title"],
            )  # fmt: skip
        saved.append(_save(f"scan_picture_{picture['name'].replace('-', '_')}", dataset, out))
    return saved


def _scan_origin(argument: Mapping[str, Any]) -> Origin:
    version = int(argument.get("report_version", 0))
    return _origin(argument, f"scan-{argument['scan_id']}" + (f"-{version}" if version else ""))


def _plan_results(argument: Mapping[str, Any], context: SourceContext, headers: Sequence[pydicom.Dataset], plan: Plan,
                  out: Path) -> list[dict[str, Any]]:  # fmt: skip
    artifacts = argument["artifacts"]
    origin = _origin(argument, f"plan-{artifacts['mesh']['sha256'][:16]}")
    objects = [
        (
            "model_seg",
            build_seg(read_nifti(Path(artifacts["mask"]["path"])), headers, origin, level=argument["level"]),
        ),
        ("model_stl", encapsulate_stl(Path(artifacts["mesh"]["path"]).read_bytes(), context, origin, plan)),
    ]
    if "views" in artifacts:
        with Image.open(artifacts["views"]["path"]) as image:
            picture = secondary_capture(image, context, origin, level=argument["level"], kind="views",
                                        description="Model views")  # fmt: skip
        objects.append(("model_views", picture))
    return [_save(kind, dataset, out) for kind, dataset in objects]


def _with_lossy(
    report: Mapping[str, Any], context: SourceContext, scan_context: SourceContext
) -> dict[str, Any]:
    """The report with its warnings on lossy images; reports of earlier versions have none."""
    warnings = list(report.get("warnings") or [])
    for code, sentence, source in (
        ("lossy_ct", LOSSY_CT, context),
        ("lossy_scan", LOSSY_SCAN, scan_context),
    ):
        if source.lossy is not None and code not in {w.get("code") for w in warnings}:
            warnings.append({"code": code, "message": sentence})
    return {**report, "warnings": warnings}


def _summary(argument: Mapping[str, Any], context: SourceContext) -> CaseSummary:
    artifacts = argument["artifacts"]
    return CaseSummary(
        case_code=str(argument["case_code"]),
        patient_name=context.patient_name,
        patient_id=context.patient_id,
        facts=(
            ("Plan SHA-256", artifacts["plan"]["sha256"]),
            ("Model SHA-256", artifacts["mesh"]["sha256"]),
            ("Software", f"spineprint {__version__}"),
        ),
    )


def _pictures(argument: Mapping[str, Any]) -> list[Picture]:
    scanned = [
        Picture(Path(picture["path"]).read_bytes(), picture["title"])
        for picture in argument.get("pictures") or ()
    ]
    captions = {
        "views": "The model, four views and a cut",
        "slices": "Planned paths on the planning CT",
        "deviation": "The model's outside against the planning CT",
    }
    found = []
    for kind, caption in captions.items():
        if kind in argument["artifacts"]:
            with Image.open(argument["artifacts"][kind]["path"]) as image:
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, "PNG")
            found.append(Picture(buffer.getvalue(), caption))
    return [*scanned, *found]


def _origin(argument: Mapping[str, Any], revision: str) -> Origin:
    return Origin(str(argument["case_id"]), revision, datetime.fromisoformat(argument["now"]))


def _headers(files: Sequence[str]) -> list[pydicom.Dataset]:
    return [read_file(Path(f), pixels=False) for f in files]


def _save(kind: str, dataset: pydicom.Dataset, out: Path) -> dict[str, Any]:
    name = f"{kind}.dcm"
    dataset.save_as(out / name, enforce_file_format=True)
    return {"file": name, "kind": kind, "sop_uid": str(dataset.SOPInstanceUID)}
