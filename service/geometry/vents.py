"""Where the hollow is opened: vents through the wall and slots near the tip of each channel.

Vents are straight holes of at least 3 mm (facts sheet, `vents`: at least two openings per cavity) through the
endplates or the side walls of the body, never through the posterior wall, a pedicle or beside a channel. They lie
at opposite places, so that gas sweeps through and water drains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.domain.plan import Plan, Trajectory, Vec3, Vent, VertebraFrame
from service.errors import GeometryError
from service.geometry.distances import components, distance_to
from service.geometry.fields import (
    Array,
    Bone,
    Field,
    Grid,
    Primitive,
    capsule,
    cylinder,
    segment_distance,
)
from service.geometry.gas_path import ball_centres

Mask = NDArray[np.bool_]

#: Clear material kept between a vent and a sleeve, mm (one shell thickness).
VENT_KEEP_OUT_MM = 2.0
#: A vent may be drawn at most this deep from the outer surface before it must be in the hollow, mm.
VENT_MAX_DEPTH_MM = 12.0
#: A given vent may lie this far from the outer surface, mm: one farther in would be taken as open and not be cut.
VENT_OFF_SURFACE_MM = 1.5
#: Farther back than this from the body's centre begin the roots of the pedicles: used only when nothing else is left.
BEHIND_MM = 10.0


@dataclass(frozen=True, eq=False)
class Compartment:
    """One part of the hollow through which the ball rolls freely."""

    centres: Mask
    """Where the ball's centre may be."""
    volume_ml: float


def find_compartments(
    cavity: Field, grid: Grid, *, ball_radius_mm: float, slack_mm: float
) -> list[Compartment]:
    """The rooms of the hollow, largest first. `cavity` is negative in the hollow.

    A margin on the ball keeps a room that just passes here from failing when measured on the finished mesh.
    """
    void = cavity < 0
    labels, count = components(ball_centres(void, grid.step_mm, ball_radius_mm))
    boxes = ndimage.find_objects(labels, max_label=count)
    rooms = []
    for number, box in enumerate(boxes, start=1):
        pad = int(np.ceil((ball_radius_mm + slack_mm) / grid.step_mm)) + 1
        wide = tuple(
            slice(max(0, s.start - pad), min(n, s.stop + pad)) for s, n in zip(box, void.shape, strict=True)
        )
        local = labels[wide] == number
        near = (distance_to(local, grid.step_mm) <= ball_radius_mm + slack_mm) & void[wide]
        centres = np.zeros(void.shape, dtype=bool)
        centres[wide] = local
        rooms.append(Compartment(centres, float(near.sum()) * grid.step_mm**3 / 1000.0))
    return sorted(rooms, key=lambda room: -room.volume_ml)


def vent_shape(vent: Vent, inner_end: Array) -> Primitive:
    """The hole: from clear of the surface to `inner_end` in the hollow."""
    outside = np.array(vent.position) + np.array(vent.direction) * (vent.diameter_mm / 2.0 + 2.0)
    return capsule(outside, inner_end, vent.diameter_mm / 2.0)


def inner_end_of(vent: Vent, room: Mask, grid: Grid) -> Array | None:
    """First point of the room on the vent's axis, (3,) LPS mm; None when the vent does not lead into it."""
    depths = np.arange(0.0, VENT_MAX_DEPTH_MM, grid.step_mm / 4.0)
    points = np.array(vent.position) - depths[:, None] * np.array(vent.direction)
    k, j, i = grid.indices_of(points).T
    hits = np.flatnonzero(room[k, j, i])
    return None if len(hits) == 0 else np.asarray(points[hits[0]])


def wide_enough(room: Compartment, cavity: Field, grid: Grid, diameter_mm: float) -> Mask:
    """Where in the room a vent may end without biting into wall or sleeve."""
    clear = distance_to(cavity >= 0, grid.step_mm) - grid.step_mm / 2.0 >= diameter_mm / 2.0 + 0.3
    return np.asarray(room.centres & clear)


@dataclass(frozen=True, eq=False)
class _Candidates:
    positions: Array
    directions: Array
    preference: Array


