"""The isolated vertebra as a BINARY Segmentation (PS3.3 A.51) on the slices of the planning CT."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset

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

#: How far (in voxels) a mask voxel may lie from the voxel of the CT it belongs to.
GRID_TOLERANCE_VOXELS = 0.05


def build_seg(mask: Volume, sources: Sequence[Dataset], origin: Origin, *, level: str) -> Dataset:
    """Segmentation of one vertebra.

    Parameters
    ----------
    mask : uint8, 1 inside, on the voxel grid of the CT or a crop of it (LPS mm).
    sources : headers of the CT's single-frame instances (pixels not needed), any order.
    level : e.g. 'L1'.

    Raises
    ------
    ImagingError
        When the mask is empty or does not lie on the grid of the CT.
    """
    frames, used = [], []
    for source in sources:
        frame = _frame(mask, source)
        if frame is not None and frame.any():
            frames.append(frame)
            used.append(_complete(source))
    if not used or sum(int(f.sum()) for f in frames) != int(np.count_nonzero(mask.values)):
        raise ImagingError(
            "The vertebra mask is empty, or parts of it lie on no slice of the CT.",
            next_step="Give the mask with the very CT series it was made on.",
            code="results.mask_grid",
        )
    segmentation = hd.seg.Segmentation(
        source_images=used,
        pixel_array=np.stack(frames).astype(np.uint8),
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


def _frame(mask: Volume, source: Dataset) -> NDArray[np.uint8] | None:
    """The mask on this slice as (Rows, Columns), or None when the slice lies beside the mask."""
    rows, columns = int(source.Rows), int(source.Columns)
    position = np.array([float(v) for v in source.ImagePositionPatient])
    along_row = np.array([float(v) for v in source.ImageOrientationPatient[:3]])
    along_column = np.array([float(v) for v in source.ImageOrientationPatient[3:]])
    spacing = [float(v) for v in source.PixelSpacing]  # (between rows, between columns)
    corners = np.stack(
        [
            position,
            position + along_row * spacing[1] * (columns - 1),
            position + along_column * spacing[0] * (rows - 1),
        ]
    )
    ijk = mask.to_ijk(corners)
    index = np.round(ijk[0]).astype(int)
    expected = index + np.array([[0, 0, 0], [columns - 1, 0, 0], [0, rows - 1, 0]])
    depth = int(index[2])
    if not 0 <= depth < mask.values.shape[0] or abs(ijk[0, 2] - depth) > 0.5 - GRID_TOLERANCE_VOXELS:
        return None
    if float(np.abs(ijk - expected).max()) > GRID_TOLERANCE_VOXELS:
        raise ImagingError(
            "The vertebra mask does not lie on the voxel grid of the CT.",
            next_step="Give the mask with the very CT series it was made on.",
            code="results.mask_grid",
        )
    frame = np.zeros((rows, columns), dtype=np.uint8)
    left, top = -int(index[0]), -int(index[1])  # where the mask's first voxel lies in the slice
    height, width = mask.values.shape[1:]
    y0, y1, x0, x1 = max(top, 0), min(top + height, rows), max(left, 0), min(left + width, columns)
    if y0 < y1 and x0 < x1:
        frame[y0:y1, x0:x1] = mask.values[depth, y0 - top : y1 - top, x0 - left : x1 - left] > 0
    return frame


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
