"""Needle paths given from outside: measured anew, refused where no needle may go, the rest said in words.

What the planner never proposes is refused where it would harm: a path that is not the pedicle's own, leaves
the bone in the pedicle or towards the canal, comes out of the canal, or ends outside. The rest (angles, margin,
tip, entry, a gap on the way behind the pedicle) is a sentence for the person who approves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Trajectory, Vec3
from service.errors import GeometryError
from service.geometry.anatomy import Landmarks, Pedicle
from service.geometry.trajectories import PlanningLimits, Side, measured_path, unmet_reasons
from service.geometry.volume import Volume

Array = NDArray[np.float64]

_STEP_MM = 0.25
_FAR_MM = 8.0
"""Beyond the reach of the distance's own band."""
_GAP_MM = 1.0
"""A shorter stretch outside is the surface's own error, no way through air or canal."""
_CANAL_HALF_DEPTH_MM = 10.0
"""Half of a wide canal from front to back (15 to 20 mm in adults)."""
_ENTRY_MM = 1.5
"""About what a click on the surface can be off."""
_BEHIND_MM = 40.0
"""How far the needle's way to the bone is looked at: past the canal and the arch."""


def check_trajectory(
    outer: Volume,
    landmarks: Landmarks,
    side: Side,
    entry: Vec3,
    target: Vec3,
    *,
    limits: PlanningLimits | None = None,
) -> tuple[Trajectory, tuple[str, ...]]:
    """A path given from outside with its angles and clearance measured anew, and what it does not keep.

    Raises
    ------
    GeometryError
        `geometry.pedicle`, `geometry.path_side`, `geometry.path_outside`: no needle may go there.
    """
    use = limits or PlanningLimits()
    pedicle = next((p for p in landmarks.pedicles if p.side == side), None)
    if pedicle is None:
        raise GeometryError(
            f"The {side} pedicle was not found, so a path through it cannot be checked.",
            next_step="Look at the isolated bone, or use the other pedicle.",
            code="geometry.pedicle",
        )
    start, end = np.array(entry, dtype=np.float64), np.array(target, dtype=np.float64)
    _require_own_pedicle(landmarks, pedicle, start, end)
    surface = _comes_in_at(outer, start, end)
    path = measured_path(outer, landmarks, pedicle, start, end, use, surface=surface)
    _require_in_bone(outer, landmarks, pedicle, path)
    reasons = unmet_reasons(outer, landmarks, path, limits=use)
    return path, (*reasons, *_entry_reasons(outer, path), *_gap_reasons(outer, path))


def _require_own_pedicle(landmarks: Landmarks, pedicle: Pedicle, entry: Array, target: Array) -> None:
    """Refuse a path that does not cross the isthmus's plane from the back, or crosses it nearer to the other one."""
    forward = np.asarray(landmarks.frame.anterior, dtype=np.float64)
    behind, ahead = ((point - pedicle.centre) @ forward for point in (entry, target))
    if behind >= 0 or ahead <= 0:
        raise GeometryError(
            f"The path named {pedicle.side} does not pass its pedicle from the back to the front.",
            next_step="Give the entry on the bone's surface behind the pedicle, and the target in the body.",
            code="geometry.path_side",
        )
    crossing = entry + behind / (behind - ahead) * (target - entry)
    nearest = min(landmarks.pedicles, key=lambda p: float(np.linalg.norm(crossing - p.centre)))
    if nearest.side != pedicle.side:
        raise GeometryError(
            f"The path named {pedicle.side} runs on the side of the {nearest.side} pedicle.",
            next_step=f"Name it {nearest.side}, or move it to the {pedicle.side} pedicle (left is the patient's left).",
            code="geometry.path_side",
        )


def _require_in_bone(outer: Volume, landmarks: Landmarks, pedicle: Pedicle, path: Trajectory) -> None:
    where = None
    if path.clearance_mm <= 0:
        where = "leaves the bone beside the pedicle's isthmus, where the canal and the nerve roots are"
    elif float(outer.sample(np.array([path.target]), outside=_FAR_MM)[0]) >= 0:
        where = "ends outside the bone"
    elif len(_in_canal(landmarks, pedicle, _outside_again(outer, path))):
        where = "runs through the spinal canal"
    elif len(_in_canal(landmarks, pedicle, _outside_before(outer, path))) * _STEP_MM > _GAP_MM:
        where = "comes through the spinal canal before it reaches its entry"
    if where:
        raise GeometryError(
            f"The {path.pedicle} path {where}.",
            next_step="Move entry or target so that the path stays in bone, or let the paths be planned.",
            code="geometry.path_outside",
            details={"clearance_mm": round(path.clearance_mm, 2)},
        )


