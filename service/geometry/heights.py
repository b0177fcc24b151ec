"""Height of a vertebral body at its front, middle and back, from its filled mask (planning CT frame)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BodyHeights:
    """Heights in mm along the superior axis in a mid-sagittal slab."""

    anterior: float
    middle: float
    posterior: float


def body_heights(outer: Volume, plan: Plan, *, slab_mm: float = 6.0) -> BodyHeights | None:
    """Heights at 10, 50 and 90 % of the body's depth; None when the body cannot be followed.

    `outer` is the signed distance to the bone's outer surface (mm, negative inside).
    """
    frame = plan.vertebra_frame
    centre = np.asarray(plan.body_centre, dtype=np.float64)
    left, anterior, superior = (
        np.asarray(v, dtype=np.float64) for v in (frame.left, frame.anterior, frame.superior)
    )
    front, back = (_exit(outer, centre, sign * anterior) for sign in (1.0, -1.0))
    if front is None or back is None:
        return None
    across = np.linspace(-slab_mm / 2, slab_mm / 2, 7)
    heights = []
    for share in (0.10, 0.50, 0.90):
        place = front - share * (front + back)
        columns = [_column(outer, centre + place * anterior + x * left, superior) for x in across]
        found = [c for c in columns if c is not None]
        if len(found) < 4:
            return None
        heights.append(float(np.median(found)))
    return BodyHeights(*heights)


def _exit(outer: Volume, start: Array, direction: Array) -> float | None:
    s = np.arange(0.0, 45.0, 0.1)
    depth = outer.sample(start + s[:, None] * direction, outside=10.0)
    out = np.flatnonzero(depth > 0)
    return float(s[out[0]]) if out.size and out[0] > 0 else None


def _column(outer: Volume, middle: Array, superior: Array) -> float | None:
    up, down = _exit(outer, middle, superior), _exit(outer, middle, -superior)
    return None if up is None or down is None else up + down
