"""Pictures of one O-arm scan with its report: along each needle, and in 3-D; or of a scan that was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from service.domain.plan import Plan, plan_from_document
from service.geometry import pose
from service.geometry.metrics import outer_from_mask
from service.geometry.progress import Progress
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti
from service.imaging.series import load_series
from service.results.needle_sheet import Caption, NeedlePicture, needle_slices, overview, plain_slices
from service.results.needle_slices import Scene, ShownNeedle, grey_window


def scan_pictures_task(argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: report (the document that holds), scan_files, plan, outer, mask, level, case_code, scan_number, out.

    Result: pictures [{file, name, kind, pedicle, title, width, height, plane}], the files PNG in `out`.

    Raises
    ------
    ImagingError : the scan cannot be read.
    """
    progress("reading the scan", 0.0)
    scan = load_series([Path(f) for f in argument["scan_files"]]).volume
    caption = Caption(argument["level"], argument["case_code"], int(argument["scan_number"]))
    report = argument["report"]
    matrix = (report.get("registration") or {}).get("preop_from_scan")
    if matrix is None:
        pictures = [plain_slices(scan, str(report.get("reason") or "It was not measured."), caption)]
    else:
        progress("reading the plan", 0.3)
        plan = plan_from_document(json.loads(Path(argument["plan"]).read_text("utf-8")))
        needles = shown_needles(report, plan)
        scene = _scene(argument, scan, plan, np.asarray(matrix, dtype=np.float64))
        progress("drawing", 0.5)
        pictures = [*needle_slices(scene, needles, caption), overview(scene, needles, caption)]
    return {"pictures": [_save(picture, Path(argument["out"])) for picture in pictures]}


def shown_needles(report: Mapping[str, Any], plan: Plan) -> list[ShownNeedle]:
    """The measured needles, left before right; where none was measured, the planned paths."""
    found = [
        ShownNeedle(
            pedicle=str(needle["pedicle"]),
            tip=np.asarray(needle["tip"], dtype=np.float64),
            axis=np.asarray(needle["axis"], dtype=np.float64),
            planned=plan.trajectory(needle["pedicle"]),
            uncertainty_mm=needle.get("uncertainty_mm"),
            tip_to_target_mm=needle.get("tip_to_target_mm"),
        )
        for needle in report.get("needles") or ()
    ]
    if found:
        return found
    paths = []
    for path in plan.trajectories:
        way = np.subtract(path.target, path.entry)
        paths.append(ShownNeedle(path.pedicle, None, way / np.linalg.norm(way), path))
    return paths


def _scene(argument: Mapping[str, Any], scan: Volume, plan: Plan, preop_from_scan: Any) -> Scene:
    if argument.get("outer"):
        outer = read_nifti(Path(argument["outer"]))
    else:
        outer = outer_from_mask(read_nifti(Path(argument["mask"])))
    scan_from_preop = pose.invert(preop_from_scan)
    return Scene(
        scan=scan,
        scan_from_preop=scan_from_preop,
        outer=outer,
        frame=plan.vertebra_frame,
        channel_diameter_mm=plan.model.channel_diameter_mm,
        window=grey_window(scan, scan_from_preop, outer),
    )


def _save(picture: NeedlePicture, out: Path) -> dict[str, Any]:
    file = f"{picture.name}.png"
    picture.image.save(out / file, "PNG", optimize=False, compress_level=6)
    return {
        "file": file,
        "name": picture.name,
        "kind": picture.kind,
        "pedicle": picture.pedicle,
        "title": picture.title,
        "width": picture.image.width,
        "height": picture.image.height,
        "plane": picture.plane,
    }
