"""Points that a person marks on the outside of the bone, where the fit went astray, to draw the shape through them.

A transverse process that was missed, a facet taken from the neighbour, the posterior wall: the fit alone follows what
looks most like bone. Which way the surface faces at a point nobody has said; it is read from the scan where that shows
it, and else it is that of the shape where it is nearest. LPS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import MOST_SURFACE_POINTS
from service.errors import GeometryError
from service.geometry.attractors import SurfaceAttractors
from service.geometry.evidence import Evidence, trilinear_along
from service.geometry.mesh_grid import point_mesh_distance
from service.geometry.shape_fit import PlacedShape
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceAidSettings:
    """Ours; chosen on the phantom, with points a millimetre off."""

    bone_hu: float = 130.0
    """As the coarse gate of the seeds: weak bone in thick slices does not reach more."""
    bone_within_mm: float = 3.0
    far_mm: float = 25.0
    """More than a process can be longer than that of a template."""
    neighbour_by_mm: float = 2.0
    """By so much a point has to be nearer to the body of a neighbour to be taken for one on it."""
    side_radius_mm: float = 5.0
    side_share: float = 0.2
    """Bone around a point lies on one side when its centre is off by this share of its mean distance; a half-space
    has 0.5, a sheet through the point and the gap of a joint have none."""
    decides_mm: float = 3.0
    """Standard deviation of the ball around a point in which the shape decides alone what is bone of the target."""
    missed_mm: float = 2.0
    """Farther than this from the surface in the end, a point was not followed: twice the error of a click."""


def check_surface_points(ct: Volume, points: Array, settings: SurfaceAidSettings | None = None) -> None:
    """Refuse points (M, 3) that can lie on no bone in this scan, and too many of them.

    Raises
    ------
    GeometryError
        `geometry.surface_points`, with which point and what is wrong.
    """
    use = settings or SurfaceAidSettings()
    if points.ndim != 2 or points.shape[1:] != (3,) or not 1 <= len(points) <= MOST_SURFACE_POINTS:
        raise _unfit([f"1 to {MOST_SURFACE_POINTS} points of three coordinates are taken, not {len(points)}"])
    if not np.all(np.isfinite(points)):
        raise _unfit(["a coordinate is not a number"])
    outside = ~ct.contains(points)
    if outside.any():
        raise _unfit(_each(points, outside, "outside the scan"))
    ball = _ball(use.bone_within_mm, use.bone_within_mm / 6.0)
    bare = np.array([ct.sample(p + ball, outside=-1000.0).max() < use.bone_hu for p in points])
    if bare.any():
        raise _unfit(
            _each(points, bare, f"more than {use.bone_within_mm:g} mm from anything as dense as bone")
        )


def check_against_shapes(
    points: Array,
    target: PlacedShape,
    neighbours: Sequence[PlacedShape],
    settings: SurfaceAidSettings | None = None,
) -> None:
    """Refuse points (M, 3) too far from the target as placed, before it is deformed, or on a neighbour's body.

    Raises
    ------
    GeometryError
        `geometry.surface_points`, with which point and what is wrong.
    """
    use = settings or SurfaceAidSettings()
    away = _away(points, target)
    far = away > use.far_mm
    if far.any():
        raise _unfit(_each(points, far, f"more than {use.far_mm:g} mm from the vertebra found"))
    for name, shape in zip(("above", "below"), neighbours, strict=True):
        theirs = _body_distance(points, shape) < away - use.neighbour_by_mm
        if theirs.any():
            raise _unfit(_each(points, theirs, f"on the body of the vertebra {name}"))


def surface_attractors(
    evidence: Evidence, points: Array, settings: SurfaceAidSettings | None = None
) -> SurfaceAttractors:
    """The points (M, 3) with the direction out of the bone at each, as far as the scan shows one."""
    use = settings or SurfaceAidSettings()
    return SurfaceAttractors(points, _out_of_bone(evidence, points, use))


def near_points(
    evidence: Evidence, points: Array, settings: SurfaceAidSettings | None = None
) -> NDArray[np.float32]:
    """(Z, Y, X) on the evidence's grid: 1 at the points (M, 3), fading over `decides_mm` to 0.

    What a person marks is where bone alone tells wrong: an ossified ligament, a joint that has closed.
    """
    use = settings or SurfaceAidSettings()
    near = np.zeros(evidence.hu.shape, dtype=np.float32)
    reach = 3.0 * use.decides_mm / evidence.step_mm
    for place in evidence.index_of(points):
        low = np.maximum(np.floor(place - reach), 0).astype(int)
        high = np.minimum(np.ceil(place + reach) + 1, near.shape[::-1]).astype(int)
        i, j, k = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        square = (i - place[0]) ** 2 + (j - place[1]) ** 2 + (k - place[2]) ** 2
        share = np.exp(-square * evidence.step_mm**2 / (2.0 * use.decides_mm**2)).transpose(2, 1, 0)
        part = near[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        np.maximum(part, share, out=part, casting="same_kind")
    return near


def surface_off_mm(field: Volume, points: Array) -> Array:
    """(M,) signed distances, mm, of points (M, 3) from the surface of `field`; positive where they lie outside it.

    Far from the surface, where the field may end, by its nearest voxel inside.
    """
    found = np.asarray(field.sample(points, outside=np.inf), dtype=np.float64)
    beyond = ~(found < 3.0)
    if beyond.any():
        inside = field.to_lps(np.argwhere(field.values < 0)[:, ::-1].astype(np.float64))
        for n in np.flatnonzero(beyond):
            found[n] = np.sqrt(np.min(np.sum((inside - points[n]) ** 2, axis=1)))
    return found


def findings_of(
    off_mm: Array,
    found: list[tuple[float, str]],
    measures: dict[str, float],
    settings: SurfaceAidSettings | None = None,
) -> None:
    """Add to findings (share of the confidence left, sentence) and measures what `surface_off_mm` (M,) says."""
    use = settings or SurfaceAidSettings()
    away = np.abs(off_mm)
    missed = np.flatnonzero(away > use.missed_mm)
    measures.update(
        surface_points=float(len(away)),
        surface_points_missed=float(len(missed)),
        surface_points_worst_mm=round(float(away.max()), 2),
    )
    if len(missed):
        named = ", ".join(f"number {n + 1} by {away[n]:.1f} mm" for n in missed)
        found.append(
            (
                0.8,
                f"The surface misses {len(missed)} of {len(away)} surface points ({named}): check these points, add "
                "others beside them, or correct the bone there by cut, erase and paint.",
            )
        )


def _out_of_bone(evidence: Evidence, points: Array, use: SurfaceAidSettings) -> Array:
    """(M, 3): away from the middle of the bone within a ball around each point; zero where that is the point itself."""
    ball = _ball(use.side_radius_mm, 1.0)
    far = np.linalg.norm(ball, axis=1)
    outward = np.zeros_like(points)
    for n, point in enumerate(points):
        bone = np.maximum(
            trilinear_along(evidence.fine, evidence, point + ball, np.zeros_like(ball), np.zeros(1))[:, 0],
            0.0,
        )
        moment = -(bone @ ball) / max(float(bone @ far), 1e-9)
        size = float(np.linalg.norm(moment))
        if size >= use.side_share:
            outward[n] = moment / size
    return outward


def _away(points: Array, shape: PlacedShape) -> Array:
    return point_mesh_distance(points, shape.vertices, shape.template.faces)


def _body_distance(points: Array, shape: PlacedShape) -> Array:
    """(M,) distance to the body of a placed shape, without its arch; negative is not told from zero."""
    local = (points - shape.pose.centre) @ shape.pose.axes / shape.pose.scale
    # The origin is the middle of the body: as far behind it as the front lies before it, the body ends.
    depth = -float(shape.template.vertices[:, 1].min())
    body = np.flatnonzero(shape.template.vertices[:, 1] < depth)
    gap = np.linalg.norm(points[:, None] - shape.vertices[None, body], axis=2)
    nearest = np.argmin(gap, axis=1)
    middle = np.linalg.norm(shape.vertices[body[nearest]] - shape.pose.centre, axis=1)
    inside = (np.linalg.norm(points - shape.pose.centre, axis=1) < middle) & (local[:, 1] < depth)
    return np.where(inside, 0.0, gap[np.arange(len(points)), nearest])


def _ball(radius_mm: float, step_mm: float) -> Array:
    """(K, 3) offsets, mm, within a ball, its middle among them."""
    count = int(radius_mm / step_mm)
    ticks = step_mm * np.arange(-count, count + 1)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks), axis=-1).reshape(-1, 3)
    return np.asarray(grid[np.linalg.norm(grid, axis=1) <= radius_mm + 1e-9])


def _each(points: Array, wrong: NDArray[np.bool_], where: str) -> list[str]:
    return [
        f"number {n + 1} ({', '.join(f'{v:.1f}' for v in points[n])}) lies {where}"
        for n in np.flatnonzero(wrong)
    ]


def _unfit(faults: list[str]) -> GeometryError:
    return GeometryError(
        f"The surface points do not fit the vertebra: {'; '.join(faults)}.",
        next_step="Mark points on the outer surface of the target bone only, where the outline left it, and take the "
        "others away.",
        code="geometry.surface_points",
    )
