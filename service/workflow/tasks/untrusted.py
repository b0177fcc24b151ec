"""A bone that is not trusted: refused, and kept aside so that a person can look at it and correct it.

It goes to a folder of its own. Beside the plan and model of an earlier build it could be taken for theirs.
"""

from __future__ import annotations

import json
from pathlib import Path

from service import NOTICE, __version__
from service.errors import GeometryError
from service.geometry.anatomy import Isolation
from service.workflow.tasks.packed import packed_volumes

FOLDER = "untrusted"
SCHEMA = "spineprint.model/1"


def require_confidence(isolation: Isolation, bar: float, out: Path, *, edited: bool) -> None:
    """Refuse an isolation below the bar, and leave it in OUT/untrusted.

    Corrections by hand do not raise the confidence, which is that of the fit: nobody has measured how good they are.
    Who answers for the bone lowers the bar, or gives it back as a mask.

    Raises
    ------
    GeometryError
        `geometry.low_confidence`.
    """
    quality = isolation.quality
    if quality.confidence >= bar:
        return
    error = GeometryError(
        f"The isolation is not trustworthy (confidence {quality.confidence:.2f}, needed {bar:.2f}): "
        + " ".join(quality.reasons)
        + (" The confidence is that before the corrections by hand." if edited else "")
        + (f" {isolation.model.reason}" if isolation.model and isolation.model.reason else ""),
        next_step=_next_step(isolation),
        code="geometry.low_confidence",
        details={"confidence": quality.confidence, "reasons": list(quality.reasons)},
    )
    _keep(isolation, out / FOLDER, error)
    raise error


def _next_step(isolation: Isolation) -> str:
    if isolation.source == "mask":
        first = "Look at the mask on the CT and correct it in 3D Slicer"
    elif any("endplate points" in reason for reason in isolation.quality.reasons):
        first = (
            "Mark the four endplate points (on the page of the inputs, or --endplates), or correct the mask"
        )
    elif any("surface points" in reason for reason in isolation.quality.reasons):
        first = "Take away the surface points that were missed, or mark them again; or correct the mask"
    else:
        first = "Give points nearer to the body centres (target, above, below), or correct the mask"
    return (
        f"{first} (mask.seg.nrrd holds what was found, to load into 3D Slicer: in {FOLDER} of the output folder, or "
        "among the files of the case) and give it back as a mask. Who has checked the bone and answers for it lowers "
        "[model] min_confidence."
    )


def _keep(isolation: Isolation, folder: Path, error: GeometryError) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in packed_volumes(isolation).items():
        (folder / name).write_bytes(content)
    report = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "version": __version__,
        "level": isolation.level,
        "source": isolation.source,
        "isolation": {
            "confidence": round(isolation.quality.confidence, 3),
            "reasons": list(isolation.quality.reasons),
            "measures": {k: round(float(v), 4) for k, v in isolation.quality.measures.items()},
        },
        "failures": [error.message],
        "passed": False,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True), "utf-8")
