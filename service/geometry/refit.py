"""Fit the target again after points were moved, added or taken away, from where an earlier fit left everything.

The neighbours, which take more than half of a fit, are taken over; the target is searched from its point with the two
shapes that were best before and deformed between them. When a point leads elsewhere than before, what was kept may be
what was wrong, and everything has to be fitted anew. LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry.anatomy import Seeds
from service.geometry.endplate_aid import check_points
from service.geometry.evidence import Evidence, gather_evidence
from service.geometry.parallel import in_threads
from service.geometry.progress import Progress, silent
from service.geometry.shape_fit import PlacedShape, deform_between
from service.geometry.spine_fit import (
    FitSettings,
    FitStart,
    SpineFit,
    recentred,
    search_neighbour,
    search_target,
    spine_fit_of,
    stages_for,
    to_fit,
)
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RefitSettings:
    """How near to where it lay a vertebra has to be found again; ours, well below a click's usual error of 3-5 mm."""

    same_place_mm: float = 2.0
    same_axis_deg: float = 5.0


def refit_spine(
    ct: Volume,
    level: str,
    seeds: Seeds,
    start: FitStart,
    *,
    settings: FitSettings | None = None,
    limits: RefitSettings | None = None,
    progress: Progress = silent,
) -> SpineFit | None:
    """The fit of `fit_spine` to within the tolerance tested; None when it has to be made anew.

    start : of a fit of the same level in the same CT.

    Raises
    ------
    GeometryError
        `geometry.endplate_points`, `geometry.surface_points`, as `fit_spine`.
    """
    use, limits = settings or FitSettings(), limits or RefitSettings()
    if seeds.endplates is not None:
        check_points(seeds.endplates, np.asarray(seeds.target))
    if not _same_kind(seeds, start.seeds):
        return None
    evidence = gather_evidence(ct, start.low, start.high)
    progress("searching the vertebra", 0.1)
    candidates = _found_again(evidence, level, seeds, start, use, limits)
    if candidates is None:
        return None
    progress("fitting the shapes", 0.4)
    chosen, held = to_fit(evidence, candidates, start.searched, seeds, use)
    # A plate or a facet that was marked may have been taken for the neighbour's, or the neighbour's for it.
    marked = any(s.endplates is not None or s.surface is not None for s in (seeds, start.seeds))
    stages = stages_for(level, use)
    found = deform_between(evidence, chosen, start.bent, stages=stages, held=held, settle=marked)
    return spine_fit_of(evidence, found, start, candidates[0], resumed=True)


def _same_kind(seeds: Seeds, old: Seeds) -> bool:
    """A neighbour that was given a point, or lost it, is searched in another way."""
    return (seeds.above is None, seeds.below is None) == (old.above is None, old.below is None)


def _found_again(
    evidence: Evidence, level: str, seeds: Seeds, start: FitStart, use: FitSettings, limits: RefitSettings
) -> list[PlacedShape] | None:
    """The target's candidates for these points; None when they or a neighbour now lie elsewhere."""
    old = start.seeds
    candidates = list(start.candidates)
    if not _same_point(seeds.target, old.target):
        templates = [c.template for c in start.candidates]
        candidates = search_target(evidence, level, seeds, templates, use)
        candidates = recentred(evidence, candidates, start.searched, use)
        if not _same_place(candidates[0], start.candidates[0], limits):
            return None
    points = ((seeds.above, old.above), (seeds.below, old.below))
    moved = [n for n, (new, before) in enumerate(points) if not _same_point(new, before)]
    again = in_threads(
        lambda n: search_neighbour(evidence, level, (-1, 1)[n], candidates, seeds, use, n), moved
    )
    if all(_same_place(shape, start.searched[n], limits) for n, shape in zip(moved, again, strict=True)):
        return candidates
    return None


def _same_point(one: Array | None, other: Array | None) -> bool:
    return (one is None and other is None) or (
        one is not None and other is not None and bool(np.array_equal(one, other))
    )


def _same_place(one: PlacedShape, other: PlacedShape, limits: RefitSettings) -> bool:
    away = float(np.linalg.norm(one.pose.centre - other.pose.centre))
    turn = np.degrees(np.arccos(np.clip(np.sum(one.pose.axes * other.pose.axes, axis=0), -1.0, 1.0)))
    return away <= limits.same_place_mm and float(turn.max()) <= limits.same_axis_deg
