"""One O-arm scan against one plan."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.domain.plan import plan_from_document
from service.domain.series import LOSSY_CT, LOSSY_SCAN
from service.errors import ImagingError
from service.geometry.progress import Progress
from service.geometry.verification import verify_scan
from service.imaging.nifti import read_nifti
from service.imaging.series import LoadedSeries, load_series


def verify_task(argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: ct_files, scan_files, mask, plan, outer. Result: the `spineprint.verification/1` document.

    Raises
    ------
    ImagingError : the scan cannot be read, or is of another patient.
    """
    started = time.monotonic()
    progress("reading the planning CT", 0.0)
    ct = load_series([Path(f) for f in argument["ct_files"]])
    progress("reading the scan", 0.1)
    scan = load_series([Path(f) for f in argument["scan_files"]])
    differences = ct.identity.contradicts(scan.identity)
    if differences:
        raise ImagingError(
            f"The scan and the planning CT differ in {', '.join(differences)}.",
            next_step="Check the patient at the O-arm; correct the identity and send the scan again.",
            code="imaging.other_patient",
        )
    read_s = time.monotonic() - started
    plan = plan_from_document(json.loads(Path(argument["plan"]).read_text("utf-8")))
    outer = read_nifti(Path(argument["outer"])) if argument.get("outer") else None
    document = verify_scan(
        ct.volume,
        read_nifti(Path(argument["mask"])),
        outer,
        plan,
        scan.volume,
        progress=lambda stage, fraction: progress(stage, 0.15 + 0.85 * fraction),
    )
    document["warnings"] = source_warnings(ct, scan)
    timings = document.get("timings_s")
    if isinstance(timings, dict):
        timings["reading"] = round(read_s, 3)
        timings["total"] = round(time.monotonic() - started, 3)
    return document


def source_warnings(ct: LoadedSeries, scan: LoadedSeries) -> list[dict[str, str]]:
    """What makes the images themselves doubtful, for the report and the screen in the operating room."""
    return [
        {"code": code, "message": sentence}
        for code, sentence, series in (("lossy_ct", LOSSY_CT, ct), ("lossy_scan", LOSSY_SCAN, scan))
        if series.info.lossy
    ]
