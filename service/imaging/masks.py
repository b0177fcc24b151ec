"""A vertebra mask made elsewhere (DICOM SEG, NIfTI, NRRD), brought onto the planning CT's grid."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import pixel_array

from service.errors import ImagingError, NotFoundError
from service.geometry.series_gate import GatePolicy, check_series
from service.geometry.volume import Volume
from service.imaging import headers
from service.imaging.dataset import MOST_PIXELS, READ_FAILURES, read_file
from service.imaging.nifti import read_nifti
from service.imaging.nrrd import read_nrrd, segment_names

SEGMENTATION_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
}
TOTALSEGMENTATOR_LABELS = dict(
    zip(
        ["S1", *(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 0, -1)), "C7", "C6", "C5"],
        range(26, 47),
        strict=True,
    )
)
"""TotalSegmentator 2 "total" task: S1 = 26, L5 = 27 up to L1 = 31, T12 = 32 up to T1 = 43, C7 = 44 ..."""
VERSE_LABELS = {
    **{f"C{n}": n for n in range(1, 8)},
    **{f"T{n}": 7 + n for n in range(1, 13)},
    **{f"L{n}": 19 + n for n in range(1, 6)},
}
"""VerSe challenge: C1..C7 = 1..7, T1..T12 = 8..19, L1..L5 = 20..24 (Sekuboyina et al. 2021)."""

_MASK_EXPANSION = 1100
"""Masks are mostly zeros and pack as well as deflate can; they are bounded by their pixels alone."""
_MOST_FINER = 4
"""Slices of a segmentation, of the CT's most voxels along a side."""
_ANY_STACK = GatePolicy(min_slices=1, max_thickness_mm=math.inf)
_LEAST_INSIDE = 0.99
_ALIGNED_VOXELS = 0.05
_AIRY_HU = -100.0
"""Mean below fat: a filled vertebra is between 50 and 500 HU, so such a mask covers air or lies elsewhere."""
_CORTEX_PERCENTILE, _CORTEX_HU = 95.0, 160.0
"""Whatever its marrow is, a vertebra has a cortex of more than a twentieth of its volume; muscle and most organs do not
reach this with the noise of thin slices (SD 60 HU)."""
_NAMED_LEVEL = re.compile(r"(?<![A-Za-z0-9])(C[1-7]|T1[0-3]|T[1-9]|L[1-6]|S[1-5])(?![0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class _Segment:
    number: int
    label: str
    region: str

    def is_level(self, level: str) -> bool:
        """Whether label or anatomic region names this level ("L1", "vertebrae_L1", "L1 vertebra")."""
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(level)}(?![0-9])", re.IGNORECASE)
        return any(pattern.search(words.replace("_", " ")) for words in (self.label, self.region))

    def other_level(self, level: str) -> str | None:
        """The level that label or region name instead of this one; None when they name this one or none."""
        named = _NAMED_LEVEL.findall(f"{self.label} {self.region}".replace("_", " "))
        return str(named[0]).upper() if named and not self.is_level(level) else None


def read_mask(
    path: Path, ct: Volume, *, level: str, label: int | None = None, allow_other_frame: bool = False
) -> Volume:
    """The mask of one vertebra on the CT's own grid, uint8 0/1.

    Parameters
    ----------
    path : DICOM SEG (any name), .nii, .nii.gz or .nrrd.
    ct : the planning CT.
    level : the vertebra asked for, "L1"; chooses the segment of a SEG by its name, and speaks in messages.
    label : the value (NIfTI, NRRD) or segment number (SEG) to take. Needed when the file holds several and a SEG or
        3D Slicer's .seg.nrrd does not name the level: label numbers of other programs are never guessed.
    allow_other_frame : accept a SEG of another frame of reference (after someone checked that it fits).

    Raises ImagingError when the label is not clear or absent, the mask is empty, lies outside the CT, on air, or
    belongs to another frame of reference; NotFoundError when there is no such file.
    """
    if not path.is_file():
        raise NotFoundError(
            "There is no such mask file.", next_step="Check the path.", code="imaging.not_found"
        )
    lower = path.name.lower()
    if lower.endswith((".nii", ".nii.gz")):
        mask = _one_label(read_nifti(path), level, label)
    elif lower.endswith(".nrrd"):
        named = [_Segment(number, name, "") for number, name in segment_names(path).items()]
        mask = _one_label(read_nrrd(path), level, _segment_number(named, level, label) if named else label)
    else:
        mask = _read_seg(path, ct, level, label, allow_other_frame)
    return placed_on(mask, ct, level)


