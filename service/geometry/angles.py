"""Angles, distances and grades of needle paths and endplates, as pure functions.

Definitions: facts sheet (clinical facts, section 3). All points are patient LPS in mm; the anatomical frame
is `VertebraFrame` with unit axes `left`, `anterior`, `superior`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.domain.plan import VertebraFrame
from service.errors import GeometryError

Array = NDArray[np.float64]
BreachGrade = Literal["A", "B", "C", "D", "E"]

#: Upper limits (mm, exclusive) of the Gertzbein-Robbins grades B, C and D; A is no breach, E the rest.
GERTZBEIN_ROBBINS_MM: tuple[tuple[BreachGrade, float], ...] = (("B", 2.0), ("C", 4.0), ("D", 6.0))

#: Below this a recovered share of height has no meaning (facts sheet, section 3).
MIN_LOST_HEIGHT_MM = 2.0


@dataclass(frozen=True)
class PathAngles:
    """Direction of a path in the vertebral frame, degrees."""

    sagittal_deg: float
    """Positive when the path runs caudally from back to front."""
    transverse_deg: float
    """Positive when the path runs towards the midline (medially)."""
    to_midsagittal_deg: float
    """Unsigned angle between the path and the mid-sagittal plane."""

    def as_tuple(self) -> tuple[float, float, float]:
        return self.sagittal_deg, self.transverse_deg, self.to_midsagittal_deg


def unit(vector: ArrayLike) -> Array:
    """(3,) -> (3,) of length 1. Raises `GeometryError` when the vector has no length."""
    v = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(v))
    if not math.isfinite(length) or length < 1e-9:
        raise GeometryError(
            "A direction has no length, so no angle can be given.",
            next_step="Check that entry and target are two different points.",
            code="geometry.direction",
        )
    return np.asarray(v / length, dtype=np.float64)


def frame_axes(left_hint: ArrayLike, superior: ArrayLike) -> tuple[Array, Array, Array]:
    """(left, anterior, superior) unit axes from the head direction and an approximate left direction.

    `superior` is kept, `left_hint` is made perpendicular to it, `anterior = cross(left, superior)`.
    """
    e_s = unit(superior)
    hint = np.asarray(left_hint, dtype=np.float64)
    e_l = unit(hint - (hint @ e_s) * e_s)
    return e_l, np.asarray(np.cross(e_l, e_s), dtype=np.float64), e_s


def angles(
    frame: VertebraFrame, entry: ArrayLike, target: ArrayLike, pedicle: Literal["left", "right"]
) -> tuple[float, float, float]:
    """(sagittal_deg, transverse_deg, to_midsagittal_deg) of the path entry -> target; see `PathAngles`."""
    return direction_angles(frame, np.asarray(target) - np.asarray(entry), pedicle).as_tuple()


def direction_angles(
    frame: VertebraFrame, direction: ArrayLike, pedicle: Literal["left", "right"]
) -> PathAngles:
    """Angles of a direction (3,) LPS pointing from the entry to the tip."""
    d = unit(direction)
    a, lateral, s = (
        float(d @ np.asarray(axis, dtype=np.float64)) for axis in (frame.anterior, frame.left, frame.superior)
    )
    medial = -lateral if pedicle == "left" else lateral
    return PathAngles(
        sagittal_deg=math.degrees(math.atan2(-s, a)),
        transverse_deg=math.degrees(math.atan2(medial, a)),
        to_midsagittal_deg=math.degrees(math.asin(min(1.0, abs(lateral)))),
    )


def direction_from_angles(
    frame: VertebraFrame, sagittal_deg: float, transverse_deg: float, pedicle: Literal["left", "right"]
) -> Array:
    """Unit direction (3,) LPS whose `direction_angles` are these; the inverse for |angles| < 90 degrees."""
    medial = math.tan(math.radians(transverse_deg))
    lateral = -medial if pedicle == "left" else medial
    return unit(
        np.asarray(frame.anterior, dtype=np.float64)
        + lateral * np.asarray(frame.left, dtype=np.float64)
        - math.tan(math.radians(sagittal_deg)) * np.asarray(frame.superior, dtype=np.float64)
    )


def angle_between_deg(planned_direction: ArrayLike, actual_direction: ArrayLike) -> float:
    """Total angle between two axes, degrees, 0..180."""
    p, a = unit(planned_direction), unit(actual_direction)
    # atan2 of |p x a| keeps its precision near zero, where acos of the dot product loses half its digits.
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(p, a))), float(p @ a)))


def depth_and_lateral(
    planned_tip: ArrayLike, actual_tip: ArrayLike, planned_direction: ArrayLike
) -> tuple[float, float]:
    """(depth_mm, lateral_mm) of the actual tip relative to the planned one.

    Depth is signed along the planned direction (positive: too deep), lateral is the distance beside the axis.
    """
    d = unit(planned_direction)
    offset = np.asarray(actual_tip, dtype=np.float64) - np.asarray(planned_tip, dtype=np.float64)
    depth = float(offset @ d)
    return depth, float(np.linalg.norm(offset - depth * d))


def breach_mm(inside_distance_mm: ArrayLike, radius_mm: float) -> float:
    """How far a rod of `radius_mm` leaves the bone along its pedicle section.

    `inside_distance_mm` (N,): distance from points of the axis to the outer bone surface, positive inside.
    """
    inside = np.asarray(inside_distance_mm, dtype=np.float64)
    if inside.size == 0:
        raise GeometryError(
            "The path has no section inside the pedicle, so no breach can be measured.",
            next_step="Check that the path belongs to this pedicle.",
            code="geometry.breach",
        )
    return max(0.0, float(np.max(radius_mm - inside)))


def breach_grade(breach: float, *, tolerance_mm: float = 1e-6) -> BreachGrade:
    """Gertzbein-Robbins grade of a breach in mm: A none, B < 2, C < 4, D < 6, E from 6 mm."""
    if breach <= tolerance_mm:
        return "A"
    return next((grade for grade, limit in GERTZBEIN_ROBBINS_MM if breach < limit), "E")


def plane_tilt_deg(frame: VertebraFrame, normal: ArrayLike) -> float:
    """Tilt of an endplate normal in the sagittal plane, degrees, positive forward."""
    n = np.asarray(normal, dtype=np.float64)
    return math.degrees(
        math.atan2(float(n @ np.asarray(frame.anterior)), float(n @ np.asarray(frame.superior)))
    )


def cobb_deg(frame: VertebraFrame, upper_normal_above: ArrayLike, lower_normal_below: ArrayLike) -> float:
    """Sagittal Cobb angle, kyphosis positive.

    `upper_normal_above`: normal of the upper endplate of the level above; `lower_normal_below`: normal of the
    lower endplate of the level below; both point to the head.
    """
    return plane_tilt_deg(frame, upper_normal_above) - plane_tilt_deg(frame, lower_normal_below)


def recovery_percent(pre_mm: float, post_mm: float, normal_mm: float) -> float | None:
    """Regained share of the lost height (or angle); None when less than 2 mm was lost."""
    if normal_mm - pre_mm < MIN_LOST_HEIGHT_MM:
        return None
    return 100.0 * (post_mm - pre_mm) / (normal_mm - pre_mm)


def point_to_axis_mm(points: ArrayLike, origin: ArrayLike, direction: ArrayLike) -> Array:
    """(N,) distances of (N, 3) points from the infinite line through `origin` along `direction`."""
    d = unit(direction)
    offset = np.atleast_2d(np.asarray(points, dtype=np.float64)) - np.asarray(origin, dtype=np.float64)
    return np.asarray(np.linalg.norm(offset - np.outer(offset @ d, d), axis=1))


def mean_axis(directions: Sequence[ArrayLike]) -> Array:
    """Unit mean of unit directions (3,), as used for the superior axis from two endplate normals."""
    return unit(np.sum([unit(d) for d in directions], axis=0))
