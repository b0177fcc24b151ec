"""Applies a person's corrections to an isolated vertebra. Frame: LPS mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from service.domain.edits import Edit
from service.errors import GeometryError
from service.geometry.anatomy import Array, Isolation
from service.geometry.distances import components
from service.geometry.volume import Volume

MOST_TAKEN_SHARE = 0.4
"""Who takes away more than this corrects another bone than the one that was isolated."""
MOST_ADDED_SHARE = 0.4
"""Who paints more than this makes a bone of their own: a mask says that more clearly."""
_EDGE_MM = 1.5
"""Paint keeps so far from the edge of the computed region, where the surface has to close."""


def apply_edits(isolation: Isolation, edits: Sequence[Edit]) -> Isolation:
    """The isolation with all edits in their order; landmarks and gates stay those of the fit.

    What loses its connection to the body goes with the cut. The reasons say how much was changed by hand.

    Raises
    ------
    GeometryError
        An edit lies outside the computed region (`edits.outside`), takes away too much (`edits.too_much`), or
        changes nothing (`edits.nothing`), because it was then meant for another place.
    """
    if not edits:
        return isolation
    outer = isolation.outer
    values = outer.values.astype(np.float32, copy=True)
    for number, edit in enumerate(edits, 1):
        _apply(values, outer, edit, number)
    _keep_the_body(values, outer, isolation.landmarks.body_centre)
    edited = replace(outer, values=values)
    was, now = outer.values < 0, values < 0
    taken_ml, added_ml = (float(v.sum()) * outer.voxel_ml for v in (was & ~now, now & ~was))
    _check_share(float(was.sum()) * outer.voxel_ml, taken_ml, added_ml)
    quality = isolation.quality
    words = f"Edited by hand in {len(edits)} place(s): {taken_ml:.2f} mL taken away, {added_ml:.2f} mL added."
    return replace(
        isolation,
        outer=edited,
        mask=_edited_mask(isolation.mask, outer, edited),
        quality=replace(
            quality,
            reasons=(*quality.reasons, words),
            measures=quality.measures | {"edited_out_ml": taken_ml, "edited_in_ml": added_ml},
        ),
    )


def _apply(values: NDArray[np.float32], outer: Volume, edit: Edit, number: int) -> None:
    centre = np.array(edit.centre)
    reach = edit.radius_mm + _EDGE_MM
    corners = np.array([centre - reach, centre + reach])
    ijk = outer.to_ijk(corners)
    top = np.array(values.shape[::-1]) - 1
    low, high = np.floor(ijk.min(axis=0)).astype(int), np.ceil(ijk.max(axis=0)).astype(int)
    apart = (high < 0).any() or (low > top).any()
    if apart or (edit.kind == "paint" and ((low < 0).any() or (high > top).any())):
        raise GeometryError(
            f"Edit {number} ({edit.kind}) at {_at(edit)} lies outside the region that was computed for this vertebra.",
            next_step="Check its centre: LPS mm of this very scan, on the vertebra.",
            code="edits.outside",
        )
    low, high = np.maximum(low, 0), np.minimum(high, top)
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
    block = values[box]
    k, j, i = np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij")
    points = outer.to_lps(np.stack([i.ravel(), j.ravel(), k.ravel()], axis=1))
    shape = _shape(points, edit).reshape(block.shape).astype(np.float32)
    changed = np.minimum(block, shape) if edit.kind == "paint" else np.maximum(block, -shape)
    if ((changed < 0) == (block < 0)).all():
        raise GeometryError(
            f"Edit {number} ({edit.kind}) at {_at(edit)} changes nothing: there is "
            f"{'bone already' if edit.kind == 'paint' else 'no bone'} there.",
            next_step="Check its centre and radius, or leave it out.",
            code="edits.nothing",
        )
    values[box] = changed


def _shape(points: Array, edit: Edit) -> Array:
    """Signed distance to what the edit takes or adds, negative inside."""
    offset = points - np.array(edit.centre)
    ball = np.linalg.norm(offset, axis=1) - edit.radius_mm
    if edit.normal is None:
        return np.asarray(ball)
    return np.asarray(np.maximum(ball, -(offset @ np.array(edit.normal))))


def _keep_the_body(values: NDArray[np.float32], outer: Volume, body_centre: Array) -> None:
    """Drop what hangs on no more, in place."""
    labels, _ = components(values < 0)
    i, j, k = np.rint(outer.to_ijk(body_centre[None])[0]).astype(int)
    body = labels[k, j, i]
    if body == 0:
        raise GeometryError(
            "The edits take away the middle of the vertebral body.",
            next_step="Check their centres: LPS mm of this very scan.",
            code="edits.too_much",
        )
    values[(labels > 0) & (labels != body)] = 1.0


def _check_share(whole_ml: float, taken_ml: float, added_ml: float) -> None:
    if taken_ml > MOST_TAKEN_SHARE * whole_ml:
        done = f"take away {taken_ml:.1f} of {whole_ml:.1f} mL of bone"
    elif added_ml > MOST_ADDED_SHARE * whole_ml:
        done = f"add {added_ml:.1f} mL to {whole_ml:.1f} mL of bone"
    else:
        return
    raise GeometryError(
        f"The edits {done}.",
        next_step="Isolate the vertebra again with other points, or give a mask made by hand.",
        code="edits.too_much",
    )


def _edited_mask(mask: Volume, before: Volume, after: Volume) -> Volume:
    """The mask on the CT's own voxels, changed where the surface crossed a voxel's centre."""
    values = mask.values.copy()
    # A voxel can change only where a sample beside it has: a few of the many millions of a fine scan.
    changed = np.argwhere(before.values != after.values)[:, ::-1]
    if not len(changed):
        return replace(mask, values=values)
    low, high = changed.min(axis=0) - 1.0, changed.max(axis=0) + 1.0
    corners = mask.to_ijk(before.to_lps(np.array(list(product(*zip(low, high, strict=True))))))
    size = np.array(values.shape[::-1])
    first = np.clip(np.floor(corners.min(axis=0)), 0, size).astype(int)
    last = np.clip(np.ceil(corners.max(axis=0)) + 1, first, size).astype(int)
    box = tuple(slice(int(f), int(t)) for f, t in zip(first[::-1], last[::-1], strict=True))
    k, j, i = (axis.ravel() for axis in np.mgrid[box])
    points = mask.to_lps(np.stack([i, j, k], axis=1))
    was, now = (
        (v.sample(points, order=1, outside=8.0) < 0).reshape(values[box].shape) for v in (before, after)
    )
    values[box][was & ~now] = 0
    values[box][now & ~was] = 1
    return replace(mask, values=values)


def _at(edit: Edit) -> str:
    return ", ".join(f"{v:g}" for v in edit.centre)
