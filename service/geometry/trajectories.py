"""Needle paths through the pedicles into the vertebral body.

Clearance is the smallest distance from the path's axis to the outer bone surface within the pedicle section;
the needle's radius is *not* subtracted. The pedicle section is the part of the path within
`section_half_mm` of the isthmus, measured along the frame's anterior axis, and at least
`section_from_entry_mm` beyond the entry, where the bone surface is near by nature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from service.domain.plan import Trajectory
from service.geometry.anatomy import Landmarks, Pedicle
from service.geometry.angles import angle_between_deg, angles, direction_from_angles, unit
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Side = Literal["left", "right"]


@dataclass(frozen=True)
class PlanningLimits:
    """What a path has to keep. Angle ranges and needle: facts sheet, section 1 (13 G, 2.413 mm)."""

    sagittal_deg: tuple[float, float] = (0.0, 15.0)
    transverse_deg: tuple[float, float] = (10.0, 30.0)
    needle_radius_mm: float = 1.2065
    target: Literal["body_centre", "anterior_third"] = "body_centre"
    min_margin_mm: float = 1.0
    """Bone that must remain between needle and cortex in the pedicle (our proposal)."""
    target_tolerance_mm: float = 7.0
    """How far the tip may lie from the wanted target for the sake of clearance: wide pedicles in front of a
    shallow body cannot be passed towards its very centre within 30°."""
    offset_cost: float = 0.04
    """Clearance (mm) a tip must gain for each mm it moves away from the wanted target."""
    section_half_mm: float = 5.0
    section_from_entry_mm: float = 4.0
    min_tip_depth_mm: float = 4.0
    alternatives: int = 3
    alternative_spacing_deg: float = 4.0


@dataclass(frozen=True)
class PlanningResult:
    """Best path of each pedicle, other choices (best first), and what could not be met, in words."""

    trajectories: tuple[Trajectory, ...]
    alternatives: Mapping[str, tuple[Trajectory, ...]] = field(default_factory=dict)
    unmet: tuple[str, ...] = ()


def plan_trajectories(
    outer: Volume, landmarks: Landmarks, *, limits: PlanningLimits | None = None
) -> PlanningResult:
    """Best path through each pedicle within the limits; deterministic.

    `outer`: signed distance to the bone surface, mm, negative inside. A pedicle for which nothing usable
    exists is left out and named in `unmet`; a path that keeps less than the wanted margin is returned and
    named too.
    """
    use = limits or PlanningLimits()
    best: list[Trajectory] = []
    others: dict[str, tuple[Trajectory, ...]] = {}
    unmet: list[str] = []
    for side in ("left", "right"):
        pedicle = next((p for p in landmarks.pedicles if p.side == side), None)
        if pedicle is None:
            unmet.append(f"The {side} pedicle was not found, so no path was planned through it.")
            continue
        ranked = _ranked_paths(outer, landmarks, pedicle, use)
        if not ranked:
            unmet.append(
                f"No path through the {side} pedicle stays in bone from entry to target within sagittal "
                f"{_range(use.sagittal_deg)} and transverse {_range(use.transverse_deg)}."
            )
            continue
        best.append(ranked[0])
        others[side] = tuple(ranked[1:])
        unmet.extend(unmet_reasons(outer, landmarks, ranked[0], limits=use))
    return PlanningResult(tuple(best), others, tuple(unmet))


def unmet_reasons(
    outer: Volume, landmarks: Landmarks, trajectory: Trajectory, *, limits: PlanningLimits
) -> tuple[str, ...]:
    """What `trajectory` does not keep, in words; empty when all is kept."""
    reasons = []
    for name, value, (low, high) in (
        ("sagittal", trajectory.sagittal_deg, limits.sagittal_deg),
        ("transverse", trajectory.transverse_deg, limits.transverse_deg),
    ):
        if not low - 1e-6 <= value <= high + 1e-6:
            reasons.append(
                f"{trajectory.pedicle} path: {name} angle {value:.1f}° is outside {_range((low, high))}."
            )
    margin = trajectory.clearance_mm - limits.needle_radius_mm
    if margin < limits.min_margin_mm:
        reasons.append(
            f"{trajectory.pedicle} path: {margin:.1f} mm of bone remain beside the needle in the pedicle; "
            f"{limits.min_margin_mm:.1f} mm are wanted."
        )
    wanted = wanted_target(outer, landmarks, limits.target)
    offset = float(np.linalg.norm(np.array(trajectory.target) - wanted))
    if offset > limits.target_tolerance_mm + 0.05:
        reasons.append(f"{trajectory.pedicle} path: the tip lies {offset:.1f} mm from the wanted target.")
    if -float(outer.sample(np.array([trajectory.target]), outside=8.0)[0]) < limits.min_tip_depth_mm - 0.05:
        reasons.append(f"{trajectory.pedicle} path: the tip comes too near to the surface of the body.")
    return tuple(reasons)


def wanted_target(outer: Volume, landmarks: Landmarks, name: str) -> Array:
    """(3,) LPS: the body's centre, or the point of its midline one third of its depth from the front."""
    centre = np.asarray(landmarks.body_centre, dtype=np.float64)
    if name == "body_centre":
        return centre
    forward = np.asarray(landmarks.frame.anterior, dtype=np.float64)
    steps = np.arange(0.0, 40.0, 0.25)
    front = _first_outside(outer, centre + np.outer(steps, forward), steps)
    back = _first_outside(outer, centre - np.outer(steps, forward), steps)
    return np.asarray(centre + forward * (front - (front + back) / 3.0))


