"""The figures of one needle against its plan, in the planning CT's frame (LPS mm).

Definitions: facts sheet, section 3, and clinical report, section 2; the pure formulas live in
`service.geometry.angles`. Bone is always that of the planning CT: beside metal the O-arm's own is not usable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.domain.plan import Pedicle, Plan, Trajectory, VertebraFrame
from service.geometry import angles
from service.geometry.volume import Volume

Array = NDArray[np.float64]
BreachDirection = Literal["medial", "lateral", "superior", "inferior"]

#: Steps along a needle when it is followed through bone.
STEP_MM = 0.1
#: Length of the pedicle behind the posterior wall over which the wall is watched. Proposal: the narrow part of
#: T11-L5 pedicles is shorter; further back the needle is in the arch, where grazing the cortex is the entry.
PEDICLE_MM = 10.0


@dataclass(frozen=True)
class Breach:
    """`mm` out of the pedicle (0 = none), its Gertzbein-Robbins grade and where; `margin_mm` bone left over.

    `margin_mm` is negative exactly by `mm` when there is a breach.
    """

    grade: str
    mm: float
    direction: BreachDirection | None
    margin_mm: float


@dataclass(frozen=True, eq=False)
class NeedleFigures:
    pedicle: Pedicle
    planned: bool
    tip: Array
    axis: Array
    entry: Array | None
    tip_to_target_mm: float | None
    tip_to_body_centre_mm: float
    lateral_mm: float | None
    depth_mm: float | None
    entry_deviation_mm: float | None
    sagittal_deg: float
    transverse_deg: float
    sagittal_deviation_deg: float | None
    transverse_deviation_deg: float | None
    angle_deg: float | None
    breach: Breach | None


def outer_from_mask(mask: Volume, *, grid_mm: float = 0.6, margin_mm: float = 8.0) -> Volume:
    """Signed distance (mm, negative inside) to the mask's surface on an isotropic LPS-parallel grid.

    Good to about half a voxel of the mask; prefer the isolation's own `outer` when it exists.
    """
    inside = np.argwhere(mask.values > 0)
    lps = mask.to_lps(inside[:, ::-1])
    low, high = lps.min(axis=0) - margin_mm, lps.max(axis=0) + margin_mm
    ni, nj, nk = (int(n) + 1 for n in np.ceil((high - low) / grid_mm))
    corner = np.maximum(inside.min(axis=0) - 12, 0)
    stop = inside.max(axis=0) + 13
    crop = mask.crop(tuple(int(v) for v in corner[::-1]), tuple(int(v) for v in stop[::-1]))  # type: ignore[arg-type]
    # A field with a slope at the boundary resamples to sub-voxel surfaces; a mask resamples to stairs.
    signed = signed_distance(crop.values > 0, crop.spacing_mm)
    smooth = ndimage.gaussian_filter(signed, [0.5 * grid_mm / s for s in crop.spacing_mm[::-1]])
    field = Volume(smooth, crop.lps_from_ijk).resampled(low, np.eye(3) * grid_mm, (nk, nj, ni), outside=20.0)
    refined = signed_distance(field.values < 0, (grid_mm, grid_mm, grid_mm))
    # Near the surface keep the smooth field; far away the true distance on the fine grid.
    near = np.abs(field.values) < 1.0
    values = np.where(near, field.values, refined).astype(np.float32)
    return Volume(values, field.lps_from_ijk, mask.frame_of_reference_uid)


def signed_distance(
    inside: NDArray[np.bool_], spacing_ijk: tuple[float, float, float]
) -> NDArray[np.float32]:
    """(K, J, I) distance to the boundary between voxels, mm, negative inside."""
    sampling = spacing_ijk[::-1]
    out = ndimage.distance_transform_edt(~inside, sampling)
    within = ndimage.distance_transform_edt(inside, sampling)
    half = 0.5 * min(sampling)
    return np.asarray(np.where(inside, -(within - half), out - half), dtype=np.float32)


def first_crossing(outer: Volume, tip: Array, axis: Array, *, reach_mm: float = 120.0) -> Array | None:
    """Where a needle coming from outside first meets the bone's outer surface; None when it never does.

    `axis` (3,) is the unit direction towards the tip.
    """
    s = np.arange(-reach_mm, STEP_MM / 2, STEP_MM)
    depth = outer.sample(tip + s[:, None] * axis, outside=10.0)
    inside = np.flatnonzero(depth < 0)
    if inside.size == 0:
        return None
    first = int(inside[0])
    if first == 0:
        return np.asarray(tip + s[0] * axis)
    part = depth[first - 1] / (depth[first - 1] - depth[first])
    return np.asarray(tip + (s[first - 1] + part * STEP_MM) * axis)


def posterior_wall_mm(outer: Volume, plan: Plan) -> float:
    """Distance along anterior from the body centre back to the posterior wall (negative), mm.

    Behind the middle of the body lies the canal, so the first exit on the way back is the wall.
    """
    anterior = np.asarray(plan.vertebra_frame.anterior)
    s = np.arange(0.0, -40.0, -STEP_MM)
    depth = outer.sample(np.asarray(plan.body_centre) + s[:, None] * anterior, outside=10.0)
    out = np.flatnonzero(depth > 0)
    return float(s[out[0]]) if out.size else -18.0


def pedicle_breach(
    outer: Volume,
    plan: Plan,
    entry: Array,
    tip: Array,
    axis: Array,
    radius_mm: float,
    side: Pedicle,
    bone_edge_mm: float = 0.0,
) -> Breach | None:
    """Breach of the pedicle wall; None when the needle has not reached the pedicle.

    The bone's edge lies `bone_edge_mm` inside the surface of `outer`.

    Watched from `PEDICLE_MM` behind the posterior wall (but not nearer to the entry than the needle's own
    width, where leaving the cortex is the entry itself) to the wall or the tip.
    """
    anterior = np.asarray(plan.vertebra_frame.anterior)
    wall = posterior_wall_mm(outer, plan)
    length = float((tip - entry) @ axis)
    s = np.arange(0.0, max(length, 0.0) + STEP_MM, STEP_MM)
    points = entry + s[:, None] * axis
    forward = (points - np.asarray(plan.body_centre)) @ anterior
    watched = (forward >= wall - PEDICLE_MM) & (forward <= wall) & (s >= 2 * radius_mm)
    if not watched.any():
        return None
    watched_points = points[watched]
    inside = -outer.sample(watched_points, outside=10.0) - bone_edge_mm
    mm = angles.breach_mm(inside, radius_mm)
    worst = watched_points[int(np.argmin(inside))]
    return Breach(
        angles.breach_grade(mm),
        mm,
        _direction(outer, worst, plan.vertebra_frame, side),
        float(inside.min() - radius_mm),
    )


def _direction(outer: Volume, point: Array, frame: VertebraFrame, side: Pedicle) -> BreachDirection:
    steps = np.eye(3) * 0.6
    out = outer.sample(point + steps, outside=10.0) - outer.sample(point - steps, outside=10.0)
    left, up = float(out @ np.asarray(frame.left)), float(out @ np.asarray(frame.superior))
    if abs(up) > abs(left):
        return "superior" if up > 0 else "inferior"
    outwards = left > 0 if side == "left" else left < 0
    return "lateral" if outwards else "medial"


def side_of(plan: Plan, tip: Array, axis: Array) -> Pedicle:
    """The pedicle a needle goes through: where its axis passes the height of the posterior wall."""
    frame = plan.vertebra_frame
    left, anterior = np.asarray(frame.left), np.asarray(frame.anterior)
    centre = np.asarray(plan.body_centre)
    forward = float(axis @ anterior)
    # 20 mm behind the centre is about the back of the pedicle; a needle never runs along the canal there.
    s = (-20.0 - float((tip - centre) @ anterior)) / forward if abs(forward) > 0.2 else -25.0
    return "left" if float((tip + s * axis - centre) @ left) > 0 else "right"


def measure(
    plan: Plan,
    outer: Volume,
    tip: Array,
    axis: Array,
    side: Pedicle,
    radius_mm: float,
    bone_edge_mm: float = 0.0,
) -> NeedleFigures:
    """All figures of one needle. `tip`, `axis` (3,) in the planning frame, axis unit and towards the tip.

    `bone_edge_mm` is how far inside the surface of `outer` the bone's edge lies; part of the breach only.
    """
    frame = plan.vertebra_frame
    planned = plan.trajectory(side)
    entry = first_crossing(outer, tip, axis)
    actual = angles.direction_angles(frame, axis, side)
    breach = (
        None
        if entry is None
        else pedicle_breach(outer, plan, entry, tip, axis, radius_mm, side, bone_edge_mm)
    )
    relative = _against_plan(planned, tip, axis, entry)
    wanted = None
    if planned is not None:
        direction = np.subtract(planned.target, planned.entry)
        wanted = angles.direction_angles(frame, direction, side)
    return NeedleFigures(
        pedicle=side,
        planned=planned is not None,
        tip=tip,
        axis=axis,
        entry=entry,
        tip_to_body_centre_mm=float(np.linalg.norm(tip - np.asarray(plan.body_centre))),
        sagittal_deg=actual.sagittal_deg,
        transverse_deg=actual.transverse_deg,
        sagittal_deviation_deg=None if wanted is None else actual.sagittal_deg - wanted.sagittal_deg,
        transverse_deviation_deg=None if wanted is None else actual.transverse_deg - wanted.transverse_deg,
        breach=breach,
        tip_to_target_mm=relative[0],
        depth_mm=relative[1],
        lateral_mm=relative[2],
        entry_deviation_mm=relative[3],
        angle_deg=relative[4],
    )


def _against_plan(
    planned: Trajectory | None, tip: Array, axis: Array, entry: Array | None
) -> tuple[float | None, float | None, float | None, float | None, float | None]:
    """(tip_to_target, depth, lateral, entry_deviation, angle); None without a planned path."""
    if planned is None:
        return None, None, None, None, None
    target, start = np.asarray(planned.target), np.asarray(planned.entry)
    depth, lateral = angles.depth_and_lateral(target, tip, target - start)
    return (
        float(np.linalg.norm(tip - target)),
        depth,
        lateral,
        None if entry is None else float(np.linalg.norm(entry - start)),
        angles.angle_between_deg(target - start, axis),
    )
