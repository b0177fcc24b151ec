"""A report with points set by hand: figures anew from plan and bone, without the scan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.domain.plan import plan_from_document
from service.geometry.hand_set import HandSet, with_hand_set
from service.geometry.metrics import outer_from_mask
from service.geometry.progress import Progress
from service.imaging.nifti import read_nifti
from service.workflow.tasks.verify_task import settings_for


def correct_task(argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: report (the document before), plan, outer, mask, model_report (files), changes [{pedicle, tip, entry}].

    Result: the corrected document. Raises InputRefusedError (`verification.correction`).
    """
    progress("reading the plan", 0.0)
    plan = plan_from_document(json.loads(Path(argument["plan"]).read_text("utf-8")))
    if argument.get("outer"):
        outer = read_nifti(Path(argument["outer"]))
    else:
        outer = outer_from_mask(read_nifti(Path(argument["mask"])))
    progress("measuring", 0.5)
    changes = [
        HandSet(c["pedicle"], _point(c.get("tip")), _point(c.get("entry"))) for c in argument["changes"]
    ]
    return with_hand_set(argument["report"], plan, outer, changes, settings_for(argument))


def _point(values: Any) -> tuple[float, float, float] | None:
    if values is None:
        return None
    x, y, z = (float(v) for v in values)
    return x, y, z