def pedicle_section(
    landmarks: Landmarks, pedicle: Pedicle, entry: Array, target: Array, limits: PlanningLimits
) -> Array:
    """(N, 3) LPS points of the path's axis within the pedicle section, 0.25 mm apart; may be empty."""
    length = float(np.linalg.norm(target - entry))
    steps = np.arange(min(limits.section_from_entry_mm, length), length, 0.25)
    points = entry + np.outer(steps, unit(target - entry))
    along = (points - pedicle.centre) @ np.asarray(landmarks.frame.anterior, dtype=np.float64)
    return np.asarray(points[np.abs(along) <= limits.section_half_mm])


def _first_outside(outer: Volume, points: Array, steps: Array) -> float:
    out = outer.sample(points, outside=8.0) > 0
    return float(steps[int(np.argmax(out))]) if out.any() else float(steps[-1])


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g}-{limits[1]:g}°"


def _ranked_paths(
    outer: Volume, landmarks: Landmarks, pedicle: Pedicle, use: PlanningLimits
) -> list[Trajectory]:
    search = _Search(outer, landmarks, pedicle, use)
    parameters, scores = search.grid()
    order = np.argsort(-scores, kind="stable")
    ranked: list[tuple[float, Trajectory]] = []
    tried: list[Array] = []
    for number in order:
        if scores[number] < -50 or len(ranked) > use.alternatives or len(tried) > 40:
            break
        start = parameters[number]
        if any(np.linalg.norm(start[:2] - t[:2]) < use.alternative_spacing_deg for t in tried):
            continue
        tried.append(start)
        found = search.refined(start)
        if found is not None and not any(_same_path(found[1], t, use) for _, t in ranked):
            ranked.append(found)
    ranked.sort(key=lambda item: -item[0])
    return [trajectory for _, trajectory in ranked]


def _same_path(one: Trajectory, other: Trajectory, use: PlanningLimits) -> bool:
    first, second = np.subtract(one.target, one.entry), np.subtract(other.target, other.entry)
    return angle_between_deg(first, second) < use.alternative_spacing_deg / 2


