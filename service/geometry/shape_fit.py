"""Fit vertebra templates to a CT: a search over pose and size, then a smooth non-rigid step.

Method after the project's isolation study: cross-entropy search with priors, then displacement along the
surface normals towards the strongest bone edge, smoothed over the surface, for the vertebra and both
neighbours together so that each keeps to its own bone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.geometry.attractors import Pull, squared_distances
from service.geometry.evidence import Evidence, QuickField, trilinear_along
from service.geometry.mesh_grid import grid_signed_distance
from service.geometry.parallel import in_threads
from service.geometry.templates import Template

Array = NDArray[np.float64]
Grid = NDArray[np.float32]


#: Rounds of the non-rigid fit: smoothing over the surface from, to (sd, mm), and first reach (mm).
STAGES = ((12.0, 6.0, 6.0), (6.0, 3.5, 4.0))
#: One wide round before them, for levels whose template is only roughly like them.
FAR_STAGES = ((24.0, 12.0, 8.0), *STAGES)
#: In the non-rigid fit the scan is asked at every so-manieth vertex; all of them are moved.
ASK_EVERY = 2


@dataclass(frozen=True)
class PosePrior:
    """Standard deviations of the search; degrees, mm, natural log of scale."""

    shift_mm: float = 4.0
    yaw_deg: float = 15.0
    pitch_deg: float = 8.0
    roll_deg: float = 8.0
    log_scale: float = 0.10
    log_scale_up: float = 0.10

    def sd(self) -> Array:
        turn = np.radians([self.yaw_deg, self.pitch_deg, self.roll_deg])
        scale = [self.log_scale, self.log_scale, self.log_scale_up]
        return np.concatenate([[self.shift_mm] * 3, turn, scale])


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a template lies: `points = centre + axes @ (scale * template points)`."""

    centre: Array
    axes: Array
    """(3, 3) columns: left, posterior, up; LPS."""
    scale: Array
    """(3,) along the template's x, y, z."""


@dataclass(frozen=True, eq=False)
class PlacedShape:
    """A template placed in the scan. `vertices` (N, 3) LPS mm."""

    template: Template
    pose: Pose
    score: float
    vertices: Array

    @property
    def up(self) -> Array:
        return np.asarray(self.pose.axes[:, 2])


def place(template: Template, pose: Pose) -> Array:
    """(N, 3) LPS vertices of a placed template."""
    return np.asarray(pose.centre + (template.vertices * pose.scale) @ pose.axes.T)