def choose_vents(
    bone: Bone, plan: Plan, ends: Mask, *, diameter_mm: float, count: int, existing: tuple[Vent, ...] = ()
) -> tuple[Vent, ...]:
    """Vents for one room, at opposite places; fewer than `count` when the anatomy allows no more.

    Parameters
    ----------
    ends : (K, J, I) where a vent may end (see `wide_enough`).
    count : how many openings the room is to have, `existing` included.
    """
    found = _candidates(bone, plan, ends, diameter_mm)
    chosen = list(existing)
    if not chosen and count >= 2 and len(found.positions) >= 2:
        chosen.extend(_vent(found, index, diameter_mm) for index in _best_pair(found))
    while len(chosen) < count and len(found.positions):
        taken = np.array([vent.position for vent in chosen]).reshape(-1, 3)
        gap = np.linalg.norm(found.positions[:, None] - taken[None], axis=2).min(axis=1, initial=1e3)
        best = int(np.argmax(np.minimum(gap, 50.0) + 6.0 * found.preference))
        if gap[best] < 2.0 * diameter_mm:
            break
        chosen.append(_vent(found, best, diameter_mm))
    return tuple(chosen[len(existing) :])


def _vent(found: _Candidates, index: int, diameter_mm: float) -> Vent:
    # Rounded as the plan document rounds, so that a plan read back builds the very same model.
    return Vent(
        position=_vec3(np.round(found.positions[index], 4)),
        direction=_vec3(np.round(found.directions[index], 8)),
        diameter_mm=diameter_mm,
    )


def _vec3(values: Array) -> Vec3:
    x, y, z = (float(v) + 0.0 for v in values)
    return (x, y, z)


def _best_pair(found: _Candidates) -> tuple[int, int]:
    gap = np.linalg.norm(found.positions[:, None] - found.positions[None], axis=2)
    opposite = found.directions @ found.directions.T < -0.5
    score = gap + 8.0 * opposite + 6.0 * (found.preference[:, None] + found.preference[None])
    score[gap < 8.0] = -np.inf
    best = int(np.argmax(score))
    return best // len(score), best % len(score)


def _directions(frame: VertebraFrame) -> list[tuple[Array, float]]:
    """Ways out with how much we like them: endplates first, then the sides, then the front; never to the back."""
    superior, left, anterior = (np.array(axis) for axis in (frame.superior, frame.left, frame.anterior))
    return [(superior, 1.0), (-superior, 1.0), (left, 0.4), (-left, 0.4), (anterior, 0.2)]


