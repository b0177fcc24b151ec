"""The isolated vertebra as a BINARY Segmentation (PS3.3 A.51) on the slices of the planning CT."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from service import __version__
from service.errors import ImagingError
from service.geometry.volume import Volume
from service.results import codes
from service.results.context import (
    MANUFACTURER,
    MODEL_NAME,
    PATIENT_TYPE_2,
    STUDY_TYPE_2,
    Origin,
    body_part,
    finish,
)
from service.results.lossy import LossyHistory
from service.results.planes import Plane, planes_of, tilted

#: How far (in voxels) a mask voxel may lie from the voxel of the CT it belongs to.
GRID_TOLERANCE_VOXELS = 0.05
#: How much of the mask's volume may change when it is brought back to the slices of a tilted gantry.
_SHIFT_TOLERANCE = 0.05


def build_seg(mask: Volume, sources: Sequence[Dataset], origin: Origin, *, level: str) -> Dataset:
    """Segmentation of one vertebra.

    Parameters
    ----------
    mask : uint8, 1 inside, on the voxel grid of the CT or a crop of it (LPS mm); of a tilted CT its straightened one.
    sources : headers of the CT's instances (pixels not needed), any order; one when it is multi-frame.
    level : e.g. 'L1'.

    Raises
    ------
    ImagingError
        When the mask is empty or does not lie on the grid of the CT.
    """
    planes = planes_of(sources)
    may_shift = tilted(planes)
    found = [(plane, frame) for plane in planes if (frame := _frame(mask, plane, may_shift)) is not None]
    found = [(plane, frame) for plane, frame in found if frame.any()]
    covered, whole = sum(int(f.sum()) for _, f in found), int(np.count_nonzero(mask.values))
    if not found or abs(covered - whole) > (_SHIFT_TOLERANCE * whole if may_shift else 0):
        raise ImagingError(
            "The vertebra mask is empty, or parts of it lie on no slice of the CT.",
            next_step="Give the mask with the very CT series it was made on.",
            code="results.mask_grid",
        )
    used = [_complete(source) for source in {id(p.source): p.source for p, _ in found}.values()]
    segmentation = hd.seg.Segmentation(
        source_images=used,
        pixel_array=np.stack([frame for _, frame in found]).astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(level, origin)],
        series_instance_uid=origin.uid("vertebra-seg", "series"),
        series_number=9001,
        sop_instance_uid=origin.uid("vertebra-seg"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=__version__,
        device_serial_number="1",
        content_label="VERTEBRA",
        **_places_in_one_object([plane for plane, _ in found]),
        content_description=f"Isolated vertebra {level}",
        series_description=f"Isolated vertebra {level}",
    )
    if used[0].get("StudyDescription"):
        segmentation.StudyDescription = used[0].StudyDescription
    # highdicom makes a random UID for the dimension organisation; ours must not change on a retry.
    organisation = origin.uid("vertebra-seg", "dimensions")
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = organisation
    for index in segmentation.DimensionIndexSequence:
        index.DimensionOrganizationUID = organisation
    lossy = LossyHistory.of(sources)
    # Type 1 in a segmentation, which is about the images it was made from (PS3.3 C.8.20.2)
    segmentation.LossyImageCompression = "00"
    if lossy is not None:
        lossy.write_to(segmentation)
    segmentation.BodyPartExamined = body_part(level)
    codes.declare_private_scheme(segmentation)
    return finish(segmentation, origin)


def _places_in_one_object(planes: Sequence[Plane]) -> dict[str, Any]:
    """For frames of a multi-frame source, of which only some are used; single-frame sources say it themselves."""
    if int(planes[0].source.get("NumberOfFrames") or 1) == 1:
        return {}
    first = planes[0]
    return {
        "plane_positions": [
            hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, [float(v) for v in p.position])
            for p in planes
        ],
        "plane_orientation": hd.PlaneOrientationSequence(
            hd.CoordinateSystemNames.PATIENT, [float(v) for v in (*first.along_row, *first.along_column)]
        ),
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=first.spacing, slice_thickness=_step_mm(planes)
        ),
    }


def _step_mm(planes: Sequence[Plane]) -> float:
    normal = np.cross(planes[0].along_row, planes[0].along_column)
    along = np.sort([float(p.position @ normal) for p in planes])
    return round(float(np.median(np.diff(along))), 6) if len(along) > 1 else 1.0


def _frame(mask: Volume, plane: Plane, may_shift: bool) -> NDArray[np.uint8] | None:
    """The mask on this slice as (Rows, Columns), or None when the slice lies beside the mask.

    `may_shift`: the mask lies on the straightened grid of a tilted CT, whose slices keep their planes and are moved
    within them; it is brought back to the pixels of the slice.
    """
    pixels = np.array([[0, 0, 0], [plane.columns - 1, 0, 0], [0, plane.rows - 1, 0]], dtype=np.float64)
    lps_from_pixel = plane.lps_from_pixel()
    ijk = mask.to_ijk(pixels @ lps_from_pixel[:3, :3].T + lps_from_pixel[:3, 3])
    index = np.round(ijk[0]).astype(int)
    depth = int(index[2])
    if not 0 <= depth < mask.values.shape[0] or abs(ijk[0, 2] - depth) > 0.5 - GRID_TOLERANCE_VOXELS:
        return None
    apart = np.abs(ijk - (index + pixels)).max(axis=0)
    if may_shift and float(np.abs(ijk - (ijk[0] + pixels)).max()) <= GRID_TOLERANCE_VOXELS >= apart[2]:
        return _shifted(mask, ijk[0], depth, (plane.rows, plane.columns))
    if float(apart.max()) > GRID_TOLERANCE_VOXELS:
        raise ImagingError(
            "The vertebra mask does not lie on the voxel grid of the CT.",
            next_step="Give the mask with the very CT series it was made on.",
            code="results.mask_grid",
        )
    frame = np.zeros((plane.rows, plane.columns), dtype=np.uint8)
    left, top = -int(index[0]), -int(index[1])  # where the mask's first voxel lies in the slice
    height, width = mask.values.shape[1:]
    y0, y1 = max(top, 0), min(top + height, plane.rows)
    x0, x1 = max(left, 0), min(left + width, plane.columns)
    if y0 < y1 and x0 < x1:
        frame[y0:y1, x0:x1] = mask.values[depth, y0 - top : y1 - top, x0 - left : x1 - left] > 0
    return frame


def _shifted(
    mask: Volume, first: NDArray[np.float64], depth: int, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """The slice of the mask whose (column, row) `first` lies on the first pixel, half covered pixels counted in."""
    part = ndimage.affine_transform(
        (mask.values[depth] > 0).astype(np.float32),
        [1.0, 1.0],
        offset=first[1::-1],
        output_shape=shape,
        order=1,
    )
    return np.asarray(part >= 0.5, dtype=np.uint8)


def _complete(source: Dataset) -> Dataset:
    """Copy with the type 2 attributes present, which some scanners leave out."""
    header = copy.copy(source)
    for keyword in (*PATIENT_TYPE_2, *STUDY_TYPE_2):
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _segment(level: str, origin: Origin) -> SegmentDescription:
    return SegmentDescription(
        segment_number=1,
        segment_label=f"{level} vertebra",
        segmented_property_category=codes.ANATOMICAL_STRUCTURE,
        segmented_property_type=codes.vertebra(level),
        algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="spineprint vertebra isolation", family=codes.ALGORITHM_FAMILY, version=__version__
        ),
        tracking_uid=origin.uid("vertebra-seg", "tracking"),
        tracking_id=f"{level} vertebra",
    )