def _off_surface(outer: Volume, entry: Array, target: Array) -> tuple[float, bool]:
    """How far the entry lies from the surface, mm along the path, and whether it lies inside the bone."""
    length = float(np.linalg.norm(target - entry))
    forward = (target - entry) / length
    inside = float(outer.sample(entry[None], outside=_FAR_MM)[0]) < 0
    # Along the path, as the needle goes: back to the surface from within, forward to it from outside.
    steps = np.arange(0.0, length + 30.0, _STEP_MM)
    places = entry + np.outer(steps, -forward if inside else forward)
    crossed = (outer.sample(places, outside=_FAR_MM) < 0) != inside
    return float(steps[int(np.argmax(crossed))]) if crossed.any() else float(steps[-1]), inside


def _comes_in_at(outer: Volume, entry: Array, target: Array) -> Array:
    """Where the needle's line comes into the bone behind an entry that lies inside it; else the entry.

    What is measured must not begin at such an entry: the needle passes the pedicle behind it as well.
    """
    off, inside = _off_surface(outer, entry, target)
    # Within a step it is an entry on the surface, which is measured as the planner measures it.
    if not inside or off <= _STEP_MM:
        return entry
    return np.asarray(entry - off * (target - entry) / np.linalg.norm(target - entry))


def _outside_before(outer: Volume, path: Trajectory) -> Array:
    """(N, 3) points outside the bone on the needle's way to it, one every step: behind it and up to it."""
    entry, target = np.array(path.entry), np.array(path.target)
    forward = (target - entry) / np.linalg.norm(target - entry)
    off, inside = _off_surface(outer, entry, target)
    first_in_bone = -off if inside else off
    points = entry + np.outer(np.arange(first_in_bone - _BEHIND_MM, first_in_bone, _STEP_MM), forward)
    return np.asarray(points[outer.sample(points, outside=_FAR_MM) >= 0])


def _outside_again(outer: Volume, path: Trajectory) -> Array:
    """(N, 3) points of the path outside the bone after it first entered it, one every step."""
    entry, target = np.array(path.entry), np.array(path.target)
    points = np.linspace(entry, target, max(2, int(np.linalg.norm(target - entry) / _STEP_MM) + 1))
    inside = outer.sample(points, outside=_FAR_MM) < 0
    inside[: int(np.argmax(inside))] = True
    return np.asarray(points[~inside])


def _in_canal(landmarks: Landmarks, pedicle: Pedicle, points: Array) -> Array:
    """Those of the points (N, 3), all outside the bone, that lie between the pedicles beside the canal's middle."""
    left, forward = (
        np.asarray(a, dtype=np.float64) for a in (landmarks.frame.left, landmarks.frame.anterior)
    )
    half_width = abs(float((pedicle.centre - landmarks.canal_centre) @ left)) - pedicle.width_mm / 2
    off = points - landmarks.canal_centre
    return np.asarray(
        points[(np.abs(off @ left) < half_width) & (np.abs(off @ forward) < _CANAL_HALF_DEPTH_MM)]
    )


def _gap_reasons(outer: Volume, path: Trajectory) -> tuple[str, ...]:
    gap = len(_outside_again(outer, path)) * _STEP_MM
    if gap <= _GAP_MM:
        return ()
    return (f"{path.pedicle} path: it leaves the bone again for {gap:.1f} mm between entry and target.",)


def _entry_reasons(outer: Volume, path: Trajectory) -> tuple[str, ...]:
    """An entry that does not lie on the surface: the channel's mouth and the depth marked would be wrong."""
    off, inside = _off_surface(outer, np.array(path.entry), np.array(path.target))
    if off <= _ENTRY_MM:
        return ()
    where = "inside the bone" if inside else "outside the bone"
    return (
        f"{path.pedicle} path: the entry lies {off:.0f} mm {where}, measured along the path, and not on its surface.",
    )
