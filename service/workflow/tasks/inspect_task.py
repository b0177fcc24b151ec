"""What arrived? Series sorted, the best for planning proposed, its geometry and pixels checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.domain.series import LOSSY_CT
from service.errors import ImagingError
from service.geometry.progress import Progress
from service.imaging.proposal import propose_planning_series
from service.imaging.scan import scan_files
from service.imaging.series import load_series


def inspect_study(argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: files. Result: series_uid, slices, spacing_mm, warnings, candidates.

    Raises
    ------
    ImagingError : no usable series, or the proposed one fails the gate (the slices are named).
    """
    progress("reading headers", 0.0)
    found = scan_files([Path(f) for f in argument["files"]])
    proposal = propose_planning_series(found.series)
    if proposal.best is None:
        raise ImagingError(
            " ".join(proposal.reasons),
            next_step="Send an axial thin-slice CT of the spine; what arrived stays stored.",
            code="imaging.no_series",
        )
    best = proposal.best
    progress("checking slices", 0.3)
    # Reading every pixel once here finds truncated and undecodable slices before a person spends time on the case.
    loaded = load_series(best.files, best.info.series_uid, progress=lambda s, f: progress(s, 0.3 + 0.7 * f))
    info = loaded.info
    warnings = [{"code": f.code, "message": f.sentence} for f in loaded.findings]
    if info.lossy:
        warnings.append({"code": "lossy", "message": LOSSY_CT})
    return {
        "series_uid": info.series_uid,
        "slices": int(loaded.volume.values.shape[0]),
        "spacing_mm": [round(v, 4) for v in loaded.volume.spacing_mm],
        "size": list(loaded.volume.values.shape[::-1]),
        "lps_from_ijk": [[float(v) for v in row] for row in loaded.volume.lps_from_ijk],
        "kvp": info.kvp,
        "tube_current_ma": info.tube_current_ma,
        "slice_thickness_mm": info.slice_thickness_mm,
        "lossy": info.lossy,
        "warnings": warnings,
        "candidates": list(proposal.reasons),
    }