# --- sources ----------------------------------------------------------------------------------------------


def _one_label(volume: Volume, level: str, label: int | None) -> Volume:
    values = volume.values
    if values.dtype.kind == "f":
        if not np.all(values == np.round(values)):
            raise _refused(
                "The mask holds fractions, not labels: it looks like a probability map or an image.",
                "Export a label map.",
            )
        values = values.astype(np.int32)
    present = [int(v) for v in np.unique(values) if v != 0]
    if not present:
        raise _refused("The mask is empty.", "Export the mask again.")
    if label is None:
        if len(present) > 1:
            raise _refused(
                f"The mask holds {len(present)} labels ({_listed(present)}); which one is {level} is not said.",
                f"Name the label number.{_label_hint(level, present)}",
                code="imaging.mask_label",
            )
        label = present[0]
    elif label not in present:
        raise _refused(
            f"Label {label} is not in the mask; it holds {_listed(present)}.",
            "Name one of these labels.",
            code="imaging.mask_label",
        )
    return Volume((values == label).astype(np.uint8), volume.lps_from_ijk, volume.frame_of_reference_uid)


def _label_hint(level: str, present: Sequence[int]) -> str:
    hints = [
        f"{number} if it was made by {maker}"
        for maker, table in (("TotalSegmentator", TOTALSEGMENTATOR_LABELS), ("VerSe numbering", VERSE_LABELS))
        if (number := table.get(level.upper())) in present
    ]
    return f" {level} would be {' or '.join(hints)}." if hints else ""


def _read_seg(path: Path, ct: Volume, level: str, label: int | None, allow_other_frame: bool) -> Volume:
    import highdicom

    try:
        ds = read_file(path, pixels=True, most_expansion=_MASK_EXPANSION)
        sop_class = str(ds.get("SOPClassUID", ""))
    except READ_FAILURES as error:
        raise _refused(
            "The mask file is neither DICOM SEG nor NIfTI nor NRRD, or it is cut off.",
            "Give the mask as one of these.",
        ) from error
    if sop_class not in SEGMENTATION_CLASSES:
        raise _refused(
            f"The mask file is DICOM but no segmentation ({pydicom.uid.UID(sop_class).name}).",
            "Choose the DICOM SEG object.",
        )
    own = str(ds.get("FrameOfReferenceUID", "") or "")
    if ct.frame_of_reference_uid and own != ct.frame_of_reference_uid and not allow_other_frame:
        raise _refused(
            "The segmentation belongs to another frame of reference than the planning CT.",
            "Choose the segmentation made on this CT.",
            code="imaging.mask_frame",
        )
    number = _segment_number(_segments(ds), level, label)
    try:
        leaning = _leaning_stack(ds, number, own)
        if leaning is not None:
            return leaning
        seg = highdicom.seg.Segmentation.from_dataset(ds, copy=False)
        _require_span(seg.get_volume_geometry(), ct)
        found = seg.get_volume(segment_numbers=[number], combine_segments=False, rescale_fractional=True)
    except (*READ_FAILURES, RuntimeError, IndexError) as error:
        raise _refused(
            "The frames of the segmentation do not make one regular volume, or they cannot be decoded.",
            "Export the segmentation again.",
        ) from error
    return Volume((np.asarray(found.array)[..., 0] >= 0.5).astype(np.uint8), _lps_from_ijk(found.affine), own)


