"""Find and fit the target vertebra and its two neighbours, from three seeds or from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from service.geometry.anatomy import Seeds
from service.geometry.attractors import Attractors, Pull, Together
from service.geometry.endplate_aid import attractors, check_points, with_marked_heights
from service.geometry.evidence import Evidence, gather_evidence
from service.geometry.mesh_grid import grid_signed_distance
from service.geometry.parallel import in_threads
from service.geometry.progress import Progress, silent
from service.geometry.shape_fit import (
    FAR_STAGES,
    STAGES,
    Deformed,
    PlacedShape,
    Pose,
    PosePrior,
    deform,
    search_pose,
)
from service.geometry.surface_aid import check_against_shapes, surface_attractors
from service.geometry.templates import Template, neighbour_level, templates_for
from service.geometry.volume import Volume

Array = NDArray[np.float64]

#: Typical distance of body centres, mm, by level: our own round figures for an adult, only a starting size.
TYPICAL_GAP_MM = {
    "T6": 21.0,
    "T7": 21.5,
    "T8": 22.5,
    "T9": 23.5,
    "T10": 25.0,
    "T11": 27.0,
    "T12": 29.5,
    "L1": 32.0,
    "L2": 34.0,
    "L3": 35.0,
    "L4": 35.0,
    "L5": 34.0,
}


@dataclass(frozen=True)
class FitSettings:
    """Search effort; defaults follow the project's isolation study."""

    target_templates: int = 4
    neighbour_templates: int = 2
    fuse_within_score: float = 0.12
    """A second template joins when its score is this near to the best."""
    margin_up_mm: float = 30.0
    margin_front_mm: float = 42.0
    margin_back_mm: float = 80.0
    margin_side_mm: float = 55.0
    far_levels: tuple[str, ...] = ("L5",)
    """Levels whose template is made from others and farthest from them: one more, wider round of the non-rigid fit."""
    least_gap_share: float = 0.8
    near_gap_share: float = 0.6
    """A neighbour searched without a point of its own that lies nearer than the first and not nearer than the second
    of these shares of the distance expected is sought again, farther on. It had locked onto the disc's far plate."""
    random_seed: int = 20260101
    exclude_templates: tuple[str, ...] = ()
    """Names of templates not to use, so that a patient is never measured with his own shape."""
    templates: tuple[Template, ...] = ()
    """Shapes to fit instead of those that ship; none: those that ship."""
    one_seed_prior: PosePrior = field(
        default_factory=lambda: PosePrior(pitch_deg=15.0, roll_deg=10.0, log_scale_up=0.15)
    )
    prior: PosePrior = field(default_factory=PosePrior)


@dataclass(frozen=True, eq=False)
class FitStart:
    """Where everything came to lie in a fit, from which the next one in the same CT, for the same level, may start.

    `low`, `high` (3,) LPS mm: the box of the evidence. `candidates`: the target as searched, best first. `searched`,
    `bent`: the level above and the one below as searched and as deformed.
    """

    seeds: Seeds
    low: Array
    high: Array
    candidates: tuple[PlacedShape, ...]
    searched: tuple[PlacedShape, ...]
    bent: tuple[PlacedShape, ...]


@dataclass(frozen=True, eq=False)
class SpineFit:
    """What the fit found. `distance` and `neighbour_distance` (Z, Y, X) mm on the evidence's grid."""

    evidence: Evidence
    target: PlacedShape
    neighbours: tuple[PlacedShape, ...]
    distance: NDArray[np.float32]
    neighbour_distance: NDArray[np.float32]
    rigid_centre: Array
    template_spread_mm: float
    """Mean distance between the fits of two templates near the surface; 0 when only one was near enough."""
    start: FitStart
    resumed: bool = False
    """Fitted from the start that an earlier fit had left."""


def fit_spine(
    ct: Volume, level: str, seeds: Seeds, *, settings: FitSettings | None = None, progress: Progress = silent
) -> SpineFit:
    """Fit the target and both neighbours; see the module's isolation study for the method."""
    use = settings or FitSettings()
    if seeds.endplates is not None:
        check_points(seeds.endplates, np.asarray(seeds.target))
    low, high = _region(level, seeds, use)
    evidence = gather_evidence(ct, low, high)
    progress("searching the vertebra", 0.05)
    templates = templates_for(
        level, count=use.target_templates, exclude=use.exclude_templates, among=use.templates
    )
    candidates = search_target(evidence, level, seeds, templates, use)
    progress("searching its neighbours", 0.2)
    neighbours = in_threads(
        lambda side: search_neighbour(evidence, level, side[1], candidates, seeds, use, side[0]),
        enumerate((-1, 1)),
    )
    candidates = recentred(evidence, candidates, neighbours, use)
    progress("fitting the shapes", 0.4)
    chosen, held = to_fit(evidence, candidates, neighbours, seeds, use)
    found = deform(
        evidence,
        [chosen[0], *neighbours],
        others=chosen[1:],
        stages=stages_for(level, use),
        held=held,
        tick=lambda part: progress("fitting the shapes", 0.4 + 0.5 * part),
    )
    start = FitStart(seeds, low, high, tuple(candidates), tuple(neighbours), found.shapes[1:])
    return spine_fit_of(evidence, found, start, candidates[0])


