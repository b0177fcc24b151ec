"""One O-arm scan against one plan."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.domain.plan import plan_from_document
from service.domain.series import LOSSY_CT, LOSSY_SCAN, PatientIdentity
from service.errors import ImagingError
from service.geometry.plates import read_bodies
from service.geometry.progress import Progress
from service.geometry.registration_file import read_model
from service.geometry.registration_model import VertebraModel
from service.geometry.verification import VerificationSettings, verify_scan
from service.geometry.volume import Volume
from service.imaging.ahead import ReadAhead
from service.imaging.nifti import read_nifti
from service.imaging.scan import scan_files
from service.imaging.series import load_series

_ahead = ReadAhead()
"""Of this process, which does one task and ends."""


def read_ahead(message: Mapping[str, Any]) -> None:
    """Message: scan_files, those of a scan that is still arriving. Read now, they are not read when it is complete."""
    _ahead.add(Path(f) for f in message["scan_files"])


def verify_task(argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: ct_files, scan_files, mask, plan, outer, prepared, plates, model_report.

    Result: `spineprint.verification/1`.

    `outer` and `prepared` (the registration model made with the printed model) may be missing or None: both are
    then made from the planning CT and the mask, which takes seconds longer. Without `plates` (the endplates of the
    body and its neighbours) the report has no heights after the cement.

    Raises
    ------
    ImagingError : the scan cannot be read, or is of another patient.
    """
    started = time.monotonic()
    progress("reading the scan", 0.0)
    scan = load_series([Path(f) for f in argument["scan_files"]], ahead=_ahead)
    progress("reading the plan", 0.1)
    planning = _planning(argument)
    differences = planning.identity.contradicts(scan.identity)
    if differences:
        raise ImagingError(
            f"The scan and the planning CT differ in {', '.join(differences)}.",
            next_step="Check the patient at the O-arm; correct the identity and send the scan again.",
            code="imaging.other_patient",
        )
    plan = plan_from_document(json.loads(Path(argument["plan"]).read_text("utf-8")))
    settings = settings_for(argument)
    outer = read_nifti(Path(argument["outer"])) if argument.get("outer") else None
    mask = None if planning.model and outer else read_nifti(Path(argument["mask"]))
    read_s = time.monotonic() - started
    document = verify_scan(
        planning.volume,
        mask,
        outer,
        plan,
        scan.volume,
        model=planning.model,
        settings=settings,
        bodies=read_bodies(Path(argument["plates"])) if argument.get("plates") else (),
        progress=lambda stage, fraction: progress(stage, 0.15 + 0.85 * fraction),
    )
    found = document["warnings"]
    document["warnings"] = [
        *(found if isinstance(found, list) else ()),
        *source_warnings(planning.lossy, scan.info.lossy),
    ]
    timings = document.get("timings_s")
    if isinstance(timings, dict):
        timings["reading"] = round(read_s, 3)
        timings["total"] = round(time.monotonic() - started, 3)
    return document


def settings_for(argument: Mapping[str, Any]) -> VerificationSettings:
    """The settings with how far inside the model's surface the bone's edge lies, as its report (`model_report`) says.

    A report that does not say, or none, means the threshold's surface: models before version 3 of the isolation.
    """
    usual = VerificationSettings()
    if not argument.get("model_report"):
        return usual
    report = json.loads(Path(argument["model_report"]).read_text("utf-8"))
    taken = report.get("isolation", {}).get("surface", {}).get("at", "threshold")
    return replace(usual, bone_edge_mm=0.0) if taken == "bone_edge" else usual


@dataclass(frozen=True, eq=False)
class _Planning:
    """The planning side: either `model` or `volume` is there."""

    identity: PatientIdentity
    lossy: bool | None
    model: VertebraModel | None
    volume: Volume | None


def _planning(argument: Mapping[str, Any]) -> _Planning:
    """The prepared model with one header of the planning CT for its patient, or the whole CT."""
    files = [Path(f) for f in argument["ct_files"]]
    model = read_model(Path(argument["prepared"])) if argument.get("prepared") else None
    found = scan_files(files[:1]).series if model is not None else ()
    if found:
        # That all its files are of one patient was required when the model was built from them.
        return _Planning(found[0].identity, found[0].info.lossy, model, None)
    ct = load_series(files)
    return _Planning(ct.identity, ct.info.lossy, None, ct.volume)


def source_warnings(lossy_ct: bool | None, lossy_scan: bool | None) -> list[dict[str, str]]:
    """What makes the images themselves doubtful, for the report and the screen in the operating room."""
    return [
        {"code": code, "message": sentence}
        for code, sentence, lossy in (
            ("lossy_ct", LOSSY_CT, lossy_ct),
            ("lossy_scan", LOSSY_SCAN, lossy_scan),
        )
        if lossy
    ]
