"""How the vertebra is isolated, in this order: a mask from outside, the site's own segmentation model, fitted shapes.

A model is not asked where a person has marked endplates or the surface. One that cannot be loaded, fails, or gives an
answer that the checks refuse never stops the work: the shapes are fitted instead, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InputRefusedError, SpineprintError
from service.geometry.anatomy import EndplatePoints, Isolation, Seeds, SegmentationModel
from service.geometry.bone_edge import SurfaceSettings
from service.geometry.isolation import IsolationSettings, isolate_resumable, isolation_from_mask
from service.geometry.isolation_checks import check_seeds
from service.geometry.progress import Progress
from service.imaging.masks import read_mask
from service.imaging.series import LoadedSeries
from service.ports import Segmenter
from service.workflow.tasks.handed_out import read_handed_out
from service.workflow.tasks.kept_fit import read_start, write_start
from service.workflow.tasks.kept_isolation import isolation_key, kept_or_made
from service.workflow.tasks.points_used import SEEDS
from service.workflow.tasks.segmented import isolation_by_model, known, what_went_wrong

#: Where the work of a model ends in the progress of the isolation, with or without shapes to fit afterwards.
_MODEL_ENDS = 0.7
PASSED_OVER = SegmentationModel(
    "passed_over", reason="Endplates or surface points are marked, which only fitted shapes follow."
)


def isolate(
    argument: Mapping[str, Any],
    ct: LoadedSeries,
    ct_sha256: str,
    progress: Progress,
    beside: Executor,
    segmenter: Segmenter | None = None,
) -> Isolation:
    """The vertebra of `argument` (see `model_task`); what is kept of it is written `beside` what follows.

    Raises
    ------
    GeometryError, ImagingError, InputRefusedError : in words.
    """
    level = str(argument["level"])
    corrected = (argument.get("settings") or {}).get("surface", "corrected") == "corrected"
    settings = IsolationSettings(surface=SurfaceSettings(correct_bias=corrected))
    if argument.get("mask"):
        mask = read_mask(Path(argument["mask"]), ct.volume, level=level, label=argument.get("mask_label"))
        handed_out = read_handed_out(argument.get("handed_out"), Path(argument["out"]))
        return isolation_from_mask(
            ct.volume, mask, level, handed_out=handed_out, settings=settings, progress=progress
        )
    if not argument.get("target"):
        raise InputRefusedError(
            "Neither a target point nor a mask was given.",
            code="inputs.missing",
            next_step="Give --target X,Y,Z or --mask FILE.",
        )
    seeds = Seeds(
        np.asarray(argument["target"], dtype=np.float64),
        _point(argument.get("above")),
        _point(argument.get("below")),
        _endplates(argument.get("endplates")),
        _surface(argument.get("surface_points")),
    )
    check_seeds(ct.volume, seeds, settings.gates)
    kept = Path(argument["keep_isolation"]) if argument.get("keep_isolation") else None
    about = {
        "ct_sha256": ct_sha256,
        "series_uid": ct.info.series_uid,
        "level": level,
        "settings": repr(settings),
    }

    def fitted(tell: Progress) -> Isolation:
        any_points = isolation_key(about)
        start = read_start(kept, any_points) if kept else None
        found, left = isolate_resumable(
            ct.volume, level, seeds, start=start, settings=settings, progress=tell
        )
        if kept and left is not start:
            write_start(left, kept, any_points)
        return found

    points = {"points": {name: argument.get(name) for name in SEEDS}}
    marked = seeds.surface is not None or seeds.endplates is not None
    if segmenter is None or marked:
        found = kept_or_made(kept, isolation_key(about | points), lambda: fitted(progress), beside)
        # Who marks the bone wants it drawn through the marks; a model's answer would not follow them.
        return found if segmenter is None else replace(found, model=PASSED_OVER)
    model = known(segmenter)
    bar = float((argument.get("settings") or {}).get("min_confidence", 0.5))

    def made() -> Isolation:
        return _by_model_else(segmenter, model, ct, level, seeds, settings, bar, fitted, progress)

    def worth(found: Isolation) -> bool:
        """Not when the model stopped while it worked: the next run asks it again."""
        return found.model == model or (found.model is not None and found.model.outcome == "refused")

    key = isolation_key(about | points | {"model": asdict(model), "bar": bar})
    return kept_or_made(kept, key, made, beside, worth)


def _by_model_else(
    segmenter: Segmenter,
    model: SegmentationModel,
    ct: LoadedSeries,
    level: str,
    seeds: Seeds,
    settings: IsolationSettings,
    bar: float,
    fitted: Callable[[Progress], Isolation],
    progress: Progress,
) -> Isolation:
    """By the model; by fitting when that is refused or fails, with the reason."""
    if model.outcome != "failed":
        try:
            found = isolation_by_model(
                ct.volume, level, seeds, segmenter, settings, bar, _part(progress, 0.0, _MODEL_ENDS)
            )
            return replace(found, model=model)
        except (SpineprintError, MemoryError) as error:
            model = what_went_wrong(model, error)
    try:
        found = fitted(_part(progress, _MODEL_ENDS, 1.0))
    except SpineprintError as error:
        # Why the model was not used may be the clue to why nothing can be fitted either, such as a wrong level.
        error.message = f"{error.message} {model.reason}"
        raise
    return replace(found, model=model)


def _part(progress: Progress, low: float, high: float) -> Progress:
    return lambda stage, fraction: progress(stage, low + (high - low) * fraction)


def _point(values: Sequence[float] | None) -> NDArray[np.float64] | None:
    return np.asarray(values, dtype=np.float64) if values else None


def _endplates(points: Sequence[Sequence[float]] | None) -> EndplatePoints | None:
    """Upper front, upper back, lower front, lower back, LPS mm."""
    if not points:
        return None
    marked = np.asarray(points, dtype=np.float64)
    return EndplatePoints(marked[:2], marked[2:])


def _surface(points: Sequence[Sequence[float]] | None) -> NDArray[np.float64] | None:
    """(M, 3) LPS mm."""
    return np.asarray(points, dtype=np.float64).reshape(-1, 3) if points else None
