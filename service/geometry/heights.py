"""Height of a vertebral body at its front, middle and back, from its filled mask (planning CT frame)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan
from service.geometry.volume import Volume

Array = NDArray[np.float64]

#: Where heights are taken, as shares of the body's depth from its front.
PLACES = {"anterior": 0.10, "middle": 0.50, "posterior": 0.90}


@dataclass(frozen=True)
class BodyHeights:
    """Heights in mm along the superior axis in a mid-sagittal slab."""

    anterior: float
    middle: float
    posterior: float

    def as_tuple(self) -> tuple[float, float, float]:
        return self.anterior, self.middle, self.posterior


def body_heights(outer: Volume, plan: Plan, *, slab_mm: float = 6.0) -> BodyHeights | None:
    """Heights at `PLACES`; None when the body cannot be followed.

    `outer` is the signed distance to the bone's outer surface (mm, negative inside).
    """
    frame = plan.vertebra_frame
    centre = np.asarray(plan.body_centre, dtype=np.float64)
    left, anterior, superior = (
        np.asarray(v, dtype=np.float64) for v in (frame.left, frame.anterior, frame.superior)
    )
    depth = body_depth(outer, centre, left, anterior)
    if depth is None:
        return None
    front, back = depth
    across = np.linspace(-slab_mm / 2, slab_mm / 2, 7)
    heights = []
    for share in PLACES.values():
        place = front - share * (front + back)
        columns = [_column(outer, centre + place * anterior + x * left, superior) for x in across]
        found = [c for c in columns if c is not None]
        if len(found) < 4:
            return None
        heights.append(float(np.median(found)))
    return BodyHeights(*heights)


#: Beside the midline the back wall has no dip for the basivertebral vein, and no pedicle yet.
_BESIDE_VEIN_MM = 6.0


def body_depth(outer: Volume, centre: Array, left: Array, anterior: Array) -> tuple[float, float] | None:
    """(front, back) distances from the body's centre to its walls at mid-height, mm; None when a wall is not found.

    The vein's dip in the middle of the back wall is not the wall: it would move every place of measurement forward.
    """
    front = column_exit(outer, centre, anterior)
    backs = [
        column_exit(outer, centre + x * left, -anterior) for x in (-_BESIDE_VEIN_MM, 0.0, _BESIDE_VEIN_MM)
    ]
    found = [b for b in backs if b is not None]
    if front is None or not found:
        return None
    return front, float(np.median(found))


def column_exit(outer: Volume, start: Array, direction: Array) -> float | None:
    """Distance from `start` (3,) inside the bone to where `direction` (unit) leaves it; None if it never does."""
    s = np.arange(0.0, 45.0, 0.1)
    depth = outer.sample(start + s[:, None] * direction, outside=10.0)
    out = np.flatnonzero(depth > 0)
    return float(s[out[0]]) if out.size and out[0] > 0 else None


def _column(outer: Volume, middle: Array, superior: Array) -> float | None:
    up, down = column_exit(outer, middle, superior), column_exit(outer, middle, -superior)
    return None if up is None or down is None else up + down