def stages_for(level: str, use: FitSettings) -> tuple[tuple[float, float, float], ...]:
    """Rounds of the non-rigid fit: one more where the template is only roughly like the level."""
    return FAR_STAGES if level in use.far_levels else STAGES


def to_fit(
    evidence: Evidence,
    candidates: Sequence[PlacedShape],
    neighbours: Sequence[PlacedShape],
    seeds: Seeds,
    use: FitSettings,
) -> tuple[list[PlacedShape], Pull | None]:
    """The placed shapes good enough to be deformed, and the points of a person that hold them.

    Raises
    ------
    GeometryError
        `geometry.endplate_points`, `geometry.surface_points`: points of another vertebra than the one found.
    """
    chosen = [c for c in candidates[:2] if c.score > candidates[0].score - use.fuse_within_score]
    held: list[Pull] = []
    if seeds.endplates is not None:
        points = seeds.endplates
        chosen = [with_marked_heights(c, points) for c in chosen]
        held.append(Attractors(*attractors(points)))
    if seeds.surface is not None:
        check_against_shapes(seeds.surface, chosen[0], neighbours)
        held.append(surface_attractors(evidence, seeds.surface))
    return chosen, None if not held else held[0] if len(held) == 1 else Together(tuple(held))


def spine_fit_of(
    evidence: Evidence, found: Deformed, start: FitStart, rigid: PlacedShape, *, resumed: bool = False
) -> SpineFit:
    """The deformed shapes as distances."""
    distances = in_threads(
        lambda s: grid_signed_distance(s.vertices, s.template.faces, evidence, exact_band_mm=3.0),
        (found.shapes[0], *found.others),
    )
    mean = np.asarray(np.mean(distances, axis=0), dtype=np.float32)
    spread = float(np.abs(distances[0] - mean)[np.abs(mean) < 1.0].mean() * 2) if len(distances) > 1 else 0.0
    return SpineFit(
        evidence=evidence,
        target=found.shapes[0],
        neighbours=found.shapes[1:],
        distance=mean,
        neighbour_distance=np.minimum.reduce(found.rivals),
        rigid_centre=rigid.pose.centre,
        template_spread_mm=spread,
        start=start,
        resumed=resumed,
    )


def _region(level: str, seeds: Seeds, use: FitSettings) -> tuple[Array, Array]:
    """Corners (3,) LPS mm of the box that holds the three vertebrae."""
    known = np.array([p for p in (seeds.target, seeds.above, seeds.below) if p is not None])
    low, high = known.min(axis=0), known.max(axis=0)
    if seeds.above is None:
        high[2] = max(high[2], seeds.target[2] + TYPICAL_GAP_MM[level])
    if seeds.below is None:
        low[2] = min(low[2], seeds.target[2] - TYPICAL_GAP_MM[level])
    margin_low = np.array([use.margin_side_mm, use.margin_front_mm, use.margin_up_mm])
    margin_high = np.array([use.margin_side_mm, use.margin_back_mm, use.margin_up_mm])
    return low - margin_low, high + margin_high


def _axes_from_up(up: Array) -> Array:
    """Columns left, posterior, up; "left" is the table's as far as `up` allows."""
    left = np.array([1.0, 0.0, 0.0]) - up[0] * up
    left /= np.linalg.norm(left)
    return np.column_stack([left, np.cross(up, left), up])


def search_target(
    evidence: Evidence, level: str, seeds: Seeds, templates: Sequence[Template], use: FitSettings
) -> list[PlacedShape]:
    """Each template where it fits best near the target's point, best first."""
    up, gap = np.array([0.0, 0.0, 1.0]), TYPICAL_GAP_MM[level]
    known = seeds.above is not None or seeds.below is not None
    if known:
        top = seeds.above if seeds.above is not None else seeds.target
        bottom = seeds.below if seeds.below is not None else seeds.target
        steps = (seeds.above is not None) + (seeds.below is not None)
        gap = float(np.linalg.norm(top - bottom)) / steps
        up = (top - bottom) / (gap * steps)
    prior = use.prior if known else use.one_seed_prior

    def searched(template: Template) -> PlacedShape:
        scale = float(np.clip(gap / template.gap_mm, 0.6, 1.5))
        start = Pose(np.asarray(seeds.target, dtype=np.float64), _axes_from_up(up), np.full(3, scale))
        return search_pose(evidence, template, start, prior, seed=use.random_seed)

    return sorted(in_threads(searched, templates), key=lambda s: -s.score)