def _candidates(
    bone: Bone, plan: Plan, ends: Mask, diameter_mm: float, per_direction: int = 80
) -> _Candidates:
    """Places on the outer surface from which a straight hole leads into the room."""
    grid = bone.grid
    surface = bone.mesh.vertices[:: max(1, len(bone.mesh.vertices) // 20000)]
    normals = _smooth_normals(bone, surface)
    positions, directions, preference = [], [], []
    for direction, liking in _directions(plan.vertebra_frame):
        facing = surface[normals @ direction > 0.85]
        facing = facing[_away_from_channels(facing, plan, diameter_mm)]
        facing = facing[_clear_outside(bone, facing, direction, diameter_mm)]
        depths = np.arange(grid.step_mm, VENT_MAX_DEPTH_MM - 2.0, grid.step_mm)
        points = facing[:, None] - depths[None, :, None] * direction
        k, j, i = grid.indices_of(points.reshape(-1, 3)).T
        inside = ends[k, j, i].reshape(len(facing), len(depths))
        facing = facing[inside.any(axis=1)]
        chosen = _spread(facing, per_direction)
        positions.append(chosen)
        directions.append(np.tile(direction, (len(chosen), 1)))
        behind = (np.array(plan.body_centre) - chosen) @ np.array(plan.vertebra_frame.anterior) > BEHIND_MM
        preference.append(liking - 1.5 * behind)
    return _Candidates(np.concatenate(positions), np.concatenate(directions), np.concatenate(preference))


def _spread(points: Array, count: int) -> Array:
    """At most `count` points, far from each other (farthest-point sampling from the outermost one)."""
    if len(points) <= count:
        return points
    picked = [int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    gap = np.linalg.norm(points - points[picked[0]], axis=1)
    while len(picked) < count:
        picked.append(int(np.argmax(gap)))
        gap = np.minimum(gap, np.linalg.norm(points - points[picked[-1]], axis=1))
    return np.asarray(points[picked])


def _smooth_normals(bone: Bone, points: Array, reach_mm: float = 1.2) -> Array:
    """Outward normals from differences of the distance over a few voxels, so that rough bone does not matter."""
    steps = np.eye(3) * reach_mm
    gradient = np.stack([_sample(bone, points + s) - _sample(bone, points - s) for s in steps], axis=1)
    return np.asarray(gradient / np.maximum(np.linalg.norm(gradient, axis=1), 1e-9)[:, None])


def _sample(bone: Bone, points: Array) -> Array:
    kji = ((points - bone.grid.origin) / bone.grid.step_mm)[:, ::-1].T
    return np.asarray(
        ndimage.map_coordinates(bone.field, kji, order=1, mode="constant", cval=10.0, output=np.float64)
    )


def _away_from_channels(points: Array, plan: Plan, diameter_mm: float) -> Mask:
    reach = (
        plan.model.channel_diameter_mm / 2 + plan.model.sleeve_wall_mm + diameter_mm / 2 + VENT_KEEP_OUT_MM
    )
    keep = np.ones(len(points), dtype=bool)
    for path in plan.trajectories:
        entry, target = np.array(path.entry), np.array(path.target)
        back = entry - 15.0 * (target - entry) / np.linalg.norm(target - entry)
        keep &= segment_distance(points, back, target) > reach
    return keep


def _clear_outside(bone: Bone, points: Array, direction: Array, diameter_mm: float) -> Mask:
    """Whether the way out of the hole is free for 40 mm."""
    keep = np.ones(len(points), dtype=bool)
    for away in (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 13.0, 16.0, 20.0, 24.0, 28.0, 32.0, 36.0, 40.0):
        keep &= _sample(bone, points + away * direction) > min(0.5 * away, diameter_mm / 2.0)
    return keep


def tip_slots(
    path: Trajectory, plan: Plan, room: Mask, grid: Grid, *, diameter_mm: float
) -> tuple[Primitive, ...]:
    """Up to two holes through the sleeve just before the tip, so that the channel is no dead end for gas.

    Looks from the tip backwards for the first place where a hole square to the channel comes out in the room.
    The tip itself stays closed: its flat end is the planned depth.
    """
    entry, target = np.array(path.entry), np.array(path.target)
    axis = (target - entry) / np.linalg.norm(target - entry)
    side = np.cross(axis, np.array(plan.vertebra_frame.left))
    side /= np.linalg.norm(side)
    across = np.cross(axis, side)
    angles = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    around = np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * across
    sleeve = plan.model.channel_diameter_mm / 2 + plan.model.sleeve_wall_mm
    lengths = np.arange(sleeve, sleeve + 4.0, grid.step_mm / 2.0)
    for setback in np.arange(
        diameter_mm / 2 + 0.8, min(14.0, 0.5 * float(np.linalg.norm(target - entry))), 1.0
    ):
        centre = target - setback * axis
        points = centre + lengths[None, :, None] * around[:, None]
        k, j, i = grid.indices_of(points.reshape(-1, 3)).T
        inside = room[k, j, i].reshape(len(angles), len(lengths))
        if not inside.any():
            continue
        reach = np.where(inside.any(axis=1), lengths[np.argmax(inside, axis=1)], np.inf)
        both = reach + np.roll(reach, -8)
        first = int(np.argmin(both)) if np.isfinite(both).any() else int(np.argmin(reach))
        picks = [first, (first + 8) % 16] if np.isfinite(both[first]) else [first]
        return tuple(
            cylinder(centre, centre + (reach[p] + 0.4) * around[p], diameter_mm / 2.0) for p in picks
        )
    return ()


def require_on_surface(bone: Bone, vents: tuple[Vent, ...]) -> None:
    """Refuse given vents that do not begin on the outer surface."""
    for number, vent in enumerate(vents, start=1):
        off = float(_sample(bone, np.array([vent.position]))[0])
        if abs(off) > VENT_OFF_SURFACE_MM:
            raise GeometryError(
                f"Vent {number} of the plan begins {'inside' if off < 0 else 'outside'} the bone, more than "
                f"{VENT_OFF_SURFACE_MM:g} mm from its outer surface.",
                next_step="Place this vent on the outer surface, or leave `vents` empty and let them be chosen.",
                code="geometry.vent",
                details={"vent": number, "to_surface_mm": round(off, 2)},
            )


def refuse_useless_vent(number: int) -> GeometryError:
    return GeometryError(
        f"Vent {number} of the plan does not lead into a hollow of the model.",
        next_step="Move this vent, or leave `vents` empty and let them be chosen.",
        code="geometry.vent",
        details={"vent": number},
    )
