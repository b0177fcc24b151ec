"""One vertebra out of the answer of a segmentation model: which one it is, its mask, and its neighbours.

The answer is on a grid of the model's own (`service.ports.SegmentedVertebrae`); frame: patient LPS, mm.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product

import cc3d
import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError
from service.geometry.anatomy import BodyField, BodyName, Landmarks
from service.geometry.filters import gaussian
from service.geometry.mesh_grid import signed_edt
from service.geometry.volume import Volume
from service.ports import SegmentedVertebrae

Array = NDArray[np.float64]
_SPINE = (
    *(f"C{n}" for n in range(1, 8)),
    *(f"T{n}" for n in range(1, 13)),
    *(f"L{n}" for n in range(1, 6)),
    "S1",
)


@dataclass(frozen=True)
class AnswerGates:
    """Limits of ours for a model's answer, beside those of every mask."""

    near_mm: float = 8.0
    """Around the point, within the smallest body of T8 to L5 with a point 3 to 5 mm off its middle."""
    least_share: float = 0.75
    """Of what is labelled there that has to be the level asked for."""
    one_body_share: float = 0.9
    """Of the level's voxels that have to hang together; a rest is specks."""
    lost_point_mm: float = 16.0
    """From the point to the body found, as for a fit (`GateSettings.lost_seed_mm`)."""
    neighbour_ml: float = 8.0
    """A neighbour of which less was labelled is not measured."""


def require_level(answer: SegmentedVertebrae, level: str, near: Array, gates: AnswerGates) -> None:
    """Refuse an answer that has another vertebra, several or none at the point (3,).

    Raises
    ------
    GeometryError
        `geometry.segmentation`.
    """
    count = Counter(_labels_near(answer, near, gates.near_mm).tolist())
    labelled = {answer.levels[n - 1]: c for n, c in count.items() if n}
    if sum(labelled.values()) < 0.5 * count.total():
        raise _refused("has no vertebra at the target point")
    share = labelled.get(level, 0) / sum(labelled.values())
    if share >= gates.least_share:
        return
    others = sorted((name for name in labelled if name != level), key=lambda name: -labelled[name])
    if share < 1 - gates.least_share and labelled[others[0]] > labelled.get(level, 0):
        raise _refused(f"takes the bone at the target point for {others[0]}, not {level}")
    raise _refused(f"divides the bone at the target point between {' and '.join(sorted({level, *others}))}")


def mask_of(answer: SegmentedVertebrae, ct: Volume, level: str, near: Array, gates: AnswerGates) -> Volume:
    """The body of `level` at the point, uint8 on the CT's own voxels (cropped).

    Between the voxels of the model the border is where the level and the next best class are preferred equally.

    Raises
    ------
    GeometryError
        `geometry.segmentation`: it hangs together badly, lies elsewhere, or reaches the border of what the model
        looked at though the CT goes on.
    """
    preference = Volume(answer.preference, answer.lps_from_ijk)
    inside = answer.preference > 0
    if not inside.any():
        raise _refused(f"does not find {level}")
    _require_whole(inside, preference, ct, level)
    index = np.argwhere(inside)[:, ::-1]
    ends = preference.to_lps(
        np.array(list(product(*zip(index.min(axis=0) - 1, index.max(axis=0) + 1, strict=True))))
    )
    low, high = ends.min(axis=0), ends.max(axis=0)
    part = ct.crop_to_lps_box((low + high) / 2, (high - low) / 2)
    affine = part.lps_from_ijk
    depth, rows, columns = part.values.shape
    found = (
        preference.resampled(affine[:3, 3], affine[:3, :3], (depth, rows, columns), outside=-1.0).values > 0
    )
    bodies = cc3d.connected_components(found, connectivity=6)
    sizes = np.bincount(bodies.ravel())[1:]
    if not len(sizes):
        raise _refused(f"does not find {level}")
    largest = int(sizes.argmax()) + 1
    if sizes.max() < gates.one_body_share * sizes.sum():
        raise _refused(f"finds {level} in pieces, the largest of {100 * sizes.max() / sizes.sum():.0f} %")
    here = np.rint(part.to_ijk(_ball(near, gates.near_mm))).astype(int)
    here = here[np.all((here >= 0) & (here < [columns, rows, depth]), axis=1)]
    if not (bodies[here[:, 2], here[:, 1], here[:, 0]] == largest).any():
        raise _refused(f"finds {level} away from the target point")
    return Volume((bodies == largest).astype(np.uint8), affine, ct.frame_of_reference_uid)