def _require_span(geometry: Any, ct: Volume) -> None:
    """Refuse slices too many to be of this CT, before the empty ones between the frames are made.

    geometry : of highdicom, of all frames, the missing slices counted; None when they make no regular volume.
    """
    if geometry is None:
        return
    slices, rows, columns = (int(n) for n in geometry.spatial_shape)
    # Of any side, as a segmentation may be cut across the CT's slices, and on finer voxels than they are thick.
    most = _MOST_FINER * max(ct.values.shape)
    if slices > most or slices * rows * columns > MOST_PIXELS:
        raise ImagingError(
            f"The frames of the segmentation stand for {slices} slices of {columns} x {rows}; for this CT at most "
            f"{most} are read: one of them lies far away, or the file is made to exhaust the memory.",
            next_step="Export the segmentation again with the geometry of this CT.",
            code="imaging.unsafe",
        )


def _leaning_stack(ds: Any, number: int, frame_of_reference: str) -> Volume | None:
    """A segment drawn on the slices of a tilted gantry, which highdicom takes for an irregular volume."""
    mine = [
        n
        for n in range(len(ds.get("PerFrameFunctionalGroupsSequence") or []))
        if headers.whole(headers.FrameView(ds, n), "ReferencedSegmentNumber") == number
    ]
    places = [headers.slice_place(ds, n, f"frame {n + 1}") for n in mine]
    known = [place for place in places if place is not None]
    gate = check_series(known, _ANY_STACK)
    if not known or len(known) != len(places) or gate.lps_from_ijk is None or abs(gate.tilt_deg) < 0.1:
        return None
    frames = np.stack([pixel_array(ds, index=mine[index]) for index in gate.ordered])
    most = float(ds.get("MaximumFractionalValue") or 1) if ds.get("SegmentationType") == "FRACTIONAL" else 1.0
    return Volume((frames / most >= 0.5).astype(np.uint8), gate.lps_from_ijk, frame_of_reference)


def _lps_from_ijk(affine_kji: NDArray[Any]) -> NDArray[np.float64]:
    """highdicom orders its affine by (slice, row, column); ours is (column, row, slice)."""
    return np.asarray(affine_kji, dtype=np.float64)[:, [2, 1, 0, 3]]


def _segments(ds: Any) -> list[_Segment]:
    found = []
    for item in ds.get("SegmentSequence") or []:
        regions = item.get("AnatomicRegionSequence") or item.get("SegmentedPropertyTypeCodeSequence") or []
        region = str(regions[0].get("CodeMeaning", "")) if regions else ""
        found.append(_Segment(int(item.SegmentNumber), str(item.get("SegmentLabel", "")), region))
    return found


def _segment_number(segments: Sequence[_Segment], level: str, label: int | None) -> int:
    numbers = [s.number for s in segments]
    listed = ", ".join(f"{s.number} {s.label}".strip() for s in segments[:30])
    if label is not None:
        if label not in numbers:
            raise _refused(
                f"Segment {label} is not in the segmentation; it holds {listed or 'none'}.",
                "Name one of these segments.",
                code="imaging.mask_label",
            )
        return label
    if len(segments) == 1:
        other = segments[0].other_level(level)
        if other is not None:
            raise _refused(
                f"The only segment is named '{segments[0].label}', which is {other}, but {level} is asked for.",
                f"Give the segmentation of {level}; if only the name is wrong, name segment {numbers[0]} by its "
                "number.",
                code="imaging.mask_label",
            )
        return numbers[0]
    named = [s.number for s in segments if s.is_level(level)]
    if len(named) != 1:
        raise _refused(
            f"Which of the {len(segments)} segments is {level} is not clear ({listed}).",
            "Name the segment number.",
            code="imaging.mask_label",
        )
    return named[0]


# --- geometry ---------------------------------------------------------------------------------------------


