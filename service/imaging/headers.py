"""From DICOM data sets to plain values: who, which series, where each image lies.

Every attribute may be missing, empty or badly written; then the value is None (unknown).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Protocol

import numpy as np

from service.domain.series import LOSSY_SYNTAXES, PatientIdentity, SeriesInfo
from service.geometry.series_gate import SlicePlace, Vector

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
XRAY_3D_ANGIOGRAPHIC = "1.2.840.10008.5.1.4.1.1.13.1.1"
VOLUME_CLASSES = {
    CT_IMAGE: "CT image",
    ENHANCED_CT: "enhanced CT",
    XRAY_3D_ANGIOGRAPHIC: "X-ray 3D angiographic",
}

Dataset = Any


class HasValues(Protocol):
    def get(self, key: str, default: object = None) -> Any: ...


def text(ds: HasValues, keyword: str) -> str | None:
    value = ds.get(keyword)
    if value is None:
        return None
    words = str(value).replace("\x00", "").strip()
    return words or None


def texts(ds: HasValues, keyword: str) -> tuple[str, ...]:
    value = ds.get(keyword)
    if value is None or value == "":
        return ()
    several = [value] if isinstance(value, str) else value
    try:
        return tuple(str(v).strip() for v in several if str(v).strip())
    except TypeError:
        return (str(value).strip(),)


def number(ds: HasValues, keyword: str) -> float | None:
    """First value of a numeric attribute; None when missing, not a number or not finite."""
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) and hasattr(value, "__len__"):
        if not len(value):
            return None
        value = value[0]
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def whole(ds: HasValues, keyword: str) -> int | None:
    found = number(ds, keyword)
    return None if found is None else int(found)


def numbers(ds: HasValues, keyword: str, count: int) -> tuple[float, ...] | None:
    value = ds.get(keyword)
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return None
    try:
        found = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return found if all(math.isfinite(v) for v in found) else None


def day(ds: HasValues, keyword: str) -> date | None:
    raw = text(ds, keyword)
    try:
        return datetime.strptime(raw[:8], "%Y%m%d").date() if raw else None  # noqa: DTZ007 - a date has no zone
    except ValueError:
        return None


def moment(ds: HasValues) -> datetime | None:
    """Acquisition, content or series date and time, the first that is complete. Device time, no zone."""
    whole_text = text(ds, "AcquisitionDateTime")
    pairs = [whole_text] if whole_text else []
    for prefix in ("Acquisition", "Content", "Series"):
        date_text, time_text = text(ds, f"{prefix}Date"), text(ds, f"{prefix}Time")
        if date_text and time_text:
            pairs.append(date_text + time_text)
    for raw in pairs:
        digits = raw.split(".")[0].split("+")[0].split("-")[0]
        try:
            return datetime.strptime(digits[:14], "%Y%m%d%H%M%S")  # noqa: DTZ007 - devices write local time
        except ValueError:
            continue
    return None


def identity(ds: HasValues) -> PatientIdentity:
    return PatientIdentity(
        patient_id=text(ds, "PatientID"),
        issuer=text(ds, "IssuerOfPatientID"),
        name=text(ds, "PatientName"),
        birth_date=day(ds, "PatientBirthDate"),
        sex=text(ds, "PatientSex"),
    )


def is_lossy(ds: HasValues, transfer_syntax: str | None) -> bool | None:
    """Whether the pixel values went through a lossy compression at any time (PS3.3 C.7.6.1.1.5)."""
    flag = text(ds, "LossyImageCompression")
    if flag in ("01", "1") or transfer_syntax in LOSSY_SYNTAXES:
        return True
    return False if flag in ("00", "0") else None


def series_info(ds: Dataset, transfer_syntaxes: Sequence[str], images: int) -> SeriesInfo:
    """Facts of a series from one of its data sets. Enhanced objects: from the shared and first frame groups."""
    frame = FrameView(ds, 0)
    spacing = numbers(frame, "PixelSpacing", 2)
    orientation = numbers(frame, "ImageOrientationPatient", 6)
    columns = whole(ds, "Columns")
    field_of_view = number(frame, "ReconstructionDiameter")
    if field_of_view is None and spacing and columns:
        field_of_view = spacing[1] * columns
    contrast = ds.get("ContrastBolusAgent") or ds.get("ContrastBolusAgentSequence")
    return SeriesInfo(
        series_uid=text(ds, "SeriesInstanceUID") or "",
        study_uid=text(ds, "StudyInstanceUID"),
        frame_of_reference_uid=text(ds, "FrameOfReferenceUID"),
        sop_class_uid=text(ds, "SOPClassUID"),
        transfer_syntax_uids=tuple(sorted(set(transfer_syntaxes))),
        accession_number=text(ds, "AccessionNumber"),
        study_date=day(ds, "StudyDate"),
        acquired_at=moment(ds),
        series_number=whole(ds, "SeriesNumber"),
        modality=text(ds, "Modality"),
        description=text(ds, "SeriesDescription"),
        protocol=text(ds, "ProtocolName"),
        body_part=text(ds, "BodyPartExamined"),
        image_type=texts(frame, "FrameType") or texts(ds, "ImageType"),
        manufacturer=text(ds, "Manufacturer"),
        model=text(ds, "ManufacturerModelName"),
        kernel=texts(frame, "ConvolutionKernel"),
        kvp=number(frame, "KVP"),
        tube_current_ma=number(frame, "XRayTubeCurrent") or number(frame, "XRayTubeCurrentInmA"),
        exposure_time_ms=number(frame, "ExposureTime") or number(frame, "ExposureTimeInms"),
        acquisition_duration_s=number(ds, "AcquisitionDuration"),
        patient_position=text(ds, "PatientPosition"),
        slice_thickness_mm=number(frame, "SliceThickness"),
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing else None,
        rows=whole(ds, "Rows"),
        columns=columns,
        images=images,
        normal=_normal(orientation),
        field_of_view_mm=field_of_view,
        gantry_tilt_deg=number(frame, "GantryDetectorTilt"),
        rescale_type=text(frame, "RescaleType"),
        contrast=True if contrast else None,
        lossy=any_lossy([is_lossy(ds, syntax) for syntax in (transfer_syntaxes or [""])]),
    )


def any_lossy(flags: Sequence[bool | None]) -> bool | None:
    if any(flags):
        return True
    return None if None in flags else False


def _normal(orientation: Sequence[float] | None) -> Vector | None:
    if orientation is None:
        return None
    cross = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(cross))
    if length < 0.5:
        return None
    return float(cross[0] / length), float(cross[1] / length), float(cross[2] / length)


def says_localiser(words: Sequence[str]) -> bool:
    return any(word.upper() in ("LOCALIZER", "SCOUT") for word in words)


# --- frames -----------------------------------------------------------------------------------------------

_GROUP_SEQUENCES = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CTImageFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "CTReconstructionSequence",
    "CTXRayDetailsSequence",
    "CTExposureSequence",
    "CTAcquisitionDetailsSequence",
    "FrameContentSequence",
    "SegmentIdentificationSequence",
)


class FrameView:
    """One frame of an image as if it were a classic image: per-frame groups, then shared, then the data set."""

    def __init__(self, ds: Dataset, frame: int) -> None:
        self._ds = ds
        per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
        shared = ds.get("SharedFunctionalGroupsSequence") or []
        groups = [per_frame[frame]] if frame < len(per_frame) else []
        groups += [shared[0]] if shared else []
        self._items = [
            sequence[0]
            for group in groups
            for keyword in _GROUP_SEQUENCES
            if (sequence := group.get(keyword))
        ]

    def get(self, key: str, default: object = None) -> Any:
        for item in self._items:
            if key in item:
                return item.get(key)
        return self._ds.get(key, default)


def frame_count(ds: HasValues) -> int:
    return max(1, whole(ds, "NumberOfFrames") or 1)


def slice_place(ds: Dataset, frame: int, hint: str, view: FrameView | None = None) -> SlicePlace | None:
    """Place of one frame (frame 0 of a classic image); None when position, orientation or spacing is missing."""
    view = view or FrameView(ds, frame)
    position = numbers(view, "ImagePositionPatient", 3)
    orientation = numbers(view, "ImageOrientationPatient", 6)
    spacing = numbers(view, "PixelSpacing", 2)
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    if position is None or orientation is None or spacing is None or not rows or not columns:
        return None
    several = frame_count(ds) > 1
    uid = text(ds, "SOPInstanceUID") or ""
    return SlicePlace(
        sop_uid=f"{uid}#{frame + 1}" if several else uid,
        instance_number=frame + 1 if several else whole(ds, "InstanceNumber"),
        position=(position[0], position[1], position[2]),
        row_dir=(orientation[0], orientation[1], orientation[2]),
        col_dir=(orientation[3], orientation[4], orientation[5]),
        rows=rows,
        cols=columns,
        pixel_spacing=(spacing[0], spacing[1]),
        thickness=number(view, "SliceThickness"),
        hint=hint,
    )