def require_place(landmarks: Landmarks, level: str, near: Array, gates: AnswerGates) -> None:
    """Refuse when the body found is not the one at the point. Raises GeometryError (`geometry.segmentation`)."""
    away = float(np.linalg.norm(landmarks.body_centre - near))
    if away > gates.lost_point_mm:
        raise _refused(f"finds the body of {level} {away:.0f} mm from the target point")


def neighbours_of(
    answer: SegmentedVertebrae, level: str, landmarks: Landmarks, gates: AnswerGates
) -> tuple[BodyField, ...]:
    """The levels above and below as far as they were labelled; their axes are those of the target, a first guess."""
    frame = landmarks.frame
    axes = np.column_stack([frame.left, frame.anterior, frame.superior]).astype(np.float64)
    names: tuple[tuple[BodyName, int], ...] = (("above", -1), ("below", 1))
    found = []
    for name, step in names:
        other = _SPINE[_SPINE.index(level) + step]
        if other not in answer.levels:
            continue
        grid = Volume(answer.labels == answer.levels.index(other) + 1, answer.lps_from_ijk)
        if float(grid.values.sum()) * grid.voxel_ml >= gates.neighbour_ml:
            field = _signed_distance(grid)
            deep = np.argwhere(field.values < 0.6 * field.values.min())[:, ::-1]
            found.append(BodyField(name, field, field.to_lps(deep).mean(axis=0), axes, exact=False))
    return tuple(found)


def _signed_distance(grid: Volume) -> Volume:
    """Mm to the border of the true voxels, negative inside; half a voxel is taken off on both sides."""
    steps = grid.spacing_mm[::-1]
    values = signed_edt(np.asarray(grid.values, dtype=bool), steps)
    half = float(np.mean(steps)) / 2
    return Volume(gaussian(values, [1.4 * half / s for s in steps]), grid.lps_from_ijk)


def _require_whole(inside: NDArray[np.bool_], grid: Volume, ct: Volume, level: str) -> None:
    """Refuse what touches a side of the box that is not a side of the CT as well."""
    for axis in range(3):
        for end, outwards in ((0, -1.0), (-1, 1.0)):
            side = np.argwhere(np.take(inside, end, axis))
            if not len(side):
                continue
            index = np.insert(side, axis, 0 if end == 0 else inside.shape[axis] - 1, axis=1).astype(
                np.float64
            )
            index[:, axis] += outwards * 3.0
            if ct.contains(grid.to_lps(index[:, ::-1])).any():
                raise _refused(f"finds {level} up to the border of what it looked at")


def _labels_near(answer: SegmentedVertebrae, near: Array, radius_mm: float) -> NDArray[np.uint8]:
    """(N,) labels of points in a ball; 0 outside the answer."""
    grid = Volume(answer.labels, answer.lps_from_ijk)
    index = np.rint(grid.to_ijk(_ball(near, radius_mm))).astype(int)
    inside = np.all((index >= 0) & (index < answer.labels.shape[::-1]), axis=1)
    found = np.zeros(len(index), np.uint8)
    i, j, k = index[inside].T
    found[inside] = answer.labels[k, j, i]
    return found


def _ball(centre: Array, radius_mm: float) -> Array:
    ticks = np.linspace(-radius_mm, radius_mm, 11)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks), axis=-1).reshape(-1, 3)
    return np.asarray(centre + grid[np.linalg.norm(grid, axis=1) <= radius_mm])


def _refused(what: str) -> GeometryError:
    return GeometryError(
        f"The answer of the segmentation model is refused: it {what}.",
        next_step="Count the levels and check the point. To use another bone, give a mask.",
        code="geometry.segmentation",
    )