def placed_on(mask: Volume, ct: Volume, level: str) -> Volume:
    """A 0/1 mask of `level` from anywhere on the grid of `ct`, once it lies where bone can be.

    Raises ImagingError when it is empty, lies outside the CT, or covers air or soft tissue.
    """
    placed = onto_grid(mask, ct)
    _require_plausible(placed, ct, level)
    return placed


def onto_grid(mask: Volume, ct: Volume) -> Volume:
    """A 0/1 mask on the grid of `ct`: copied when the grids share their voxels, else interpolated at half height.

    Raises ImagingError (`imaging.mask_outside`) when more than 1 % of the mask lies outside the CT.
    """
    inside = np.argwhere(mask.values > 0)
    if not inside.size:
        raise _refused("The mask is empty.", "Export the mask again.")
    low, high = inside.min(axis=0), inside.max(axis=0)
    points = ct.to_ijk(mask.to_lps(inside[:, ::-1]))
    top = np.array(ct.values.shape[::-1])
    within = np.all((points >= -0.5) & (points <= top - 0.5), axis=1)
    if within.mean() < _LEAST_INSIDE:
        raise _refused(
            f"{100 * (1 - within.mean()):.0f} % of the mask lies outside the CT: it was made on another scan or is "
            "flipped.",
            "Export the mask with the geometry of this CT.",
            code="imaging.mask_outside",
        )
    result = np.zeros(ct.values.shape, np.uint8)
    index = np.round(points).astype(np.int64)
    steps = (ct.ijk_from_lps @ mask.lps_from_ijk)[:3, :3]
    signed_permutation = bool(
        np.allclose(np.abs(steps), np.abs(np.round(steps)), atol=1e-3)
        and np.all(np.abs(np.round(steps)).sum(axis=0) == 1)
        and np.all(np.abs(np.round(steps)).sum(axis=1) == 1)
    )
    if signed_permutation and np.abs(points - index).max() < _ALIGNED_VOXELS:
        i, j, k = index[within].T
        result[k, j, i] = 1
        return Volume(result, ct.lps_from_ijk, ct.frame_of_reference_uid)
    box = mask.crop(
        (int(low[2]) - 1, int(low[1]) - 1, int(low[0]) - 1),
        (int(high[2]) + 2, int(high[1]) + 2, int(high[0]) + 2),
    )
    start = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, top - 1)
    stop = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 1, top)
    i0, j0, k0 = (int(v) for v in start)
    size = stop - start
    part = Volume(box.values.astype(np.float32), box.lps_from_ijk).resampled(
        ct.to_lps(start[None].astype(np.float64))[0],
        ct.lps_from_ijk[:3, :3],
        (int(size[2]), int(size[1]), int(size[0])),
        outside=0.0,
    )
    result[k0 : k0 + size[2], j0 : j0 + size[1], i0 : i0 + size[0]] = part.values >= 0.5
    return Volume(result, ct.lps_from_ijk, ct.frame_of_reference_uid)


def _require_plausible(mask: Volume, ct: Volume, level: str) -> None:
    covered = ct.values[mask.values > 0]
    if not covered.size:
        raise _refused("The mask is empty on the grid of the CT.", "Export the mask again.")
    if float(covered.mean()) < _AIRY_HU:
        raise _refused(
            f"The mask of {level} covers air or fat (mean {covered.mean():.0f} HU): it is flipped or belongs "
            "to another scan.",
            "Export the mask with the geometry of this CT.",
            code="imaging.mask_place",
        )
    bright = float(np.percentile(covered, _CORTEX_PERCENTILE))
    if bright < _CORTEX_HU:
        raise _refused(
            f"The mask of {level} holds no cortical bone: 95 % of its voxels are below {bright:.0f} HU, so it covers "
            "soft tissue.",
            "Export the mask with the geometry of this CT. Check that it is the bone and not another label.",
            code="imaging.mask_place",
        )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:30])
    return f"{shown} and {len(numbers) - 30} more" if len(numbers) > 30 else shown


def _refused(message: str, next_step: str, *, code: str = "imaging.mask") -> ImagingError:
    return ImagingError(message, next_step=next_step, code=code)
