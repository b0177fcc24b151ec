"""Can gas and rinse water get everywhere? A ball rolled through the empty space of a voxel model.

Hollow PLA is the worst case for ethylene oxide (facts sheet, `vents`): a hollow counts as served only when a ball
of 2.5 mm diameter rolls into it from outside. Shared by the builder, which closes what the ball cannot reach,
and by the self-check, which looks at voxels of the final mesh.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.geometry.distances import Field, components, distance_to

Mask = NDArray[np.bool_]


def ball_centres(void: Mask, step_mm: float, radius_mm: float, *, gap_mm: Field | None = None) -> Mask:
    """Voxels (K, J, I) where the centre of a ball of this radius may lie inside `void`.

    The surface is taken to run half-way between a void and a solid voxel. Outside the array counts as void.

    gap_mm : `distance_to` what is not void, for who asks more than once.
    """
    gap = distance_to(~void, step_mm) if gap_mm is None else gap_mm
    return np.asarray(gap - step_mm / 2.0 >= radius_mm)


def hollow_of(solid: Mask, step_mm: float, seal_mm: float, *, gap_mm: Field | None = None) -> Mask:
    """Void voxels inside the part: what hangs together with a room that is cut off once openings are closed.

    Every opening up to `2 * seal_mm` is closed to tell inside from outside; then the rooms are followed through
    the void, however narrow, up to where the outside begins. Pits of a rough surface stay outside.

    gap_mm : `distance_to` the solid, for who asks more than once.
    """
    sealed = (distance_to(solid, step_mm) if gap_mm is None else gap_mm) <= seal_mm
    labels, count = components(~sealed)
    outside = labels[0, 0, 0]
    core: Mask = np.asarray((labels > 0) & (labels != outside))
    if not core.any():
        return core
    open_air = distance_to(labels == outside, step_mm) <= seal_mm + step_mm
    labels, count = components(~solid & ~open_air)
    rooms = np.zeros(count + 1, dtype=bool)
    rooms[np.unique(labels[core])] = True
    rooms[0] = False
    return np.asarray(rooms[labels])


def blind_pits(solid: Mask, step_mm: float, *, ball_mm: float, slack_mm: float, least_mm3: float) -> Mask:
    """Voxels of pits in the outside of a solid, with a mouth below 1.6 mm, that a ball from outside does not serve.

    Clefts between processes make them; gas and water would stand there as in a closed room.
    """
    gap = distance_to(solid, step_mm)
    rooms = hollow_of(solid, step_mm, 0.8, gap_mm=gap)
    if not rooms.any():
        return rooms
    labels, _ = components(ball_centres(~solid, step_mm, ball_mm / 2.0, gap_mm=gap))
    left = rooms & (distance_to(labels == labels[0, 0, 0], step_mm) > ball_mm / 2.0 + slack_mm)
    labels, count = components(left)
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * step_mm**3
    sizes[0] = 0.0
    return np.asarray((sizes >= least_mm3)[labels])


def unreached(hollow: Mask, reached: Mask, step_mm: float, reach_mm: float) -> list[float]:
    """Volumes (mm³, largest first) of the hollow parts farther than `reach_mm` from every reached ball centre."""
    if not hollow.any():
        return []
    left = hollow & (distance_to(reached, step_mm) > reach_mm) if reached.any() else hollow
    labels, count = components(np.asarray(left))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return sorted((float(s) * step_mm**3 for s in sizes), reverse=True)