class _Search:
    """Lines by (sagittal, transverse, tip offset left/anterior/superior) through one pedicle."""

    def __init__(self, outer: Volume, landmarks: Landmarks, pedicle: Pedicle, use: PlanningLimits) -> None:
        self.outer, self.landmarks, self.pedicle, self.use = outer, landmarks, pedicle, use
        frame = landmarks.frame
        self.basis = np.array([frame.left, frame.anterior, frame.superior], dtype=np.float64)
        self.target = wanted_target(outer, landmarks, use.target)

    def grid(self) -> tuple[Array, Array]:
        """Every line of a regular grid and its score; lines that never lie deep in the pedicle score -99."""
        use = self.use
        sagittal = np.linspace(*use.sagittal_deg, 9)
        transverse = np.linspace(*use.transverse_deg, 13)
        reach = use.target_tolerance_mm
        ticks = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * reach
        offsets = np.array([o for o in product(ticks, ticks, ticks) if np.linalg.norm(o) <= reach + 1e-9])
        turns = np.array(list(product(sagittal, transverse)))
        parameters = np.hstack([np.repeat(turns, len(offsets), axis=0), np.tile(offsets, (len(turns), 1))])
        return parameters, self.scores(parameters)

    def directions(self, parameters: Array) -> Array:
        medial = np.tan(np.radians(parameters[:, 1]))
        lateral = -medial if self.pedicle.side == "left" else medial
        local = np.column_stack([lateral, np.ones(len(parameters)), -np.tan(np.radians(parameters[:, 0]))])
        return np.asarray((local / np.linalg.norm(local, axis=1, keepdims=True)) @ self.basis)

    def scores(self, parameters: Array) -> Array:
        use = self.use
        direction = self.directions(parameters)
        tip = self.target + parameters[:, 2:] @ self.basis
        forward = direction @ self.basis[1]
        # Distance back from the tip to the coronal plane of the isthmus, then the section around it.
        to_isthmus = (tip - self.pedicle.centre) @ self.basis[1] / forward
        along = np.linspace(-use.section_half_mm, use.section_half_mm, 11)
        back = to_isthmus[:, None] + along[None, :] / forward[:, None]
        points = tip[:, None, :] - back[:, :, None] * direction[:, None, :]
        depth = -self.outer.sample(points.reshape(-1, 3), outside=8.0).reshape(back.shape)
        clearance = depth.min(axis=1)
        tip_depth = -self.outer.sample(tip, outside=8.0)
        score = clearance - use.offset_cost * np.linalg.norm(parameters[:, 2:], axis=1)
        return np.where((clearance > 0.3) & (tip_depth > use.min_tip_depth_mm), score, -99.0)

    def refined(self, start: Array) -> tuple[float, Trajectory] | None:
        """Nelder-Mead around `start`, held inside the limits; None when the path leaves the bone."""
        low = np.array([self.use.sagittal_deg[0], self.use.transverse_deg[0]])
        high = np.array([self.use.sagittal_deg[1], self.use.transverse_deg[1]])

        def inside(p: Array) -> Array:
            out = p.copy()
            out[:2] = np.clip(out[:2], low, high)
            length = np.linalg.norm(out[2:])
            if length > self.use.target_tolerance_mm:
                out[2:] *= self.use.target_tolerance_mm / length
            return out

        def cost(p: Array) -> float:
            return -float(self.scores(inside(p)[None])[0])

        simplex = np.vstack([start, start + np.diag([1.0, 1.0, 0.7, 0.7, 0.7])])
        found = optimize.minimize(
            cost,
            start,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 0.02, "fatol": 0.005, "maxfev": 250},
        )
        for parameters in (inside(found.x), start):
            trajectory = self.trajectory(parameters)
            if trajectory is not None:
                return -cost(parameters), trajectory
        return None

    def trajectory(self, parameters: Array) -> Trajectory | None:
        direction = direction_from_angles(
            self.landmarks.frame, float(parameters[0]), float(parameters[1]), self.pedicle.side
        )
        tip = self.target + parameters[2:] @ self.basis
        entry = find_entry(self.outer, tip, direction)
        if entry is None:
            return None
        path = measured_path(self.outer, self.landmarks, self.pedicle, entry, tip, self.use)
        return path if path.clearance_mm > 0 else None


def find_entry(outer: Volume, target: Array, direction: Array, *, reach_mm: float = 90.0) -> Array | None:
    """First crossing of the bone surface from behind on the line through `target`; None when the line leaves
    the bone again before the target (it would pass through air or another process)."""
    steps = np.arange(0.0, reach_mm, 0.25)
    depth = outer.sample(target - np.outer(steps, direction), outside=8.0)
    if depth[0] >= 0:
        return None
    leaves = int(np.argmax(depth >= 0)) if (depth >= 0).any() else 0
    if leaves == 0 or (depth[leaves:] < 0).any():
        return None
    share = depth[leaves - 1] / (depth[leaves - 1] - depth[leaves])
    return np.asarray(target - (steps[leaves - 1] + 0.25 * share) * direction)


def measured_path(
    outer: Volume,
    landmarks: Landmarks,
    pedicle: Pedicle,
    entry: Array,
    target: Array,
    use: PlanningLimits,
    *,
    surface: Array | None = None,
) -> Trajectory:
    """The path with its angles and its clearance in the pedicle.

    surface : where the path comes into the bone, when that is not its entry.
    """
    section = pedicle_section(landmarks, pedicle, entry if surface is None else surface, target, use)
    clearance = float(-outer.sample(section, outside=8.0).max()) if len(section) else -8.0
    sagittal, transverse, _ = angles(landmarks.frame, entry, target, pedicle.side)
    start, end = ((float(p[0]), float(p[1]), float(p[2])) for p in (entry, target))
    return Trajectory(pedicle.side, start, end, sagittal, transverse, clearance)
