"""Clearance of planned needle paths in the true bone, and the best that any allowed path could have."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from bench.model.studies import Array
from service.geometry.anatomy import Isolation, Pedicle
from service.geometry.trajectories import PlanningLimits, pedicle_section, plan_trajectories, wanted_target
from service.geometry.volume import Volume
from simulators.phantom.anatomy import PhantomParameters
from simulators.phantom.distance import TrueDistance


def path_figures(found: Isolation, parameters: PhantomParameters) -> list[dict[str, Any]]:
    """For each planned path: its clearance in the true pedicle and the best one by trying every line."""
    limits = PlanningLimits()
    planned = plan_trajectories(found.outer, found.landmarks, limits=limits)
    rows = []
    for path in planned.trajectories:
        pedicle = next(p for p in found.landmarks.pedicles if p.side == path.pedicle)
        section = pedicle_section(
            found.landmarks, pedicle, np.array(path.entry), np.array(path.target), limits
        )
        true = -_distance(section, parameters)(section)
        rows.append(
            {
                "side": path.pedicle,
                "planned_mm": round(path.clearance_mm, 3),
                "true_mm": round(float(true.min()), 3),
                "best_mm": round(best_clearance(found, pedicle, parameters, limits), 3),
                "needle_mm": limits.needle_radius_mm,
            }
        )
    return rows


def best_clearance(
    found: Isolation, pedicle: Pedicle, parameters: PhantomParameters, limits: PlanningLimits
) -> float:
    """Largest clearance in the true bone over a dense grid of angles and tips within the limits, mm."""
    bone = _true_field(pedicle, parameters)
    frame = found.landmarks.frame
    basis = np.array([frame.left, frame.anterior, frame.superior], dtype=np.float64)
    ticks = np.linspace(-limits.target_tolerance_mm, limits.target_tolerance_mm, 9)
    offsets = np.array(
        [o for o in product(ticks, repeat=3) if np.linalg.norm(o) <= limits.target_tolerance_mm + 1e-9]
    )
    tips = wanted_target(found.outer, found.landmarks, limits.target) + offsets @ basis
    tips = tips[found.outer.sample(tips, outside=8.0) < -limits.min_tip_depth_mm]
    best = 0.0
    sideways = -1.0 if pedicle.side == "left" else 1.0
    for sagittal in np.arange(limits.sagittal_deg[0], limits.sagittal_deg[1] + 0.1, 1.5):
        for transverse in np.arange(limits.transverse_deg[0], limits.transverse_deg[1] + 0.1, 1.0):
            local = np.array([sideways * np.tan(np.radians(transverse)), 1.0, -np.tan(np.radians(sagittal))])
            direction = (local / np.linalg.norm(local)) @ basis
            best = max(best, _best_of(bone, tips, direction, basis[1], pedicle.centre, limits))
    return best


def _best_of(
    bone: Volume, tips: Array, direction: Array, anterior: Array, isthmus: Array, limits: PlanningLimits
) -> float:
    forward = float(direction @ anterior)
    back = ((tips - isthmus) @ anterior / forward)[:, None]
    along = np.linspace(-limits.section_half_mm, limits.section_half_mm, 13) / forward
    points = tips[:, None] - (back + along[None])[..., None] * direction
    depth = -bone.sample(points.reshape(-1, 3), outside=8.0).reshape(back.shape[0], len(along))
    return float(depth.min(axis=1).max())


def _true_field(pedicle: Pedicle, parameters: PhantomParameters, half_mm: float = 14.0) -> Volume:
    """The true signed distance around one pedicle on a 0.5 mm grid."""
    step = 0.5
    ticks = np.arange(-half_mm, half_mm + step / 2, step)
    z, y, x = np.meshgrid(ticks, ticks, ticks, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1) + pedicle.centre
    values = _distance(points, parameters)(points).reshape(z.shape).astype(np.float32)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = pedicle.centre - half_mm
    return Volume(values, affine)


def _distance(points: Array, parameters: PhantomParameters) -> TrueDistance:
    return TrueDistance(parameters.level, points.min(axis=0) - 8.0, points.max(axis=0) + 8.0, parameters)
