"""A mask handed out, edited by a person and given back: what was erased is no bone, what was painted is.

The surface is where the CT falls below the threshold near the mask's boundary. A layer of bright bone that a person
erased would come back, as the CT has not changed; one that was painted where the CT is dark would not be there. So the
CT's values are set to either side of the threshold where the person changed the mask. Frame: LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.volume import Volume

Mask = NDArray[np.bool_]

AROUND_MM = 20.0
"""Of the CT taken around both masks: the surface's own margin with the reach of its filters is about half."""
BESIDE_HU = 400.0
"""How far beside the threshold a changed voxel is set: as far as common cortex lies above it, so that the crossing
falls between the voxels."""
MOST_BOUNDARY_SHARE = 0.5
"""More of the boundary changed is no correction of this mask but another mask, or the same one on another grid."""


@dataclass(frozen=True, eq=False)
class DrawnEdits:
    """`ct`: the CT as the person sees it, around the masks; volumes that were erased and painted, mL.

    `ct` is None when the mask is another one and not an edit, and then counts by itself.
    """

    ct: Volume | None
    erased_ml: float = 0.0
    painted_ml: float = 0.0


ANOTHER_MASK = DrawnEdits(None)


def drawn_edits(
    ct: Volume, handed_out: Volume, given_back: Volume, *, threshold_hu: float
) -> DrawnEdits | None:
    """The CT with a person's changes of the mask; `ANOTHER_MASK` when they are none of it; None without a change.

    Parameters
    ----------
    handed_out, given_back : non-zero inside, on voxels of `ct`'s grid (crops of it).
    """
    low, high = _common_box(ct, (handed_out, given_back))
    if low is None or high is None:
        return ANOTHER_MASK
    part = ct.crop((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
    before, after = _on(part, handed_out), _on(part, given_back)
    if before is None or after is None:
        return ANOTHER_MASK
    erased, painted = before & ~after, after & ~before
    if not erased.any() and not painted.any():
        return None
    inner = before & ~ndimage.binary_erosion(before)
    touched = inner & ndimage.binary_dilation(erased | painted)
    if touched.sum() > MOST_BOUNDARY_SHARE * inner.sum():
        return ANOTHER_MASK
    values = part.values.astype(np.float32)
    values[erased] = np.minimum(values[erased], threshold_hu - BESIDE_HU)
    values[painted] = np.maximum(values[painted], threshold_hu + BESIDE_HU)
    voxel_ml = part.voxel_ml
    return DrawnEdits(
        replace(part, values=values), float(erased.sum()) * voxel_ml, float(painted.sum()) * voxel_ml
    )


def _common_box(
    ct: Volume, masks: tuple[Volume, ...]
) -> tuple[NDArray[np.intp] | None, NDArray[np.intp] | None]:
    """First and last voxel (i, j, k) of the CT around both masks; None when one is empty."""
    room = np.ceil(AROUND_MM / np.array(ct.spacing_mm)).astype(np.intp)
    lows, highs = [], []
    for mask in masks:
        found = ndimage.find_objects((mask.values != 0).view(np.uint8))
        if not found:
            return None, None
        ends = np.array([[s.start, s.stop - 1] for s in found[0][::-1]], dtype=np.float64).T
        ijk = np.rint(ct.to_ijk(mask.to_lps(ends))).astype(np.intp)
        lows.append(ijk[0])
        highs.append(ijk[1] + 1)
    size = np.array(ct.values.shape[::-1])
    return np.maximum(np.min(lows, axis=0) - room, 0), np.minimum(np.max(highs, axis=0) + room, size)


def _on(part: Volume, mask: Volume) -> Mask | None:
    """The mask on `part`'s voxels; None when its voxels are others."""
    step = part.ijk_from_lps @ mask.lps_from_ijk
    start = np.rint(step[:3, 3]).astype(int)
    if not np.allclose(step[:3, :3], np.eye(3), atol=1e-3) or np.abs(step[:3, 3] - start).max() > 0.05:
        return None
    whole = np.zeros(part.values.shape, dtype=bool)
    size, extent = np.array(mask.values.shape[::-1]), np.array(whole.shape[::-1])
    low, high = np.maximum(start, 0), np.minimum(start + size, extent)
    if np.any(high <= low):
        return whole
    to = tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
    come = tuple(
        slice(int(a), int(b)) for a, b in zip((low - start)[::-1], (high - start)[::-1], strict=True)
    )
    whole[to] = mask.values[come] != 0
    return whole