def search_neighbour(
    evidence: Evidence,
    level: str,
    step: int,
    candidates: Sequence[PlacedShape],
    seeds: Seeds,
    use: FitSettings,
    number: int,
) -> PlacedShape:
    """The vertebra above (`step` -1) or below (+1), started from the target's pose and size."""
    best = candidates[0]
    templates = _neighbour_templates(level, step, candidates, use)
    seed = seeds.above if step < 0 else seeds.below
    sd = 0.7
    prior = PosePrior(
        use.prior.shift_mm * (sd if seed is not None else 1.0),
        use.prior.yaw_deg * sd,
        use.prior.pitch_deg * (sd if seed is not None else 1.2),
        use.prior.roll_deg * sd,
        use.prior.log_scale * sd,
        use.prior.log_scale_up * sd,
    )
    span = TYPICAL_GAP_MM[level] / best.template.gap_mm
    gap = best.template.gap_mm * float(best.pose.scale[2])
    gap = 0.5 * gap + 0.5 * best.template.gap_mm * span
    if seed is not None:
        return _best_from(evidence, templates, best, [np.asarray(seed, dtype=np.float64)], prior, use, number)
    starts = [best.pose.centre - step * best.up * gap * f for f in (0.85, 1.0, 1.15)]
    found = _best_from(evidence, templates, best, starts, prior, use, number)
    share = gap_share(best, found)
    if use.near_gap_share <= share < use.least_gap_share and found.score < best.score:
        # A plate of the disc beside the target: the vertebra itself lies farther on, near where it should be.
        gap = best.template.gap_mm * float(best.pose.scale[2])
        back = best.pose.axes[:, 1]
        # A curved spine leads forwards or back from the target's own axis.
        starts = [best.pose.centre - gap * (step * best.up - side * back) for side in (-0.2, 0.0, 0.2)]
        prior = replace(prior, shift_mm=0.5 * prior.shift_mm)
        return _best_from(evidence, templates, best, starts, prior, use, number)
    return found


def gap_share(target: PlacedShape, neighbour: PlacedShape) -> float:
    """Distance of two placed shapes' centres along the target's axis, of what the target's size lets expect."""
    gap = abs(float((neighbour.pose.centre - target.pose.centre) @ target.up))
    return gap / (target.template.gap_mm * float(target.pose.scale[2]))


def _best_from(
    evidence: Evidence,
    templates: Sequence[Template],
    target: PlacedShape,
    starts: Sequence[Array],
    prior: PosePrior,
    use: FitSettings,
    number: int,
) -> PlacedShape:
    """The best fit of the first template from all `starts`, and of the others from where that came to lie."""
    found: list[PlacedShape] = []
    for place_, template in enumerate(templates):
        size = target.pose.scale * target.template.gap_mm / template.gap_mm
        centres = starts if place_ == 0 else [max(found, key=lambda s: s.score).pose.centre]
        for centre in centres:
            start = Pose(centre, target.pose.axes, size)
            found.append(search_pose(evidence, template, start, prior, seed=use.random_seed + 7 + number))
    return max(found, key=lambda s: s.score)


def _neighbour_templates(
    level: str, step: int, candidates: Sequence[PlacedShape], use: FitSettings
) -> list[Template]:
    own = templates_for(
        neighbour_level(level, step), count=1, exclude=use.exclude_templates, among=use.templates
    )
    mixed = [*own, *(c.template for c in candidates)]
    unique = list({t.name: t for t in mixed}.values())
    return unique[: use.neighbour_templates]


def recentred(
    evidence: Evidence,
    candidates: Sequence[PlacedShape],
    neighbours: Sequence[PlacedShape],
    use: FitSettings,
) -> list[PlacedShape]:
    """Search the two best once more, started from the axis through the neighbours found.

    The study saw clicks a few mm off hurt most in the thoracic spine, and re-centring repair it.
    """
    up = neighbours[0].pose.centre - neighbours[1].pose.centre
    up /= np.linalg.norm(up)
    prior = replace(use.prior, shift_mm=use.prior.shift_mm * 0.6, yaw_deg=use.prior.yaw_deg * 0.5)

    def again(candidate: PlacedShape) -> PlacedShape:
        left = candidate.pose.axes[:, 0] - (candidate.pose.axes[:, 0] @ up) * up
        left /= np.linalg.norm(left)
        start = Pose(
            candidate.pose.centre, np.column_stack([left, np.cross(up, left), up]), candidate.pose.scale
        )
        found = search_pose(evidence, candidate.template, start, prior, seed=use.random_seed + 99)
        return found if found.score > candidate.score else candidate

    return sorted(in_threads(again, candidates[:2]), key=lambda s: -s.score)
