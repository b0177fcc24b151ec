"""The site's own segmentation model asked for one vertebra, its answer checked as any mask from outside, and more."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from service.errors import GeometryError, ImagingError, SpineprintError
from service.geometry.anatomy import Isolation, Seeds, SegmentationModel
from service.geometry.isolation import IsolationSettings, inside_surface, isolation_from_mask
from service.geometry.progress import Progress
from service.geometry.segmented import AnswerGates, mask_of, neighbours_of, require_level, require_place
from service.geometry.volume import Volume
from service.imaging.masks import placed_on
from service.ports import Segmenter

_ASKED = 0.75
"""Where the model's own work ends in the progress of this file."""


def known(segmenter: Segmenter) -> SegmentationModel:
    """Which model it is, or why it cannot be used (`failed`)."""
    try:
        facts = segmenter.facts()
    except SpineprintError as error:
        return SegmentationModel("failed", reason=str(error))
    return SegmentationModel("used", **asdict(facts))


def what_went_wrong(model: SegmentationModel, error: SpineprintError | MemoryError) -> SegmentationModel:
    """The same model with its answer refused, or without an answer."""
    if isinstance(error, MemoryError):
        reason = "There was not enough memory for the segmentation model."
        return replace(model, outcome="failed", reason=reason)
    answer_is_bad = isinstance(error, GeometryError | ImagingError)
    return replace(model, outcome="refused" if answer_is_bad else "failed", reason=error.message)


def isolation_by_model(
    ct: Volume,
    level: str,
    seeds: Seeds,
    segmenter: Segmenter,
    settings: IsolationSettings,
    least_confidence: float,
    progress: Progress,
) -> Isolation:
    """`level` as the model labels it at the target point.

    Raises
    ------
    ToolMissingError, SpineprintError : the model cannot be loaded or does not answer (see `service.ports.Segmenter`).
    GeometryError, ImagingError : its answer is refused, by `service.geometry.segmented` or as a mask from outside
        would be; also where the isolation of it is not trusted (`geometry.segmentation`).
    """
    gates = AnswerGates()
    near = np.asarray(seeds.target, dtype=np.float64)

    def asking(stage: str, fraction: float) -> None:
        progress(stage, _ASKED * fraction)

    answer = segmenter.segment(ct.values, ct.lps_from_ijk, level, near, asking)
    require_level(answer, level, near, gates)
    mask = placed_on(mask_of(answer, ct, level, near, gates), ct, level)

    def isolating(stage: str, fraction: float) -> None:
        progress(stage, _ASKED + (1 - _ASKED) * fraction)

    found = isolation_from_mask(ct, mask, level, settings=settings, progress=isolating)
    require_place(found.landmarks, level, near, gates)
    _require_trust(found, least_confidence)
    beside = neighbours_of(answer, level, found.landmarks, gates)
    # The bone that is modelled, as after a fit; a mask from outside is handed back as somebody drew it.
    modelled = inside_surface(found.outer, found.mask, ct)
    return replace(found, mask=modelled, source="segmented", neighbours=beside)


def _require_trust(found: Isolation, bar: float) -> None:
    quality = found.quality
    if quality.confidence < bar:
        raise GeometryError(
            "The answer of the segmentation model is refused: what is isolated from it is not trustworthy "
            f"(confidence {quality.confidence:.2f}, needed {bar:.2f}). {' '.join(quality.reasons)}",
            next_step="Look at the CT; give a mask.",
            code="geometry.segmentation",
        )
