"""Can gas and rinse water get everywhere? A ball rolled through the empty space of a voxel model.

Hollow PLA is the worst case for ethylene oxide (facts sheet, `vents`): a hollow counts as served only when a ball
of 2.5 mm diameter rolls into it from outside. Shared by the builder, which closes what the ball cannot reach,
and by the self-check, which looks at voxels of the final mesh.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.geometry.fields import components, distance_to

Mask = NDArray[np.bool_]


def ball_centres(void: Mask, step_mm: float, radius_mm: float) -> Mask:
    """Voxels (K, J, I) where the centre of a ball of this radius may lie inside `void`.

    The surface is taken to run half-way between a void and a solid voxel. Outside the array counts as void.
    """
    return np.asarray(distance_to(~void, step_mm) - step_mm / 2.0 >= radius_mm)


def roll_from_outside(void: Mask, step_mm: float, radius_mm: float) -> Mask:
    """Centres of the ball that are reached from the corner of the array, which must be void."""
    labels, _ = components(ball_centres(void, step_mm, radius_mm))
    outside = labels[0, 0, 0]
    return np.asarray(labels == outside) if outside else np.zeros(void.shape, dtype=bool)


def hollow_of(solid: Mask, step_mm: float, seal_mm: float) -> Mask:
    """Void voxels inside the part: those cut off from outside once every opening up to `2 * seal_mm` is closed."""
    sealed = distance_to(solid, step_mm) <= seal_mm
    labels, count = components(~sealed)
    inner = (labels > 0) & (labels != labels[0, 0, 0]) if count else np.zeros(solid.shape, dtype=bool)
    if not inner.any():
        return inner
    return np.asarray((distance_to(inner, step_mm) <= seal_mm + step_mm) & ~solid)


def unreached(hollow: Mask, reached: Mask, step_mm: float, reach_mm: float) -> list[float]:
    """Volumes (mm³, largest first) of the hollow parts farther than `reach_mm` from every reached ball centre."""
    if not hollow.any():
        return []
    left = hollow & (distance_to(reached, step_mm) > reach_mm) if reached.any() else hollow
    labels, count = components(np.asarray(left))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return sorted((float(s) * step_mm**3 for s in sizes), reverse=True)