def vertex_normals(vertices: Array, faces: NDArray[np.int32]) -> Array:
    """Area-weighted unit normals (N, 3), outwards for outward faces."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(vertices)
    for axis in range(3):
        weights = np.repeat(face_normals[:, axis], 3)
        total[:, axis] = np.bincount(faces.ravel(), weights=weights, minlength=len(vertices))
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9))


def search_pose(
    evidence: Evidence, template: Template, start: Pose, prior: PosePrior, *, seed: int
) -> PlacedShape:
    """Best pose near `start`: coarse over the whole prior, then fine from a quarter of it."""
    rng = np.random.default_rng(seed)
    normals = vertex_normals(template.vertices, template.faces)
    search = _Search(evidence, template.vertices, normals, start, prior.sd())
    mean = np.zeros(9)
    mean, _ = search.run(evidence.quick_coarse, mean, prior.sd(), rng, count=500, population=140)
    mean, score = search.run(evidence.quick_fine, mean, prior.sd() * 0.25, rng, count=700, population=160)
    pose = search.pose(mean)
    return PlacedShape(template, pose, score, place(template, pose))


class _Search:
    """Cross-entropy search over (shift, yaw, pitch, roll, log scales) around a start pose."""

    generations = 14
    elite = 20
    prior_weight = 0.012

    def __init__(self, evidence: Evidence, vertices: Array, normals: Array, start: Pose, sd: Array) -> None:
        self.evidence, self.vertices, self.normals, self.start, self.sd = (
            evidence,
            vertices,
            normals,
            start,
            sd,
        )

    def run(
        self,
        field: QuickField,
        mean: Array,
        spread: Array,
        rng: np.random.Generator,
        *,
        count: int,
        population: int,
    ) -> tuple[Array, float]:
        floor = 0.02 * self.sd
        spread = spread.copy()
        for _ in range(self.generations):
            chosen = rng.choice(len(self.vertices), size=min(count, len(self.vertices)), replace=False)
            trial = mean + spread * rng.standard_normal((population, 9))
            trial[0] = mean
            scores = self.scores(field, trial, chosen)
            best = trial[np.argsort(-scores, kind="stable")[: self.elite]]
            mean = 0.3 * mean + 0.7 * best.mean(axis=0)
            spread = np.maximum(0.4 * spread + 0.6 * best.std(axis=0), floor)
        every = np.arange(len(self.vertices))
        return mean, float(self.scores(field, mean[None], every)[0])

    def scores(self, field: QuickField, trial: Array, chosen: NDArray[np.intp]) -> Array:
        """Mean contrast across the surface, less the prior; (population,)."""
        axes = self.start.axes @ _rotations(trial[:, 3:6])
        scale = (np.exp(trial[:, 6:9]) * self.start.scale)[:, None, :]
        per_mm = field.per_voxel / self.evidence.step_mm
        # Single precision and one product for all poses: (P, 3, N) in samples of the field.
        points = _turned(axes * scale * per_mm, self.vertices[chosen])
        offset = self.start.centre + trial[:, :3] - self.evidence.origin
        points += (offset * per_mm).astype(np.float32)[:, :, None]
        normals = _turned(axes / scale, self.normals[chosen])
        normals /= np.sqrt(np.einsum("pcn,pcn->pn", normals, normals))[:, None, :]
        inner = field.at(points - np.float32(1.2 * per_mm) * normals)
        outer = field.at(points + np.float32(2.5 * per_mm) * normals)
        penalty = self.prior_weight * np.sum((trial / self.sd) ** 2, axis=1)
        return np.asarray((inner - outer).mean(axis=1, dtype=np.float64) - penalty)

    def pose(self, parameters: Array) -> Pose:
        return Pose(
            centre=self.start.centre + parameters[:3],
            axes=self.start.axes @ _rotations(parameters[None, 3:6])[0],
            scale=self.start.scale * np.exp(parameters[6:9]),
        )


def _turned(matrices: Array, vectors: Array) -> NDArray[np.float32]:
    """(P, 3, 3) and (N, 3) -> (P, 3, N)."""
    product = matrices.reshape(-1, 3).astype(np.float32) @ vectors.T.astype(np.float32)
    return np.asarray(product.reshape(len(matrices), 3, len(vectors)), dtype=np.float32)


def _rotations(angles: Array) -> Array:
    """(P, 3) yaw about up, pitch about left, roll about posterior -> (P, 3, 3)."""
    cy, cp, cr = np.cos(angles).T
    sy, sp, sr = np.sin(angles).T
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    yaw = np.stack([cy, -sy, zero, sy, cy, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    pitch = np.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], axis=-1).reshape(-1, 3, 3)
    roll = np.stack([cr, zero, sr, zero, one, zero, -sr, zero, cr], axis=-1).reshape(-1, 3, 3)
    return np.asarray(yaw @ pitch @ roll)


@dataclass(frozen=True, eq=False)
class Deformed:
    """The deformed shapes, what stands for the first of them, and the distances (Z, Y, X) mm of all but the first."""

    shapes: tuple[PlacedShape, ...]
    others: tuple[PlacedShape, ...]
    rivals: tuple[Grid, ...]


def deform(
    evidence: Evidence,
    shapes: Sequence[PlacedShape],
    *,
    others: Sequence[PlacedShape] = (),
    stages: Sequence[tuple[float, float, float]] = STAGES,
    iterations: int = 30,
    held: Pull | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> Deformed:
    """Deform `shapes` together; each sees the bone of the rest faded out.

    `others` stand for the first shape from other templates: they see the rest where it has come to lie in the end,
    and no shape sees them. They and the first shape are drawn through the points `held`.
    """
    current, number = list(shapes), 0
    for number, stage in enumerate(stages[:-1], start=1):
        current = _Round(evidence, current, (), stage, iterations, held).moved(range(len(current)))
        tick(number / (len(stages) + 1))
    # The rest first, so that both cores have work: beside the first shape's last round those that stand for it start.
    last = _Round(evidence, current, (), stages[-1], iterations, held)
    rest = last.moved(range(1, len(current)))
    tick((number + 1) / (len(stages) + 1))
    still = in_threads(lambda s: _distance(evidence, s), rest)
    first, *found = in_threads(
        lambda other: (
            last.moved_one(0) if other is None else _alone(evidence, other, still, stages, iterations, held)
        ),
        [None, *others],
    )
    tick(1.0)
    return Deformed((first, *rest), tuple(found), tuple(still))


def deform_between(
    evidence: Evidence,
    shapes: Sequence[PlacedShape],
    beside: Sequence[PlacedShape],
    *,
    stages: Sequence[tuple[float, float, float]] = STAGES,
    iterations: int = 30,
    held: Pull | None = None,
    settle: bool = False,
) -> Deformed:
    """`deform` when the rest, `beside`, has been deformed before: only `shapes`, all of one vertebra, move.

    settle : afterwards the rest goes through the last stage again, beside the first of `shapes`, to take the room that
        the old place of this vertebra had kept from it.
    """
    still = in_threads(lambda s: _distance(evidence, s), beside)
    first, *found = in_threads(lambda shape: _alone(evidence, shape, still, stages, iterations, held), shapes)
    rest = list(beside)
    if settle:
        rest = _Round(evidence, [first, *rest], (), stages[-1], iterations, held).moved(
            range(1, 1 + len(rest))
        )
        still = in_threads(lambda s: _distance(evidence, s), rest)
    return Deformed((first, *rest), tuple(found), tuple(still))


def _alone(
    evidence: Evidence,
    shape: PlacedShape,
    still: Sequence[Grid],
    stages: Sequence[tuple[float, float, float]],
    iterations: int,
    held: Pull | None,
) -> PlacedShape:
    """One shape through all stages beside others that stay where they are."""
    for stage in stages:
        shape = _Round(evidence, [shape], still, stage, iterations, held).moved_one(0)
    return shape


class _Round:
    """One stage for shapes side by side; who owns which bone stays as it was at its start."""

    def __init__(
        self,
        evidence: Evidence,
        shapes: Sequence[PlacedShape],
        still: Sequence[Grid],
        stage: tuple[float, float, float],
        iterations: int,
        held: Pull | None,
    ) -> None:
        self.evidence, self.shapes, self.still = evidence, shapes, still
        self.stage, self.iterations, self.held = stage, iterations, held
        self.distances = in_threads(lambda s: _distance(evidence, s), shapes)

    def moved(self, numbers: Iterable[int]) -> list[PlacedShape]:
        return in_threads(self.moved_one, numbers)

    def moved_one(self, number: int) -> PlacedShape:
        others = [*self.still, *(d for n, d in enumerate(self.distances) if n != number)]
        field = _own_evidence(self.evidence, self.distances[number], others)
        held = self.held if number == 0 else None
        shape = self.shapes[number]
        return replace(
            shape, vertices=_deform_one(self.evidence, field, shape, self.stage, self.iterations, held)
        )


def _distance(evidence: Evidence, shape: PlacedShape) -> Grid:
    return grid_signed_distance(shape.vertices, shape.template.faces, evidence)


def _own_evidence(evidence: Evidence, own: Grid, others: Sequence[Grid]) -> Grid:
    """The fine evidence, faded out where another shape lies nearer than this one."""
    if not others:
        return evidence.fine
    gap = np.minimum.reduce(others) - own
    return np.asarray(
        evidence.fine * np.clip(1.3 / (1.0 + np.exp(np.clip(-gap / 2.0, -30, 30))), 0.0, 1.0),
        dtype=np.float32,
    )


def _deform_one(
    evidence: Evidence,
    field: NDArray[np.float32],
    shape: PlacedShape,
    stage: tuple[float, float, float],
    iterations: int,
    held: Pull | None,
) -> Array:
    points = shape.vertices.copy()
    wide, narrow, reach = stage
    # The bone is asked at every other vertex: their spacing of about 3 mm stays below the smoothing.
    asked = slice(None, None, ASK_EVERY)
    square = squared_distances(points, points[asked])
    kernel = np.empty_like(square)
    _surface_kernel(square, wide, kernel)
    for step in range(iterations):
        share = step / max(1, iterations - 1)
        if step and step % max(1, iterations // 3) == 0:
            _surface_kernel(square, wide + (narrow - wide) * share, kernel)
        normals = vertex_normals(points, shape.template.faces)[asked]
        limit = reach + (2.5 - reach) * share
        shift, weight = _edge_shift(
            evidence, field, points[asked], normals, limit, 0.012 * (1.5 if share > 0.5 else 1)
        )
        # Single precision throughout: a mixed product would convert the whole kernel each time.
        weighted = np.column_stack([normals * (shift * weight)[:, None], weight]).astype(np.float32)
        smooth = np.asarray(kernel @ weighted, dtype=np.float64)
        if held is not None:
            smooth += held.pull(
                points, vertex_normals(points, shape.template.faces), wide + (narrow - wide) * share
            )
        points = points + 0.6 * smooth[:, :3] / np.maximum(smooth[:, 3:], 1e-9)
    return points


def _surface_kernel(square: NDArray[np.float32], sd_mm: float, out: NDArray[np.float32]) -> None:
    np.multiply(square, np.float32(-0.5 / sd_mm**2), out=out)
    np.exp(out, out=out)


def _edge_shift(
    evidence: Evidence,
    field: NDArray[np.float32],
    points: Array,
    normals: Array,
    limit_mm: float,
    stiffness: float,
) -> tuple[Array, Array]:
    """Best shift (N,) along the normal and its weight (contrast clipped to 0.02..0.8)."""
    step = 0.5
    reach = round(limit_mm / step)
    offsets = step * np.arange(-reach - 4, reach + 7, dtype=np.float64)
    profile = trilinear_along(field, evidence, points, normals, offsets)
    total = np.concatenate([np.zeros((len(points), 1)), np.cumsum(profile, axis=1, dtype=np.float64)], axis=1)
    place_ = np.arange(2 * reach + 1)
    # The window inside covers d-2..d (5 samples), the one outside d+0.5..d+3 (6 samples).
    inner = (total[:, place_ + 5] - total[:, place_]) / 5.0
    outer = (total[:, place_ + 11] - total[:, place_ + 5]) / 6.0
    shifts = step * (place_ - reach)
    gain = inner - outer - stiffness * shifts**2
    best = np.argmax(gain, axis=1)
    contrast = (inner - outer)[np.arange(len(points)), best]
    return shifts[best].astype(np.float64), np.clip(contrast, 0.02, 0.8)
